//! From a sweep's definition to its runs.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_yaml::Value;

use super::definition::{Definition, Search, problem};
use super::naming::{axis_names, flow, pairs, value_names};
use crate::config::{Config, ConfigError};
use crate::data::random_stream::RandomStream;

/// Most runs of a sweep: beyond that, a mistake is likelier than a wish.
const MOST_RUNS: usize = 100_000;

/// All runs of a sweep, in the order in which they are run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the sweep.
    pub name: String,
    /// The axes' keys.
    pub axes: Vec<String>,
    /// The first seed on all folds at all points comes first, so that a sweep that is not done yet
    /// can be read.
    pub runs: Vec<PlannedRun>,
}

/// One run.
#[derive(Debug, Clone)]
pub struct PlannedRun {
    /// What differs from the other runs; names its folder.
    pub name: String,
    /// What differs from the other points of the grid.
    pub point: String,
    /// The value of each axis.
    pub values: Vec<Value>,
    /// As resolved.
    pub config: Config,
    /// The fold's name in `data.split`, where the sweep has folds.
    pub fold: Option<String>,
}

/// A part of a sweep's runs: those whose place, counted from 1 around `of`, is `number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 1.
    pub number: usize,
    /// How many parts there are.
    pub of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('/')
            .and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if 1 <= number && number <= of => Ok(Self { number, of }),
            _ => Err(format!("must be i/n with i from 1 to n, is {text}")),
        }
    }
}

/// One point of the grid: its name, and a value for each axis.
struct GridPoint {
    name: Vec<String>,
    values: Vec<Value>,
}

impl Plan {
    /// The runs of a sweep. Every config is resolved and checked here, before anything is run.
    ///
    /// # Errors
    /// Anything wrong with the base config, a key or a value, or nothing to vary.
    pub fn new(definition: &Definition) -> Result<Self, ConfigError> {
        let base = fs::read_to_string(&definition.base)
            .map_err(|source| ConfigError::Read { path: definition.base.clone(), source })?;
        let common: Vec<String> =
            pairs(&definition.set).map(|(key, value)| format!("{key}={}", flow(value))).collect();
        let origin = definition.base.display().to_string();
        let load = |overrides: &[String]| {
            let all: Vec<String> = common.iter().chain(overrides).cloned().collect();
            Config::from_yaml(&base, &origin, &all)
        };
        let unvaried = load(&[])?;
        let folds: Vec<Option<String>> = match definition.folds {
            None => vec![None],
            Some(folds) => {
                let splits = folds.splits(unvaried.data.dataset);
                let splits = splits
                    .map_err(|message| problem(None, "folds", format!("folds: {message}")))?;
                splits.into_iter().map(Some).collect()
            }
        };
        let seeds: Vec<Option<u64>> = if definition.seeds.is_empty() {
            vec![None]
        } else {
            definition.seeds.iter().copied().map(Some).collect()
        };
        let points = points(definition)?;
        if points.len().saturating_mul(folds.len() * seeds.len()) > MOST_RUNS {
            let message = format!(
                "the sweep has more than {MOST_RUNS} runs: shorten its lists, or use search: {{name: random, budget: N}}"
            );
            return Err(problem(None, "axes", message));
        }
        let axes: Vec<String> = pairs(&definition.axes).map(|(key, _)| key.to_string()).collect();
        let mut runs = Vec::new();
        for seed in &seeds {
            for fold in &folds {
                for point in &points {
                    let mut name = point.name.clone();
                    let mut overrides: Vec<String> = axes
                        .iter()
                        .zip(&point.values)
                        .map(|(key, value)| format!("{key}={}", flow(value)))
                        .collect();
                    if let Some(seed) = seed {
                        name.push(format!("seed={seed}"));
                        overrides.push(format!("seed={seed}"));
                    }
                    if let Some(fold) = fold {
                        let number = fold.trim_start_matches("fold_");
                        name.push(format!("fold={}", number.replace("_of_", "of")));
                        overrides.push(format!("data.split={fold}"));
                    }
                    let mut config = load(&overrides)?;
                    if seed.is_some() && config.data.seed.is_none() {
                        // Runs of different seeds are compared on the same images.
                        config.data.seed = Some(unvaried.seed);
                    }
                    runs.push(PlannedRun {
                        name: joined(&name),
                        point: joined(&point.name),
                        values: point.values.clone(),
                        config,
                        fold: fold.clone(),
                    });
                }
            }
        }
        Ok(Self { name: definition.name.clone(), axes, runs })
    }

    /// The runs of one part.
    pub fn shard(&self, shard: Shard) -> Vec<&PlannedRun> {
        let mine = |(index, run)| (index % shard.of + 1 == shard.number).then_some(run);
        self.runs.iter().enumerate().filter_map(mine).collect()
    }
}

impl PlannedRun {
    /// Its run directory in the sweep's folder.
    pub fn folder(&self, root: &Path) -> PathBuf {
        root.join("runs").join(&self.name)
    }
}

/// A sweep without axes has one point, whose name is `base`.
fn joined(parts: &[String]) -> String {
    match parts {
        [] => "base".to_string(),
        parts => parts.join(","),
    }
}

