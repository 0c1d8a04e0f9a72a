//! The results of a sweep: every run, every point of the grid over its seeds and folds, and the
//! comparisons of the points.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indexmap::IndexMap;
use serde::Serialize;
use serde_yaml::Value;

use super::grid::{Sweep, SweepRun};
use super::search::{MedianStop, Search};
use crate::config::plain_text;
use crate::data::{Split, csv_cell};
use crate::eval::comparison::{Candidate, Comparison, RankedModel, rank};
use crate::eval::metrics::Metric;
use crate::eval::statistics::MetricsWithCi;
use crate::files::{write_atomic, write_json};
use crate::run::{RunDir, Status, default_split, evaluated_run};

/// The results of a sweep: `results.json`.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Name of the sweep.
    pub name: String,
    /// The axes' keys.
    pub axes: Vec<String>,
    /// The runs, in the order in which they are run.
    pub runs: Vec<RunResult>,
    /// What the search has trained.
    pub search: SearchResult,
    /// The points that have all runs of a seed finished, and none that the search stopped, the best
    /// first by mean validation PC.
    pub points: Vec<Point>,
    /// The split that the points are evaluated on: `test`, or `val` if there are no test images.
    pub split: String,
    /// The points' differences on the same images.
    pub comparisons: Vec<Comparison>,
    /// Why points are not compared, if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct RunResult {
    /// Name of the run.
    pub name: String,
    /// Name of its point of the grid.
    pub point: String,
    /// Its run directory in the sweep's folder.
    pub run: PathBuf,
    /// The value of each axis.
    pub values: BTreeMap<String, Value>,
    /// The seed of the run.
    pub seed: u64,
    /// The fold's name in `data.split`, where the sweep has folds.
    pub fold: Option<String>,
    /// `pending`, `stopped`, `paused`, `stopped by median rule`, `running`, `failed` or `finished`.
    pub status: String,
    /// Number of epochs trained.
    pub epochs: usize,
    /// The rung of `asha` whose end it has reached, from 1; 0 before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rung: Option<usize>,
    /// Why it ended where it did: `trained to the end`, `early stopping`, or why the search stopped
    /// it.
    pub ended: Option<String>,
    /// The error that it failed with.
    pub error: Option<String>,
    /// Metrics on the validation images.
    pub val: Option<MetricsWithCi>,
    /// Metrics on the test images.
    pub test: Option<MetricsWithCi>,
    /// The epoch of the best weights, from 1.
    pub best_epoch: Option<usize>,
    /// Wall time spent training.
    pub seconds: Option<f64>,
    /// Training images per second.
    pub images_per_second: Option<f64>,
    /// Number of trained parameters.
    pub parameters: Option<i64>,
}

/// What a search has trained: its budget.
#[derive(Debug, Serialize)]
pub struct SearchResult {
    /// The search.
    #[serde(flatten)]
    pub search: Search,
    /// Epochs that all runs together have trained.
    pub epochs: usize,
    /// Epochs of all runs, were each trained to the end.
    pub all_epochs: usize,
    /// Number of runs that have finished.
    pub finished: usize,
    /// Number of runs that the search stopped before their end; they are not ranked.
    pub paused: usize,
}

/// A point of the grid, over its seeds and folds.
#[derive(Debug, Serialize)]
pub struct Point {
    /// The value of each axis.
    pub values: BTreeMap<String, Value>,
    /// The ranked model with these values.
    #[serde(flatten)]
    pub model: RankedModel,
}

