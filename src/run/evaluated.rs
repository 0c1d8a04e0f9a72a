//! Finished runs as the comparison of models reads them.

use std::path::Path;

use anyhow::Result;

use super::directory::RunDir;
use super::summary::{Summary, check_unchanged};
use crate::data::Split;
use crate::eval::comparison::EvaluatedRun;
use crate::eval::predictions::Predictions;

/// Returns the split that finished runs are compared on: test, or validation where a run has no
/// test images.
pub fn default_split<'a>(mut summaries: impl Iterator<Item = &'a Summary>) -> Split {
    if summaries.any(|summary| summary.test.is_none()) { Split::Val } else { Split::Test }
}

/// Reads the predictions of a finished run for the images of a split. Returns an error if they
/// cannot be read, or are not those that the run wrote.
pub fn finished_predictions(folder: &Path, split: Split) -> Result<Predictions> {
    let path = RunDir::predictions_in(folder, split);
    check_unchanged(&path)?;
    Predictions::read(&path)
}

/// Reads what the comparison of models needs of a finished run, for the images of a split. Returns
/// an error if [`finished_predictions`] does.
pub fn evaluated_run(folder: &Path, summary: &Summary, split: Split) -> Result<EvaluatedRun> {
    Ok(EvaluatedRun {
        predictions: finished_predictions(folder, split)?,
        parameters: summary.parameters,
        images_per_second: summary.images_per_second,
        seconds: summary.seconds,
        baselines: match split {
            Split::Test => summary.baselines.test,
            _ => Some(summary.baselines.val),
        },
    })
}
