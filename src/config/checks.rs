//! Gathers what is wrong with the values of a config.

use std::fmt::Display;

use super::error::{ConfigError, Problem};

/// The problems found so far, in the order of the keys.
#[derive(Default)]
pub(super) struct Checks {
    problems: Vec<Problem>,
}

impl Checks {
    /// Notes `KEY must be RULE, is VALUE` unless `holds`.
    pub fn require(&mut self, holds: bool, key: &str, rule: impl Display, value: impl Display) {
        if !holds {
            self.fail(key, format!("{key} must be {rule}, is {value}"));
        }
    }

    /// Notes a problem; `message` begins with the key.
    pub fn fail(&mut self, key: &str, message: String) {
        self.problems.push(Problem { place: None, key: key.into(), message });
    }

    /// A number from 0 to 1, both included. NaN is in no range.
    pub fn probability(&mut self, key: &str, value: f64) {
        self.require((0.0..=1.0).contains(&value), key, "between 0 and 1", value);
    }

    /// A part of something, of which some is left.
    pub fn fraction(&mut self, key: &str, value: f64) {
        let holds = (0.0..1.0).contains(&value);
        self.require(holds, key, "at least 0 and less than 1", value);
    }

    /// A finite number above 0.
    pub fn positive(&mut self, key: &str, value: f64) {
        self.require(value > 0.0 && value.is_finite(), key, "above 0", value);
    }

    /// A finite number of 0 or more.
    pub fn not_negative(&mut self, key: &str, value: f64) {
        self.require(value >= 0.0 && value.is_finite(), key, "0 or more", value);
    }

    /// A count or size of at least 1, and not so large that products of sizes overflow.
    pub fn size(&mut self, key: &str, value: impl TryInto<i64> + Display + Copy) {
        const MOST: i64 = 1 << 20;
        let size = value.try_into().unwrap_or(i64::MAX);
        if size < 1 {
            self.require(false, key, "at least 1", value);
        } else {
            self.require(size <= MOST, key, format_args!("at most {MOST}"), value);
        }
    }

    /// Adds the problems of a part that was checked by itself, each once.
    pub fn include(&mut self, error: ConfigError) {
        if let ConfigError::Invalid(problems) = error {
            for problem in problems {
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
    }

    pub fn finish(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(self.problems)) }
    }
}
