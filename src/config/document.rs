//! A config file or an override before it is merged: its keys and their lines.

use serde_yaml::{Mapping, Value};

use super::Config;
use super::assignment;
use super::error::{ConfigError, Problem};
use super::locate::line_of;
use super::names::{ALIKE, likeness};
use super::section::{Key, join};
use super::write::flow;
use super::yaml;

/// Maximum number of problems that are listed.
const MAX_PROBLEMS: usize = 20;

/// A config file or an override.
pub(super) struct Document<'a> {
    /// The file's name, or `--set train.epochs=5`.
    origin: String,
    /// The text that lines are looked up in; empty for an override, which has none.
    text: &'a str,
    value: Value,
}

impl<'a> Document<'a> {
    /// Parses the text of a file.
    pub(super) fn file(text: &'a str, origin: &str) -> Result<Self, ConfigError> {
        let value = match yaml::parse(text, origin)? {
            Value::Null => Value::Mapping(Mapping::new()),
            value => value,
        };
        Ok(Self { origin: origin.to_owned(), text, value })
    }

    /// Parses `a.b=1` to the document `{a: {b: 1}}`.
    pub(super) fn set(text: &str) -> Result<Self, ConfigError> {
        Ok(Self { origin: format!("--set {text}"), text: "", value: assignment::parse(text)? })
    }

    /// Returns `configs/a.yaml:12` for a path of keys, or for the nearest section around it.
    pub(super) fn place(&self, path: &[&str]) -> String {
        match line_of(self.text, path) {
            Some(line) => format!("{}:{line}", self.origin),
            None => self.origin.clone(),
        }
    }

    /// Returns whether this document sets the dotted `key`.
    pub(super) fn states(&self, key: &str) -> bool {
        let mut value = &self.value;
        for name in key.split('.') {
            match value.get(name) {
                Some(inner) => value = inner,
                // A value that is not a map sets everything below it.
                None => return !value.is_mapping(),
            }
        }
        true
    }

    /// Merges this document into `base`, section by section; keys that it does not set stay as they
    /// are.
    pub(super) fn merge_into(&self, base: &mut Value) {
        merge(base, &self.value, Config::KEYS);
    }

    /// Returns the problems of its form, unknown keys and sections that are not maps: the first
    /// [`MAX_PROBLEMS`], and the number of the others.
    pub(super) fn problems(&self) -> Vec<Problem> {
        if let Some(message) = self.is_sweep() {
            return vec![self.problem("", "", message)];
        }
        let mut found = Found::default();
        self.check("", &self.value, Config::KEYS, &mut found);
        if found.more > 0 {
            found.problems.push(self.problem("", "", format!("and {} more problems", found.more)));
        }
        found.problems
    }

    fn check(&self, section: &str, value: &Value, keys: &[Key], found: &mut Found) {
        let Value::Mapping(map) = value else {
            found.add(|| {
                let message = match (section, value) {
                    ("", _) => format!("a config is a map of keys, this is {}", flow(value)),
                    (_, Value::Null) => {
                        let keys = list(keys);
                        format!("{section} is empty; give it keys ({keys}) or remove it")
                    }
                    _ => {
                        let (keys, first) = (list(keys), keys.first().map_or("", |key| key.name));
                        let value = flow(value);
                        format!(
                            "{section} must be a map ({keys}), is {value}; did you mean \
                             {section}.{first}?"
                        )
                    }
                };
                self.problem(section, "", message)
            });
            return;
        };
        for (name, value) in map {
            let Some(name) = name.as_str() else {
                let message = || format!("keys must be names, {} is not", flow(name));
                found.add(|| self.problem(section, "", message()));
                continue;
            };
            let path = join(section, name);
            match keys.iter().find(|key| key.name == name) {
                Some(key) if key.keys.is_empty() => {}
                Some(key) => self.check(&path, value, key.keys, found),
                None => found.add(|| {
                    let message = if name.contains('.') {
                        format!("{path}: a file has nested keys; dots are for --set")
                    } else {
                        format!("unknown key {path}; {}", hint(&path, keys))
                    };
                    self.problem(section, name, message)
                }),
            }
        }
    }

    /// Returns what to do with a sweep that is given as a config.
    fn is_sweep(&self) -> Option<String> {
        let has = |key: &str| self.value.get(key).is_some();
        let is_sweep = has("base") && ["axes", "seeds", "folds", "search"].into_iter().any(has);
        let message = "this is a sweep, not a config: run it with vmbeauty sweep";
        is_sweep.then(|| message.to_owned())
    }

    /// Reports a problem at a key. `name` is not split: a key may have a dot in it.
    fn problem(&self, section: &str, name: &str, message: String) -> Problem {
        let path: Vec<&str> =
            section.split('.').chain([name]).filter(|key| !key.is_empty()).collect();
        Problem { place: Some(self.place(&path)), key: path.join("."), message }
    }
}

/// The problems of a document's form.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    /// The number of those that are not listed: the line of each costs a pass over the text.
    more: usize,
}

impl Found {
    fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem());
        } else {
            self.more += 1;
        }
    }
}

