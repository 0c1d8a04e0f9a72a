//! The progress of a sweep on stderr: a live table on a terminal, and a line per event.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::Args;
use super::live_table::{Row, lines};
use crate::cli::console::Console;
use crate::cli::output::{cut, duration, metric};
use crate::run::{Course, Status};
use crate::sweep::{Estimate, Event, Search, SweepRun, log_of};
use crate::train::Stop;

/// Maximum length of a reason of a failure, in characters; the log has all of it.
const MAX_REASON: usize = 200;

/// Reports the progress of a sweep.
pub(super) struct Progress {
    root: PathBuf,
    total: usize,
    counts: Counts,
    /// The names of the runs that the search has paused.
    paused: BTreeSet<String>,
    estimate: Estimate,
    /// The runs that have not started.
    waiting: Vec<SweepRun>,
    /// The runs under way, in the order of their start.
    active: Vec<Active>,
    jobs: usize,
    /// How exact the time left is: runs may end early.
    about: &'static str,
    stop: Stop,
    /// When the last milestones were written.
    milestones: Instant,
    console: Console,
    table: MultiProgress,
    rows: Vec<ProgressBar>,
}

/// The numbers of runs that need no more work, or were stopped.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    finished: usize,
    failed: usize,
    /// Runs that another process is training.
    skipped: usize,
    stopped: usize,
}

/// Returns the number of runs that the search has paused, after others; nothing for none.
fn with_paused(paused: usize) -> String {
    if paused == 0 { String::new() } else { format!(", {paused} paused by the search") }
}

/// A run under way.
struct Active {
    run: SweepRun,
    begun: Instant,
    course: Course,
    /// The epoch of the last milestone.
    milestone: usize,
}

impl Active {
    fn epochs(&self) -> usize {
        self.run.config.train.epochs
    }
}

impl Progress {
    pub(super) fn new(
        args: &Args,
        root: &Path,
        (runs, statuses): (&[&SweepRun], &[Status]),
        search: &Search,
        stop: Stop,
    ) -> Self {
        let patient = |run: &&SweepRun| run.config.train.early_stopping.patience.is_some();
        let ends_early = search.compares() || runs.iter().any(patient);
        let mut progress = Self {
            about: if ends_early { "at most" } else { "about" },
            root: root.to_path_buf(),
            total: runs.len(),
            counts: Counts::default(),
            paused: BTreeSet::new(),
            estimate: Estimate::default(),
            waiting: Vec::new(),
            active: Vec::new(),
            jobs: usize::from(args.jobs),
            stop,
            milestones: Instant::now(),
            console: args.console.into(),
            table: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            rows: Vec::new(),
        };
        let is_over = |status: &Status| search.is_over(status, args.retry_failed);
        for (run, status) in runs.iter().zip(statuses) {
            match status {
                Status::Finished(summary) => {
                    progress.estimate.add(run, summary.seconds);
                    progress.counts.finished += 1;
                }
                // A run at the end of a rung waits for its promotion only.
                Status::Paused(_) if is_over(status) || !search.rungs.is_empty() => {
                    progress.paused.insert(run.name.clone());
                }
                Status::Failed(_) if is_over(status) => progress.counts.failed += 1,
                _ => progress.waiting.push((*run).clone()),
            }
        }
        let (Counts { finished, failed, .. }, paused) = (progress.counts, progress.paused.len());
        let start = json!({
            "runs": progress.total, "completed": finished + failed, "failed": failed,
        });
        progress.console.event("start", &start);
        if finished + failed + paused > 0 {
            progress.console.info(&format!(
                "{finished} of {} runs are already finished{}{}",
                progress.total,
                with_paused(paused),
                match failed {
                    0 => String::new(),
                    failed => format!(", {failed} failed (--retry-failed runs them again)"),
                }
            ));
        }
        if progress.console.is_verbose() && !progress.waiting.is_empty() {
            // The table stays hidden if stderr is not a terminal.
            progress.table.set_draw_target(ProgressDrawTarget::stderr());
            progress.table.add(progress.console.bar().clone());
            progress.console.bar().set_style(style());
        }
        progress
    }

    /// Returns whether the table is shown.
    fn is_live(&self) -> bool {
        !self.table.is_hidden()
    }

