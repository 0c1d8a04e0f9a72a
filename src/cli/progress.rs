//! What a person sees of a training run: a bar on a terminal, plain lines elsewhere, all on stderr.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{say, thousands};
use crate::train::{EpochRecord, Observer, Skipped, Start, StepRecord};

const BAR: &str = "{prefix} {bar:30} {pos}/{len} images  {per_sec}  eta {eta}  {msg}";

/// Prints the run as it goes.
pub struct Progress {
    root: PathBuf,
    bar: ProgressBar,
    epochs: usize,
    epoch: usize,
}

impl Progress {
    /// For the run in this folder.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            bar: ProgressBar::hidden(),
            epochs: 0,
            epoch: 0,
        }
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            say(text);
        } else {
            self.bar.println(text);
        }
    }

    fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.bar.reset();
        self.bar.set_message("");
        self.bar
            .set_prefix(format!("epoch {}/{}", self.epoch, self.epochs));
    }
}

impl Observer for Progress {
    fn start(&mut self, start: &Start) {
        let [train, val, test] = start.pictures.map(|n| thousands(n as i64));
        // Hides itself where stderr is not a terminal.
        self.bar = ProgressBar::with_draw_target(
            Some(start.pictures[0] as u64),
            ProgressDrawTarget::stderr(),
        );
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            self.bar.set_style(style);
        }
        self.bar.enable_steady_tick(Duration::from_millis(500));
        self.line(&format!(
            "{}: {train} images to train, {val} to validate, {test} to test; {} parameters on {}; writing {}",
            start.config.name,
            thousands(start.parameters),
            start.device,
            self.root.display()
        ));
        for note in start.notes {
            self.line(note);
        }
        if start.skipped > 0 {
            self.line(&format!(
                "{} rows of the data set were left out: `vmbeauty data check` lists them",
                start.skipped
            ));
        }
        if start.steps_done > 0 {
            self.line(&format!(
                "resuming after step {}, in epoch {}",
                start.steps_done,
                (start.epochs_done + 1).min(start.config.train.epochs)
            ));
        }
        self.epochs = start.config.train.epochs;
        self.epoch = start.epochs_done;
        if self.epoch < self.epochs {
            self.begin_epoch();
            self.bar.inc(start.images_done as u64);
        }
    }

    fn skipped(&mut self, skipped: &Skipped) {
        self.bar.inc(skipped.images as u64);
        self.line(&format!("left out: {}", skipped.reason));
    }

    fn step(&mut self, record: &StepRecord) {
        self.bar.inc(record.images as u64);
        self.bar.set_message(format!("loss {:.4}", record.loss));
    }

    fn evaluated(&mut self, split: &str, _images: usize) {
        self.bar.set_message(format!("predicting {split}"));
    }

    fn epoch(&mut self, record: &EpochRecord) {
        let shares = match record.fusion_weights {
            Some([vit, mamba]) => format!("  vit {vit:.2} mamba {mamba:.2}"),
            None => String::new(),
        };
        self.line(&format!(
            "epoch {:>3}/{}  loss {:.4}  val {}{shares}  lr {:.1e}  {:.0} images/s{}",
            record.epoch,
            self.epochs,
            record.train_loss,
            record.val,
            record.lr,
            record.images_per_second,
            if record.best { "  *" } else { "" }
        ));
        if record.epoch < self.epochs {
            self.begin_epoch();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
