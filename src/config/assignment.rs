//! The `key.path=value` of `--set`.
//!
//! The value is YAML, so that lists and maps can be set. What YAML takes for something else than
//! the user's text (a comment, null, an anchor) is refused with the quoted form: a path that is cut
//! at a `#` would train on other data without a word.

use serde_yaml::{Mapping, Value};

use super::error::ConfigError;
use super::yaml;

/// Maximum number of names in a key; no key has as many.
const MAX_NAMES: usize = 16;

/// Parses `a.b=1` to the document `{a: {b: 1}}`.
pub(super) fn parse(text: &str) -> Result<Value, ConfigError> {
    let wrong = |message: String| ConfigError::Override { text: text.to_owned(), message };
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| wrong("must be key.path=value, for example train.epochs=5".into()))?;
    let key = key.trim();
    parse_value(key, value).and_then(|value| nested(key, value)).map_err(wrong)
}

/// Returns the document `{a: {b: value}}` for the key `a.b`.
pub(super) fn nested(key: &str, value: Value) -> Result<Value, String> {
    if key.split('.').count() > MAX_NAMES {
        return Err("there is no such key".into());
    }
    Ok(key
        .rsplit('.')
        .fold(value, |value, name| Value::Mapping(Mapping::from_iter([(name.into(), value)]))))
}

fn parse_value(key: &str, text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let quoted = || in_quotes(key, trimmed);
    if trimmed.is_empty() {
        let empty = in_quotes(key, "");
        return Err(format!("the value is empty: {key}=null sets none, {empty} an empty text"));
    }
    let value = yaml::parse_value(text).map_err(|error| {
        format!("the value is not valid YAML ({error}); as a text it is {}", quoted())
    })?;
    if text.contains('#') && value != with_comments(text) {
        return Err(format!(
            "what follows the # is a comment in YAML: remove it, or quote the text: {}",
            quoted()
        ));
    }
    let null = matches!(trimmed, "null" | "~" | "Null" | "NULL");
    if (value.is_null() && !null) || trimmed.starts_with(['&', '|', '>']) {
        return Err(format!(
            "the value has a special meaning in YAML; as a text it is {}",
            quoted()
        ));
    }
    Ok(value)
}

/// Parses the value with every `#` taken as a letter; returns null if that is not valid.
fn with_comments(text: &str) -> Value {
    /// A private-use character, which no text has.
    const LETTER: &str = "\u{f8ff}";
    fn restore(value: &mut Value) {
        match value {
            Value::String(text) => *text = text.replace(LETTER, "#"),
            Value::Sequence(items) => items.iter_mut().for_each(restore),
            Value::Mapping(map) => map.values_mut().for_each(restore),
            _ => {}
        }
    }
    let mut value = yaml::parse_value(&text.replace('#', LETTER)).unwrap_or_default();
    restore(&mut value);
    value
}

/// Returns the option that sets a text, as a shell takes it.
fn in_quotes(key: &str, text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\'', "'\\''");
    format!("--set '{key}=\"{text}\"'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_or_no_value_is_refused_with_the_quoted_form() {
        for (set, words) in [
            ("data.root=set #1/x.csv", "--set 'data.root=\"set #1/x.csv\"'"),
            ("data.root=#1/x.csv", "--set 'data.root=\"#1/x.csv\"'"),
            ("data.root=it's #1", "--set 'data.root=\"it'\\''s #1\"'"),
            ("train.epochs=5 # a trial", "remove it"),
            ("model.head.hidden=[64, 32] # wide", "remove it"),
            ("model.vit.weights=", "model.vit.weights=null sets none"),
            ("model.vit.weights= ", "--set 'model.vit.weights=\"\"' an empty text"),
            ("model.vit.weights=&best/x.pth", "--set 'model.vit.weights=\"&best/x.pth\"'"),
            ("model.vit.weights=---", "as a text it is"),
            ("data.root=[1", "--set 'data.root=\"[1\"'"),
        ] {
            let error = parse(set).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--set {set}: ")), "{error}");
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_number_sign_that_begins_no_comment_is_kept() {
        for (set, expected) in [
            ("a=set#1/x.csv", "set#1/x.csv"),
            ("a=\"set #1/x.csv\"", "set #1/x.csv"),
            ("a='set #1/x.csv'", "set #1/x.csv"),
        ] {
            let value = parse(set).unwrap();
            assert_eq!(value["a"].as_str(), Some(expected), "{set}");
        }
        let value = parse("a=['#1', {b: \"c #2\"}]").unwrap();
        assert_eq!(
            (value["a"][0].as_str(), value["a"][1]["b"].as_str()),
            (Some("#1"), Some("c #2"))
        );
        assert!(parse("a=null").unwrap()["a"].is_null());
        assert!(parse("a=~").unwrap()["a"].is_null());
    }

    #[test]
    fn a_key_or_a_value_of_any_depth_is_refused_at_once() {
        for set in [format!("{}=1", "a.".repeat(60_000)), format!("a={}", "[".repeat(100_000))] {
            assert!(parse(&set).is_err());
        }
    }
}
