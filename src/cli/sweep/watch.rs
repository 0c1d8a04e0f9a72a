//! What a person hears of a sweep while it goes on, on stderr.

use std::time::Instant;

use serde_json::json;

use super::Args;
use crate::cli::console::Console;
use crate::cli::output::duration;
use crate::run::Status;
use crate::sweep::{Estimate, Event, PlannedRun};

/// Tells a person how the sweep gets on.
pub(super) struct Watch {
    total: usize,
    settled: usize,
    estimate: Estimate,
    open: Vec<String>,
    jobs: f64,
    begun: Vec<(String, Instant)>,
    runs: Vec<PlannedRun>,
    console: Console,
}

impl Watch {
    pub fn new(args: &Args, runs: &[&PlannedRun], states: &[Status]) -> Self {
        let mut watch = Self {
            total: runs.len(),
            settled: 0,
            estimate: Estimate::default(),
            open: Vec::new(),
            jobs: f64::from(args.jobs),
            begun: Vec::new(),
            runs: runs.iter().map(|run| (*run).clone()).collect(),
            console: args.console.into(),
        };
        let mut failed = 0;
        for (run, state) in runs.iter().zip(states) {
            match state {
                Status::Finished(outcome) => watch.estimate.add(run, outcome.seconds),
                Status::Failed(_) if !args.retry_failed => failed += 1,
                _ => {
                    watch.open.push(run.name.clone());
                    continue;
                }
            }
            watch.settled += 1;
        }
        let start = json!({"runs": watch.total, "settled": watch.settled, "failed": failed});
        watch.console.event("start", &start);
        if watch.settled > 0 {
            watch.console.tell(&format!(
                "{} of {} runs are there already{}",
                watch.settled,
                watch.total,
                match failed {
                    0 => String::new(),
                    failed => format!(", {failed} of them failed (--retry-failed runs them again)"),
                }
            ));
        }
        watch
    }

    pub fn hear(&mut self, event: &Event) {
        let (run, state, text) = match event {
            Event::Started(run) => {
                self.begun.push((run.name.clone(), Instant::now()));
                self.tell_program(run, "started", "");
                return;
            }
            Event::Done(run, outcome) => {
                self.estimate.add(run, outcome.seconds);
                let measured = outcome.test.unwrap_or(outcome.val);
                (run, "finished", measured.metrics.to_string())
            }
            Event::Failed(run, failure) => (run, "failed", format!("FAILED: {}", failure.error)),
            Event::Stopped(run) => {
                (run, "stopped", "stopped; start the sweep again to go on".to_string())
            }
            Event::Busy(run) => {
                (run, "running", "left alone: another process is training it".to_string())
            }
        };
        self.settled += 1;
        self.open.retain(|name| *name != run.name);
        let took = match self.begun.iter().position(|(name, _)| *name == run.name) {
            Some(at) => {
                format!("  {}", duration(self.begun.swap_remove(at).1.elapsed().as_secs_f64()))
            }
            None => String::new(),
        };
        let left = match self.left() {
            Some(left) if !self.open.is_empty() => format!("  (about {} left)", duration(left)),
            _ => String::new(),
        };
        self.tell_program(run, state, &text);
        self.console
            .tell(&format!("[{}/{}] {}  {text}{took}{left}", self.settled, self.total, run.name));
    }

    fn tell_program(&self, run: &PlannedRun, state: &str, text: &str) {
        let about = json!({
            "name": run.name,
            "status": state,
            "message": text,
            "settled": self.settled,
            "runs": self.total,
            "seconds_left": self.left(),
        });
        self.console.event("run", &about);
    }

    /// Seconds until the open runs are done.
    fn left(&self) -> Option<f64> {
        let open = self.runs.iter().filter(|run| self.open.contains(&run.name));
        let seconds: Option<f64> = open.map(|run| self.estimate.of(run)).sum();
        Some(seconds? / self.jobs)
    }
}
