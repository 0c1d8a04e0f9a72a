//! A config file or an override before it is merged: its keys and their lines.

use serde_yaml::{Mapping, Value};

use super::assignment;
use super::error::{ConfigError, Problem};
use super::locate::line_of;
use super::names::{ALIKE, likeness};
use super::schema::types;
use super::section::{Key, join};
use super::variables;
use super::write::flow;
use super::yaml;

/// Maximum number of problems that are listed.
const MAX_PROBLEMS: usize = 20;

/// A file or an override, before it is merged.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// The file's name, or `--set train.epochs=5`.
    origin: String,
    /// The text that lines are looked up in; empty for an override, which has none.
    text: String,
    is_file: bool,
    value: Value,
    /// The dotted keys whose values have variables of the environment, with their names.
    variables: Vec<(String, Vec<String>)>,
}

impl Document {
    /// Parses the text of a file.
    pub(crate) fn file(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let value = match yaml::parse(text, origin)? {
            Value::Null => Value::Mapping(Mapping::new()),
            value => value,
        };
        Ok(Self { text: text.to_owned(), is_file: true, ..Self::new(origin, value) })
    }

    /// Parses `a.b=1` to the document `{a: {b: 1}}`.
    pub(super) fn set(text: &str) -> Result<Self, ConfigError> {
        Ok(Self::new(&format!("--set {text}"), assignment::parse(text)?))
    }

    /// Sets one dotted key; errors say that this is done at `origin`.
    pub(crate) fn assigned(key: &str, value: Value, origin: &str) -> Result<Self, ConfigError> {
        let value = assignment::nested(key, value)
            .map_err(|message| ConfigError::at(origin, key, message))?;
        Ok(Self::new(origin, value))
    }

    fn new(origin: &str, value: Value) -> Self {
        let origin = origin.to_owned();
        Self { origin, text: String::new(), is_file: false, value, variables: Vec::new() }
    }

    /// Returns whether this is a file, not an override.
    pub(super) fn is_file(&self) -> bool {
        self.is_file
    }

    /// The file's name, or the override.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The parsed content.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// Removes a key of the top, and returns its value.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.value.as_mapping_mut()?.remove(key)
    }

    /// Returns `configs/a.yaml:12` for a path of keys, or for the nearest section around it.
    pub(crate) fn place(&self, path: &[&str]) -> String {
        match line_of(&self.text, path) {
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

    /// Returns where a dotted key has its value from, `a.yaml:3` or `--set`, and the variables that
    /// are in it.
    pub(super) fn source(&self, key: &str) -> String {
        let place = if self.is_file {
            self.place(&key.split('.').collect::<Vec<_>>())
        } else {
            "--set".to_owned()
        };
        let variables = self.variables.iter().filter(|(known, _)| known == key);
        let names: Vec<&str> = variables.flat_map(|(_, names)| names).map(String::as_str).collect();
        if names.is_empty() { place } else { format!("{place}, environment {}", names.join(", ")) }
    }

    /// Merges this document into `base`, section by section; keys that it does not set stay as they
    /// are.
    pub(crate) fn merge_into(&self, base: &mut Value, keys: &[Key]) {
        merge(base, &self.value, keys);
    }

    /// Expands the variables of the environment. The problems of its form, and what is wrong with a
    /// variable, are added to `found`.
    pub(super) fn prepare(&mut self, keys: &[Key], found: &mut Vec<Problem>) {
        found.extend(self.problems(keys));
        self.expand(keys, found);
    }

    fn expand(&mut self, keys: &[Key], found: &mut Vec<Problem>) {
        let mut value = std::mem::take(&mut self.value);
        let mut wrong = Vec::new();
        variables_of(&mut value, "", keys, None, &mut self.variables, &mut wrong);
        self.value = value;
        for (key, message) in wrong.into_iter().take(MAX_PROBLEMS) {
            let place = Some(self.place(&key.split('.').collect::<Vec<_>>()));
            found.push(Problem { place, message: format!("{key}: {message}"), key });
        }
    }

    /// Returns the problems of its form, unknown keys and sections that are not maps: the first
    /// [`MAX_PROBLEMS`], and the number of the others.
    pub(crate) fn problems(&self, keys: &[Key]) -> Vec<Problem> {
        let mut found = Found { root: keys, problems: Vec::new(), more: 0 };
        self.check("", &self.value, keys, &mut found);
        if found.more > 0 {
            found.problems.push(self.problem("", "", format!("and {} more problems", found.more)));
        }
        found.problems
    }

    fn check(&self, section: &str, value: &Value, keys: &[Key], found: &mut Found<'_>) {
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
        let root = found.root;
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
                        format!("unknown key {path}; {}", hint(&path, keys, root))
                    };
                    self.problem(section, name, message)
                }),
            }
        }
    }

    /// Reports a problem at a key. `name` is not split: a key may have a dot in it.
    fn problem(&self, section: &str, name: &str, message: String) -> Problem {
        let path: Vec<&str> =
            section.split('.').chain([name]).filter(|key| !key.is_empty()).collect();
        Problem { place: Some(self.place(&path)), key: path.join("."), message }
    }
}