fn merge(base: &mut Value, over: &Value, keys: &[Key]) {
    let (Value::Mapping(base), Value::Mapping(over)) = (base, over) else {
        return; // reported by `problems`
    };
    for (name, value) in over {
        let key = keys.iter().find(|key| Some(key.name) == name.as_str());
        match (key, base.get_mut(name)) {
            (Some(key), Some(inner)) if !key.keys.is_empty() => merge(inner, value, key.keys),
            _ => {
                base.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Suggests what to write instead of an unknown key.
fn hint(path: &str, siblings: &[Key]) -> String {
    let mut known = Vec::new();
    all_paths("", Config::KEYS, &mut known);
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let top = path.split('.').next();

    let likely = known.iter().filter_map(|known| {
        let (known_section, known_name) = known.rsplit_once('.').unwrap_or(("", known));
        let alike = likeness(name, known_name);
        // A misspelled key is likelier in its own section, a misplaced one is spelled right.
        let near = if known_section == section {
            0.35
        } else if known.split('.').next() == top {
            0.1
        } else {
            0.0
        };
        (alike >= ALIKE).then_some((alike + near, known))
    });
    // The first of equals, in the order of the reference.
    match likely.min_by(|a, b| b.0.total_cmp(&a.0)) {
        Some((_, known)) => format!("did you mean {known}?"),
        None => format!("known here are {}", list(siblings)),
    }
}

fn all_paths(section: &str, keys: &[Key], found: &mut Vec<String>) {
    for key in keys {
        let path = join(section, key.name);
        all_paths(&path, key.keys, found);
        found.push(path);
    }
}

fn list(keys: &[Key]) -> String {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, overrides: &[&str]) -> Result<Config, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Config::from_yaml(text, "a.yaml", &overrides)
    }

    #[track_caller]
    fn assert_error(text: &str, overrides: &[&str], expected: &str) {
        let error = load(text, overrides).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        assert_error(
            "name: a\ntrain:\n  batch_size: 4\n  epoch: 3\n",
            &[],
            "a.yaml:4: unknown key train.epoch; did you mean train.epochs?",
        );
        assert_error("modle: {}", &[], "a.yaml:1: unknown key modle; did you mean model?");
        assert_error(
            "data: {normalize: {means: [0, 0, 0]}}",
            &[],
            "a.yaml:1: unknown key data.normalize.means; did you mean mean?",
        );
    }

    #[test]
    fn a_key_in_the_wrong_section_is_suggested_in_the_right_one() {
        for (text, expected) in [
            ("train: {lr: 1}", "train.lr; did you mean train.optimizer.lr?"),
            ("epochs: 3", "epochs; did you mean train.epochs?"),
            ("model: {q: 1}", "model.q; known here are vit, mamba, fusion, head"),
        ] {
            assert_error(text, &[], &format!("a.yaml:1: unknown key {expected}"));
        }
    }

    #[test]
    fn all_unknown_keys_are_reported_at_once() {
        let error = load("nane: a\ndata:\n  rot: x\n", &["train.epoch=3"]).unwrap_err();
        let places = error.problems().iter().map(|problem| problem.place.clone());
        let expected = ["a.yaml:1", "a.yaml:3", "--set train.epoch=3"];
        assert!(places.eq(expected.map(|place| Some(place.to_owned()))), "{error}");
    }

    #[test]
    fn a_document_of_the_wrong_form_is_explained() {
        for (text, expected) in [
            (
                "name: a\ntrain.epochs: 3",
                "a.yaml:2: train.epochs: a file has nested keys; dots are for --set",
            ),
            (
                "model:\n  fusion:\n",
                "a.yaml:2: model.fusion is empty; give it keys (strategy, dim) or remove it",
            ),
            (
                "model: {fusion: gated}",
                "a.yaml:1: model.fusion must be a map (strategy, dim), is gated; did you mean \
                 model.fusion.strategy?",
            ),
            ("- a", "a.yaml: a config is a map of keys, this is [a]"),
            ("1: a", "a.yaml: keys must be names, 1 is not"),
        ] {
            assert_error(text, &[], expected);
        }
    }

    #[test]
    fn a_malformed_override_is_reported_as_an_override() {
        assert_error(
            "",
            &["train.epochs"],
            "--set train.epochs: must be key.path=value, for example train.epochs=5",
        );
        assert_error(
            "",
            &["train.epoch=3"],
            "--set train.epoch=3: unknown key train.epoch; did you mean train.epochs?",
        );
        for broken in [
            "=3",
            "=",
            "train.=3",
            "train..epochs=3",
            "train.epochs.x=3",
            "train.epochs=[1",
            "train=3",
            "a=b=c: d",
        ] {
            assert!(load("", &[broken]).is_err(), "{broken}");
        }
    }

    #[test]
    fn text_that_is_not_yaml_is_reported_with_its_line() {
        let error = load("name: a\ntrain: {epochs: 3\nseed: 4\n", &[]).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("a.yaml:3: not valid YAML: "), "{error}");
        let error = load("name: a\nname: b\n", &[]).unwrap_err().to_string();
        assert!(error.contains("duplicate"), "{error}");
        assert!(load("name: a\n---\nname: b\n", &[]).is_err());
    }
}
