//! The sweep file.

use std::path::{Path, PathBuf};

use serde_json::json;
use serde_yaml::{Mapping, Value};

use super::axis;
use super::folds::Folds;
use super::naming;
use super::search::{SearchConfig, SearchName};
use crate::config::document::Document;
use crate::config::layers::Layers;
use crate::config::names::is_plain;
use crate::config::schema;
use crate::config::section::{KeyType, section};
use crate::config::{
    Config, ConfigError, KeyReference, Problem, as_json, paths, reference_of, wrong_type, yaml,
};

/// The maximum number of runs of a sweep: a sweep with more is probably a mistake.
pub(super) const MAX_RUNS: usize = 10_000;

section! {
    /// The contents of a sweep file.
    pub struct SweepConfig {
        /// Name of the sweep and of its folder.
        pub name: String = String::new(),
        /// Config that every run starts from, relative to the sweep's file.
        pub base: PathBuf = PathBuf::new(),
        /// Changes for all runs: dotted keys and their values.
        pub set: Mapping = Mapping::new(),
        /// The axes: dotted keys, each with a list of values, or with a distribution.
        pub axes: Mapping = Mapping::new(),
        /// Seeds that every point is run with; without any, the config's.
        pub seeds: Vec<u64> = Vec::new(),
        /// Folds that every point is run on: `published`, `column`, or their number.
        pub folds: Option<Folds> = None,
        /// Which points are run, and for how long.
        pub search: SearchConfig = SearchConfig::default(),
    }
}

/// A map from dotted keys of the config.
impl KeyType for Mapping {
    fn schema() -> serde_json::Value {
        json!({"type": "object"})
    }
}

/// Returns every key of a sweep file.
pub fn reference() -> Vec<KeyReference> {
    reference_of::<SweepConfig>()
}

/// Returns the JSON Schema (draft 7) of a sweep file.
pub fn json_schema() -> serde_json::Value {
    let defaults = schema::defaults(&SweepConfig::default());
    let mut sweep = schema::object(SweepConfig::KEYS, &defaults);
    let keys = schema::dotted();
    let axes = keys.iter().map(|(key, of)| (key.clone(), axis::schema(of)));
    for (section, keys) in [("axes", axes.collect()), ("set", keys.clone())] {
        let section = &mut sweep["properties"][section];
        section["properties"] = serde_json::Value::Object(keys);
        section["additionalProperties"] = false.into();
    }
    sweep["required"] = json!(["name", "base"]);
    schema::titled(sweep, "Sweep of vmbeauty sweep")
}

/// A sweep file: its contents, and where they are.
#[derive(Debug, Clone)]
pub struct SweepFile {
    /// The contents.
    pub config: SweepConfig,
    /// The config that every run starts from, before changes.
    pub(super) base: Layers,
    document: Document,
}

impl SweepFile {
    /// Reads a sweep file and its base. Returns an error that names the file and the line of what
    /// is wrong. Whether the values fit each other is checked by [`Sweep::new`](super::Sweep::new).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let document = Document::file(&yaml::read(path)?, &path.display().to_string())?;
        let mut config = parse(&document)?;
        let base = paths::expanded(&config.base);
        let wrong = |message| ConfigError::at(document.place(&["base"]), "base", message);
        let base = base.map_err(|reason| wrong(format!("base: {reason}")))?;
        config.base = path.parent().unwrap_or(Path::new("")).join(base);
        let base = Layers::read(&config.base).map_err(|error| match error {
            ConfigError::Read { .. } => wrong(format!("base: {error}")),
            error => error,
        })?;
        let sweep = Self { config, base, document };
        sweep.check_form()?;
        Ok(sweep)
    }

    /// Returns `sweep.yaml:12` for a path of keys, or for the nearest section around it.
    pub(super) fn place(&self, path: &[&str]) -> String {
        self.document.place(path)
    }

    /// Returns the assignment of each value to a key of the config, by `section` of the sweep.
    pub(super) fn assigned(
        &self,
        section: &str,
        key: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<Document>, ConfigError> {
        let origin = format!("{}: {section}", self.place(&[section, key]));
        values.into_iter().map(|value| Document::assigned(key, value, &origin)).collect()
    }

    /// Checks the keys and the types of all changes and axes, so that all problems are reported at
    /// once.
    fn check_form(&self) -> Result<(), ConfigError> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut check = |section: &str, key: &str, values: &[Value]| {
            let found = match self.assigned(section, key, values.iter().cloned()) {
                Ok(documents) => documents.iter().map(Layers::check_form).collect(),
                Err(error) => vec![Err(error)],
            };
            for error in found.into_iter().filter_map(Result::err) {
                problems.extend_from_slice(error.problems());
            }
        };
        for (key, value) in naming::pairs(&self.config.set) {
            check("set", key, std::slice::from_ref(value));
        }
        for (key, values) in naming::pairs(&self.config.axes) {
            check("axes", key, &axis::examples(values));
        }
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }
}

