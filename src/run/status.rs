//! The status of a run, and why it failed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::directory::{MAX_TEXT, RunDir};
use super::summary::Summary;
use crate::files::{read_text, write_json};

const FAILURE_FILE: &str = "failed.json";

/// The status of the run in a folder.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// The run has not started.
    Pending,
    /// The run was stopped before its end; `--resume` continues it.
    Stopped,
    /// A process is training in the folder.
    Running,
    /// The run ended with an error.
    Failed(Failure),
    /// The run reached its end.
    Finished(Box<Summary>),
}

impl Status {
    /// Reads the status of the run in a folder. Returns an error if `summary.json` or `failed.json`
    /// cannot be read.
    pub fn of(root: &Path) -> Result<Self> {
        let started = RunDir::holds_run(root);
        if started && Summary::exists(root) {
            return Ok(Self::Finished(Box::new(Summary::read(root)?)));
        }
        if RunDir::is_running(root) {
            return Ok(Self::Running);
        }
        Ok(match Failure::read(root)? {
            Some(failure) => Self::Failed(failure),
            None if started => Self::Stopped,
            None => Self::Pending,
        })
    }

    /// Returns `pending`, `stopped`, `running`, `failed` or `finished`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Failed(_) => "failed",
            Self::Finished(_) => "finished",
        }
    }

    /// Returns the summary of a finished run.
    pub fn summary(&self) -> Option<&Summary> {
        match self {
            Self::Finished(summary) => Some(summary),
            _ => None,
        }
    }
}

/// Why a run failed: `failed.json` in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error: of a run that a sweep started, the last that it printed, without `error: `.
    pub error: String,
    /// The exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
}

impl Failure {
    /// Returns whether the run in a folder has failed.
    pub fn exists(root: &Path) -> bool {
        root.join(FAILURE_FILE).exists()
    }

    /// Reads the failure of the run in a folder; `None` if it has not failed.
    fn read(root: &Path) -> Result<Option<Self>> {
        if !Self::exists(root) {
            return Ok(None);
        }
        let path = root.join(FAILURE_FILE);
        let text = read_text(&path, MAX_TEXT)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let failure = serde_json::from_str(&text)
            .with_context(|| format!("{} does not describe a failed run", path.display()))?;
        Ok(Some(failure))
    }

    /// Writes the failure of the run in a folder. Returns an error if the file cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        write_json(&root.join(FAILURE_FILE), self)
    }

    /// Removes the failure of the run in a folder, if there is one, before the run is started
    /// again. Returns an error if the file cannot be removed.
    pub fn clear(root: &Path) -> Result<()> {
        if !Self::exists(root) {
            return Ok(());
        }
        let path = root.join(FAILURE_FILE);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}
