//! The progress of a training run on stderr: a line per epoch, and within an epoch a bar on a
//! terminal, or a line at an interval.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::console::Console;
use super::downloads::Downloads;
use super::event_log::EventLog;
use super::output::thousands;
use super::pace::Pace;
use crate::models::weights::Download;
use crate::run::{EpochRecord, PretrainEpochRecord};
use crate::train::{Observer, Skipped, Start, StepRecord};

/// The message is cut where the terminal ends.
const BAR: &str = "{prefix} {bar:10} {pos}/{len}  {wide_msg}";

/// The console's line of an epoch.
pub(super) struct EpochLine {
    epoch: usize,
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
        let pair = |what: &str, pair: Option<[f64; 2]>| match pair {
            Some([vit, mamba]) => format!("  {what}vit {vit:.2} mamba {mamba:.2}"),
            None => String::new(),
        };
        let metrics = format!(
            "loss {:.4}  val {}{}{}  lr {:.1e}  {:.0} images/s",
            self.train_loss,
            self.val,
            pair("PC of ", self.branch_pc),
            pair("weight of ", self.fusion_weights),
            self.lr,
            self.images_per_second
        );
        EpochLine { epoch: self.epoch, metrics, best: self.best }
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
        EpochLine { epoch: self.epoch, metrics, best: false }
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
    downloads: Downloads,
    started: bool,
    /// `epoch`, or the backbone and `epoch`.
    label: String,
    epochs: usize,
    /// The current epoch, from 1.
    epoch: usize,
    steps_per_epoch: usize,
    /// `None` before the start.
    pace: Option<Pace>,
    /// The split that is evaluated, and how many of its images are.
    evaluated: (String, usize),
}

impl Progress {
    /// Creates the observer of the run in this folder.
    fn new(root: &Path, console: Console) -> Self {
        Self {
            root: root.to_path_buf(),
            downloads: Downloads::new(&console),
            console,
            started: false,
            label: String::new(),
            epochs: 0,
            epoch: 0,
            steps_per_epoch: 0,
            pace: None,
            evaluated: Default::default(),
        }
    }

    fn show_bar(&self) {
        let bar = self.console.bar();
        bar.set_length(self.steps_per_epoch as u64);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
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

    /// Shows a step, counted from the start of the run, as one of its epoch.
    fn show_step(&self, step: u64) {
        let before = self.epoch.saturating_sub(1) * self.steps_per_epoch;
        self.console.bar().set_position(step.saturating_sub(before as u64));
    }

    /// Counts a step with the images of its global batch.
    fn advance(&mut self, step: u64, images: usize) {
        self.show_step(step);
        self.pace.iter_mut().for_each(|pace| pace.step(images, Instant::now()));
    }
}

impl<R: ConsoleRecord> Observer<R> for Progress {
    fn download(&mut self, download: &Download) {
        self.downloads.show(download);
    }

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
        self.steps_per_epoch = start.steps_per_epoch;
        if self.console.is_verbose() {
            self.show_bar();
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
        self.pace = Some(Pace::new(self.console.log_every(), start, Instant::now()));
        self.epochs = start.epochs;
        self.epoch = start.epochs_done;
        if self.epoch < self.epochs {
            self.begin_epoch();
            self.show_step(start.steps_done);
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
        self.advance(skipped.step, skipped.images);
        self.console.warn(&format!("skipped: {}", skipped.reason));
    }

    fn step(&mut self, record: &StepRecord) {
        self.advance(record.step, record.images);
        let now = Instant::now();
        let (Some(pace), bar) = (&mut self.pace, self.console.bar()) else { return };
        let (loss, lr) = (record.loss, record.lr);
        let (speed, left) = (pace.speed(now), pace.time_left(now));
        bar.set_message(format!("loss {loss:.4}{speed}{left}  lr {lr:.1e}"));
        if bar.is_hidden() && pace.is_due(now) {
            let (label, step) = (&self.label, bar.position());
            let (epoch, epochs, steps) = (self.epoch, self.epochs, self.steps_per_epoch);
            self.console.info(&format!(
                "{label} {epoch:>3}/{epochs}  step {step}/{steps}  loss {loss:.4}  \
                 lr {lr:.1e}{speed}{left}"
            ));
            pace.restart_window(now);
        }
    }

    fn evaluated(&mut self, split: &str, images: usize) {
        if self.evaluated.0 != split {
            self.evaluated = (split.to_string(), 0);
        }
        self.evaluated.1 += images;
        let Some(pace) = &mut self.pace else { return };
        pace.evaluated(images);
        let (done, left) = (self.evaluated.1, pace.time_left(Instant::now()));
        self.console.bar().set_message(format!("evaluating {split}: {done} images{left}"));
    }

    fn epoch(&mut self, record: &R) {
        let EpochLine { epoch, metrics, best } = record.line();
        let now = Instant::now();
        self.pace.iter_mut().for_each(|pace| pace.epoch(epoch, now));
        let left = match &self.pace {
            Some(pace) if epoch < self.epochs => pace.time_left(now),
            _ => String::new(),
        };
        self.console.info(&format!(
            "{} {epoch:>3}/{}  {metrics}{left}{}",
            self.label,
            self.epochs,
            if best { "  *" } else { "" }
        ));
        self.evaluated = Default::default();
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
