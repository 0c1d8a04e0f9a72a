//! The runs of a sweep: every point of the grid with every seed on every fold.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use serde_yaml::Value;

use super::config::{MAX_RUNS, Search, SweepConfig, problem};
use super::naming::{axis_names, pairs, run_name, value_names};
use crate::config::{Config, ConfigError, write, yaml};
use crate::data::random_stream::RandomStream;
use crate::run::{RunDir, RunKind, Status};

/// A sweep: its runs, in the order in which they are run.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Name of the sweep.
    pub name: String,
    /// The axes' keys.
    pub axes: Vec<String>,
    /// The runs, those of the first seed first: an unfinished sweep can already be compared.
    pub runs: Vec<SweepRun>,
}

/// A run of a sweep.
#[derive(Debug, Clone)]
pub struct SweepRun {
    /// What differs from the other runs, as `lr=0.001,seed=1`; the name of its folder.
    pub name: String,
    /// Its point of the grid, as `lr=0.001`.
    pub point: String,
    /// The value of each axis.
    pub values: Vec<Value>,
    /// The resolved config.
    pub config: Config,
    /// The fold's name in `data.split`, where the sweep has folds.
    pub fold: Option<String>,
}

/// A shard of the runs, for one of several machines: every `of`-th run from the `number`-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which shard, from 1.
    pub number: usize,
    /// Number of shards.
    pub of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shard = text.split_once('/').and_then(|(number, of)| {
            Some(Self { number: number.parse().ok()?, of: of.parse().ok()? })
        });
        let shard = shard.filter(|shard| (1..=shard.of).contains(&shard.number));
        shard.ok_or_else(|| format!("must be I/N with I from 1 to N, is {text}"))
    }
}

/// A point of the grid.
struct GridPoint {
    /// `axis=value` for each axis, joined; `base` without axes.
    name: String,
    /// The value of each axis.
    values: Vec<Value>,
}

impl Sweep {
    /// Expands a sweep's config into its runs, whose configs are resolved and checked.
    pub fn new(sweep: &SweepConfig) -> Result<Self, ConfigError> {
        let base = yaml::read(&sweep.base)?;
        let origin = sweep.base.display().to_string();
        let common: Vec<String> = pairs(&sweep.set).map(assignment).collect();
        let load = |overrides: &[String]| {
            let config = Config::from_yaml(&base, &origin, &[&common, overrides].concat());
            config.map_err(|error| in_sweep(error, &sweep.origin))
        };
        let unvaried = load(&[])?;
        let splits = sweep.folds.map(|folds| folds.splits(unvaried.data.dataset)).transpose();
        let place = || Some(sweep.origin.clone());
        let invalid = |error| problem(place(), "folds", format!("folds: {error}"));
        let folds = dimension(splits.map_err(invalid)?.unwrap_or_default());
        let seeds = dimension(sweep.seeds.clone());
        let points = points(sweep)?;
        if points.len().saturating_mul(folds.len() * seeds.len()) > MAX_RUNS {
            let message = format!(
                "the sweep has more than {MAX_RUNS} runs: shorten its lists, or use search: \
                 {{name: random, budget: N}}"
            );
            return Err(problem(place(), "axes", message));
        }
        let axes: Vec<String> = pairs(&sweep.axes).map(|(key, _)| key.to_string()).collect();
        let mut runs = Vec::new();
        for seed in &seeds {
            for fold in &folds {
                for point in &points {
                    let (name, overrides) = point.with(&axes, *seed, fold.as_deref());
                    let mut config = load(&overrides)?;
                    if seed.is_some() && config.data.seed.is_none() {
                        // Runs of different seeds are compared on the same images.
                        config.data.seed = Some(unvaried.seed);
                    }
                    let (point, values) = (point.name.clone(), point.values.clone());
                    runs.push(SweepRun { name, point, values, config, fold: fold.clone() });
                }
            }
        }
        Ok(Self { name: sweep.name.clone(), axes, runs })
    }

    /// Returns the runs of one shard.
    pub fn shard(&self, shard: Shard) -> Vec<&SweepRun> {
        let mine = |(index, run)| (index % shard.of + 1 == shard.number).then_some(run);
        self.runs.iter().enumerate().filter_map(mine).collect()
    }
}

