//! Finished runs as the comparison of models reads them.

use std::path::Path;

use anyhow::{Result, ensure};

use super::directory::{RunDir, SUMMARY_FILE};
use super::summary::{Summary, check_recorded};
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
    check_recorded(&path, &format!("write it again: {}", writing_again(folder, split)))?;
    Predictions::read(&path)
}

/// Returns the command that writes the predictions of a run again.
fn writing_again(folder: &Path, split: Split) -> String {
    let file = RunDir::predictions_in(folder, split);
    format!(
        "vmbeauty evaluate {} --split {split} --predictions {}",
        folder.display(),
        file.display()
    )
}

/// Reads what the comparison of models needs of a finished run, for the images of a split. Returns
/// an error if [`finished_predictions`] does, or the predictions are not as many as the images that
/// the run was evaluated on; test images that training did not read (`train.evaluate_test: false`)
/// are not counted.
pub fn evaluated_run(folder: &Path, summary: &Summary, split: Split) -> Result<EvaluatedRun> {
    let path = RunDir::predictions_in(folder, split);
    let predictions = finished_predictions(folder, split)?;
    let [_, val, test] = summary.images;
    let (rows, images) = (predictions.images.len(), if split == Split::Test { test } else { val });
    ensure!(
        rows == images || images == 0,
        "{} has {rows} predictions, but {} says that the run has {images} {split} images: \
         `{}` writes them again",
        path.display(),
        folder.join(SUMMARY_FILE).display(),
        writing_again(folder, split)
    );
    Ok(EvaluatedRun {
        predictions,
        val: summary.val.metrics,
        parameters: summary.parameters,
        images_per_second: summary.images_per_second,
        seconds: summary.seconds,
        baselines: match split {
            Split::Test => summary.baselines.test,
            _ => Some(summary.baselines.val),
        },
    })
}
