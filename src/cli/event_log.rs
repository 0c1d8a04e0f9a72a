//! A training run as lines of JSON, for `--log-format json`.

use std::path::Path;

use serde_json::{Value, json};

use super::console::Console;
use crate::run::EpochRecord;
use crate::train::{Observer, Skipped, Start};

/// Writes `start`, `epoch` and `skipped`; each line says which run it is of.
pub struct EventLog {
    run: String,
    console: Console,
}

impl EventLog {
    /// For the run in this folder.
    pub fn new(root: &Path, console: Console) -> Self {
        Self { run: root.display().to_string(), console }
    }
}

impl Observer for EventLog {
    fn start(&mut self, start: &Start) {
        let [train, val, test] = start.images;
        let about = json!({
            "run": self.run,
            "name": start.config.name,
            "seed": start.config.seed,
            "device": start.device,
            "parameters": start.parameters,
            "images": {"train": train, "val": val, "test": test},
            "skipped_rows": start.skipped_rows,
            "epochs": start.config.train.epochs,
            "steps_per_epoch": start.steps_per_epoch,
            "resumed": start.resumed,
            "epochs_done": start.epochs_done,
            "steps_done": start.steps_done,
            "notes": start.notes,
        });
        self.console.event("start", &about);
        self.console.warn_of_rows_left_out(start.skipped_rows);
    }

    fn skipped(&mut self, skipped: &Skipped) {
        let about = json!({
            "run": self.run,
            "step": skipped.step,
            "images": skipped.images,
            "reason": skipped.reason,
        });
        self.console.loud_event("skipped", &about);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        let mut about = json!({"run": self.run});
        // The line of metrics.jsonl.
        if let (Some(about), Ok(Value::Object(record))) =
            (about.as_object_mut(), serde_json::to_value(record))
        {
            about.extend(record);
        }
        self.console.event("epoch", &about);
    }
}