/// The points of the grid that are run, in the grid's order.
fn points(definition: &Definition) -> Result<Vec<GridPoint>, ConfigError> {
    let axes: Vec<(&str, &[Value])> = pairs(&definition.axes)
        .filter_map(|(key, values)| Some((key, values.as_sequence()?.as_slice())))
        .collect();
    let sizes = axes.iter().map(|(_, values)| values.len());
    let size = sizes.fold(1usize, |size, values| size.saturating_mul(values));
    let chosen: Vec<usize> = match definition.search {
        Search::Grid if size > MOST_RUNS => {
            let message =
                format!("the grid has {size} points: use search: {{name: random, budget: N}}");
            return Err(problem(None, "search", message));
        }
        Search::Grid => (0..size).collect(),
        Search::Random { budget, seed } => draw(size, budget, seed),
    };
    let keys: Vec<&str> = axes.iter().map(|(key, _)| *key).collect();
    let axis_names = axis_names(&keys);
    let value_names: Vec<Vec<String>> =
        axes.iter().map(|(_, values)| value_names(values)).collect();
    Ok(chosen
        .into_iter()
        .map(|mut index| {
            // The last axis varies fastest.
            let mut places = vec![0; axes.len()];
            for axis in (0..axes.len()).rev() {
                places[axis] = index % axes[axis].1.len();
                index /= axes[axis].1.len();
            }
            let each = || places.iter().enumerate();
            GridPoint {
                name: each()
                    .map(|(axis, &place)| {
                        format!("{}={}", axis_names[axis], value_names[axis][place])
                    })
                    .collect(),
                values: each().map(|(axis, &place)| axes[axis].1[place].clone()).collect(),
            }
        })
        .collect())
}

/// `budget` different numbers below `size`, sorted; a larger budget holds those of a smaller one.
fn draw(size: usize, budget: usize, seed: u64) -> Vec<usize> {
    if budget >= size {
        return (0..size).collect();
    }
    let mut draws = RandomStream::new(seed, 0, 0, "sweep");
    let mut drawn = HashSet::new();
    while drawn.len() < budget {
        drawn.insert(draws.below(size));
    }
    let mut drawn: Vec<usize> = drawn.into_iter().collect();
    drawn.sort_unstable();
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rest: &str) -> Result<Plan, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("base.yaml"), "seed: 7\ntrain: {epochs: 9}\n").unwrap();
        let file = folder.path().join("sweep.yaml");
        fs::write(&file, format!("name: s\nbase: base.yaml\n{rest}")).unwrap();
        Plan::new(&Definition::load(&file)?)
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.runs.iter().map(|run| run.name.as_str()).collect()
    }

    #[test]
    fn a_grid_is_every_combination_with_every_seed_on_every_fold() {
        let plan = plan("axes: {model.fusion.strategy: [gated, sum], train.optimizer.lr: [1e-4, 3e-4]}\nseeds: [1, 2]\nfolds: 3\n").unwrap();
        assert_eq!(plan.runs.len(), 4 * 2 * 3);
        assert_eq!(
            names(&plan)[..5],
            [
                "strategy=gated,lr=0.0001,seed=1,fold=1of3",
                "strategy=gated,lr=0.0003,seed=1,fold=1of3",
                "strategy=sum,lr=0.0001,seed=1,fold=1of3",
                "strategy=sum,lr=0.0003,seed=1,fold=1of3",
                "strategy=gated,lr=0.0001,seed=1,fold=2of3",
            ]
        );
        let last = &plan.runs[23];
        assert_eq!((last.config.seed, last.config.data.seed), (2, Some(7)));
        assert_eq!(last.config.train.optimizer.lr, 3e-4);
        assert_eq!(last.config.data.split, "fold_3_of_3");
        assert_eq!(last.config.train.epochs, 9);
        assert_eq!(last.point, "strategy=sum,lr=0.0003");
    }

    #[test]
    fn a_sweep_without_axes_is_its_base() {
        let plan = plan("set: {train.epochs: 2}\n").unwrap();
        assert_eq!(names(&plan), ["base"]);
        assert_eq!(plan.runs[0].config.train.epochs, 2);
        assert_eq!(plan.runs[0].config.data.seed, None);
    }

    #[test]
    fn random_search_draws_different_points_and_a_larger_budget_adds_to_them() {
        let points = |budget: usize, seed: u64| {
            let rest = format!(
                "axes: {{train.epochs: [1, 2, 3, 4, 5, 6], train.batch_size: [1, 2, 3, 4, 5]}}\nsearch: {{name: random, budget: {budget}, seed: {seed}}}\n"
            );
            let plan = plan(&rest).unwrap();
            names(&plan).into_iter().map(str::to_string).collect::<HashSet<_>>()
        };
        assert_eq!(points(8, 1).len(), 8);
        assert!(points(8, 1).is_subset(&points(20, 1)));
        assert_ne!(points(8, 1), points(8, 2));
        assert_eq!(points(100, 1).len(), 30);
    }

    #[test]
    fn shards_are_all_runs_and_share_none() {
        let plan = plan("axes: {train.epochs: [1, 2, 3, 4, 5, 6, 7]}\n").unwrap();
        let mut all = HashSet::new();
        for number in 1..=3 {
            let part = plan.shard(Shard { number, of: 3 });
            assert!((2..=3).contains(&part.len()));
            for run in part {
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
    fn a_wrong_key_or_value_is_told_before_anything_is_run() {
        for (rest, words) in [
            ("axes: {train.epoch: [1]}\n", "did you mean train.epochs?"),
            ("axes: {model.fusion.strategy: [gated, gatd]}\n", "did you mean gated?"),
            ("set: {train.epochs: 0}\n", "train.epochs must be at least 1"),
            ("folds: published\n", "no published folds"),
        ] {
            let error = plan(rest).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
