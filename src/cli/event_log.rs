//! The events of a training run as lines of JSON, for `--log-format json`.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use super::console::Console;
use super::downloads::Downloads;
use super::pace::Pace;
use crate::models::weights::Download;
use crate::train::{Observer, Skipped, Start, StepRecord};

/// Writes the events `download`, `start`, `step`, `epoch`, `skipped` and `checkpoint`; the lines of
/// a run name it.
pub(super) struct EventLog {
    run: String,
    console: Console,
    downloads: Downloads,
    started: bool,
    /// `None` before the start.
    pace: Option<Pace>,
    epochs_done: usize,
}

impl EventLog {
    /// Creates the log of the run in this folder.
    pub(super) fn new(root: &Path, console: Console) -> Self {
        Self {
            run: root.display().to_string(),
            downloads: Downloads::new(&console),
            console,
            started: false,
            pace: None,
            epochs_done: 0,
        }
    }
}

impl<R: Serialize> Observer<R> for EventLog {
    fn download(&mut self, download: &Download) {
        self.downloads.show(download);
    }

    fn start(&mut self, start: &Start) {
        let [train, val, test] = start.images;
        let mut about = json!({
            "run": self.run,
            "name": start.config.name,
            "seed": start.config.seed,
            "device": start.compute.device,
            "gpu": start.compute.gpu,
            "threads": start.compute.threads,
            "precision": start.compute.precision,
            "selective_scan": start.compute.selective_scan,
            "parameters": start.parameters,
            "images": {"train": train, "val": val, "test": test},
            "skipped_rows": start.skipped_rows,
            "epochs": start.epochs,
            "steps_per_epoch": start.steps_per_epoch,
            "resumed": start.resumed,
            "epochs_done": start.epochs_done,
            "steps_done": start.steps_done,
            "notes": start.notes.iter().map(|note| &note.text).collect::<Vec<_>>(),
        });
        if let Some(branch) = start.branch {
            about["branch"] = json!(branch);
        }
        self.console.event("start", &about);
        self.pace = Some(Pace::new(self.console.log_every(), start, Instant::now()));
        self.epochs_done = start.epochs_done;
        for note in start.notes.iter().filter(|note| note.is_warning) {
            self.console.warn(&note.text);
        }
        if !std::mem::replace(&mut self.started, true) {
            self.console.warn_of_skipped_rows(start.skipped_rows);
            start.warnings.iter().for_each(|warning| self.console.warn(warning));
        }
    }

    fn checkpoint(&mut self, step: u64) {
        self.console.event("checkpoint", &json!({"run": self.run, "step": step}));
    }

    fn note(&mut self, text: &str) {
        self.console.event("note", &json!({"run": self.run, "message": text}));
    }

    fn warning(&mut self, text: &str) {
        self.console.warn(text);
    }

    fn step(&mut self, record: &StepRecord) {
        let now = Instant::now();
        let Some(pace) = &mut self.pace else { return };
        pace.step(record.images, now);
        if pace.is_due(now) {
            let about = json!({
                "run": self.run,
                "epoch": self.epochs_done + 1,
                "step": record.step,
                "loss": record.loss,
                "lr": record.lr,
                "images_per_second": pace.images_per_second(now),
                "seconds_left": pace.seconds_left(now),
            });
            pace.restart_window(now);
            self.console.event("step", &about);
        }
    }

    fn evaluated(&mut self, _split: &str, images: usize) {
        self.pace.iter_mut().for_each(|pace| pace.evaluated(images));
    }

    fn skipped(&mut self, skipped: &Skipped) {
        self.pace.iter_mut().for_each(|pace| pace.step(skipped.images, Instant::now()));
        let about = json!({
            "run": self.run,
            "step": skipped.step,
            "images": skipped.images,
            "reason": skipped.reason,
        });
        self.console.warning_event("skipped", &about);
    }

    fn epoch(&mut self, record: &R) {
        self.epochs_done += 1;
        let epochs_done = self.epochs_done;
        self.pace.iter_mut().for_each(|pace| pace.epoch(epochs_done, Instant::now()));
        let mut about = json!({"run": self.run});
        // The fields of the line in metrics.jsonl.
        if let (Some(about), Ok(Value::Object(record))) =
            (about.as_object_mut(), serde_json::to_value(record))
        {
            about.extend(record);
        }
        self.console.event("epoch", &about);
    }
}
