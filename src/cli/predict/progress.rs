//! The progress of a prediction on stderr: a bar on a terminal, and a line now and then elsewhere.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::cli::inputs::Unread;
use crate::cli::output::{say, thousands};
use crate::cli::pace::Schedule;

const BAR: &str = "{bar:30} {pos}/{len} images  {speed}  eta {eta}";
/// How often a log gets a line.
const EVERY: Duration = Duration::from_secs(30);

pub(in crate::cli) struct Progress {
    images: usize,
    bar: ProgressBar,
    /// When a line is due, where there is no bar and one is wanted.
    lines: Option<Schedule>,
    unread: Unread,
}

impl Progress {
    /// Starts the progress; unless it is `shown`, only images that cannot be read are reported.
    pub(in crate::cli) fn new(images: usize, shown: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let target = if shown && terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(images as u64), target);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            let speed = |state: &ProgressState, out: &mut dyn Write| {
                let _ = write!(out, "{:.0} images/s", state.per_sec());
            };
            bar.set_style(style.with_key("speed", speed));
        }
        let lines = (shown && !terminal).then(|| Schedule::new(EVERY, EVERY, Instant::now()));
        Self { images, bar, lines, unread: Unread::default() }
    }

    /// Reports an image that cannot be read.
    pub(in crate::cli) fn unread(&mut self, image: &Path, error: &Error) {
        self.bar.suspend(|| self.unread.add(image, error));
    }

    /// Counts an image.
    pub(in crate::cli) fn advance(&mut self) {
        self.bar.inc(1);
        if !self.lines.as_mut().is_some_and(|lines| lines.is_due(Instant::now())) {
            return;
        }
        let done = self.bar.position();
        let speed = done as f64 / self.bar.elapsed().as_secs_f64();
        let [done, images] = [done as i64, self.images as i64].map(thousands);
        say(&format!("{done} of {images} images, {speed:.0} images/s"));
    }

    /// Ends the progress, and returns the number of images that could be read.
    pub(in crate::cli) fn finish(self) -> usize {
        self.bar.finish_and_clear();
        self.images - self.unread.finish(self.images)
    }
}
