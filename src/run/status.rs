//! The status of a run, and why it failed or was paused.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::directory::{MAX_TEXT, RunDir};
use super::summary::Summary;
use crate::files::{read_text, write_json};

const FAILURE_FILE: &str = "failed.json";
const PAUSE_FILE: &str = "paused.json";

/// The status of the run in a folder.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// The run has not started.
    Pending,
    /// The run was stopped before its end; `--resume` continues it.
    Stopped,
    /// The search of a sweep has stopped the run before its end; `--resume` continues it.
    Paused(Pause),
    /// A process is training in the folder.
    Running,
    /// The run ended with an error.
    Failed(Failure),
    /// The run reached its end.
    Finished(Box<Summary>),
}

impl Status {
    /// Reads the status of the run in a folder. Returns an error if `summary.json`, `failed.json`
    /// or `paused.json` cannot be read.
    pub fn of(root: &Path) -> Result<Self> {
        let started = RunDir::holds_run(root);
        if started && Summary::exists(root) {
            return Ok(Self::Finished(Box::new(Summary::read(root)?)));
        }
        if RunDir::is_running(root) {
            return Ok(Self::Running);
        }
        if let Some(failure) = read_if_any(&root.join(FAILURE_FILE), "a failed run")? {
            return Ok(Self::Failed(failure));
        }
        if !started {
            return Ok(Self::Pending);
        }
        let pause = read_if_any(&root.join(PAUSE_FILE), "a paused run")?;
        Ok(pause.map_or(Self::Stopped, Self::Paused))
    }

    /// Returns `pending`, `stopped`, `paused`, `stopped by median rule`, `running`, `failed` or
    /// `finished`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Stopped => "stopped",
            Self::Paused(Pause { rule: PauseRule::Rung, .. }) => "paused",
            Self::Paused(Pause { rule: PauseRule::Median, .. }) => "stopped by median rule",
            Self::Running => "running",
            Self::Failed(_) => "failed",
            Self::Finished(_) => "finished",
        }
    }

    /// Returns whether the search of a sweep has stopped the run.
    pub fn is_paused(&self) -> bool {
        matches!(self, Self::Paused(_))
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

    /// Writes the failure of the run in a folder. Returns an error if the file cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        write_json(&root.join(FAILURE_FILE), self)
    }

    /// Removes the failure of the run in a folder, if there is one, before the run is started
    /// again. Returns an error if the file cannot be removed.
    pub fn clear(root: &Path) -> Result<()> {
        remove_if_any(&root.join(FAILURE_FILE))
    }
}

/// Why the search of a sweep has stopped a run before its end: `paused.json` in its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// What stopped it.
    pub rule: PauseRule,
    /// The epoch after which that was decided.
    pub epoch: usize,
    /// What happened and why, as `paused at rung 1 of 3, epoch 1`.
    pub reason: String,
}

/// A rule by which a search stops runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseRule {
    /// The run is at the end of a rung of successive halving, and may be promoted.
    Rung,
    /// The run was worse than the median of the others.
    Median,
}

impl Pause {
    /// Writes why the run in a folder is paused. Returns an error if the file cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        write_json(&root.join(PAUSE_FILE), self)
    }

    /// Removes what [`write`](Self::write) wrote in a folder, if it did, before the run is resumed.
    /// Returns an error if the file cannot be removed.
    pub fn clear(root: &Path) -> Result<()> {
        remove_if_any(&root.join(PAUSE_FILE))
    }
}

fn read_if_any<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text =
        read_text(path, MAX_TEXT).with_context(|| format!("cannot read {}", path.display()))?;
    let read = serde_json::from_str(&text);
    read.map(Some).with_context(|| format!("{} does not describe {what}", path.display()))
}

fn remove_if_any(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}
