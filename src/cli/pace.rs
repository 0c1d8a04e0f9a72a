//! When lines of progress are due; and the pace of a training: its speed, and the time left.

use std::time::{Duration, Instant};

use super::output::duration;
use crate::train::Start;

/// The time of a forward pass in units of a training step's: backward takes about twice as long.
const FORWARD: f64 = 1.0 / 3.0;
/// The first line comes early: it shows that the run computes, and how fast.
const FIRST: Duration = Duration::from_secs(5);

/// When lines are due: every so often, and never several at once after a pause.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Duration,
    next: Instant,
}

impl Schedule {
    /// Creates the schedule of a line after `first`, and then one `every` so often.
    pub(super) fn new(first: Duration, every: Duration, now: Instant) -> Self {
        Self { every, next: now + first }
    }

    /// Returns whether a line is due, and puts off the next one if so.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.put_off(now);
        }
        due
    }

    fn put_off(&mut self, now: Instant) {
        self.next = now + self.every;
    }
}

/// The pace of a training. Work is counted in training images, evaluated ones as [`FORWARD`] each.
#[derive(Debug)]
pub(super) struct Pace {
    lines: Schedule,
    work_per_epoch: f64,
    total: f64,
    done: f64,
    /// The end of the first step, which also starts what computes, and the work done by then.
    since: Option<(Instant, f64)>,
    /// The start of the speed's window, and the images trained on since.
    window: Option<(Instant, usize)>,
    may_stop_early: bool,
}

impl Pace {
    /// Creates the pace of a training that starts or resumes now, with a line `every` so often.
    pub(super) fn new(every: Duration, start: &Start, now: Instant) -> Self {
        let [train, val, test] = start.images.map(|images| images as f64);
        let work_per_epoch = train + FORWARD * val;
        let at_the_end = if start.branch.is_none() { FORWARD * (val + test) } else { 0.0 };
        Self {
            lines: Schedule::new(every.min(FIRST), every, now),
            work_per_epoch,
            total: start.epochs as f64 * work_per_epoch + at_the_end,
            done: start.epochs_done as f64 * work_per_epoch + start.images_done as f64,
            since: None,
            window: None,
            may_stop_early: start.config.train.early_stopping.patience.is_some()
                && start.branch.is_none(),
        }
    }

    /// Counts a step's images.
    pub(super) fn step(&mut self, images: usize, now: Instant) {
        self.done += images as f64;
        self.since.get_or_insert((now, self.done));
        match &mut self.window {
            Some((_, trained)) => *trained += images,
            None => self.window = Some((now, 0)),
        }
    }

    /// Counts evaluated images.
    pub(super) fn evaluated(&mut self, images: usize) {
        self.done += FORWARD * images as f64;
    }

    /// Counts an epoch that is done, whose line puts off the next one within an epoch.
    pub(super) fn epoch(&mut self, epoch: usize, now: Instant) {
        // Other ranks evaluate images too.
        self.done = epoch as f64 * self.work_per_epoch;
        self.window = None;
        self.lines.put_off(now);
    }

    /// Returns whether a line is due, and puts off the next one if so.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.lines.is_due(now)
    }

    /// Starts to measure the speed again.
    pub(super) fn restart_window(&mut self, now: Instant) {
        self.window = Some((now, 0));
    }

    /// Returns the training images per second since the last restart.
    pub(super) fn images_per_second(&self, now: Instant) -> Option<f64> {
        let (start, images) = self.window?;
        let speed = images as f64 / (now - start).as_secs_f64();
        (images > 0 && speed.is_finite()).then_some(speed)
    }

    /// Estimates the seconds left, at the mean pace so far.
    pub(super) fn seconds_left(&self, now: Instant) -> Option<f64> {
        let (start, before) = self.since?;
        let seconds = (now - start).as_secs_f64() / (self.done - before);
        let left = (self.total - self.done).max(0.0) * seconds;
        left.is_finite().then_some(left)
    }

    /// Formats the time left as `  3 min 5 s left`; empty where it is unknown.
    pub(super) fn time_left(&self, now: Instant) -> String {
        let most = if self.may_stop_early { "at most " } else { "" };
        let left = self.seconds_left(now);
        left.map(|left| format!("  {most}{} left", duration(left))).unwrap_or_default()
    }

    /// Formats the speed as `  85 images/s`; empty where it is unknown.
    pub(super) fn speed(&self, now: Instant) -> String {
        let speed = self.images_per_second(now);
        speed.map(|speed| format!("  {speed:.0} images/s")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(now: Instant) -> Pace {
        Pace {
            lines: Schedule::new(FIRST, Duration::from_secs(30), now),
            work_per_epoch: 110.0,
            total: 330.0,
            done: 0.0,
            since: None,
            window: None,
            may_stop_early: false,
        }
    }

    #[test]
    fn the_first_line_is_due_early_and_an_epochs_line_puts_off_the_next() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut pace = pace(begun);
        assert!(!pace.is_due(at(4)) && pace.is_due(at(5)) && !pace.is_due(at(34)));
        pace.epoch(1, at(20));
        assert!(!pace.is_due(at(49)) && pace.is_due(at(50)));
    }

    #[test]
    fn one_line_follows_a_long_pause() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let every = Duration::from_secs(30);
        let mut lines = Schedule::new(every, every, begun);
        assert!(!lines.is_due(at(29)) && lines.is_due(at(100)));
        assert!(!lines.is_due(at(101)) && !lines.is_due(at(129)) && lines.is_due(at(130)));
    }

    #[test]
    fn the_time_left_is_that_of_the_work_left_at_the_pace_since_the_first_step() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut pace = pace(begun);
        pace.step(10, at(60)); // the first one is slow
        assert_eq!((pace.seconds_left(at(60)), pace.images_per_second(at(60))), (None, None));
        pace.step(10, at(62));
        pace.step(10, at(64));
        assert_eq!(pace.images_per_second(at(64)), Some(5.0));
        assert_eq!(pace.seconds_left(at(64)), Some(60.0));
        assert_eq!(pace.time_left(at(64)), "  1 min 0 s left");
        pace.restart_window(at(64));
        pace.step(10, at(65));
        assert_eq!(pace.speed(at(65)), "  10 images/s");
        pace.epoch(1, at(80));
        assert_eq!(pace.seconds_left(at(80)), Some(44.0));
        assert_eq!(pace.images_per_second(at(80)), None);
    }
}