/// Reads the contents of a sweep file.
fn parse(document: &Document) -> Result<SweepConfig, ConfigError> {
    let value = document.value();
    let has = |key: &str| value.get(key).is_some();
    let problem = |path: &[&str], message: String| Problem {
        place: Some(document.place(path)),
        key: path.join("."),
        message,
    };
    let sections = ["data", "model", "train", "pretrain", "device", "seed"];
    let own = ["axes", "set", "seeds", "folds", "search"];
    if sections.into_iter().any(has) && !own.into_iter().any(has) {
        let message = "this is a config, not a sweep: run it with vmbeauty train, or write a \
                       sweep that names it (name, base, axes)";
        return Err(ConfigError::at(document.origin(), "", message));
    }
    if value.as_mapping().is_none_or(Mapping::is_empty) {
        let message = "a sweep is a map of keys: name, base (the config that every run starts \
                       from) and axes";
        return Err(ConfigError::at(document.origin(), "", message));
    }
    let mut problems = document.problems(SweepConfig::KEYS);
    for problem in &mut problems {
        if Config::KEYS.iter().any(|key| key.name == problem.key) {
            let key = &problem.key;
            problem.message = format!(
                "unknown key {key}; a sweep changes keys of the config in set or axes, as in set: \
                 {{train.epochs: 3}}"
            );
        }
    }
    for key in ["name", "base"].into_iter().filter(|key| !has(key)) {
        problems.push(problem(&[key], format!("{key} is missing")));
    }
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let defaults = serde_yaml::to_value(SweepConfig::default());
    let mut merged = defaults.map_err(|error| ConfigError::Unwritable(error.to_string()))?;
    document.merge_into(&mut merged, SweepConfig::KEYS);
    let config: SweepConfig = serde_path_to_error::deserialize(merged).map_err(|error| {
        let (key, message) = wrong_type::describe(&error);
        ConfigError::Invalid(vec![problem(&key.split('.').collect::<Vec<_>>(), message)])
    })?;
    let mut found = Vec::new();
    config.check(&mut |path, message| found.push(problem(path, message)));
    if found.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(found)) }
}

impl SweepConfig {
    /// Calls `wrong` with the keys that lead to each wrong value, and a message about it.
    fn check(&self, wrong: &mut dyn FnMut(&[&str], String)) {
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(is_plain) {
            let message =
                "name must consist of letters, digits, -, _ and . (not first): it names a folder";
            wrong(&["name"], message.to_string());
        }
        if let Some(key) = self.set.keys().find(|key| !key.is_string()) {
            wrong(&["set"], format!("set: keys must be names, {} is not", as_json(key)));
        }
        for (key, values) in &self.axes {
            match key {
                Value::String(key) => self.check_axis(key, values, wrong),
                _ => wrong(&["axes"], "axes: keys must be names".to_string()),
            }
        }
        if self.seeds.len() > MAX_RUNS {
            let message = format!("seeds has {} values, more than {MAX_RUNS}", self.seeds.len());
            wrong(&["seeds"], message);
        } else if let Some(seed) = repeated(&self.seeds) {
            wrong(&["seeds"], format!("seeds holds {seed} twice"));
        }
        self.search.check(wrong);
        let SearchConfig { name, max_runs, .. } = self.search;
        if name == SearchName::Asha && max_runs.is_none() && self.is_sampled() {
            let message = "search.max_runs is missing: with sampled axes, the search has no end";
            wrong(&["search", "max_runs"], message.to_string());
        }
    }

    /// Returns whether an axis has a distribution.
    pub(super) fn is_sampled(&self) -> bool {
        self.axes.values().any(axis::is_sampled)
    }

