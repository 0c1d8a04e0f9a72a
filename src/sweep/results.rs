//! What a sweep came to: every run, every point of the grid over its seeds and folds, and which
//! points differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::plan::{Plan, PlannedRun};
use super::state::State;
use crate::data::Split;
use crate::eval::predictions::Predictions;
use crate::eval::statistics::{
    Bootstrap, Difference, Measured, Metric, OverSeeds, Replicates, aligned, contrasts,
};
use crate::files::write_json;
use crate::models::summary::summarize;
use crate::train::RunDir;

/// What a sweep came to: `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Which images the points are judged on: `test`, or `val` where the data set has no test
    /// images.
    pub split: String,
    /// The points' differences on the same images, by the paired bootstrap, with p corrected over
    /// all of a metric (Holm).
    pub comparisons: Vec<Comparison>,
    /// Why points are not compared, where they are not: their images differ.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// `open`, `stopped`, `busy`, `failed` or `done`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// On the validation images.
    pub val: Option<Measured>,
    /// On the test images.
    pub test: Option<Measured>,
    /// The epoch of the best weights, from 1.
    pub best_epoch: Option<usize>,
    /// Wall time spent training.
    pub seconds: Option<f64>,
    /// Training images per second.
    pub images_per_second: Option<f64>,
    /// Trained parameters.
    pub parameters: Option<i64>,
}

/// A point of the grid, over its seeds; over its folds, predictions are pooled first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What differs from the other points.
    pub name: String,
    /// The value of each axis.
    pub values: BTreeMap<String, Value>,
    /// The seeds whose runs are all done.
    pub seeds: Vec<u64>,
    /// Images that each seed's model was judged on.
    pub n: usize,
    /// Each metric.
    pub metrics: BTreeMap<Metric, OverSeeds>,
    /// Trained parameters.
    pub parameters: i64,
    /// Floating-point operations for one image: twice the multiply-adds.
    pub flops: i64,
    /// Training images per second, mean of the runs.
    pub images_per_second: Option<f64>,
    /// Wall time spent training, mean of the runs.
    pub seconds: f64,
}

/// Two points on the same images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The better one by PC.
    pub first: String,
    /// The other.
    pub second: String,
    /// Which metric.
    pub metric: Metric,
    /// The first's minus the second's, means over seeds.
    #[serde(flatten)]
    pub difference: Difference,
    /// p times Holm's factor for all comparisons of this metric.
    pub p_holm: Option<f64>,
}

/// Reads what the runs in the sweep's folder `root` came to, and writes it there: `results.json`,
/// and `results.csv` with a line per run.
///
/// # Errors
/// A folder that holds another run, or a file that cannot be read or written.
pub fn collect(plan: &Plan, root: &Path) -> Result<Results> {
    let states: Vec<State> =
        plan.runs.iter().map(|run| State::of(run, root)).collect::<Result<_>>()?;
    let done = states.iter().filter_map(|state| match state {
        State::Done(outcome) => Some(outcome),
        _ => None,
    });
    let split =
        if done.clone().any(|outcome| outcome.test.is_none()) { Split::Val } else { Split::Test };
    let judged = judged_points(plan, &states, root, split)?;
    let (comparisons, note) = comparisons(&judged);
    let results = Results {
        name: plan.name.clone(),
        axes: plan.axes.clone(),
        runs: plan
            .runs
            .iter()
            .zip(&states)
            .map(|(run, state)| run_result(plan, run, state))
            .collect(),
        points: judged.into_iter().map(|judged| judged.point).collect(),
        split: split.to_string(),
        comparisons,
        note,
    };
    write_json(&root.join("results.json"), &results)?;
    results.write_csv(&root.join("results.csv"))?;
    Ok(results)
}

