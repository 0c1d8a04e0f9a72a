//! The progress of a training run on stderr: a bar on a terminal, and a line per epoch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

use super::console::Console;
use super::event_log::EventLog;
use super::output::{duration, thousands};
use crate::run::{EpochRecord, PretrainEpochRecord};
use crate::train::{Observer, Skipped, Start, StepRecord};

const BAR: &str = "{prefix} {bar:30} {pos}/{len}  {speed}  eta {eta}  {msg}";

/// The console's line of an epoch.
pub(super) struct EpochLine {
    epoch: usize,
    seconds: f64,
    metrics: String,
    best: bool,
}

/// An epoch's record that the console can show.
pub(super) trait ConsoleRecord {
    /// Returns the line of the epoch.
    fn line(&self) -> EpochLine;
}

impl ConsoleRecord for EpochRecord {
    fn line(&self) -> EpochLine {
        let weights = match self.fusion_weights {
            Some([vit, mamba]) => format!("  vit {vit:.2} mamba {mamba:.2}"),
            None => String::new(),
        };
        let metrics = format!(
            "loss {:.4}  val {}{weights}  lr {:.1e}  {:.0} images/s",
            self.train_loss, self.val, self.lr, self.images_per_second
        );
        EpochLine { epoch: self.epoch, seconds: self.seconds, metrics, best: self.best }
    }
}

impl ConsoleRecord for PretrainEpochRecord {
    fn line(&self) -> EpochLine {
        let colors = match self.val_color_loss {
            Some(loss) => format!("  colors {loss:.4}"),
            None => String::new(),
        };
        let metrics = format!(
            "loss {:.4}  val {:.4}{colors}  lr {:.1e}  {:.0} images/s",
            self.train_loss, self.val_loss, self.lr, self.images_per_second
        );
        EpochLine { epoch: self.epoch, seconds: self.seconds, metrics, best: false }
    }
}

/// Returns the observer that writes to the console: an event log, or the progress.
pub(super) fn console_observer<R: ConsoleRecord + Serialize>(
    root: &Path,
    console: &Console,
) -> Box<dyn Observer<R>> {
    if console.is_json() {
        Box::new(EventLog::new(root, console.clone()))
    } else {
        Box::new(Progress::new(root, console.clone()))
    }
}

/// An observer that prints the progress of a run.
struct Progress {
    root: PathBuf,
    console: Console,
    started: bool,
    /// `epoch`, or the backbone and `epoch`.
    label: String,
    epochs: usize,
    epoch: usize,
    /// The number of epochs since the start or the resumption, and their total wall time.
    timed: (usize, f64),
}

impl Progress {
    /// Creates the observer of the run in this folder.
    fn new(root: &Path, console: Console) -> Self {
        Self {
            root: root.to_path_buf(),
            console,
            started: false,
            label: String::new(),
            epochs: 0,
            epoch: 0,
            timed: (0, 0.0),
        }
    }

    fn show_bar(&self, start: &Start) {
        let bar = self.console.bar();
        bar.set_length(start.images[0] as u64);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            let speed = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{:.0} images/s", state.per_sec());
            };
            bar.set_style(style.with_key("speed", speed));
        }
        // The bar stays hidden if stderr is not a terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(Duration::from_millis(500));
    }

    fn begin_epoch(&mut self) {
        self.epoch += 1;
        let bar = self.console.bar();
        bar.reset();
        bar.set_message("");
        bar.set_prefix(format!("{} {}/{}", self.label, self.epoch, self.epochs));
    }

    /// Estimates the time of the remaining epochs by that of the past ones.
    fn time_left(&self, epoch: usize) -> String {
        let (epochs, seconds) = self.timed;
        match self.epochs.saturating_sub(epoch) {
            0 => String::new(),
            left => format!("  {} left", duration(seconds / epochs.max(1) as f64 * left as f64)),
        }
    }
}

impl<R: ConsoleRecord> Observer<R> for Progress {
    fn start(&mut self, start: &Start) {
        let [train, val, test] = start.images.map(|n| thousands(n as i64));
        let mut name = start.config.name.clone();
        let mut images = format!("{train} images to train, {val} to validate");
        match start.branch {
            Some(branch) => {
                name += &format!(", {branch}");
                self.label = format!("{branch} epoch");
            }
            None => {
                images += &format!(", {test} to test");
                self.label = "epoch".to_string();
            }
        }
        if self.console.is_verbose() {
            self.show_bar(start);
        }
        self.console.info(&start.compute.to_string());
        self.console.info(&format!(
            "{name}: {images}; {} parameters; writing {}",
            thousands(start.parameters),
            self.root.display()
        ));
        for note in start.notes {
            if note.is_warning {
                self.console.warn(&note.text);
            } else {
                self.console.info(&note.text);
            }
        }
        if !std::mem::replace(&mut self.started, true) {
            self.console.warn_of_skipped_rows(start.skipped_rows);
            start.warnings.iter().for_each(|warning| self.console.warn(warning));
        }
        if start.steps_done > 0 {
            self.console.info(&format!(
                "resuming after step {}, in epoch {}",
                start.steps_done,
                (start.epochs_done + 1).min(start.epochs)
            ));
        }
        self.timed = (0, 0.0);
        self.epochs = start.epochs;
        self.epoch = start.epochs_done;
        if self.epoch < self.epochs {
            self.begin_epoch();
            self.console.bar().inc(start.images_done as u64);
        }
    }

    fn checkpoint(&mut self, step: u64) {
        self.console.info(&format!("checkpoint after step {step}, as SIGUSR1 asked"));
    }

    fn note(&mut self, text: &str) {
        self.console.info(text);
    }

    fn computing(&mut self, name: &str, done: usize, total: usize) {
        let percent = 100 * done / total.max(1);
        self.console.bar().set_message(format!("computing the features of {name}: {percent} %"));
    }

    fn warning(&mut self, text: &str) {
        self.console.warn(text);
    }

    fn skipped(&mut self, skipped: &Skipped) {
        self.console.bar().inc(skipped.images as u64);
        self.console.warn(&format!("skipped: {}", skipped.reason));
    }

    fn step(&mut self, record: &StepRecord) {
        let bar = self.console.bar();
        bar.inc(record.images as u64);
        bar.set_message(format!("loss {:.4}  lr {:.1e}", record.loss, record.lr));
    }

    fn evaluated(&mut self, split: &str, _images: usize) {
        self.console.bar().set_message(format!("evaluating {split}"));
    }

    fn epoch(&mut self, record: &R) {
        let EpochLine { epoch, seconds, metrics, best } = record.line();
        self.timed.0 += 1;
        self.timed.1 += seconds;
        self.console.info(&format!(
            "{} {epoch:>3}/{}  {metrics}{}{}",
            self.label,
            self.epochs,
            self.time_left(epoch),
            if best { "  *" } else { "" }
        ));
        if epoch < self.epochs {
            self.begin_epoch();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.console.bar().finish_and_clear();
    }
}
