//! The errors of a config.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The reason why a config cannot be loaded. The command line exits with code 2 on any of these.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config {}: {}", path.display(), reason(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The text is not YAML.
    #[error("{place}: not valid YAML: {message}")]
    Syntax {
        /// File and line.
        place: String,
        /// The parser's message.
        message: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {text}: {message}")]
    Override {
        /// The text after `--set`.
        text: String,
        /// What is wrong with the text.
        message: String,
    },
    /// Unknown keys, wrong types, values out of range: every problem found, one per line.
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

    pub(super) fn single(key: impl Into<String>, message: impl Into<String>) -> Self {
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

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::IsADirectory => "it is a folder, expected a YAML file".into(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        _ => error.to_string(),
    }
}