    fn check_axis(&self, key: &str, values: &Value, wrong: &mut dyn FnMut(&[&str], String)) {
        let mut wrong = |message: String| wrong(&["axes", key], message);
        if let Err(reason) = axis::check(values) {
            return wrong(format!("axes.{key}{reason}"));
        }
        let list = values.as_sequence().map_or(&[][..], Vec::as_slice);
        if axis::is_sampled(values) && self.search.name == SearchName::Grid {
            return wrong(format!(
                "axes.{key} is sampled, which a grid is not: use search: {{name: random, budget: \
                 N}} or {{name: asha, max_runs: N}}, or a list"
            ));
        }
        if list.len() > MAX_RUNS {
            return wrong(format!("axes.{key} has {} values, more than {MAX_RUNS}", list.len()));
        }
        if let Some(twice) = repeated(list) {
            wrong(format!("axes.{key} holds {} twice", as_json(twice)));
        }
        if self.set.contains_key(key) {
            wrong(format!("{key} is in axes and in set: remove it from set"));
        }
        if (key == "seed" && !self.seeds.is_empty())
            || (key == "data.split" && self.folds.is_some())
        {
            let other = if key == "seed" { "seeds" } else { "folds" };
            wrong(format!("{key} is varied by axes and by {other}: keep one of them"));
        }
    }
}

/// Returns an item that is equal to an earlier one.
fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    let repeats = |&index: &usize| items[..index].contains(&items[index]);
    (0..items.len()).find(repeats).map(|index| &items[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_yaml(text: &str) -> Result<SweepConfig, ConfigError> {
        parse(&Document::file(text, "s.yaml")?)
    }

    #[test]
    fn a_sweep_states_only_what_it_needs() {
        let sweep = from_yaml("{name: a, base: b.yaml}").unwrap();
        assert_eq!((sweep.search.name, sweep.folds), (SearchName::Grid, None));
        let text = "name: a\nbase: b.yaml\nset: {train.epochs: 3}\naxes: {train.loss: [mse]}\n\
                    seeds: [1, 2]\nfolds: published\nsearch: {name: random, budget: 4}\n";
        let sweep = from_yaml(text).unwrap();
        let budget = Some(4);
        let random = SearchConfig { name: SearchName::Random, budget, ..SearchConfig::default() };
        assert_eq!(sweep.search, random);
        assert_eq!(sweep.folds, Some(Folds::Published));
    }

    #[test]
    fn a_file_without_keys_is_told_which_a_sweep_has() {
        for text in ["", "- a", "# nothing"] {
            let error = from_yaml(text).unwrap_err().to_string();
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
            ("folds: 1", "folds must be published, column or a number from 2"),
            ("search: {name: bayes}", "search.name must be one of grid, random, asha, is bayes"),
            ("search: {name: random, budget: 0}", "search.budget must be at least 1, is 0"),
            ("search: {name: random}", "s.yaml:3: search.budget is missing"),
            ("search: random", "search must be a map (name, budget, seed"),
            ("search:\n  name: asha\n  ets: 3", "s.yaml:5: unknown key search.ets; did you mean"),
            ("search: {name: asha, eta: 1}", "search.eta must be at least 2, is 1"),
            ("search: {eta: 4}", "search.eta is for name: asha, not for name: grid; remove it"),
            ("search: {name: random, budget: 2, max_runs: 2}", "search.max_runs is for name: asha"),
            ("search: {median_stop: {margin: -1}}", "median_stop.margin must be 0 or more, is -1"),
            (
                "search: {name: asha, median_stop: {margin: 0.1}}",
                "search.median_stop is for name: grid or random",
            ),
            (
                "axes:\n  model.head.dropout: {uniform: [0, 0.5]}",
                "s.yaml:4: axes.model.head.dropout is sampled, which a grid is not: use search:",
            ),
            (
                "axes: {train.optimizer.lr: {uniform: [1, 2]}}\nsearch: {name: asha}",
                "s.yaml:4: search.max_runs is missing: with sampled axes, the search has no end",
            ),
            ("axes: {train.epochs: {int: [3, 1]}}", "axes.train.epochs: int must be two whole"),
            ("seeds: 3", "s.yaml:3: seeds must be a list, is 3"),
            ("seeds: [1, a]", "s.yaml:3: seeds[1] must be a whole number, is \"a\""),
            ("set: {1: 2}", "set: keys must be names, 1 is not"),
            ("axes: [1]", "axes must be a map of keys, is a list"),
            ("folds: 1000000000", "number from 2 to 10000"),
        ] {
            let text = format!("name: a\nbase: b.yaml\n{rest}\n");
            let error = from_yaml(&text).unwrap_err().to_string();
            assert!(error.starts_with("s.yaml") && error.contains(words), "{error}");
        }
    }
}
