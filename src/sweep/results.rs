//! What a sweep came to: every run, every point of the grid over its seeds and folds, and which
//! points differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde_yaml::Value;

use super::plan::{Plan, PlannedRun};
use crate::data::Split;
use crate::eval::comparison::{Candidate, Comparison, EvaluatedRun, RankedModel, rank};
use crate::eval::predictions::Predictions;
use crate::eval::statistics::MetricsWithCi;
use crate::files::write_json;
use crate::run::{RunDir, Status, Summary};

/// What a sweep came to: `results.json`.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Name of the sweep.
    pub name: String,
    /// The axes' keys.
    pub axes: Vec<String>,
    /// Every run, in the order of the plan.
    pub runs: Vec<RunResult>,
    /// Every point that has all runs of a seed done, the best first: by the mean PC on the split
    /// below.
    pub points: Vec<Point>,
    /// Which images the points are evaluated on: `test`, or `val` where the data set has no test
    /// images.
    pub split: String,
    /// The points' differences on the same images, by the paired bootstrap, with p corrected over
    /// all of a metric (Holm).
    pub comparisons: Vec<Comparison>,
    /// Why points are not compared, where they are not: their images differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One run.
#[derive(Debug, Serialize)]
pub struct RunResult {
    /// What differs from the other runs.
    pub name: String,
    /// Its point of the grid.
    pub point: String,
    /// Its run directory in the sweep's folder.
    pub run: PathBuf,
    /// The value of each axis.
    pub values: BTreeMap<String, Value>,
    /// Of everything random.
    pub seed: u64,
    /// The fold's name in `data.split`, where the sweep has folds.
    pub fold: Option<String>,
    /// `pending`, `stopped`, `running`, `failed` or `finished`.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// On the validation images.
    pub val: Option<MetricsWithCi>,
    /// On the test images.
    pub test: Option<MetricsWithCi>,
    /// The epoch of the best weights, from 1.
    pub best_epoch: Option<usize>,
    /// Wall time spent training.
    pub seconds: Option<f64>,
    /// Training images per second.
    pub images_per_second: Option<f64>,
    /// Trained parameters.
    pub parameters: Option<i64>,
}

/// A point of the grid: what a config with these values came to, over its seeds.
#[derive(Debug, Serialize)]
pub struct Point {
    /// The value of each axis.
    pub values: BTreeMap<String, Value>,
    /// Its metrics; the name is what differs from the other points.
    #[serde(flatten)]
    pub model: RankedModel,
}

/// Reads the results of the runs in the sweep's folder `root`, and writes them there:
/// `results.json`, and `results.csv` with a line per run.
///
/// # Errors
/// Returns an error if a folder holds another run, or a file cannot be read or written.
pub fn collect(plan: &Plan, root: &Path) -> Result<Results> {
    let states: Vec<Status> =
        plan.runs.iter().map(|run| run.status(root)).collect::<Result<_>>()?;
    let split = default_split(states.iter().filter_map(Status::summary));
    let (points, comparisons, note) = rank_points(plan, &states, root, split)?;
    let runs = plan.runs.iter().zip(&states);
    let results = Results {
        name: plan.name.clone(),
        axes: plan.axes.clone(),
        runs: runs.map(|(run, state)| run_result(plan, run, state)).collect(),
        points,
        split: split.to_string(),
        comparisons,
        note,
    };
    write_json(&root.join("results.json"), &results)?;
    results.write_csv(&root.join("results.csv"))?;
    Ok(results)
}

/// Returns the split that finished runs are compared on: test, or validation where a run has no
/// test images.
pub fn default_split<'a>(mut outcomes: impl Iterator<Item = &'a Summary>) -> Split {
    if outcomes.any(|outcome| outcome.test.is_none()) { Split::Val } else { Split::Test }
}

/// Reads the predictions of a finished run for the images of a split.
///
/// # Errors
/// Returns an error if the predictions cannot be read.
pub fn evaluated_run(folder: &Path, outcome: &Summary, split: Split) -> Result<EvaluatedRun> {
    Ok(EvaluatedRun {
        predictions: Predictions::read(&RunDir::predictions_in(folder, split))?,
        parameters: outcome.parameters,
        images_per_second: outcome.images_per_second,
        seconds: outcome.seconds,
        baselines: match split {
            Split::Test => outcome.baselines.test,
            _ => Some(outcome.baselines.val),
        },
    })
}

fn run_result(plan: &Plan, run: &PlannedRun, state: &Status) -> RunResult {
    let outcome = state.summary();
    let error = match state {
        Status::Failed(failure) => Some(failure.error.clone()),
        _ => None,
    };
    RunResult {
        name: run.name.clone(),
        point: run.point.clone(),
        run: run.folder(Path::new("")),
        values: values(plan, run),
        seed: run.config.seed,
        fold: run.fold.clone(),
        status: state.name().to_string(),
        error,
        val: outcome.map(|outcome| outcome.val),
        test: outcome.and_then(|outcome| outcome.test),
        best_epoch: outcome.map(|outcome| outcome.best_epoch),
        seconds: outcome.map(|outcome| outcome.seconds),
        images_per_second: outcome.and_then(|outcome| outcome.images_per_second),
        parameters: outcome.map(|outcome| outcome.parameters),
    }
}

fn values(plan: &Plan, run: &PlannedRun) -> BTreeMap<String, Value> {
    plan.axes.iter().cloned().zip(run.values.iter().cloned()).collect()
}

/// Ranks the points that have a seed with all runs done, the best first. Where their images differ,
/// they are not compared, and the note says why.
fn rank_points(
    plan: &Plan,
    states: &[Status],
    root: &Path,
    split: Split,
) -> Result<(Vec<Point>, Vec<Comparison>, Option<String>)> {
    let mut by_point: Vec<(&PlannedRun, BTreeMap<u64, Vec<(&PlannedRun, &Status)>>)> = Vec::new();
    for (run, state) in plan.runs.iter().zip(states) {
        let index = by_point.iter().position(|(first, _)| first.point == run.point);
        let index = index.unwrap_or_else(|| {
            by_point.push((run, BTreeMap::new()));
            by_point.len() - 1
        });
        by_point[index].1.entry(run.config.seed).or_default().push((run, state));
    }
    let mut candidates = Vec::new();
    for (first, by_seed) in &by_point {
        let mut seeds = Vec::new();
        for (seed, runs) in by_seed {
            let outcomes = runs.iter().map(|(run, state)| Some((run, state.summary()?)));
            let Some(finished) = outcomes.collect::<Option<Vec<_>>>() else { continue };
            let runs = finished
                .into_iter()
                .map(|(run, outcome)| evaluated_run(&run.folder(root), outcome, split));
            seeds.push((*seed, runs.collect::<Result<_>>()?));
        }
        let folds =
            first.fold.as_ref().map_or(0, |_| by_seed.values().map(Vec::len).max().unwrap_or(0));
        candidates.push(Candidate { name: &first.point, config: &first.config, folds, seeds });
    }
    let ranked = rank(candidates)?;
    let one_board = ranked.boards.len() == 1;
    let (mut points, mut comparisons) = (Vec::new(), Vec::new());
    for board in ranked.boards {
        points.extend(
            board
                .models
                .into_iter()
                .map(|model| Point { values: values(plan, by_point[model.candidate].0), model }),
        );
        if one_board {
            comparisons = board.comparisons;
        }
    }
    points.sort_by(|a, b| b.model.ranking_pc().total_cmp(&a.model.ranking_pc()));
    let note = (!ranked.notes.is_empty()).then(|| ranked.notes.join("; "));
    Ok((points, comparisons, note))
}
