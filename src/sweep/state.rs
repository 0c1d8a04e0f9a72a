//! How far a sweep's runs are, and how long the rest will take.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::PlannedRun;
use crate::files::write_json;
use crate::train::{Outcome, RunDir, RunState};

/// Why a run failed: `failed.json` in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What the run said last, without `error: `.
    pub error: String,
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It has not begun.
    Open,
    /// It was stopped, and goes on from its last epoch.
    Stopped,
    /// A process is training in its folder.
    Busy,
    /// It ended with an error.
    Failed(Failure),
    /// It came to its end.
    Done(Box<Outcome>),
}

impl State {
    /// Of a run in a sweep's folder.
    ///
    /// # Errors
    /// The folder holds a run of another config, or a file that cannot be read.
    pub fn of(run: &PlannedRun, root: &Path) -> Result<Self> {
        let folder = run.folder(root);
        let state = RunDir::state(&folder);
        if state != RunState::Absent {
            RunDir::check_config(&folder, &run.config).with_context(|| {
                format!(
                    "{} is not the run that the sweep means: name another folder with --output, or remove it",
                    run.name
                )
            })?;
        }
        Ok(match state {
            RunState::Finished => Self::Done(Box::new(Outcome::read(&folder)?)),
            _ if RunDir::is_busy(&folder) => Self::Busy,
            state => match (Failure::read(&folder)?, state) {
                (Some(failure), _) => Self::Failed(failure),
                (None, RunState::Started) => Self::Stopped,
                (None, _) => Self::Open,
            },
        })
    }

    /// Returns the outcome of a run that is done.
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Returns `open`, `stopped`, `busy`, `failed` or `done`.
    pub fn name(&self) -> &'static str {
        match self {
            State::Open => "open",
            State::Stopped => "stopped",
            State::Busy => "busy",
            State::Failed(_) => "failed",
            State::Done(_) => "done",
        }
    }
}

impl Failure {
    fn path(folder: &Path) -> PathBuf {
        folder.join("failed.json")
    }

    /// Of the run in a folder; `None` where it has not failed.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = Self::path(folder);
        if !path.exists() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let failure = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a failure of a run", path.display()))?;
        Ok(Some(failure))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write_json(&Self::path(folder), self)
    }

    /// Forgets the failure of the run in a folder, if there is one, so that it is run again.
    pub(super) fn clear(folder: &Path) -> Result<()> {
        let path = Self::path(folder);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
        } else {
            Ok(())
        }
    }
}

/// How long runs take, by those that are done.
#[derive(Debug, Clone, Default)]
pub struct Estimate {
    by_point: HashMap<String, (f64, usize)>,
    all: (f64, usize),
}

impl Estimate {
    /// Counts a run that is done.
    pub fn add(&mut self, run: &PlannedRun, seconds: f64) {
        let of_point = self.by_point.entry(run.point.clone()).or_default();
        for (sum, count) in [of_point, &mut self.all] {
            *sum += seconds;
            *count += 1;
        }
    }

    /// Seconds that a run will take: the mean of those with the same values, else of all; `None`
    /// where none is done.
    pub fn of(&self, run: &PlannedRun) -> Option<f64> {
        let (sum, count) = self.by_point.get(&run.point).unwrap_or(&self.all);
        (*count > 0).then(|| sum / *count as f64)
    }
}