/// The problems of a document's form.
struct Found<'a> {
    /// The keys of the top, which suggestions are from.
    root: &'a [Key],
    problems: Vec<Problem>,
    /// The number of those that are not listed: the line of each costs a pass over the text.
    more: usize,
}

impl Found<'_> {
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

/// Expands the variables in a value of these keys, which is at the dotted `path`; `schema` is that
/// of a key's value. Adds what is expanded to `variables`, and the keys of what cannot be to
/// `wrong`.
fn variables_of(
    value: &mut Value,
    path: &str,
    keys: &[Key],
    schema: Option<&serde_json::Value>,
    variables: &mut Vec<(String, Vec<String>)>,
    wrong: &mut Vec<(String, String)>,
) {
    match value {
        Value::Mapping(map) => {
            for (name, value) in map.iter_mut() {
                let name = name.as_str().unwrap_or_default();
                let key = keys.iter().find(|key| key.name == name);
                let inner = key.map_or(&[][..], |key| key.keys);
                let below = schema.map(|schema| &schema["properties"][name]);
                let schema = key.map(|key| (key.schema)());
                let schema = schema.as_ref().or(below);
                variables_of(value, &join(path, name), inner, schema, variables, wrong);
            }
        }
        Value::Sequence(items) => {
            let schema = schema.map(|schema| &schema["items"]);
            for item in items {
                variables_of(item, path, &[], schema, variables, wrong);
            }
        }
        Value::String(text) => match variables::expand(text, |name| std::env::var(name).ok()) {
            Ok(None) => {}
            Ok(Some(expanded)) => {
                variables.push((path.to_owned(), expanded.names));
                *value = match schema {
                    Some(schema) if expanded.alone => typed(expanded.text, &types(schema)),
                    _ => Value::String(expanded.text),
                };
            }
            Err(message) => wrong.push((path.to_owned(), message)),
        },
        _ => {}
    }
}

/// Returns the value that a text has for a key of these types: a number or a boolean where the key
/// takes one, else the text.
fn typed(text: String, types: &[String]) -> Value {
    let has = |name: &str| types.iter().any(|known| known == name);
    if has("null") && text == "null" {
        return Value::Null;
    }
    if ["integer", "number", "boolean", "array", "object"].into_iter().any(has)
        && let Ok(value) = yaml::parse_value(&text)
        && !value.is_null()
    {
        return value;
    }
    Value::String(text)
}

/// Suggests what to write instead of an unknown key.
fn hint(path: &str, siblings: &[Key], root: &[Key]) -> String {
    if path == "base" {
        return "a base is stated in a file: base: other.yaml".into();
    }
    let mut known = Vec::new();
    all_paths("", root, &mut known);
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
    use crate::config::Config;

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
            ("model: {q: 1}", "model.q; known here are weights, vit, mamba, fusion, head"),
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
                "a.yaml:2: model.fusion is empty; give it keys (strategy, dim, branch_dropout) or \
                 remove it",
            ),
            (
                "model: {fusion: gated}",
                "a.yaml:1: model.fusion must be a map (strategy, dim, branch_dropout), is gated; \
                 did you mean model.fusion.strategy?",
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
