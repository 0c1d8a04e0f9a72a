//! A sweep as a person writes it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::folds::Folds;
use crate::config::{ConfigError, Problem};

/// A sweep file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Name of the sweep, and of its folder.
    pub name: String,
    /// The config that every run starts from, relative to the sweep's file.
    pub base: PathBuf,
    /// Changes for all runs: dotted keys and their values.
    #[serde(default)]
    pub set: Mapping,
    /// What is varied: dotted keys, each with a list of values.
    #[serde(default)]
    pub axes: Mapping,
    /// Every point of the grid is run with each of these; none takes the config's seed.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Every point of the grid is run on each fold.
    #[serde(default)]
    pub folds: Option<Folds>,
    /// Which points of the grid are run.
    #[serde(default)]
    pub search: Search,
}

/// Which points of the grid are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Search {
    /// All of them.
    #[default]
    Grid,
    /// As many as the budget says, drawn without replacement (Bergstra and Bengio, "Random search
    /// for hyper-parameter optimization", JMLR 13, 2012). A larger budget adds points to those of a
    /// smaller one.
    Random {
        /// Points, each of which is run with every seed on every fold.
        budget: usize,
        /// Of the draw.
        #[serde(default)]
        seed: u64,
    },
}

impl Definition {
    /// Reads a sweep file.
    ///
    /// # Errors
    /// Anything wrong with the file, with its line. The keys and values of the axes are checked by
    /// [`Plan::new`](super::Plan::new).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut definition = Self::from_yaml(&text, &path.display().to_string())?;
        if let Some(folder) = path.parent() {
            definition.base = folder.join(&definition.base);
        }
        Ok(definition)
    }

    /// As [`load`](Self::load), from a text; errors call it `origin`.
    ///
    /// # Errors
    /// Anything wrong with the text.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let definition: Self = serde_yaml::from_str(text).map_err(|error| {
            let place = match error.location() {
                Some(location) => format!("{origin}:{}", location.line()),
                None => origin.to_string(),
            };
            problem(Some(place), "", error.to_string())
        })?;
        definition.check().map_err(|error| match error {
            ConfigError::Invalid(problems) => ConfigError::Invalid(
                problems
                    .into_iter()
                    .map(|problem| Problem { place: Some(origin.to_string()), ..problem })
                    .collect(),
            ),
            other => other,
        })?;
        Ok(definition)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(named) {
            let message =
                "name must be letters, digits, -, _ or . (not first), for it names a folder";
            return Err(problem(None, "name", message.to_string()));
        }
        for (key, values) in &self.axes {
            let Value::String(key) = key else {
                return Err(problem(None, "axes", "axes: keys must be names".to_string()));
            };
            let list = values.as_sequence().filter(|values| !values.is_empty());
            let Some(list) = list else {
                let message = format!("axes.{key} must be a list of values, for example [1, 2]");
                return Err(problem(None, key, message));
            };
            if let Some(twice) = repeated(list) {
                let twice = serde_yaml::to_string(twice).unwrap_or_default();
                let message = format!("axes.{key} holds {} twice", twice.trim_end());
                return Err(problem(None, key, message));
            }
            if self.set.contains_key(key) {
                let message = format!("{key} stands in axes and in set: leave it out of set");
                return Err(problem(None, key, message));
            }
            if (key == "seed" && !self.seeds.is_empty())
                || (key == "data.split" && self.folds.is_some())
            {
                let other = if key == "seed" { "seeds" } else { "folds" };
                let message = format!("{key} is varied by axes and by {other}: keep one of them");
                return Err(problem(None, key, message));
            }
        }
        if let Some(seed) = repeated(&self.seeds) {
            return Err(problem(None, "seeds", format!("seeds holds {seed} twice")));
        }
        if let Search::Random { budget: 0, .. } = self.search {
            let message = "search.budget must be at least 1, is 0".to_string();
            return Err(problem(None, "search.budget", message));
        }
        Ok(())
    }
}

fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    let mut items = items.iter().enumerate();
    let all = items.clone();
    items
        .find(|(index, item)| all.clone().take(*index).any(|(_, before)| before == *item))
        .map(|(_, item)| item)
}

pub(super) fn problem(place: Option<String>, key: &str, message: String) -> ConfigError {
    ConfigError::Invalid(vec![Problem { place, key: key.to_string(), message }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_states_only_what_it_needs() {
        let sweep = Definition::from_yaml("{name: a, base: b.yaml}", "s.yaml").unwrap();
        assert_eq!((sweep.search, sweep.folds), (Search::Grid, None));
        let text = "name: a\nbase: b.yaml\nset: {train.epochs: 3}\naxes: {train.loss: [mse]}\nseeds: [1, 2]\nfolds: published\nsearch: {name: random, budget: 4}\n";
        let sweep = Definition::from_yaml(text, "s.yaml").unwrap();
        assert_eq!(sweep.search, Search::Random { budget: 4, seed: 0 });
        assert_eq!(sweep.folds, Some(Folds::Published));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (rest, words) in [
            ("axis: {}", "s.yaml:3: unknown field `axis`"),
            ("axes: {train.epochs: 3}", "axes.train.epochs must be a list"),
            ("axes: {train.epochs: []}", "axes.train.epochs must be a list"),
            ("axes: {train.epochs: [3, 4, 3]}", "train.epochs holds 3 twice"),
            ("axes: {seed: [1]}\nseeds: [1]", "axes and by seeds"),
            ("axes: {data.split: [a]}\nfolds: 5", "axes and by folds"),
            ("axes: {seed: [1]}\nset: {seed: 2}", "leave it out of set"),
            ("seeds: [1, 1]", "seeds holds 1 twice"),
            ("folds: 1", "number of at least 2"),
            ("search: {name: bayes}", "unknown variant `bayes`"),
            ("search: {name: random, budget: 0}", "search.budget"),
        ] {
            let text = format!("name: a\nbase: b.yaml\n{rest}\n");
            let error = Definition::from_yaml(&text, "s.yaml").unwrap_err().to_string();
            assert!(error.starts_with("s.yaml") && error.contains(words), "{error}");
        }
    }
}
