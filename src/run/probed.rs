//! Probes as finished runs, which a report compares with others.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::{
    BaselinesBySplit, Provenance, RunDir, RunKind, StartingWeights, Summary, content_hash,
};
use crate::config::{Config, FrozenBlocks};
use crate::data::Split;
use crate::eval::predictions::Predictions;
use crate::eval::probe::Probe;
use crate::eval::statistics::MetricsWithCi;

/// What the summaries of probes share.
#[derive(Debug)]
pub struct Probed {
    /// The config of the probed model.
    pub config: Config,
    /// The weights of the backbones.
    pub starting_weights: BTreeMap<String, StartingWeights>,
    /// The baselines on the same images.
    pub baselines: BaselinesBySplit,
    /// Wall time of features and fits, in seconds.
    pub seconds: f64,
    /// Numbers of training, validation and test images.
    pub images: [usize; 3],
    /// Rows of the dataset that were skipped.
    pub skipped_rows: usize,
    /// Versions, commit and device.
    pub provenance: Provenance,
}

impl Probed {
    /// Returns the config of a probe: that of its branches, frozen.
    fn config_of(&self, probe: &Probe) -> Config {
        let mut config = self.config.clone();
        config.name = format!("{}-probe-{}", config.name, probe.name);
        config.model.fusion.strategy = probe.strategy;
        config.train.freeze.vit = FrozenBlocks::All;
        config.train.freeze.mamba = FrozenBlocks::All;
        config
    }

    /// Returns an error if a folder in which [`write`](Self::write) writes a probe holds a run.
    pub fn check_free(root: &Path) -> Result<()> {
        ["vit", "mamba", "both"]
            .iter()
            .try_for_each(|name| RunDir::check_free(&root.join(name), RunKind::Train))
    }

    /// Writes a probe as a run directory in `root`, named by the probe: config, predictions and
    /// summary.
    pub fn write(&self, root: &Path, probe: &Probe) -> Result<()> {
        let root = root.join(probe.name);
        let _locked = RunDir::create(&root, RunKind::Train, &self.config_of(probe))?;
        let mut files = BTreeMap::new();
        for (split, predictions) in &probe.predictions {
            let path = RunDir::predictions_in(&root, *split);
            predictions.write(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, content_hash(&path)?);
        }
        let metrics = |wanted: Split| {
            let found = probe.predictions.iter().find(|(split, _)| *split == wanted);
            found.map(|(_, predictions): &(Split, Predictions)| MetricsWithCi::new(predictions))
        };
        let val = metrics(Split::Val).context("internal: a probe has no validation images")??;
        let summary = Summary {
            val,
            test: metrics(Split::Test).transpose()?,
            branches: Default::default(),
            baselines: self.baselines,
            epochs: 0,
            best_epoch: 0,
            monitor: self.config.train.monitor,
            stopped_early: false,
            seconds: self.seconds,
            skipped_steps: 0,
            images_per_second: None,
            parameters: probe.width as i64 + 1,
            images: self.images,
            skipped_rows: self.skipped_rows,
            seed: self.config.seed,
            starting_weights: self.starting_weights.clone(),
            files,
            provenance: self.provenance.clone(),
        };
        summary.write(&root)
    }
}
