//! The runs of a sweep: every point with every seed on every fold.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use indexmap::IndexSet;
use serde_yaml::Value;

use super::config::{MAX_RUNS, SweepFile};
use super::naming::pairs;
use super::points::points;
use super::search::{Search, SearchName};
use super::simulation::simulate;
use crate::config::document::Document;
use crate::config::{Config, ConfigError, Problem};
use crate::run::{RunDir, RunKind, Status};

/// A sweep: its runs, in the order in which they are run.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Name of the sweep.
    pub name: String,
    /// The axes' keys.
    pub axes: Vec<String>,
    /// Which points are run, and for how long.
    pub search: Search,
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

impl Sweep {
    /// Expands a sweep's config into its runs, whose configs are resolved and checked.
    pub fn new(file: &SweepFile) -> Result<Self, ConfigError> {
        let sweep = &file.config;
        let set = pairs(&sweep.set).map(|(key, value)| file.assigned("set", key, [value.clone()]));
        let common = set.collect::<Result<Vec<_>, _>>()?.concat();
        let unvaried = file.base.resolve(&common)?;
        let splits = sweep.folds.map(|folds| folds.splits(&unvaried.data)).transpose();
        let problem = |key: &str, message| ConfigError::at(file.place(&[key]), key, message);
        let invalid = |error| problem("folds", format!("folds: {error}"));
        let folds = splits.map_err(invalid)?.unwrap_or_default();
        let folds = file.dimension("folds", "data.split", folds)?;
        let seeds = file.dimension("seeds", "seed", sweep.seeds.clone())?;
        let points = points(file)?;
        if points.len().saturating_mul(folds.len() * seeds.len()) > MAX_RUNS {
            let message = format!(
                "the sweep has more than {MAX_RUNS} runs: shorten its lists, or use search: \
                 {{name: random, budget: N}} or {{name: asha, max_runs: N}}"
            );
            return Err(problem("axes", message));
        }
        let axes: Vec<String> = pairs(&sweep.axes).map(|(key, _)| key.to_string()).collect();
        let mut runs = Vec::new();
        for seed in &seeds {
            for fold in &folds {
                for point in &points {
                    let name = point.run_name(seed.value, fold.value.as_deref());
                    let overrides = [&common[..], &point.overrides, &seed.set, &fold.set].concat();
                    let mut config = file.base.resolve(&overrides)?;
                    if seed.value.is_some() && config.data.seed.is_none() {
                        // Runs of different seeds are compared on the same images.
                        config.data.seed = Some(unvaried.seed);
                    }
                    let (point, values) = (point.name.clone(), point.values.clone());
                    runs.push(SweepRun { name, point, values, config, fold: fold.value.clone() });
                }
            }
        }
        let mut problems = Vec::new();
        let configs = runs.iter().map(|run| &run.config);
        let search = Search::new(&sweep.search, configs, &mut |key, message| {
            let place = Some(file.place(&["search", key]));
            problems.push(Problem { place, key: format!("search.{key}"), message });
        });
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        Ok(Self { name: sweep.name.clone(), axes, search, runs })
    }

    /// Says how many epochs of the runs successive halving will train; `None` for another search.
    pub fn forecast(&self, runs: &[&SweepRun]) -> Option<String> {
        let [trained, all] = self.epochs_trained(runs)?;
        let name = self.search.name;
        Some(format!(
            "{name} trains {trained} of {all} epochs; with several jobs it may train some more"
        ))
    }

    /// Returns the fraction of all epochs of the runs that the search trains; 1 for a search that
    /// trains each run to its end.
    pub fn fraction_trained(&self, runs: &[&SweepRun]) -> f64 {
        self.epochs_trained(runs).map_or(1.0, |[trained, all]| trained as f64 / all.max(1) as f64)
    }

    /// Returns how many epochs of the runs successive halving trains, and how many there are.
    fn epochs_trained(&self, runs: &[&SweepRun]) -> Option<[usize; 2]> {
        let Search { rungs, eta, .. } = &self.search;
        let epochs = *rungs.last()?;
        let points: HashSet<&str> = runs.iter().map(|run| run.point.as_str()).collect();
        let curves = vec![vec![0.0; epochs]; points.len()];
        let trained = simulate(&curves, rungs, *eta).epochs;
        // Each point has as many runs.
        Some([trained * runs.len() / points.len().max(1), epochs * runs.len()])
    }