impl GridPoint {
    /// Returns the name of this point's run with a seed on a fold, and its overrides of the config.
    fn with(
        &self,
        axes: &[String],
        seed: Option<u64>,
        fold: Option<&str>,
    ) -> (String, Vec<String>) {
        let mut rest = Vec::new();
        let values = axes.iter().map(String::as_str).zip(&self.values);
        let mut overrides: Vec<String> = values.map(assignment).collect();
        if let Some(seed) = seed {
            rest.push(format!("seed={seed}"));
            overrides.push(format!("seed={seed}"));
        }
        if let Some(fold) = fold {
            let number = fold.trim_start_matches("fold_");
            rest.push(format!("fold={}", number.replace("_of_", "of")));
            overrides.push(format!("data.split={fold}"));
        }
        let alone = self.values.is_empty() && !rest.is_empty();
        (if alone { rest.join(",") } else { run_name(&self.name, &rest) }, overrides)
    }
}

impl SweepRun {
    /// Returns its run directory in the sweep's folder.
    pub fn folder(&self, root: &Path) -> PathBuf {
        root.join("runs").join(&self.name)
    }

    /// Reads the status of the run in a sweep's folder.
    pub fn status(&self, root: &Path) -> Result<Status> {
        let folder = self.folder(root);
        if RunDir::holds_run(&folder) {
            RunDir::check_config(&folder, RunKind::Train, &self.config).with_context(|| {
                format!(
                    "{} is not a run of this sweep: name another folder with --output, \
                     or remove it",
                    self.name
                )
            })?;
        }
        Status::of(&folder)
    }
}

/// Returns the values of a dimension of the grid: one `None` if it is not varied.
fn dimension<T>(values: Vec<T>) -> Vec<Option<T>> {
    if values.is_empty() { vec![None] } else { values.into_iter().map(Some).collect() }
}

/// Names the sweep in place of the `--set` that its values are passed on as.
fn in_sweep(error: ConfigError, origin: &str) -> ConfigError {
    let ConfigError::Invalid(mut problems) = error else {
        return error;
    };
    for place in problems.iter_mut().filter_map(|problem| problem.place.as_mut()) {
        if let Some(set) = place.strip_prefix("--set ") {
            *place = format!("{origin}: {set}");
        }
    }
    ConfigError::Invalid(problems)
}

/// Formats an override as `--set` takes it.
fn assignment((key, value): (&str, &Value)) -> String {
    format!("{key}={}", write::flow(value))
}

/// Returns the points of the grid that are run, in the grid's order.
fn points(sweep: &SweepConfig) -> Result<Vec<GridPoint>, ConfigError> {
    let axes: Vec<(&str, &[Value])> = pairs(&sweep.axes)
        .filter_map(|(key, values)| Some((key, values.as_sequence()?.as_slice())))
        .collect();
    let sizes = axes.iter().map(|(_, values)| values.len());
    let size = sizes.fold(1usize, |size, values| size.saturating_mul(values));
    let chosen: Vec<usize> = match sweep.search {
        Search::Grid if size > MAX_RUNS => {
            let message =
                format!("the grid has {size} points: use search: {{name: random, budget: N}}");
            return Err(problem(Some(sweep.origin.clone()), "search", message));
        }
        Search::Grid => (0..size).collect(),
        Search::Random { budget, seed } => sample(size, budget, seed),
    };
    let keys: Vec<&str> = axes.iter().map(|(key, _)| *key).collect();
    let axis_names = axis_names(&keys);
    let value_names: Vec<Vec<String>> =
        axes.iter().map(|(_, values)| value_names(values)).collect();
    Ok(chosen
        .into_iter()
        .map(|mut index| {
            // The last axis varies fastest.
            let mut indices = vec![0; axes.len()];
            for axis in (0..axes.len()).rev() {
                indices[axis] = index % axes[axis].1.len();
                index /= axes[axis].1.len();
            }
            let each = || indices.iter().enumerate();
            let parts: Vec<String> = each()
                .map(|(axis, &index)| format!("{}={}", axis_names[axis], value_names[axis][index]))
                .collect();
            GridPoint {
                name: if parts.is_empty() { "base".to_string() } else { parts.join(",") },
                values: each().map(|(axis, &index)| axes[axis].1[index].clone()).collect(),
            }
        })
        .collect())
}