fn run_result(plan: &Plan, run: &PlannedRun, state: &State) -> RunResult {
    let (outcome, error) = match state {
        State::Done(outcome) => (Some(outcome), None),
        State::Failed(failure) => (None, Some(failure.error.clone())),
        State::Open | State::Stopped | State::Busy => (None, None),
    };
    RunResult {
        name: run.name.clone(),
        point: run.point.clone(),
        run: run.folder(Path::new("")),
        values: values(plan, run),
        seed: run.config.seed,
        fold: run.fold.clone(),
        state: state.name().to_string(),
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

/// A point with what its metrics are like when images are drawn again.
struct Judged {
    point: Point,
    replicates: Replicates,
    /// Names and targets (their bits), sorted.
    images: Vec<(String, u64)>,
}

/// The points that have a seed with all runs done, the best first.
fn judged_points(plan: &Plan, states: &[State], root: &Path, split: Split) -> Result<Vec<Judged>> {
    let mut by_point: Vec<(&str, Vec<(&PlannedRun, &State)>)> = Vec::new();
    for (run, state) in plan.runs.iter().zip(states) {
        match by_point.iter_mut().find(|(name, _)| *name == run.point) {
            Some((_, runs)) => runs.push((run, state)),
            None => by_point.push((&run.point, vec![(run, state)])),
        }
    }
    let mut judged = Vec::new();
    for (_, runs) in by_point {
        judged.extend(judge(plan, &runs, root, split)?);
    }
    let pc = |judged: &Judged| match judged.replicates.estimate(Metric::Pc) {
        pc if pc.is_finite() => pc,
        _ => f64::NEG_INFINITY, // a model that predicts one value is worse than any other
    };
    judged.sort_by(|a, b| pc(b).total_cmp(&pc(a)));
    Ok(judged)
}

fn judge(
    plan: &Plan,
    runs: &[(&PlannedRun, &State)],
    root: &Path,
    split: Split,
) -> Result<Option<Judged>> {
    let mut by_seed: BTreeMap<u64, Vec<(&PlannedRun, &State)>> = BTreeMap::new();
    for &(run, state) in runs {
        by_seed.entry(run.config.seed).or_default().push((run, state));
    }
    let mut seeds = Vec::new();
    let mut pooled = Vec::new();
    let (mut seconds, mut speeds, mut parameters) = (Vec::new(), Vec::new(), 0);
    for (seed, runs) in by_seed {
        let outcomes: Option<Vec<_>> = runs
            .iter()
            .map(|(_, state)| match state {
                State::Done(outcome) => Some(outcome),
                _ => None,
            })
            .collect();
        let Some(outcomes) = outcomes else { continue };
        let mut predictions = Predictions::default();
        for (run, _) in &runs {
            let path = RunDir::predictions_in(&run.folder(root), split);
            predictions.append(Predictions::read(&path)?);
        }
        seeds.push(seed);
        pooled.push(predictions);
        for outcome in outcomes {
            seconds.push(outcome.seconds);
            speeds.extend(outcome.images_per_second);
            parameters = outcome.parameters;
        }
    }
    let Some((first, &(run, _))) = pooled.first().zip(runs.first()) else {
        return Ok(None);
    };
    let n = first.images.len();
    let targets = first.targets.iter().map(|target| target.to_bits());
    let mut images: Vec<(String, u64)> = first.images.iter().cloned().zip(targets).collect();
    images.sort_unstable();
    let samples = aligned(&pooled.iter().collect::<Vec<_>>())
        .with_context(|| format!("the seeds of {} cannot be put together", run.point))?;
    let replicates = Bootstrap::default().replicate(&samples)?;
    let metrics = Metric::ALL.map(|metric| Ok((metric, OverSeeds::new(&replicates, metric)?)));
    let point = Point {
        name: run.point.clone(),
        values: values(plan, run),
        seeds,
        n,
        metrics: metrics.into_iter().collect::<Result<_>>()?,
        parameters,
        flops: 2 * summarize(&run.config)?.multiply_adds,
        images_per_second: mean(&speeds),
        seconds: mean(&seconds).unwrap_or(0.0),
    };
    Ok(Some(Judged { point, replicates: Replicates::mean(&replicates)?, images }))
}

fn mean(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    mean.is_finite().then_some(mean)
}

/// The points, best first, in pairs: each replicate drew the same images for all, for their number
/// is the same and so is the seed.
fn comparisons(judged: &[Judged]) -> (Vec<Comparison>, Option<String>) {
    let Some((first, others)) = judged.split_first() else {
        return (Vec::new(), None);
    };
    if let Some(other) = others.iter().find(|other| other.images != first.images) {
        let note = format!(
            "the points are not compared: {} and {} were judged on different images or targets",
            first.point.name, other.point.name
        );
        return (Vec::new(), Some(note));
    }
    let replicates: Vec<&Replicates> = judged.iter().map(|judged| &judged.replicates).collect();
    let name = |index: usize| judged[index].point.name.clone();
    let all = contrasts(&replicates)
        .into_iter()
        .map(|contrast| Comparison {
            first: name(contrast.first),
            second: name(contrast.second),
            metric: contrast.metric,
            difference: contrast.difference,
            p_holm: contrast.p_holm,
        })
        .collect();
    (all, None)
}
