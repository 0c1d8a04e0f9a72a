//! The status of a sweep's runs, and how long the rest will take.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::plan::PlannedRun;
use crate::run::{RunDir, RunKind, Status};

impl PlannedRun {
    /// Reads the status of the run in a sweep's folder.
    ///
    /// # Errors
    /// Returns an error if the folder holds a run of another config, or a file that cannot be read.
    pub fn status(&self, root: &Path) -> Result<Status> {
        let folder = self.folder(root);
        if RunDir::holds_run(&folder) {
            RunDir::check_config(&folder, RunKind::Train, &self.config).with_context(|| {
                format!(
                    "{} is not the run that the sweep means: name another folder with --output, \
                     or remove it",
                    self.name
                )
            })?;
        }
        Status::of(&folder)
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