    /// Reports a change of a run's status.
    pub(super) fn update(&mut self, event: &Event) {
        let (run, status, text) = match event {
            Event::Started(run) => {
                self.start(run);
                return;
            }
            Event::Finished(run, summary) => {
                self.estimate.add(run, summary.seconds);
                self.counts.finished += 1;
                let (split, of) = match summary.test {
                    Some(test) => ("test", test.metrics),
                    None => ("val", summary.val.metrics),
                };
                let [pc, mae] = [of.pc, of.mae].map(metric);
                (run, "finished", format!("{split} PC {pc}  MAE {mae}"))
            }
            Event::Failed(run, failure) => {
                self.counts.failed += 1;
                let error = cut(failure.error.lines().next().unwrap_or_default(), MAX_REASON);
                let log = log_of(run, &self.root);
                (run, "failed", format!("FAILED: {error} (log: {})", log.display()))
            }
            Event::Paused(run, pause) => {
                self.paused.insert(run.name.clone());
                (run, "paused", pause.reason.clone())
            }
            Event::Stopped(run) => {
                self.counts.stopped += 1;
                (run, "stopped", "stopped with a checkpoint".to_string())
            }
            Event::Running(run) => {
                self.counts.skipped += 1;
                (run, "running", "skipped: another process is training it".to_string())
            }
        };
        let begun = self.active.iter().find(|active| active.run.name == run.name);
        let took = begun.map(|active| active.begun.elapsed().as_secs_f64());
        let took = took.map(|took| format!("  {}", duration(took))).unwrap_or_default();
        self.active.retain(|active| active.run.name != run.name);
        self.waiting.retain(|waiting| waiting.name != run.name);
        self.log_event(run, status, &text);
        // The table has the time left.
        let left = if self.is_live() { String::new() } else { self.time_left("  (", ")") };
        self.line(run, &format!("{text}{took}{left}"));
        self.refresh();
    }

    fn start(&mut self, run: &SweepRun) {
        self.waiting.retain(|waiting| waiting.name != run.name);
        self.paused.remove(&run.name);
        let mut active = Active {
            run: run.clone(),
            begun: Instant::now(),
            course: Course::default(),
            milestone: 0,
        };
        self.read(&mut active);
        active.milestone = active.course.epoch;
        let resumes = match active.course.epoch {
            0 => "started".to_string(),
            epoch => format!("resumes after epoch {epoch}/{}", active.epochs()),
        };
        self.active.push(active);
        self.log_event(run, "started", "");
        if !self.is_live() {
            self.line(run, &resumes);
        }
        self.refresh();
    }

    fn line(&self, run: &SweepRun, text: &str) {
        self.console.info(&format!("[{}/{}] {}  {text}", self.done(), self.total, run.name));
    }

    /// Returns the number of runs that need no more work.
    fn done(&self) -> usize {
        let Counts { finished, failed, skipped, .. } = self.counts;
        finished + failed + skipped + self.paused.len()
    }

    /// Reads how far a run is; metrics that cannot be read are none.
    fn read(&self, active: &mut Active) {
        let (folder, monitor) = (active.run.folder(&self.root), active.run.config.train.monitor);
        if let Ok(course) = Course::of_unfinished(&folder, monitor) {
            active.course = course;
        }
    }

    /// Reads how far the runs under way are. On a terminal the table shows it; elsewhere the runs
    /// that have done an epoch get a line, at the rate of `--log-every`.
    pub(super) fn refresh(&mut self) {
        let mut active = std::mem::take(&mut self.active);
        active.iter_mut().for_each(|active| self.read(active));
        self.active = active;
        if self.is_live() {
            self.show_table();
        } else if self.milestones.elapsed() >= self.console.log_every() {
            self.write_milestones();
        }
    }

    fn write_milestones(&mut self) {
        self.milestones = Instant::now();
        let mut active = std::mem::take(&mut self.active);
        for active in &mut active {
            let epoch = active.course.epoch;
            // The last epoch gets the line of the run's end.
            let seen = std::mem::replace(&mut active.milestone, epoch) == epoch;
            if seen || epoch >= active.epochs() {
                continue;
            }
            let (best, epochs) = (active.course.best, active.epochs());
            let left = self.seconds_left_of(active);
            let about = json!({
                "name": active.run.name,
                "epoch": epoch,
                "epochs": epochs,
                "best": best.map(|best| best.value),
                "seconds_left": left,
            });
            self.console.event("progress", &about);
            let best = best
                .map(|best| format!("  best {} {}", best.monitor.heading(), metric(best.value)));
            let left = left.map(|left| format!("  {} left", duration(left)));
            let (best, left) = (best.unwrap_or_default(), left.unwrap_or_default());
            self.line(&active.run, &format!("epoch {epoch}/{epochs}{best}{left}"));
        }
        self.active = active;
    }

