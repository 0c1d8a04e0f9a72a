//! Runs a sweep's runs, several at once, each in a process of its own: one that crashes takes no
//! other with it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::plan::PlannedRun;
use crate::files::write_atomic;
use crate::run::{Failure, RunDir, Status, Summary};
use crate::train::Stopped;

/// What OpenMP, and with it libtorch, reads.
const NUM_THREADS: &str = "OMP_NUM_THREADS";
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";
/// How long the process of a sweep that was killed a moment ago may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What becomes of a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// It begins, or goes on.
    Started(&'a PlannedRun),
    /// It came to its end.
    Done(&'a PlannedRun, &'a Summary),
    /// It ended with an error, which is recorded in its folder.
    Failed(&'a PlannedRun, &'a Failure),
    /// It was told to stop; it goes on when the sweep is started again.
    Stopped(&'a PlannedRun),
    /// Another process is training in its folder: it is left alone.
    Busy(&'a PlannedRun),
}

/// How runs are started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The `vmbeauty` program.
    pub program: PathBuf,
    /// The sweep's folder.
    pub root: PathBuf,
    /// Processes at once.
    pub jobs: usize,
    /// Whether runs that failed before are run again.
    pub retry_failed: bool,
}

impl Launch {
    /// Runs those of `runs` that are not done yet, in their order. A run that fails is recorded,
    /// and the others go on. The machine's threads are divided among the processes, unless a run's
    /// config says `train.threads`. The processes end when this one does, however it ends.
    ///
    /// # Errors
    /// A folder that holds another run, or that cannot be written; a program that cannot be
    /// started. What was begun ends first.
    pub fn run(&self, runs: &[&PlannedRun], hear: &(dyn Fn(Event) + Sync)) -> Result<()> {
        let next = Mutex::new(runs.iter());
        let broken = AtomicBool::new(false);
        let work = || -> Result<()> {
            while !broken.load(Ordering::Relaxed) {
                let run = next.lock().ok().and_then(|mut runs| runs.next().copied());
                let Some(run) = run else { break };
                if let Err(error) = self.finish(run, hear) {
                    broken.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let results = workers.into_iter().map(|worker| {
                let failed = |_| anyhow::anyhow!("internal: a thread of the sweep panicked");
                worker.join().map_err(failed)?
            });
            results.collect::<Vec<Result<()>>>().into_iter().collect()
        })
    }

    fn finish(&self, run: &PlannedRun, hear: &(dyn Fn(Event) + Sync)) -> Result<()> {
        let folder = run.folder(&self.root);
        match self.settled(run)? {
            Status::Finished(_) => return Ok(()),
            Status::Failed(_) if !self.retry_failed => return Ok(()),
            Status::Running => {
                hear(Event::Busy(run));
                return Ok(());
            }
            Status::Failed(_) | Status::Pending | Status::Stopped => Failure::clear(&folder)?,
        }
        hear(Event::Started(run));
        let status = self.process(run, &folder)?;
        if status.success() {
            hear(Event::Done(run, &Summary::read(&folder)?));
        } else if was_told_to_stop(status) || status.code().is_some_and(Stopped::is_exit_code) {
            hear(Event::Stopped(run));
        } else {
            let failure = Failure { error: last_words(&folder, status), code: status.code() };
            failure.write(&folder)?;
            hear(Event::Failed(run, &failure));
        }
        Ok(())
    }

    /// The run's state once it is no longer busy, or when patience is at its end.
    fn settled(&self, run: &PlannedRun) -> Result<Status> {
        let asked = Instant::now();
        loop {
            match run.status(&self.root)? {
                Status::Running if asked.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(50));
                }
                state => return Ok(state),
            }
        }
    }

    /// One process, from its start to its end. What it prints goes to `train.log` in the run's
    /// folder.
    fn process(&self, run: &PlannedRun, folder: &Path) -> Result<ExitStatus> {
        let configs = self.root.join("configs");
        for folder in [folder, &configs] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let config = configs.join(format!("{}.yaml", run.name));
        let yaml = run.config.to_yaml()?;
        write_atomic(&config, |file| Ok(file.write_all(yaml.as_bytes())?))?;
        let path = log(folder);
        let unwritable = || format!("cannot write {}", path.display());
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(unwritable)?;
        let threads = (threads() / self.jobs.max(1)).max(1).to_string();
        let mut command = Command::new(&self.program);
        command
            .arg("train")
            .arg(&config)
            .arg("--output")
            .arg(folder)
            .arg("--stop-with-stdin")
            .env(NUM_THREADS, &threads)
            .env("RAYON_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().with_context(unwritable)?)
            .stderr(log);
        if self.jobs > 1 && env::var_os(WAIT_POLICY).is_none() {
            // Threads that spin while they wait would take the cores of the other processes.
            command.env(WAIT_POLICY, "passive");
        }
        if RunDir::holds_run(folder) {
            command.arg("--resume");
        }
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        // Held open until the run has ended: where this process ends before, however it does, the
        // run's stdin ends with it.
        let stdin = child.stdin.take();
        let status =
            child.wait().with_context(|| format!("cannot wait for the run {}", run.name))?;
        drop(stdin);
        Ok(status)
    }
}

/// As OpenMP is told, else those of the machine.
fn threads() -> usize {
    let told = env::var(NUM_THREADS).ok().and_then(|text| text.parse().ok());
    told.unwrap_or_else(|| thread::available_parallelism().map_or(1, |threads| threads.get()))
}

fn log(folder: &Path) -> PathBuf {
    folder.join("train.log")
}

/// Whether a person or a scheduler ended the process, so that nothing is wrong with the run.
#[cfg(unix)]
fn was_told_to_stop(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    const HANG_UP: i32 = 1;
    const INTERRUPT: i32 = 2;
    const TERMINATE: i32 = 15;
    matches!(status.signal(), Some(HANG_UP | INTERRUPT | TERMINATE))
}

#[cfg(not(unix))]
fn was_told_to_stop(_status: ExitStatus) -> bool {
    false
}

/// The error that a run printed last; how it ended, where it printed none.
fn last_words(folder: &Path, status: ExitStatus) -> String {
    let text = fs::read(log(folder)).unwrap_or_default();
    let text = format!("\n{}", String::from_utf8_lossy(&text));
    let error = text.rsplit_once("\nerror: ").map(|(_, error)| error.trim().to_string());
    error.unwrap_or_else(|| format!("it ended without a word: {status}"))
}
