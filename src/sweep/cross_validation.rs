//! Cross-validation: a model for each fold, tested on the images that it was not trained on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use super::folds::Folds;
use crate::config::{Config, ConfigError};
use crate::data::Split;
use crate::eval::metrics::Metric;
use crate::eval::predictions::Predictions;
use crate::eval::statistics::{MetricsWithCi, mean_and_sd};
use crate::files::write_json;
use crate::run::{RunDir, RunKind, Status, Summary, finished_predictions};
use crate::train::{Observer, Options, Stop, Stopped, train};

/// The results of a cross-validation: `cross_validation.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CrossValidation {
    /// The results of each fold.
    pub folds: Vec<FoldResult>,
    /// Mean of each metric over the folds; `None` where a fold's is undefined.
    pub mean: BTreeMap<Metric, Option<f64>>,
    /// Standard deviation of each metric over the folds (n - 1).
    pub sd: BTreeMap<Metric, Option<f64>>,
    /// Metrics of all folds' predictions together.
    pub pooled: MetricsWithCi,
    /// Wall time spent training, over all folds.
    pub seconds: f64,
}

/// The result of a fold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoldResult {
    /// Name of the fold in `data.split`.
    pub fold: String,
    /// Its run directory, relative to the cross-validation's folder.
    pub run: PathBuf,
    /// Metrics on its test images.
    pub test: MetricsWithCi,
}

/// Returns the observers of a fold's run, for its config and its run directory.
pub type Observers<'a> = dyn FnMut(&Config, &Path) -> Vec<Box<dyn Observer>> + 'a;

/// Trains a model for each fold, in a run directory below `root` with the fold's name, and writes
/// the predictions of all folds (`predictions.csv`, with a column `fold`) and
/// `cross_validation.json` to `root`. A finished fold is not run again, a stopped one resumes.
pub fn cross_validate(
    config: &Config,
    folds: Folds,
    root: &Path,
    stop: &Stop,
    observers: &mut Observers,
) -> Result<CrossValidation> {
    let mut results = Vec::new();
    let mut pooled = Predictions::default();
    let mut seconds = 0.0;
    for (index, (fold, config)) in fold_configs(config, folds)?.into_iter().enumerate() {
        let run = root.join(&fold);
        let summary = finish(&config, &run, stop.clone(), observers).map_err(|error| {
            let stopped = error.chain().any(|cause| cause.is::<Stopped>());
            let remedy = if stopped { " (run it again to resume)" } else { "" };
            let folder = root.display();
            error.context(format!("{fold} of the cross-validation in {folder}{remedy}"))
        })?;
        let Some(test) = summary.test else {
            bail!("{} has no test images", run.display());
        };
        let predictions = finished_predictions(&run, Split::Test)?;
        append(&mut pooled, predictions, index + 1)?;
        seconds += summary.seconds;
        results.push(FoldResult { fold: fold.clone(), run: fold.into(), test });
    }
    let over_folds = Metric::ALL.map(|metric| {
        let values: Vec<f64> =
            results.iter().map(|result| metric.of(&result.test.metrics)).collect();
        (metric, mean_and_sd(&values))
    });
    let result = CrossValidation {
        mean: over_folds.map(|(metric, (mean, _))| (metric, mean)).into(),
        sd: over_folds.map(|(metric, (_, sd))| (metric, sd)).into(),
        pooled: MetricsWithCi::new(&pooled)?,
        folds: results,
        seconds,
    };
    pooled.write(&root.join("predictions.csv"))?;
    write_json(&root.join("cross_validation.json"), &result)?;
    Ok(result)
}

/// Returns the name of each fold with its config.
fn fold_configs(config: &Config, folds: Folds) -> Result<Vec<(String, Config)>, ConfigError> {
    let splits = folds
        .splits(&config.data)
        .map_err(|message| ConfigError::single("folds", format!("--folds {folds}: {message}")))?;
    let config_of = |split: String| {
        let mut config = config.clone();
        config.data.split = split.clone();
        config.validate()?;
        Ok((split, config))
    };
    splits.into_iter().map(config_of).collect()
}

/// Trains or resumes the run in `root`, unless it has finished, and returns its summary.
fn finish(config: &Config, root: &Path, stop: Stop, observers: &mut Observers) -> Result<Summary> {
    if let Status::Finished(summary) = Status::of(root)? {
        RunDir::check_config(root, RunKind::Train, config)?;
        return Ok(*summary);
    }
    let options = Options { resume: RunDir::holds_run(root), stop, ..Options::default() };
    train(config, root, options, &mut observers(config, root))
}

/// Appends a fold's predictions, with the number of the fold as a column.
fn append(pooled: &mut Predictions, mut fold: Predictions, number: usize) -> Result<()> {
    let numbers = vec![number as f64; fold.images.len()];
    fold.extra.push(("fold".to_string(), numbers));
    let names = |of: &Predictions| -> Vec<String> {
        of.extra.iter().map(|(name, _)| name.clone()).collect()
    };
    ensure!(
        pooled.images.is_empty() || names(pooled) == names(&fold),
        "the folds' predictions have different columns: remove the older run"
    );
    pooled.append(fold);
    Ok(())
}
