//! What a person sees of a training run: a bar on a terminal, plain lines elsewhere, all on stderr.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressDrawTarget, ProgressState, ProgressStyle};

use super::console::Console;
use super::output::{duration, thousands};
use crate::run::EpochRecord;
use crate::train::{Observer, Skipped, Start, StepRecord};

const BAR: &str = "{prefix} {bar:30} {pos}/{len}  {speed}  eta {eta}  {msg}";

/// Prints the run as it goes.
pub struct Progress {
    root: PathBuf,
    console: Console,
    epochs: usize,
    epoch: usize,
    /// Of the epochs since the start, or since the run was resumed: how many, and how long they
    /// took together.
    timed: (usize, f64),
}

impl Progress {
    /// For the run in this folder.
    pub fn new(root: &Path, console: Console) -> Self {
        Self { root: root.to_path_buf(), console, epochs: 0, epoch: 0, timed: (0, 0.0) }
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
        // Hides itself where stderr is not a terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(Duration::from_millis(500));
    }

    fn begin_epoch(&mut self) {
        self.epoch += 1;
        let bar = self.console.bar();
        bar.reset();
        bar.set_message("");
        bar.set_prefix(format!("epoch {}/{}", self.epoch, self.epochs));
    }

    /// How long the epochs that are left will take, if they take as long as those before.
    fn left(&self, record: &EpochRecord) -> String {
        let (epochs, seconds) = self.timed;
        match self.epochs.saturating_sub(record.epoch) {
            0 => String::new(),
            left => format!("  {} left", duration(seconds / epochs.max(1) as f64 * left as f64)),
        }
    }
}

impl Observer for Progress {
    fn start(&mut self, start: &Start) {
        let [train, val, test] = start.images.map(|n| thousands(n as i64));
        if self.console.draws() {
            self.show_bar(start);
        }
        self.console.tell(&format!(
            "{}: {train} images to train, {val} to validate, {test} to test; {} parameters on {}; writing {}",
            start.config.name,
            thousands(start.parameters),
            start.device,
            self.root.display()
        ));
        for note in start.notes {
            self.console.tell(note);
        }
        self.console.warn_of_rows_left_out(start.skipped_rows);
        if start.steps_done > 0 {
            self.console.tell(&format!(
                "resuming after step {}, in epoch {}",
                start.steps_done,
                (start.epochs_done + 1).min(start.config.train.epochs)
            ));
        }
        self.epochs = start.config.train.epochs;
        self.epoch = start.epochs_done;
        if self.epoch < self.epochs {
            self.begin_epoch();
            self.console.bar().inc(start.images_done as u64);
        }
    }

    fn skipped(&mut self, skipped: &Skipped) {
        self.console.bar().inc(skipped.images as u64);
        self.console.warn(&format!("left out: {}", skipped.reason));
    }

    fn step(&mut self, record: &StepRecord) {
        let bar = self.console.bar();
        bar.inc(record.images as u64);
        bar.set_message(format!("loss {:.4}  lr {:.1e}", record.loss, record.lr));
    }

    fn evaluated(&mut self, split: &str, _images: usize) {
        self.console.bar().set_message(format!("predicting {split}"));
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.timed.0 += 1;
        self.timed.1 += record.seconds;
        let shares = match record.fusion_weights {
            Some([vit, mamba]) => format!("  vit {vit:.2} mamba {mamba:.2}"),
            None => String::new(),
        };
        self.console.tell(&format!(
            "epoch {:>3}/{}  loss {:.4}  val {}{shares}  lr {:.1e}  {:.0} images/s{}{}",
            record.epoch,
            self.epochs,
            record.train_loss,
            record.val,
            record.lr,
            record.images_per_second,
            self.left(record),
            if record.best { "  *" } else { "" }
        ));
        if record.epoch < self.epochs {
            self.begin_epoch();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.console.bar().finish_and_clear();
    }
}
