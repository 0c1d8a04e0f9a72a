//! The progress of a sweep, on stderr.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::json;

use super::Args;
use crate::cli::console::Console;
use crate::cli::output::duration;
use crate::run::Status;
use crate::sweep::{Estimate, Event, SweepRun};

/// Reports the progress of a sweep.
pub(super) struct Progress {
    total: usize,
    /// Runs that need no more work.
    completed: usize,
    estimate: Estimate,
    /// The runs that are left.
    left: Vec<SweepRun>,
    jobs: f64,
    started: HashMap<String, Instant>,
    console: Console,
}

impl Progress {
    pub(super) fn new(args: &Args, runs: &[&SweepRun], statuses: &[Status]) -> Self {
        let mut progress = Self {
            total: runs.len(),
            completed: 0,
            estimate: Estimate::default(),
            left: Vec::new(),
            jobs: f64::from(args.jobs),
            started: HashMap::new(),
            console: args.console.into(),
        };
        let mut failed = 0;
        for (run, status) in runs.iter().zip(statuses) {
            match status {
                Status::Finished(summary) => progress.estimate.add(run, summary.seconds),
                Status::Failed(_) if !args.retry_failed => failed += 1,
                _ => {
                    progress.left.push((*run).clone());
                    continue;
                }
            }
            progress.completed += 1;
        }
        let start =
            json!({"runs": progress.total, "completed": progress.completed, "failed": failed});
        progress.console.event("start", &start);
        if progress.completed > 0 {
            progress.console.info(&format!(
                "{} of {} runs are already finished{}",
                progress.completed - failed,
                progress.total,
                match failed {
                    0 => String::new(),
                    failed => format!(", {failed} failed (--retry-failed runs them again)"),
                }
            ));
        }
        progress
    }

    /// Reports a change of a run's status.
    pub(super) fn update(&mut self, event: &Event) {
        let (run, status, text) = match event {
            Event::Started(run) => {
                self.started.insert(run.name.clone(), Instant::now());
                self.log_event(run, "started", "");
                return;
            }
            Event::Finished(run, summary) => {
                self.estimate.add(run, summary.seconds);
                let metrics = summary.test.unwrap_or(summary.val);
                (run, "finished", metrics.metrics.to_string())
            }
            Event::Failed(run, failure) => (run, "failed", format!("FAILED: {}", failure.error)),
            Event::Stopped(run) => {
                (run, "stopped", "stopped; run the sweep again to resume it".to_string())
            }
            Event::Running(run) => {
                (run, "running", "skipped: another process is training it".to_string())
            }
        };
        self.completed += 1;
        self.left.retain(|left| left.name != run.name);
        let took = self.started.remove(&run.name).map(|start| start.elapsed().as_secs_f64());
        let took = took.map(|took| format!("  {}", duration(took))).unwrap_or_default();
        let left = self.seconds_left().filter(|_| !self.left.is_empty());
        let left = left.map(|left| format!("  (about {} left)", duration(left)));
        let left = left.unwrap_or_default();
        self.log_event(run, status, &text);
        self.console
            .info(&format!("[{}/{}] {}  {text}{took}{left}", self.completed, self.total, run.name));
    }

    fn log_event(&self, run: &SweepRun, status: &str, text: &str) {
        let about = json!({
            "name": run.name,
            "status": status,
            "message": text,
            "completed": self.completed,
            "runs": self.total,
            "seconds_left": self.seconds_left(),
        });
        self.console.event("run", &about);
    }

    /// Estimates the seconds until all runs have finished.
    fn seconds_left(&self) -> Option<f64> {
        let seconds: Option<f64> = self.left.iter().map(|run| self.estimate.of(run)).sum();
        Some(seconds? / self.jobs)
    }
}