/// Reads the results of the runs in the sweep's folder `root`, and writes them there:
/// `results.json`, and `results.csv` with a line per run.
pub fn collect(sweep: &Sweep, root: &Path) -> Result<Results> {
    let statuses: Vec<Status> =
        sweep.runs.iter().map(|run| run.status(root)).collect::<Result<_>>()?;
    let split = default_split(statuses.iter().filter_map(Status::summary));
    let (points, comparisons, note) = rank_points(sweep, &statuses, root, split)?;
    let runs = sweep.runs.iter().zip(&statuses);
    let runs = runs.map(|(run, status)| run_result(sweep, run, status, root));
    let runs = runs.collect::<Result<Vec<_>>>()?;
    let count = |is: fn(&Status) -> bool| statuses.iter().filter(|status| is(status)).count();
    let results = Results {
        name: sweep.name.clone(),
        axes: sweep.axes.clone(),
        search: SearchResult {
            search: sweep.search.clone(),
            epochs: runs.iter().map(|run| run.epochs).sum(),
            all_epochs: sweep.runs.iter().map(|run| run.config.train.epochs).sum(),
            finished: count(|status| status.summary().is_some()),
            paused: count(Status::is_paused),
        },
        runs,
        points,
        split: split.to_string(),
        comparisons,
        note,
    };
    write_json(&root.join("results.json"), &results)?;
    results.write_csv(&root.join("results.csv"))?;
    Ok(results)
}

fn run_result(sweep: &Sweep, run: &SweepRun, status: &Status, root: &Path) -> Result<RunResult> {
    let summary = status.summary();
    let error = match status {
        Status::Failed(failure) => Some(failure.error.clone()),
        _ => None,
    };
    let epochs = match summary {
        Some(summary) => summary.epochs,
        None => RunDir::metrics_in(&run.folder(root))?.len(),
    };
    let (rungs, finished) = (&sweep.search.rungs, summary.is_some());
    let last = run.config.train.epochs;
    let reached = |rung: &&usize| **rung <= epochs && (finished || **rung < last);
    let rung = rungs.iter().filter(reached).count();
    let ended = match status {
        Status::Finished(summary) if summary.stopped_early => Some("early stopping".to_string()),
        Status::Finished(_) => Some("trained to the end".to_string()),
        Status::Paused(pause) => Some(pause.reason.clone()),
        _ => None,
    };
    Ok(RunResult {
        name: run.name.clone(),
        point: run.point.clone(),
        run: run.folder(Path::new("")),
        values: values(sweep, run),
        seed: run.config.seed,
        fold: run.fold.clone(),
        status: status.name().to_string(),
        epochs,
        rung: (!rungs.is_empty()).then_some(rung),
        ended,
        error,
        val: summary.map(|summary| summary.val),
        test: summary.and_then(|summary| summary.test),
        best_epoch: summary.map(|summary| summary.best_epoch),
        seconds: summary.map(|summary| summary.seconds),
        images_per_second: summary.and_then(|summary| summary.images_per_second),
        parameters: summary.map(|summary| summary.parameters),
    })
}

fn values(sweep: &Sweep, run: &SweepRun) -> BTreeMap<String, Value> {
    sweep.axes.iter().cloned().zip(run.values.iter().cloned()).collect()
}

/// Ranks the points that have a seed with all runs done, the best first. A point of which the
/// search stopped a run is not ranked: its other runs alone are the better ones. Where their images
/// differ, they are not compared, and the note says why.
fn rank_points(
    sweep: &Sweep,
    statuses: &[Status],
    root: &Path,
    split: Split,
) -> Result<(Vec<Point>, Vec<Comparison>, Option<String>)> {
    type RunsBySeed<'a> = BTreeMap<u64, Vec<(&'a SweepRun, &'a Status)>>;
    let mut by_point: IndexMap<&str, (&SweepRun, RunsBySeed)> = IndexMap::new();
    for (run, status) in sweep.runs.iter().zip(statuses) {
        let (_, by_seed) = by_point.entry(&run.point).or_insert((run, BTreeMap::new()));
        by_seed.entry(run.config.seed).or_default().push((run, status));
    }
    let is_paused = |(_, status): &(_, &Status)| status.is_paused();
    by_point.retain(|_, (_, by_seed)| !by_seed.values().flatten().any(is_paused));
    let mut candidates = Vec::new();
    for (first, by_seed) in by_point.values() {
        let mut seeds = Vec::new();
        for (seed, runs) in by_seed {
            let summaries = runs.iter().map(|(run, status)| Some((run, status.summary()?)));
            let Some(finished) = summaries.collect::<Option<Vec<_>>>() else { continue };
            let finished = finished.into_iter();
            let runs = finished.map(|(run, done)| evaluated_run(&run.folder(root), done, split));
            seeds.push((*seed, runs.collect::<Result<_>>()?));
        }
        let folds =
            first.fold.as_ref().map_or(0, |_| by_seed.values().map(Vec::len).max().unwrap_or(0));
        candidates.push(Candidate { name: &first.point, config: &first.config, folds, seeds });
    }
    let ranked = rank(candidates, split, Split::Val)?;
    let one_board = ranked.boards.len() == 1;
    let (mut points, mut comparisons) = (Vec::new(), Vec::new());
    for board in ranked.boards {
        let values = |model: &RankedModel| values(sweep, by_point[model.candidate].0);
        points
            .extend(board.models.into_iter().map(|model| Point { values: values(&model), model }));
        if one_board {
            comparisons = board.comparisons;
        }
    }
    let pc = |point: &Point| point.model.ranking_pc(split, Split::Val);
    points.sort_by(|a, b| pc(b).total_cmp(&pc(a)));
    let note = (!ranked.notes.is_empty()).then(|| ranked.notes.join("; "));
    Ok((points, comparisons, note))
}

