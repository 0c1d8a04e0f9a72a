//! The errors of a config.

use std::fmt;
use std::path::PathBuf;

/// The reason why a config cannot be loaded. The command line exits with code 2 on any of these.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file is instead of a config, or why it cannot be read.
        reason: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {text}: {message}")]
    Override {
        /// The text after `--set`.
        text: String,
        /// What is wrong with the text.
        message: String,
    },
    /// Text that is not YAML, unknown keys, wrong types, values out of range: every problem found,
    /// up to a number, one per line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
    /// A config that cannot be written as YAML (a path that is not Unicode).
    #[error("the config cannot be written as YAML: {0}")]
    Unwritable(String),
}

/// One problem of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `configs/a.yaml:12`, or `--set train.epochs=0`; `None` for a config that was
    /// not loaded, or a default.
    pub place: Option<String>,
    /// The dotted key, `train.epochs`.
    pub key: String,
    /// The complete sentence, key included.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl ConfigError {
    /// Returns the problems of [`ConfigError::Invalid`]; empty for other errors.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid(problems) => problems,
            _ => &[],
        }
    }

    /// Returns the error of one problem at a place, `configs/a.yaml:12`.
    pub(crate) fn at(
        place: impl Into<String>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let (place, key, message) = (Some(place.into()), key.into(), message.into());
        Self::Invalid(vec![Problem { place, key, message }])
    }

    /// Returns the error of one problem of a key that has no place in a file.
    pub(crate) fn single(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Problem { place: None, key: key.into(), message: message.into() }])
    }

    /// Prefixes the keys, and the sentences, which begin with the key, with `section`.
    pub(super) fn under(self, section: &str) -> Self {
        let Self::Invalid(mut problems) = self else {
            return self;
        };
        for problem in &mut problems {
            problem.key = format!("{section}.{}", problem.key);
            problem.message = format!("{section}.{}", problem.message);
        }
        Self::Invalid(problems)
    }
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}
