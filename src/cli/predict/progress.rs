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
/// Where the number of images is not known before their end.
const COUNT: &str = "{pos} images  {speed}";
/// How often a log gets a line.
const EVERY: Duration = Duration::from_secs(30);

pub(in crate::cli) struct Progress {
    images: Option<usize>,
    bar: ProgressBar,
    /// When a line is due, where there is no bar and one is wanted.
    lines: Option<Schedule>,
    unread: Unread,
    /// The number of images that are unlike the training images, and the names of the first.
    unlike: (usize, Vec<String>),
}

/// Most images that are named as unlike the training images.
const NAMED: usize = 3;

impl Progress {
    /// Starts the progress; unless it is `shown`, only images that cannot be read are reported.
    pub(in crate::cli) fn new(images: Option<usize>, shown: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let target = if shown && terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(images.map(|images| images as u64), target);
        if let Ok(style) = ProgressStyle::with_template(if images.is_some() { BAR } else { COUNT })
        {
            let speed = |state: &ProgressState, out: &mut dyn Write| {
                let _ = write!(out, "{:.0} images/s", state.per_sec());
            };
            bar.set_style(style.with_key("speed", speed));
        }
        let lines = (shown && !terminal).then(|| Schedule::new(EVERY, EVERY, Instant::now()));
        Self { images, bar, lines, unread: Unread::default(), unlike: (0, Vec::new()) }
    }

    /// Reports an image that cannot be read.
    pub(in crate::cli) fn unread(&mut self, image: &Path, error: &Error) {
        self.bar.suspend(|| self.unread.add(image, error));
    }

    /// Counts an image that is unlike the training images.
    pub(super) fn unlike(&mut self, image: &Path) {
        self.unlike.0 += 1;
        if self.unlike.1.len() < NAMED {
            self.unlike.1.push(image.display().to_string());
        }
    }

    /// Counts an image.
    pub(in crate::cli) fn advance(&mut self) {
        self.bar.inc(1);
        if !self.lines.as_mut().is_some_and(|lines| lines.is_due(Instant::now())) {
            return;
        }
        let done = self.bar.position();
        let speed = done as f64 / self.bar.elapsed().as_secs_f64();
        let images = self.images.map(|images| format!(" of {}", thousands(images as i64)));
        let (done, images) = (thousands(done as i64), images.unwrap_or_default());
        say(&format!("{done}{images} images, {speed:.0} images/s"));
    }

    /// Ends the progress, and returns the number of images and of those that could be read.
    pub(in crate::cli) fn finish(self) -> (usize, usize) {
        let images = self.bar.position() as usize;
        self.bar.finish_and_clear();
        let (unlike, named) = &self.unlike;
        if *unlike > 0 {
            let more = if *unlike > NAMED { ", …" } else { "" };
            say(&format!(
                "warning: {unlike} of {images} images are unlike the training images, so that \
                 their scores mean little (in_distribution: false): {}{more}",
                named.join(", ")
            ));
        }
        (images, images - self.unread.finish(images))
    }
}
