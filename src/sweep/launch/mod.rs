//! Runs a sweep's runs, several at once, each in its own process: a crash ends no other run.

#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::curves::Curves;
use super::grid::SweepRun;
use super::halving::{Next, Outcome, Scheduler};
use super::search::Search;
use crate::files::{open_in_place, remove_leftovers_of, write_atomic};
use crate::run::{Failure, Pause, RunDir, Status, Summary, link_tensorboard};
use crate::train::{Request, Stop, Stopped};

/// The environment variable of OpenMP, and so of libtorch.
const NUM_THREADS: &str = "OMP_NUM_THREADS";
/// What a run prints.
const LOG_FILE: &str = "train.log";
/// How long a run of a sweep that was just killed may take to end.
const MAX_WAIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// A change of a run's status.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run starts or resumes.
    Started(&'a SweepRun),
    /// The run has finished.
    Finished(&'a SweepRun, &'a Summary),
    /// The run ended with an error, which is recorded in its folder.
    Failed(&'a SweepRun, &'a Failure),
    /// The search has stopped the run, at the end of a rung or by the median rule.
    Paused(&'a SweepRun, &'a Pause),
    /// The run was stopped; it resumes when the sweep is started again.
    Stopped(&'a SweepRun),
    /// Another process is training in the run's folder: it is skipped.
    Running(&'a SweepRun),
}

/// Starts runs as processes.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The `vmbeauty` program.
    pub program: PathBuf,
    /// The sweep's folder.
    pub root: PathBuf,
    /// Maximum number of processes at once.
    pub jobs: usize,
    /// Whether runs that failed before are run again.
    pub retry_failed: bool,
    /// Stops the runs, each with a checkpoint, and starts no more; its request of a checkpoint is
    /// passed on.
    pub stop: Stop,
    /// The command that continues the sweep once it is stopped.
    pub command: String,
}

/// The stdin of the processes that are running, by process id. It is held open until the process
/// has ended: if this one ends before, however it does, the runs notice.
type Inputs = Mutex<HashMap<u32, ChildStdin>>;

/// What the threads that run the runs share.
struct Work<'a> {
    runs: &'a [&'a SweepRun],
    search: &'a Search,
    curves: Curves<'a>,
    scheduler: Mutex<Scheduler>,
    /// Notified when a run is reported to the scheduler.
    reported: Condvar,
    inputs: Inputs,
    on_event: &'a (dyn Fn(Event) + Sync),
    /// Whether an error ends the sweep.
    failed: AtomicBool,
}

