//! Cross-validation: a model for each fold, tested on the images that it has not seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::folds::Folds;
use crate::config::{Config, ConfigError, Problem};
use crate::data::Split;
use crate::eval::metrics::Metric;
use crate::eval::predictions::Predictions;
use crate::eval::statistics::{MetricsWithCi, mean_and_sd};
use crate::files::write_json;
use crate::run::{RunDir, RunKind, Status, Summary};
use crate::train::{Observer, Options, Stop, train};

/// What a cross-validation came to: `cross_validation.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossValidation {
    /// One entry per fold.
    pub folds: Vec<FoldResult>,
    /// Mean over the folds of each metric; `None` where a fold's is not defined.
    pub mean: BTreeMap<Metric, Option<f64>>,
    /// Standard deviation over the folds (n - 1).
    pub sd: BTreeMap<Metric, Option<f64>>,
    /// The metrics of all folds' predictions together, each image predicted by the model that has
    /// not seen it.
    pub pooled: MetricsWithCi,
    /// Seconds of training, of all folds.
    pub seconds: f64,
}

/// One fold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldResult {
    /// Its name in `data.split`.
    pub fold: String,
    /// Its run directory, within the cross-validation's.
    pub run: PathBuf,
    /// On its test images.
    pub test: MetricsWithCi,
}

/// What watches a fold's run.
pub type Watch<'a> = dyn FnMut(&Config, &Path) -> Vec<Box<dyn Observer>> + 'a;

/// Trains a model for each fold in a run directory of its own below `root`, named by the fold, and
/// writes there the predictions of all folds (`predictions.csv`, with the column `fold`) and
/// `cross_validation.json`. A fold that is finished is not run again, one that was stopped goes on.
/// `watch` gives the observers of each run.
///
/// # Errors
/// Those of a run, or `root` holds folds of another config.
pub fn cross_validate(
    config: &Config,
    folds: Folds,
    root: &Path,
    stop: &Stop,
    watch: &mut Watch,
) -> Result<CrossValidation> {
    let mut results = Vec::new();
    let mut pooled = Predictions::default();
    let mut seconds = 0.0;
    for (index, (fold, config)) in fold_configs(config, folds)?.into_iter().enumerate() {
        let run = root.join(&fold);
        let outcome = finish(&config, &run, stop.clone(), watch).with_context(|| {
            let again = "start it again to go on";
            format!("{fold} of the cross-validation in {} ({again})", root.display())
        })?;
        let Some(test) = outcome.test else {
            anyhow::bail!("{} has no test images", run.display());
        };
        let predictions = Predictions::read(&RunDir::predictions_in(&run, Split::Test))?;
        append(&mut pooled, predictions, index + 1)?;
        seconds += outcome.seconds;
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

/// Each fold's name, and its config.
fn fold_configs(config: &Config, folds: Folds) -> Result<Vec<(String, Config)>, ConfigError> {
    let splits = folds.splits(config.data.dataset).map_err(|message| {
        ConfigError::Invalid(vec![Problem {
            place: None,
            key: "folds".to_string(),
            message: format!("--folds {folds}: {message}"),
        }])
    })?;
    let config_of = |split: String| {
        let mut config = config.clone();
        config.data.split = split.clone();
        config.validate()?;
        Ok((split, config))
    };
    splits.into_iter().map(config_of).collect()
}

/// The outcome of the run in `root`, which is made, gone on with, or just read.
fn finish(config: &Config, root: &Path, stop: Stop, watch: &mut Watch) -> Result<Summary> {
    if let Status::Finished(summary) = Status::of(root)? {
        RunDir::check_config(root, RunKind::Train, config)?;
        return Ok(*summary);
    }
    let options = Options { resume: RunDir::holds_run(root), stop, ..Options::default() };
    train(config, root, options, &mut watch(config, root))
}

/// Adds a fold's predictions, with the number of the fold beside each.
fn append(pooled: &mut Predictions, fold: Predictions, number: usize) -> Result<()> {
    let mut fold = fold;
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
