//! What a run comes to: `summary.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::provenance::{Provenance, StartingWeights};
use super::run_dir::RunDir;
use crate::config::Monitor;
use crate::eval::baselines::Baselines;
use crate::eval::statistics::MetricsWithCi;

/// What a run came to: `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The best weights on the validation images.
    pub val: MetricsWithCi,
    /// The best weights on the test images, where the data set has some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test: Option<MetricsWithCi>,
    /// What has to be beaten, on the same images.
    pub baselines: BaselinesBySplit,
    /// Epochs done.
    pub epochs: usize,
    /// The epoch of the best weights, from 1.
    pub best_epoch: usize,
    /// The metric that chose it.
    #[serde(default = "pc")]
    pub monitor: Monitor,
    /// Whether the run ended before its last epoch, for want of a better one.
    #[serde(default)]
    pub stopped_early: bool,
    /// Wall time spent training, in seconds, over all starts.
    pub seconds: f64,
    /// Steps that were left out, because they were not finite.
    #[serde(default)]
    pub skipped_steps: usize,
    /// Training images per second over all epochs, validation not counted.
    #[serde(default)]
    pub images_per_second: Option<f64>,
    /// Trained parameters.
    pub parameters: i64,
    /// Numbers of images to train on, to validate and to test with.
    pub images: [usize; 3],
    /// Rows of the data set that were left out.
    pub skipped: usize,
    /// Of everything random.
    pub seed: u64,
    /// The files that the backbones began from, by branch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub starting_weights: BTreeMap<String, StartingWeights>,
    /// Versions, commit and device.
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// What chose the best epoch of all runs before there was a choice.
fn pc() -> Monitor {
    Monitor::Pc
}

impl Outcome {
    /// Of the finished run in a folder.
    ///
    /// # Errors
    /// There is none, or its summary cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let path = RunDir::summary_in(root);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a summary of a run", path.display()))
    }
}

/// Baselines on each split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BaselinesBySplit {
    /// On the validation images.
    pub val: Baselines,
    /// On the test images, where the data set has some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test: Option<Baselines>,
}