impl Launch {
    /// Runs those of `runs` that have not finished, in order, as far as the search wants them. A
    /// run that fails is recorded, and the others continue. The machine's threads are divided among
    /// the processes, unless a run's config sets `train.threads`. The processes end when this one
    /// does, however it ends. Returns an error if a folder holds another run or cannot be written,
    /// or the program cannot be started; the runs that have started end first. Returns [`Stopped`]
    /// if a stop was requested before all runs had ended.
    pub fn run(
        &self,
        runs: &[&SweepRun],
        search: &Search,
        on_event: &(dyn Fn(Event) + Sync),
    ) -> Result<()> {
        let (curves, scheduler) = Curves::read(search, runs, &self.root, self.retry_failed)?;
        curves.pause_at_rungs()?;
        let work = Work {
            runs,
            search,
            curves,
            scheduler: Mutex::new(scheduler),
            reported: Condvar::new(),
            inputs: Inputs::default(),
            on_event,
            failed: AtomicBool::new(false),
        };
        let left = thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.jobs.max(1)).map(|_| scope.spawn(|| self.work(&work))).collect();
            while !workers.iter().all(|worker| worker.is_finished()) {
                self.forward_requests(&work.inputs);
                thread::sleep(POLL);
            }
            let results = workers.into_iter().map(|worker| {
                let panicked = |_| anyhow::anyhow!("internal: a thread of the sweep panicked");
                worker.join().map_err(panicked)?
            });
            results.collect::<Vec<Result<bool>>>().into_iter().collect::<Result<Vec<bool>>>()
        })?;
        let place = format!("; continue with: {}", self.command);
        if left.contains(&true) { self.stop.check_in(&place) } else { Ok(()) }
    }

    /// Runs runs until none is left. Returns whether a stop left one.
    fn work(&self, work: &Work) -> Result<bool> {
        let mut left = false;
        while let Some((run, rung)) = self.next(work) {
            let outcome = self.finish(run, rung, work).inspect_err(|_| {
                work.failed.store(true, Ordering::Relaxed);
            })?;
            match (outcome, work.scheduler.lock()) {
                (Some(outcome), Ok(mut scheduler)) => {
                    scheduler.report(run, outcome);
                    work.reported.notify_all();
                }
                _ => left = true,
            }
        }
        Ok(left)
    }

    /// Returns the index of the run to train next, and up to which rung. Waits where that depends
    /// on runs that are being trained.
    fn next(&self, work: &Work) -> Option<(usize, usize)> {
        let mut scheduler = work.scheduler.lock().ok()?;
        while !work.failed.load(Ordering::Relaxed) {
            match scheduler.suggest() {
                Next::Train { run, rung } => return Some((run, rung)),
                Next::Wait if self.stop.signal() == 0 => {
                    scheduler = work.reported.wait_timeout(scheduler, POLL).ok()?.0;
                }
                Next::Wait | Next::Done => return None,
            }
        }
        None
    }

    /// Asks the processes to do what this one was asked to.
    fn forward_requests(&self, inputs: &Inputs) {
        let checkpoint = self.stop.take_checkpoint().then_some(Request::Checkpoint);
        let stop = (self.stop.signal() > 0).then_some(Request::Stop);
        if let (Some(request), Ok(mut inputs)) = (stop.or(checkpoint), inputs.lock()) {
            for input in inputs.values_mut() {
                // A process that is ending reads no more. To stop twice is to stop.
                let _ = input.write_all(&[request as u8]);
            }
        }
    }

    /// Trains a run up to a rung, unless that is done. Returns `None` if a stop has kept it from
    /// starting or ended it before.
    fn finish(&self, index: usize, rung: usize, work: &Work) -> Result<Option<Outcome>> {
        let run = work.runs[index];
        let folder = run.folder(&self.root);
        if let Some(outcome) = work.curves.outcome(run, rung)? {
            return Ok(Some(outcome));
        }
        if self.stop.signal() > 0 {
            return Ok(None);
        }
        let Some(log) = self.claim(run, &folder)? else {
            (work.on_event)(Event::Running(run));
            return Ok((self.stop.signal() == 0).then_some(Outcome::Ended));
        };
        // Another sweep may have run it meanwhile.
        if let Some(outcome) = work.curves.outcome(run, rung)? {
            return Ok(Some(outcome));
        }
        Failure::clear(&folder)?;
        Pause::clear(&folder)?;
        (work.on_event)(Event::Started(run));
        let before = log.metadata().map_or(0, |metadata| metadata.len());
        // The claim lasts until what became of the run is written.
        let (status, pause) = self.process(index, rung, &log, work)?;
        if status.success() && Summary::exists(&folder) {
            Pause::clear(&folder)?;
            (work.on_event)(Event::Finished(run, &Summary::read(&folder)?));
        } else if status.success() && work.search.stop_after(rung).is_some() {
            let pause = work.search.pause(rung);
            pause.write(&folder)?;
            (work.on_event)(Event::Paused(run, &pause));
        } else if let (true, Some(pause)) = (Stopped::ended(status), pause) {
            (work.on_event)(Event::Paused(run, &pause));
        } else if Stopped::ended(status) {
            (work.on_event)(Event::Stopped(run));
            return Ok(None);
        } else {
            let failure =
                Failure { error: last_error(&folder, before, status), code: status.code() };
            failure.write(&folder)?;
            (work.on_event)(Event::Failed(run, &failure));
            return Ok(Some(Outcome::Ended));
        }
        work.curves.outcome(run, rung)
    }

    /// Opens a run's log and locks it, so that no other sweep starts the run; its process inherits
    /// the lock. Returns `None` if a process is still training the run after [`MAX_WAIT`], or
    /// another sweep is about to.
    fn claim(&self, run: &SweepRun, folder: &Path) -> Result<Option<File>> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        let path = folder.join(LOG_FILE);
        let log =
            open_in_place(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let start = Instant::now();
        loop {
            // On a file system without locks, the sweep continues without one.
            let claimed = !matches!(log.try_lock(), Err(TryLockError::WouldBlock));
            if claimed && run.status(&self.root)? != Status::Running {
                return Ok(Some(log));
            }
            if start.elapsed() > MAX_WAIT || self.stop.signal() > 0 {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// Runs one process to its end. Returns how it ended, and why the median rule stopped it, if it
    /// did.
    fn process(
        &self,
        index: usize,
        rung: usize,
        log: &File,
        work: &Work,
    ) -> Result<(ExitStatus, Option<Pause>)> {
        let run = work.runs[index];
        let mut child = self.spawn(run, rung, log, work.search)?;
        let id = child.id();
        if let (Some(stdin), Ok(mut inputs)) = (child.stdin.take(), work.inputs.lock()) {
            inputs.insert(id, stdin);
        }
        let ended = match work.search.median_stop {
            Some(_) => self.watch(index, &mut child, work),
            None => child.wait().map(|status| (status, Ok(None))),
        };
        if let Ok(mut inputs) = work.inputs.lock() {
            inputs.remove(&id);
        }
        let (status, pause) =
            ended.with_context(|| format!("cannot wait for the run {}", run.name))?;
        Ok((status, pause?))
    }

    /// Waits for the process of a run, and stops it if the median rule says so, or cannot be
    /// applied. Returns how it ended, and why the rule stopped it, if it did.
    fn watch(
        &self,
        index: usize,
        child: &mut Child,
        work: &Work,
    ) -> io::Result<(ExitStatus, Result<Option<Pause>>)> {
        let folder = work.runs[index].folder(&self.root);
        let (mut pause, mut seen) = (Ok(None), None);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            // Taken before the metrics are read: what is written meanwhile is a change.
            let written = RunDir::metrics_written(&folder);
            if matches!(pause, Ok(None)) && written != seen {
                seen = written;
                pause = work.curves.stop(index);
                if !matches!(pause, Ok(None))
                    && let Ok(mut inputs) = work.inputs.lock()
                    && let Some(input) = inputs.get_mut(&child.id())
                {
                    // A process that is ending reads no more.
                    let _ = input.write_all(&[Request::Stop as u8]);
                }
            }
            thread::sleep(POLL);
        };
        if matches!(pause, Ok(None)) {
            // The others are compared with its last epochs, too.
            pause = work.curves.compare(index).map(|_| None);
        }
        Ok((status, pause))
    }

    /// Starts the process of a run, which prints to its log.
    fn spawn(&self, run: &SweepRun, rung: usize, log: &File, search: &Search) -> Result<Child> {
        let folder = &run.folder(&self.root);
        let configs = self.root.join("configs");
        fs::create_dir_all(&configs)
            .with_context(|| format!("cannot create the folder {}", configs.display()))?;
        let config = configs.join(format!("{}.yaml", run.name));
        // Other runs' processes write to the same folder; the claim keeps them from this file.
        remove_leftovers_of(&config);
        write_atomic(&config, |file| Ok(file.write_all(run.config.to_yaml()?.as_bytes())?))?;
        if run.config.train.tensorboard {
            link_tensorboard(&self.root, folder);
        }
        let threads = threads_per_run(self.jobs).to_string();
        let mut command = Command::new(&self.program);
        command
            .args(["train".as_ref(), config.as_os_str(), "--output".as_ref(), folder.as_os_str()])
            .arg("--stop-with-stdin")
            .envs([NUM_THREADS, "RAYON_NUM_THREADS"].map(|name| (name, &threads)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("cannot pass the log to a run")?)
            .stderr(log.try_clone().context("cannot pass the log to a run")?);
        if RunDir::holds_run(folder) {
            command.arg("--resume");
        }
        if let Some(epochs) = search.stop_after(rung) {
            command.args(["--stop-after", &epochs.to_string()]);
        }
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }
}

/// Returns the file that a run in a sweep's folder prints to.
pub fn log_of(run: &SweepRun, root: &Path) -> PathBuf {
    run.folder(root).join(LOG_FILE)
}

/// Returns the number of threads of each of `jobs` processes: those that OpenMP is set to, or else
/// those of the machine, divided among them.
pub fn threads_per_run(jobs: usize) -> usize {
    let set = env::var(NUM_THREADS).ok().and_then(|text| text.parse().ok());
    let machine = || thread::available_parallelism().map_or(1, |threads| threads.get());
    (set.unwrap_or_else(machine) / jobs.max(1)).max(1)
}

/// Returns the last error that a run printed after the first `before` bytes of its log, which are
/// of earlier attempts; how it ended if it printed none.
fn last_error(folder: &Path, before: u64, status: ExitStatus) -> String {
    let text = fs::read(folder.join(LOG_FILE)).unwrap_or_default();
    let text = text.get(before as usize..).unwrap_or_default();
    let text = format!("\n{}", String::from_utf8_lossy(text));
    let error = text.rsplit_once("\nerror: ").map(|(_, error)| error.trim().to_string());
    error.unwrap_or_else(|| format!("it ended without an error message: {status}"))
}
