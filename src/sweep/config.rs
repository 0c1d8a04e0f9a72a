//! The sweep file.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::folds::Folds;
use super::naming::json;
use crate::config::locate::line_of;
use crate::config::{ConfigError, Problem, paths, wrong_type, yaml};

/// The maximum number of runs of a sweep: a sweep with more is probably a mistake.
pub(super) const MAX_RUNS: usize = 10_000;

/// The contents of a sweep file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Name of the sweep and of its folder.
    pub name: String,
    /// The config that every run starts from, relative to the sweep's file.
    pub base: PathBuf,
    /// Changes for all runs: dotted keys and their values.
    #[serde(default)]
    pub set: Mapping,
    /// The axes of the grid: dotted keys, each with a list of values.
    #[serde(default)]
    pub axes: Mapping,
    /// Seeds that every point of the grid is run with; without any, the config's.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Folds that every point of the grid is run on.
    #[serde(default)]
    pub folds: Option<Folds>,
    /// Which points of the grid are run.
    #[serde(default)]
    pub search: Search,
    /// The sweep's file, which errors name.
    #[serde(skip)]
    pub origin: String,
}

/// Which points of the grid are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Search {
    /// All points.
    #[default]
    Grid,
    /// A random sample without replacement (Bergstra and Bengio, "Random search for hyper-parameter
    /// optimization", JMLR 13, 2012). A larger budget adds points to those of a smaller one.
    Random {
        /// Number of points, each of which is run with every seed on every fold.
        budget: usize,
        /// Seed of the sample.
        #[serde(default)]
        seed: u64,
    },
}

impl SweepConfig {
    /// Reads a sweep file. Returns an error that names the file and the line of what is wrong. The
    /// keys and values of the axes are checked by [`Sweep::new`](super::Sweep::new).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::from_yaml(&yaml::read(path)?, &path.display().to_string())?;
        let base = paths::expanded(&config.base);
        let wrong = |reason| problem(Some(path.display().to_string()), "base", reason);
        let base = base.map_err(|reason| wrong(format!("base: {reason}")))?;
        config.base = path.parent().unwrap_or(Path::new("")).join(base);
        Ok(config)
    }

    /// Parses a sweep file; errors call it `origin`.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let value = yaml::parse(text, origin)?;
        let has = |key: &str| value.get(key).is_some();
        if !has("base") && ["data", "model", "train"].into_iter().any(has) {
            let message = "this is a config, not a sweep: run it with vmbeauty train, or write a \
                           sweep that names it (name, base, axes)";
            return Err(problem(Some(origin.to_string()), "", message.to_string()));
        }
        if !value.is_mapping() {
            let message = "a sweep is a map of keys: name, base (the config that every run starts \
                           from) and axes";
            return Err(problem(Some(origin.to_string()), "", message.to_string()));
        }
        let mut config: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let (key, message) = wrong_type::describe(&error);
            let path: Vec<&str> = key.split('.').collect();
            let place = match line_of(text, &path) {
                Some(line) => format!("{origin}:{line}"),
                None => origin.to_string(),
            };
            problem(Some(place), &key, message)
        })?;
        config
            .check()
            .map_err(|(key, message)| problem(Some(origin.to_string()), &key, message))?;
        config.origin = origin.to_string();
        Ok(config)
    }

    /// Returns the key that is wrong and a message about it, if one is.
    fn check(&self) -> Result<(), (String, String)> {
        let problem = |key: &str, message: String| Err((key.to_string(), message));
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(allowed) {
            let message =
                "name must consist of letters, digits, -, _ and . (not first): it names a folder";
            return problem("name", message.to_string());
        }
        if let Some(key) = self.set.keys().find(|key| !key.is_string()) {
            return problem("set", format!("set: keys must be names, {} is not", json(key)));
        }
        for (key, values) in &self.axes {
            let Value::String(key) = key else {
                return problem("axes", "axes: keys must be names".to_string());
            };
            let list = values.as_sequence().filter(|values| !values.is_empty());
            let Some(list) = list else {
                let message = format!("axes.{key} must be a list of values, for example [1, 2]");
                return problem(key, message);
            };
            if list.len() > MAX_RUNS {
                let message = format!("axes.{key} has {} values, more than {MAX_RUNS}", list.len());
                return problem(key, message);
            }
            if let Some(twice) = repeated(list) {
                let message = format!("axes.{key} holds {} twice", json(twice));
                return problem(key, message);
            }
            if self.set.contains_key(key) {
                let message = format!("{key} is in axes and in set: remove it from set");
                return problem(key, message);
            }
            if (key == "seed" && !self.seeds.is_empty())
                || (key == "data.split" && self.folds.is_some())
            {
                let other = if key == "seed" { "seeds" } else { "folds" };
                let message = format!("{key} is varied by axes and by {other}: keep one of them");
                return problem(key, message);
            }
        }
        if self.seeds.len() > MAX_RUNS {
            let message = format!("seeds has {} values, more than {MAX_RUNS}", self.seeds.len());
            return problem("seeds", message);
        }
        if let Some(seed) = repeated(&self.seeds) {
            return problem("seeds", format!("seeds holds {seed} twice"));
        }
        if let Search::Random { budget: 0, .. } = self.search {
            let message = "search.budget must be at least 1, is 0".to_string();
            return problem("search.budget", message);
        }
        Ok(())
    }
}