    /// Returns the runs of one shard. A search that compares points has all runs of a point in one
    /// shard.
    pub fn shard(&self, shard: Shard) -> Vec<&SweepRun> {
        let mut points: IndexSet<&str> = IndexSet::new();
        let mine = self.runs.iter().enumerate().filter_map(|(index, run)| {
            let (point, _) = points.insert_full(run.point.as_str());
            let number = if self.search.name == SearchName::Asha { point } else { index };
            (number % shard.of + 1 == shard.number).then_some(run)
        });
        mine.collect()
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

/// A seed or a fold of the grid.
struct Coordinate<T> {
    /// `None` if it is not varied.
    value: Option<T>,
    /// What sets it.
    set: Vec<Document>,
}

impl SweepFile {
    /// Returns the coordinates of a dimension of the grid, a `section` of the sweep that varies
    /// `key`: one without a value if it is not varied.
    fn dimension<T: Into<Value> + Clone>(
        &self,
        section: &str,
        key: &str,
        values: Vec<T>,
    ) -> Result<Vec<Coordinate<T>>, ConfigError> {
        if values.is_empty() {
            return Ok(vec![Coordinate { value: None, set: Vec::new() }]);
        }
        let assigned = self.assigned(section, key, values.iter().cloned().map(T::into))?;
        let of = |(value, set)| Coordinate { value: Some(value), set: vec![set] };
        Ok(values.into_iter().zip(assigned).map(of).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::config::Monitor;

    /// A sweep over a base config with these other keys.
    pub(in crate::sweep) fn sweep(rest: &str) -> Result<Sweep, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("base.yaml"), "seed: 7\ntrain: {epochs: 9}\n").unwrap();
        let file = folder.path().join("sweep.yaml");
        fs::write(&file, format!("name: s\nbase: base.yaml\n{rest}")).unwrap();
        Sweep::new(&SweepFile::load(&file)?)
    }

    pub(in crate::sweep) fn names(sweep: &Sweep) -> Vec<&str> {
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
    fn a_search_that_compares_runs_needs_one_metric_and_one_schedule() {
        let asha = |axes: &str, rest: &str| {
            sweep(&format!("axes: {{{axes}}}\nsearch:\n  name: asha\n{rest}"))
        };
        let search = asha("seed: [1, 2]", "  min_epochs: 2\n  eta: 2\n").unwrap().search;
        assert_eq!((search.rungs, search.metric), (vec![2, 4, 8, 9], Monitor::Pc));
        for (axes, rest, words) in [
            ("train.epochs: [3, 4]", "", ":5: search: asha compares runs at the same epoch"),
            ("train.monitor: [pc, mae]", "", "search.metric is missing: train.monitor differs"),
            ("seed: [1]", "  min_epochs: 9\n", ":6: search.min_epochs must be less than"),
        ] {
            let error = asha(axes, rest).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(asha("train.monitor: [pc, mae]", "  metric: mae\n").is_ok());
    }

    #[test]
    fn a_shard_of_asha_has_all_seeds_of_its_points() {
        let rest = "axes: {train.batch_size: [1, 2, 3]}\nseeds: [1, 2]\nsearch: {name: asha}\n";
        let sweep = sweep(rest).unwrap();
        let shard = sweep.shard(Shard { number: 2, of: 2 });
        let names: Vec<&str> = shard.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["batch_size=2,seed=1", "batch_size=2,seed=2"]);
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
            ("set: {train.epochs: 0}\n", "sweep.yaml:3: set: train.epochs must be at least"),
            ("folds: published\n", "no published folds"),
            ("axes: {train.optimizer.lr: [.inf]}\n", "sweep.yaml:3: axes: train.optimizer.lr must"),
            ("axes: {data.root: ['a #b']}\nset: {data.dataset: csv, data.seed: -1}\n", "data.seed"),
        ] {
            let error = sweep(rest).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn all_problems_of_a_sweep_are_reported_each_with_its_axis_and_line() {
        let rest = "set:\n  train.epoch: 3\naxes:\n  train.los: [mse]\n  train.optimizer.lr: \
                    [1e-3, high]\n  model.fusion.strategy: [gatd]\n";
        let error = sweep(rest).unwrap_err().to_string();
        let expected = [
            ":4: set: unknown key train.epoch; did you mean train.epochs?",
            ":6: axes: unknown key train.los; did you mean train.loss?",
            ":7: axes: train.optimizer.lr must be a number, is \"high\"",
            ":8: axes: model.fusion.strategy must be one of",
        ];
        assert_eq!(error.lines().count(), expected.len(), "{error}");
        for (line, expected) in error.lines().zip(expected) {
            assert!(line.contains(&format!("sweep.yaml{expected}")), "{line}");
        }
        let rest = "seed: [1]\nbse: x.yaml\nsearch: {name: random, budget: 0}\n";
        let error = sweep(rest).unwrap_err().to_string();
        assert!(error.contains("yaml:3: unknown key seed; a sweep changes keys"), "{error}");
        assert!(error.contains("yaml:4: unknown key bse; did you mean base?"), "{error}");
    }

    #[test]
    fn values_of_a_sweep_may_be_variables_of_the_environment() {
        let rest = "set: {name: '${env:VMB_NOT_SET:x}'}\n\
                    axes: {train.epochs: ['${env:VMB_NOT_SET:3}', 4]}\n";
        let sweep = sweep(rest).unwrap();
        let epochs: Vec<usize> = sweep.runs.iter().map(|run| run.config.train.epochs).collect();
        assert_eq!(epochs, [3, 4]);
        assert_eq!(sweep.runs[0].config.name, "x");
    }
}
