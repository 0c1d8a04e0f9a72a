//! Calibrates the intervals of one or several runs' predictions on images that they were not
//! trained on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::changes::data_differences;
use super::directory::RunDir;
use super::evaluated::finished_predictions;
use super::trained::Run;
use crate::data::Split;
use crate::eval::conformal::{CalibrationSet, Conformal};
use crate::eval::predictions::Predictions;

/// Calibrates intervals of a level for the mean prediction of the runs.
///
/// Runs that share their validation images, such as seeds, are calibrated on the mean of their
/// validation predictions. Runs of the folds of a cross-validation are calibrated on their test
/// images, each with the runs that were not trained on it (CV+). Returns an error if the runs are
/// neither, if a run is not finished or was opened with other weights than its best ones, whose
/// predictions it does not hold, or if there are too few images for the level.
pub fn calibrate(runs: &[Run], level: f64) -> Result<Conformal> {
    let folders: Vec<PathBuf> = runs.iter().map(finished).collect::<Result<_>>()?;
    let read = |folder: &PathBuf| Ok(finished_predictions(folder, Split::Val)?.sorted());
    let val: Vec<Predictions> = folders.iter().map(read).collect::<Result<_>>()?;
    let Some(first) = val.first() else {
        bail!("an interval needs a run");
    };
    let other = val.iter().position(|predictions| predictions.images != first.images);
    let sets = match other {
        None => vec![calibration_set((0..runs.len()).collect(), &val, &folders)?],
        Some(other) => fold_sets(runs, &folders, other)?,
    };
    Conformal::new(sets, level)
}

fn finished(run: &Run) -> Result<PathBuf> {
    run.finished_folder().with_context(|| {
        format!(
            "{}: an interval needs the validation predictions of a finished run's best weights: \
             name its run directory",
            run.weights.display()
        )
    })
}

/// Returns the residuals of the mean of some runs' predictions for the same images.
fn calibration_set(
    models: Vec<usize>,
    predictions: &[Predictions],
    folders: &[PathBuf],
) -> Result<CalibrationSet> {
    let Some((&first, rest)) = models.split_first() else {
        bail!("an interval needs a run");
    };
    let targets = &predictions[first].targets;
    for &other in rest {
        let ratings = targets.iter().zip(&predictions[other].targets);
        let Some(row) = ratings.into_iter().position(|(a, b)| a != b) else { continue };
        bail!(
            "{} and {} state different ratings of {}: an interval needs runs of one data set",
            folders[first].display(),
            folders[other].display(),
            predictions[first].images[row]
        );
    }
    let residual = |row: usize| {
        let sum: f64 = models.iter().map(|&model| predictions[model].predictions[row]).sum();
        (sum / models.len() as f64 - targets[row]).abs()
    };
    let residuals = (0..targets.len()).map(residual).collect();
    Ok(CalibrationSet { residuals, models })
}

/// Returns a set for each fold of a cross-validation: its test images, with the runs that have
/// them. `other` is a run whose validation images are not those of the first.
fn fold_sets(runs: &[Run], folders: &[PathBuf], other: usize) -> Result<Vec<CalibrationSet>> {
    let (a, b) = (folders[0].display(), folders[other].display());
    let neither = format!(
        "an interval needs runs that share their validation images, or the runs of a \
         cross-validation's folds; {a} and {b}"
    );
    for (run, folder) in runs.iter().zip(folders) {
        let mut changes = data_differences(&runs[0].config, &run.config)?;
        // The folds of one seed divide the images, which is checked below.
        changes.retain(|change| !["data.split", "data.seed"].contains(&change.key()));
        if let Some(change) = changes.first() {
            bail!("{neither} have others, and {} differs in {change}", folder.display());
        }
    }
    let tests: Vec<Predictions> =
        folders.iter().map(|folder| test_predictions(folder, &neither)).collect::<Result<_>>()?;
    let mut folds: Vec<Vec<usize>> = Vec::new();
    for run in 0..runs.len() {
        match folds.iter_mut().find(|fold| tests[fold[0]].images == tests[run].images) {
            Some(fold) => fold.push(run),
            None => folds.push(vec![run]),
        }
    }
    ensure!(
        folds.len() > 1,
        "{neither} have others, and share their test images: set data.seed when several seeds \
         are trained on one data set, so that they share all splits"
    );
    let mut seen = HashSet::new();
    for fold in &folds {
        let images: HashSet<&String> = tests[fold[0]].images.iter().collect();
        if let Some(image) = images.into_iter().find(|&image| !seen.insert(image)) {
            bail!(
                "{neither} have others, and the image {image} is a test image of several runs \
                 whose other test images differ"
            );
        }
    }
    folds.into_iter().map(|fold| calibration_set(fold, &tests, folders)).collect()
}

fn test_predictions(folder: &Path, neither: &str) -> Result<Predictions> {
    let file = RunDir::predictions_in(folder, Split::Test);
    ensure!(
        file.exists(),
        "{neither} have others, and {} has no test predictions: `vmbeauty evaluate {0} --split \
         test --predictions {}` writes them",
        folder.display(),
        file.display()
    );
    Ok(finished_predictions(folder, Split::Test)?.sorted())
}