/// Returns an item that is equal to an earlier one.
fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    let repeats = |&index: &usize| items[..index].contains(&items[index]);
    (0..items.len()).find(repeats).map(|index| &items[index])
}

pub(super) fn problem(place: Option<String>, key: &str, message: String) -> ConfigError {
    ConfigError::Invalid(vec![Problem { place, key: key.to_string(), message }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_states_only_what_it_needs() {
        let sweep = SweepConfig::from_yaml("{name: a, base: b.yaml}", "s.yaml").unwrap();
        assert_eq!((sweep.search, sweep.folds), (Search::Grid, None));
        let text = "name: a\nbase: b.yaml\nset: {train.epochs: 3}\naxes: {train.loss: [mse]}\n\
                    seeds: [1, 2]\nfolds: published\nsearch: {name: random, budget: 4}\n";
        let sweep = SweepConfig::from_yaml(text, "s.yaml").unwrap();
        assert_eq!(sweep.search, Search::Random { budget: 4, seed: 0 });
        assert_eq!(sweep.folds, Some(Folds::Published));
    }

    #[test]
    fn a_file_without_keys_is_told_which_a_sweep_has() {
        for text in ["", "- a", "# nothing"] {
            let error = SweepConfig::from_yaml(text, "s.yaml").unwrap_err().to_string();
            assert!(error.starts_with("s.yaml: a sweep is a map of keys: name, base"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let many = format!("axes: {{train.epochs: {:?}}}", Vec::from_iter(0..=10_000));
        for (rest, words) in [
            ("axis: {}", "s.yaml:3: unknown key axis; did you mean axes?"),
            ("axes: {train.epochs: 3}", "axes.train.epochs must be a list"),
            ("axes: {train.epochs: []}", "axes.train.epochs must be a list"),
            ("axes: {train.epochs: [3, 4, 3]}", "train.epochs holds 3 twice"),
            ("axes: {seed: [1]}\nseeds: [1]", "axes and by seeds"),
            ("axes: {data.split: [a]}\nfolds: 5", "axes and by folds"),
            ("axes: {seed: [1]}\nset: {seed: 2}", "remove it from set"),
            ("seeds: [1, 1]", "seeds holds 1 twice"),
            (many.as_str(), "train.epochs has 10001 values, more than 10000"),
            ("folds: 1", "folds must be published or a number from 2"),
            ("search: {name: bayes}", "search.name must be grid or random, is bayes"),
            ("search: {name: random, budget: 0}", "search.budget"),
            ("search: {name: random}", "s.yaml:3: search.budget is missing"),
            ("search: random", "search must be {name: grid} or {name: random, budget: N}"),
            ("seeds: 3", "s.yaml:3: seeds must be a list, is 3"),
            ("seeds: [1, a]", "s.yaml:3: seeds[1] must be a whole number, is \"a\""),
            ("set: {1: 2}", "set: keys must be names, 1 is not"),
            ("axes: [1]", "axes must be a map of keys, is a list"),
            ("folds: 1000000000", "number from 2 to 10000"),
        ] {
            let text = format!("name: a\nbase: b.yaml\n{rest}\n");
            let error = SweepConfig::from_yaml(&text, "s.yaml").unwrap_err().to_string();
            assert!(error.starts_with("s.yaml") && error.contains(words), "{error}");
        }
    }
}