    fn show_table(&mut self) {
        let row = |active: &Active| Row {
            name: active.run.name.clone(),
            state: self.state(active),
            epochs: format!("{}/{}", active.course.epoch, active.epochs()),
            best: active.course.best,
            left: self.seconds_left_of(active).map(duration).unwrap_or_default(),
        };
        let rows: Vec<Row> = self.active.iter().map(row).collect();
        let (height, width) = console::Term::stderr().size();
        let lines = lines(rows, width.into(), height.into());
        while self.rows.len() > lines.len() {
            self.rows.pop().iter().for_each(|row| self.table.remove(row));
        }
        while self.rows.len() < lines.len() {
            let bar = ProgressBar::new(1).with_style(style());
            self.rows.push(self.table.insert(self.rows.len(), bar));
        }
        for (bar, line) in self.rows.iter().zip(lines) {
            bar.set_message(line);
        }
        self.console.bar().set_message(self.totals());
    }

    fn state(&self, active: &Active) -> &'static str {
        match active.course.epoch {
            _ if self.stop.signal() > 0 => "stopping",
            0 if active.begun.elapsed() < Duration::from_secs(2) => "starting",
            epoch if epoch >= active.epochs() => "evaluating",
            _ => "training",
        }
    }

    /// Returns how many runs there are in each state, and the time left.
    fn totals(&self) -> String {
        let Counts { finished, failed, skipped, .. } = self.counts;
        let skipped = match skipped {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        format!(
            "{finished} of {} finished{}; {failed} failed{skipped}{}, {} under way, {} waiting",
            self.total,
            match self.stop.signal() {
                0 => self.time_left(", ", ""),
                _ => ", stopping with checkpoints".to_string(),
            },
            with_paused(self.paused.len()),
            self.active.len(),
            self.waiting.len(),
        )
    }

    /// Says what a sweep that was stopped leaves.
    pub(super) fn say_stopped(&self) {
        let Counts { finished, failed, stopped, .. } = self.counts;
        self.console.info(&format!(
            "{finished} of {} runs are finished, {failed} failed{}, {stopped} stopped with a \
             checkpoint, {} not started",
            self.total,
            with_paused(self.paused.len()),
            self.waiting.len()
        ));
    }

    fn log_event(&self, run: &SweepRun, status: &str, text: &str) {
        let about = json!({
            "name": run.name,
            "status": status,
            "message": text,
            "completed": self.done(),
            "runs": self.total,
            "seconds_left": self.seconds_left(),
        });
        self.console.event("run", &about);
    }

    /// Estimates the seconds until a run under way is done: by its last epoch, else by runs that
    /// have finished.
    fn seconds_left_of(&self, active: &Active) -> Option<f64> {
        active.course.seconds_left(active.epochs(), SystemTime::now()).or_else(|| {
            let elapsed = active.begun.elapsed().as_secs_f64();
            self.estimate.of(&active.run).map(|seconds| (seconds - elapsed).max(0.0))
        })
    }

    /// Estimates the seconds until all runs have finished; those that wait take as long as the
    /// finished ones, else as those under way.
    fn seconds_left(&self) -> Option<f64> {
        let left: Vec<f64> =
            self.active.iter().map(|active| self.seconds_left_of(active)).collect::<Option<_>>()?;
        let done = self.active.iter().map(|active| active.course.seconds);
        let typical =
            done.zip(&left).map(|(done, left)| done + left).sum::<f64>() / self.active.len() as f64;
        let typical = typical.is_finite().then_some(typical);
        let waiting = self.waiting.iter().map(|run| self.estimate.of(run).or(typical));
        let sum = waiting.sum::<Option<f64>>()? + left.iter().sum::<f64>();
        let longest = left.iter().copied().fold(0.0, f64::max);
        Some((sum / self.jobs as f64).max(longest))
    }

    fn time_left(&self, before: &str, after: &str) -> String {
        let is_left = !(self.waiting.is_empty() && self.active.is_empty());
        let left = self.seconds_left().filter(|left| is_left && *left >= 1.0);
        let left =
            left.map(|left| format!("{before}{} {} left{after}", self.about, duration(left)));
        left.unwrap_or_default()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.rows.iter().for_each(|row| self.table.remove(row));
        self.console.bar().finish_and_clear();
    }
}

/// A line that is cut where the terminal ends.
fn style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}