/// Samples `budget` different numbers below `size`, sorted; a larger budget holds those of a
/// smaller one.
fn sample(size: usize, budget: usize, seed: u64) -> Vec<usize> {
    if budget >= size {
        return (0..size).collect();
    }
    let mut stream = RandomStream::new(seed, 0, 0, "sweep");
    let mut sampled = HashSet::new();
    while sampled.len() < budget {
        sampled.insert(stream.below(size));
    }
    let mut sampled: Vec<usize> = sampled.into_iter().collect();
    sampled.sort_unstable();
    sampled
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sweep(rest: &str) -> Result<Sweep, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("base.yaml"), "seed: 7\ntrain: {epochs: 9}\n").unwrap();
        let file = folder.path().join("sweep.yaml");
        fs::write(&file, format!("name: s\nbase: base.yaml\n{rest}")).unwrap();
        Sweep::new(&SweepConfig::load(&file)?)
    }

    fn names(sweep: &Sweep) -> Vec<&str> {
        sweep.runs.iter().map(|run| run.name.as_str()).collect()
    }

    #[test]
    fn a_grid_is_every_combination_with_every_seed_on_every_fold() {
        let axes = "{model.fusion.strategy: [gated, sum], train.optimizer.lr: [1e-4, 3e-4]}";
        let sweep = sweep(&format!("axes: {axes}\nseeds: [1, 2]\nfolds: 3\n")).unwrap();
        assert_eq!(sweep.runs.len(), 4 * 2 * 3);
        assert_eq!(
            names(&sweep)[..5],
            [
                "strategy=gated,lr=0.0001,seed=1,fold=1of3",
                "strategy=gated,lr=0.0003,seed=1,fold=1of3",
                "strategy=sum,lr=0.0001,seed=1,fold=1of3",
                "strategy=sum,lr=0.0003,seed=1,fold=1of3",
                "strategy=gated,lr=0.0001,seed=1,fold=2of3",
            ]
        );
        let last = &sweep.runs[23];
        assert_eq!((last.config.seed, last.config.data.seed), (2, Some(7)));
        assert_eq!(last.config.train.optimizer.lr, 3e-4);
        assert_eq!(last.config.data.split, "fold_3_of_3");
        assert_eq!(last.config.train.epochs, 9);
        assert_eq!(last.point, "strategy=sum,lr=0.0003");
    }

    #[test]
    fn a_sweep_without_axes_is_its_base() {
        let sweep = sweep("set: {train.epochs: 2}\n").unwrap();
        assert_eq!(names(&sweep), ["base"]);
        assert_eq!(sweep.runs[0].config.train.epochs, 2);
        assert_eq!(sweep.runs[0].config.data.seed, None);
    }

    #[test]
    fn random_search_samples_different_points_and_a_larger_budget_adds_to_them() {
        let points = |budget: usize, seed: u64| {
            let rest = format!(
                "axes: {{train.epochs: [1, 2, 3, 4, 5, 6], train.batch_size: [1, 2, 3, 4, 5]}}\n\
                 search: {{name: random, budget: {budget}, seed: {seed}}}\n"
            );
            let sweep = sweep(&rest).unwrap();
            names(&sweep).into_iter().map(str::to_string).collect::<HashSet<_>>()
        };
        assert_eq!(points(8, 1).len(), 8);
        assert!(points(8, 1).is_subset(&points(20, 1)));
        assert_ne!(points(8, 1), points(8, 2));
        assert_eq!(points(100, 1).len(), 30);
    }

    #[test]
    fn every_run_is_in_one_shard() {
        let sweep = sweep("axes: {train.epochs: [1, 2, 3, 4, 5, 6, 7]}\n").unwrap();
        let mut all = HashSet::new();
        for number in 1..=3 {
            let shard = sweep.shard(Shard { number, of: 3 });
            assert!((2..=3).contains(&shard.len()));
            for run in shard {
                assert!(all.insert(run.name.clone()));
            }
        }
        assert_eq!(all.len(), 7);
        assert_eq!("2/5".parse(), Ok(Shard { number: 2, of: 5 }));
        for text in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_wrong_key_or_value_is_an_error_before_anything_is_run() {
        for (rest, words) in [
            ("axes: {train.epoch: [1]}\n", "did you mean train.epochs?"),
            ("axes: {model.fusion.strategy: [gated, gatd]}\n", "did you mean gated?"),
            ("set: {train.epochs: 0}\n", "sweep.yaml: train.epochs=0: train.epochs must be at"),
            ("folds: published\n", "no published folds"),
            ("axes: {train.optimizer.lr: [.inf]}\n", "sweep.yaml: train.optimizer.lr=.inf: "),
            ("axes: {data.root: ['a #b']}\nset: {data.dataset: csv, data.seed: -1}\n", "data.seed"),
        ] {
            let error = sweep(rest).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