impl SearchResult {
    /// Says what was trained and what is ranked; empty for a search that trains all runs to the
    /// end.
    pub fn statement(&self) -> String {
        let Search { name, metric, rungs, eta, median_stop } = &self.search;
        let how = match median_stop {
            Some(MedianStop { margin, .. }) => format!("{name}, median rule with margin {margin}"),
            None if rungs.is_empty() => return String::new(),
            None => {
                let rungs: Vec<String> = rungs.iter().map(usize::to_string).collect();
                format!("{name} with eta {eta} and rungs at epochs {}", rungs.join(", "))
            }
        };
        format!(
            "{how}, by {}: {} runs trained to the end, {} stopped before; only points with all of \
             their runs trained to the end are ranked; {} of {} epochs trained",
            metric.title(),
            self.finished,
            self.paused,
            self.epochs,
            self.all_epochs
        )
    }
}

impl Results {
    /// Writes a line per run; a value that a run does not have is empty.
    fn write_csv(&self, path: &Path) -> Result<()> {
        write_atomic(path, |out| {
            let mut csv = csv::Writer::from_writer(out);
            for (index, run) in self.runs.iter().enumerate() {
                let (header, record): (Vec<String>, Vec<String>) =
                    self.cells(run).into_iter().unzip();
                if index == 0 {
                    csv.write_record(header)?;
                }
                csv.write_record(record)?;
            }
            Ok(csv.flush()?)
        })
    }

    /// Returns the names of the columns with a run's values.
    fn cells(&self, run: &RunResult) -> Vec<(String, String)> {
        let mut cells = vec![column("run", Some(&run.name)), column("status", Some(&run.status))];
        cells.extend(
            self.axes.iter().map(|axis| column(axis, run.values.get(axis).map(plain_text))),
        );
        cells.extend([column("seed", Some(run.seed)), column("fold", run.fold.as_ref())]);
        for (split, metrics) in [("val", &run.val), ("test", &run.test)] {
            cells.push(column(&format!("{split}_n"), metrics.map(|metrics| metrics.metrics.n)));
            for metric in Metric::ALL {
                let name = format!("{split}_{}", metric.name());
                let value = metrics.map(|metrics| metric.of(&metrics.metrics));
                let ci = metrics.and_then(|metrics| metrics.interval(metric));
                cells.extend([
                    column(&name, value.filter(|value| value.is_finite())),
                    column(&format!("{name}_lo"), ci.map(|ci| ci.lo)),
                    column(&format!("{name}_hi"), ci.map(|ci| ci.hi)),
                ]);
            }
        }
        cells.extend([
            column("epochs", Some(run.epochs)),
            column("rung", run.rung),
            column("ended", run.ended.as_ref()),
            column("best_epoch", run.best_epoch),
            column("seconds", run.seconds),
            column("images_per_second", run.images_per_second),
            column("parameters", run.parameters),
            column("error", run.error.as_ref()),
        ]);
        cells
    }
}

fn column(name: &str, value: Option<impl ToString>) -> (String, String) {
    let value = value.map(|value| value.to_string()).unwrap_or_default();
    (name.to_string(), csv_cell(&value).into_owned())
}
