//! Collects the problems of a config's values.

use std::fmt::Display;

use super::error::{ConfigError, Problem};

/// Largest side of an image, in pixels.
pub(super) const MAX_SIDE: i64 = 16_384;
/// Largest count or size.
const MAX_SIZE: i64 = 1 << 20;

/// The problems found so far, in the order of the keys.
#[derive(Default)]
pub(super) struct Checks {
    /// The section that keys are relative to, with a dot at its end; empty at the top.
    section: String,
    problems: Vec<Problem>,
}

impl Checks {
    /// Runs the checks of a section; keys in them are relative to it.
    pub(super) fn within(&mut self, section: &str, check: impl FnOnce(&mut Self)) {
        let outer = self.section.len();
        self.section += section;
        self.section.push('.');
        check(self);
        self.section.truncate(outer);
    }

    /// Adds `KEY must be RULE, is VALUE` unless `holds`.
    pub(super) fn require(
        &mut self,
        holds: bool,
        key: &str,
        rule: impl Display,
        value: impl Display,
    ) {
        if !holds {
            self.fail(key, format_args!(" must be {rule}, is {value}"));
        }
    }

    /// Adds a problem, whose message is the full key and then `rest`.
    pub(super) fn fail(&mut self, key: &str, rest: impl Display) {
        let key = format!("{}{key}", self.section);
        let message = format!("{key}{rest}");
        self.problems.push(Problem { place: None, key, message });
    }

    /// Requires a number from 0 to 1, both included. NaN is in no range.
    pub(super) fn probability(&mut self, key: &str, value: f64) {
        self.require((0.0..=1.0).contains(&value), key, "between 0 and 1", value);
    }

    /// Requires a fraction of something of which some remains.
    pub(super) fn fraction(&mut self, key: &str, value: f64) {
        let holds = (0.0..1.0).contains(&value);
        self.require(holds, key, "at least 0 and less than 1", value);
    }

    /// Requires a finite number above 0.
    pub(super) fn positive(&mut self, key: &str, value: f64) {
        self.require(value > 0.0 && value.is_finite(), key, "above 0", value);
    }

    /// Requires a finite number of 0 or more.
    pub(super) fn not_negative(&mut self, key: &str, value: f64) {
        self.require(value >= 0.0 && value.is_finite(), key, "0 or more", value);
    }

    /// Requires a count or size of at least 1, small enough that products of sizes do not overflow.
    pub(super) fn size(&mut self, key: &str, value: impl TryInto<i64> + Display + Copy) {
        self.size_up_to(key, MAX_SIZE, value);
    }

    /// Requires a count or size from 1 to `most`.
    pub(super) fn size_up_to(
        &mut self,
        key: &str,
        most: i64,
        value: impl TryInto<i64> + Display + Copy,
    ) {
        let size = value.try_into().unwrap_or(i64::MAX);
        if size < 1 {
            self.require(false, key, "at least 1", value);
        } else {
            self.require(size <= most, key, format_args!("at most {most}"), value);
        }
    }

    /// Requires a number of threads. Each takes memory, and a system has a limit of threads, beyond
    /// which OpenMP ends the process.
    pub(super) fn threads(&mut self, key: &str, value: usize) {
        self.size_up_to(key, 1024, value);
    }

    /// Requires that the pixels of a batch fit into the memory of a machine; `remedy` ends the
    /// sentence.
    pub(super) fn batch(&mut self, key: &str, size: usize, image_size: i64, remedy: &str) {
        const MOST: i64 = 16 << 30;
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if !(1..=MAX_SIDE).contains(&image_size) || size > MAX_SIZE {
            return; // reported already
        }
        let image = 3 * image_size * image_size;
        let most = MOST / image;
        if size > most {
            let rest = format_args!(
                " {size} makes {} GiB of pixels at an image size of {image_size}: at most {most} \
                 images fit into {} GiB{remedy}",
                (size * image) >> 30,
                MOST >> 30,
            );
            self.fail(key, rest);
        }
    }

    /// Adds the problems of another check, whose keys are complete, each once.
    pub(super) fn include(&mut self, error: ConfigError) {
        if let ConfigError::Invalid(problems) = error {
            for problem in problems {
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
    }

    /// Returns every problem as one error.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(self.problems)) }
    }
}
