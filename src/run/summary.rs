//! The result of a finished run: `summary.json`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::directory::{MAX_TEXT, SUMMARY_FILE};
use super::provenance::{Provenance, StartingWeights, content_hash};
use crate::config::Monitor;
use crate::data::Split;
use crate::eval::baselines::Baselines;
use crate::eval::evaluate::BranchMetrics;
use crate::eval::statistics::MetricsWithCi;
use crate::files::{read_text, write_json};

/// The result of a finished run: `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Metrics of the best weights on the validation images.
    pub val: MetricsWithCi,
    /// Metrics of the best weights on the test images, if the dataset has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<MetricsWithCi>,
    /// Metrics of the branches' own heads on each split, if the model has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub branches: BTreeMap<Split, BranchMetrics>,
    /// Metrics of trivial predictors on the same images.
    pub baselines: BaselinesBySplit,
    /// Number of epochs trained.
    pub epochs: usize,
    /// The epoch of the best weights, from 1.
    pub best_epoch: usize,
    /// The metric that selected the best epoch: `train.monitor`, or MAE where that is undefined.
    pub monitor: Monitor,
    /// Whether early stopping ended the run.
    pub stopped_early: bool,
    /// Wall time spent training, in seconds, over all starts.
    pub seconds: f64,
    /// Steps that were skipped because their loss or gradient was not finite.
    pub skipped_steps: usize,
    /// Training images per second over all epochs, without validation.
    pub images_per_second: Option<f64>,
    /// Number of trained parameters.
    pub parameters: i64,
    /// Numbers of training, validation and test images.
    pub images: [usize; 3],
    /// Rows of the dataset that were skipped.
    pub skipped_rows: usize,
    /// The seed of the run.
    pub seed: u64,
    /// The weights files that the backbones were initialized from, by branch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub starting_weights: BTreeMap<String, StartingWeights>,
    /// BLAKE3 hashes of the best weights and the predictions, by file name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Versions, commit and device.
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// The part of a summary that says what its files are.
#[derive(Debug, Default, Deserialize)]
struct Recorded {
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// Checks that weights of a run are those that its summary was written with, if the run is
/// finished. Returns an error that names the file and the remedy if they have changed, or if they
/// or the summary cannot be read.
pub fn check_unchanged(weights: &Path) -> Result<()> {
    check_recorded(weights, "use a copy of it, or train the run again")
}

/// Checks a file of a run as [`check_unchanged`] does weights, with the remedy for a changed one.
pub(super) fn check_recorded(file: &Path, remedy: &str) -> Result<()> {
    let folder = file.with_file_name("");
    if !Summary::exists(&folder) {
        return Ok(());
    }
    let recorded: Recorded = read(&folder)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let Some(written) = recorded.files.get(&*name) else {
        return Ok(());
    };
    let (path, folder) = (file.display(), folder.display());
    ensure!(
        content_hash(file)? == *written,
        "{path} is not what the run wrote: its BLAKE3 hash is not that in {folder}{SUMMARY_FILE}; \
         {remedy}"
    );
    Ok(())
}

fn read<T: DeserializeOwned>(root: &Path) -> Result<T> {
    let path = root.join(SUMMARY_FILE);
    let text =
        read_text(&path, MAX_TEXT).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a summary of a run", path.display()))
}

impl Summary {
    /// Returns whether the folder has a summary.
    pub fn exists(root: &Path) -> bool {
        root.join(SUMMARY_FILE).exists()
    }

    /// Reads the summary of the finished run in a folder. Returns an error if there is no summary,
    /// or it cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        read(root)
    }

    /// Records the hash of a file of a finished run that was written again. Returns an error if the
    /// file or the summary cannot be read, or the summary cannot be written.
    pub(super) fn record(root: &Path, file: &Path) -> Result<()> {
        let mut summary = Self::read(root)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hash = content_hash(file)?;
        if summary.files.insert(name, hash.clone()).is_none_or(|before| before != hash) {
            summary.write(root)?;
        }
        Ok(())
    }

    /// Writes the summary into the run's folder. Returns an error if the file cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        write_json(&root.join(SUMMARY_FILE), self)
    }
}

/// Baselines on each split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BaselinesBySplit {
    /// Baselines on the validation images.
    pub val: Baselines,
    /// Baselines on the test images, if the dataset has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Baselines>,
}

impl BaselinesBySplit {
    /// Takes the baselines on the splits of [`evaluated`](crate::data::RunImages::evaluated), in
    /// that order. Returns an error if there are none.
    pub fn new(evaluated: &[Baselines]) -> Result<Self> {
        let val = *evaluated.first().context("internal: there are no baselines")?;
        Ok(Self { val, test: evaluated.get(1).copied() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::run::{RunDir, RunKind};

    #[test]
    fn the_summary_of_a_removed_run_does_not_refuse_the_weights_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (best, summary) = (dir.path().join("best.safetensors"), dir.path().join(SUMMARY_FILE));
        let config = Config::from_yaml("seed: 1\n", "test", &[]).unwrap();
        let finished = r#"{"files": {"best.safetensors": "0"}}"#;
        std::fs::write(&best, "weights").unwrap();
        std::fs::write(&summary, finished).unwrap();
        assert!(check_unchanged(&best).is_err());
        RunDir::create(dir.path(), RunKind::Train, &config).unwrap();
        check_unchanged(&best).unwrap();
        std::fs::write(&summary, finished).unwrap();
        RunDir::resume(dir.path(), RunKind::Train, &config).unwrap();
        assert!(summary.exists());
    }
}
