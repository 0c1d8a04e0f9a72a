//! Writes YAML that every reader understands alike.
//!
//! What is written has the same meaning in YAML 1.1 (PyYAML) and 1.2: strings that either takes for
//! something else are quoted, and floats have a dot.

use serde_yaml::{Mapping, Value};

use super::section::join;
use super::variables;

/// Writes a value in YAML's block style.
pub(super) fn block(value: &Value) -> String {
    annotated(value, &|_| None)
}

/// Writes a value in YAML's block style, with the comment that `note` has for each dotted key; a
/// list with a comment is on its line.
pub(super) fn annotated(value: &Value, note: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    match value {
        Value::Mapping(map) => write_map(map, "", note, &mut text),
        value => {
            text.push_str(&flow(value));
            text.push('\n');
        }
    }
    text
}

fn write_map(
    map: &Mapping,
    section: &str,
    note: &dyn Fn(&str) -> Option<String>,
    text: &mut String,
) {
    let depth = if section.is_empty() { 0 } else { section.split('.').count() };
    let margin = "  ".repeat(depth);
    for (key, value) in map {
        let name = flow(key);
        let path = join(section, &name);
        let comment = || note(&path).map_or(String::new(), |note| format!("  # {note}"));
        text.push_str(&format!("{margin}{name}:"));
        match value {
            Value::Mapping(inner) if !inner.is_empty() => {
                text.push('\n');
                write_map(inner, &path, note, text);
            }
            Value::Sequence(items) if !items.is_empty() && note(&path).is_none() => {
                text.push('\n');
                for item in items {
                    text.push_str(&format!("{margin}- {}\n", flow(item)));
                }
            }
            value => text.push_str(&format!(" {}{}\n", flow(value), comment())),
        }
    }
}

/// Writes a value as a config states it: on one line, without variables of the environment.
pub(crate) fn yaml_value(value: &Value) -> String {
    let mut value = value.clone();
    escape(&mut value);
    flow(&value)
}

/// Keeps a text that looks like a variable of the environment a text.
pub(super) fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = variables::escape(text),
        Value::Sequence(items) => items.iter_mut().for_each(escape),
        Value::Mapping(map) => map.values_mut().for_each(escape),
        _ => {}
    }
}

/// Returns a text as it is, and any other value as JSON, which YAML is a superset of.
pub(crate) fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => as_json(other),
    }
}

/// Formats a value as JSON, in which a text is quoted, so that it stays one.
pub(crate) fn as_json(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| {
        // Keys that are not strings have no JSON; the config rejects them.
        serde_yaml::to_string(value).unwrap_or_default()
    })
}

/// Writes a value on one line, in YAML's flow style.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if number.is_f64() => float(&number.to_string()),
        Value::Number(number) => number.to_string(),
        Value::String(text) => string(text),
        Value::Sequence(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Mapping(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{}: {}", flow(key), flow(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Tagged(tagged) => format!("{} {}", tagged.tag, flow(&tagged.value)),
    }
}

/// Returns a float as YAML 1.1 requires it: with a dot, and a sign in its exponent.
fn float(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else {
        return text.to_owned();
    };
    let dot = if digits.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    format!("{digits}{dot}e{sign}{exponent}")
}

fn string(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    // Breaks lines in YAML 1.1, or is not printable there.
    let special = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    if !text.contains(special) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if special(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Returns whether a string without quotes is this string in YAML 1.1 and 1.2, in block style and
/// in flow style. Some for which that is so are quoted too.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let starts = text.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '/')
        || text.starts_with("./")
        || text.starts_with("../");
    starts
        && !text.ends_with(':')
        && text.chars().all(|c| c.is_alphanumeric() || "_-./+:".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_yaml_1_1_takes_for_something_else_are_quoted() {
        for text in [
            "yes",
            "No",
            "ON",
            "off",
            "y",
            "N",
            "true",
            "null",
            "~",
            "",
            "1_000",
            "0o7",
            "0x1f",
            "12:30:00",
            "2024-01-02",
            ".5",
            ".inf",
            ".NaN",
            "1e3",
            "+1",
            "-",
            "=",
            "<<",
            "a: b",
            "a #b",
            "a:",
            " a",
            "a ",
            "#a",
            "&a",
            "*a",
            "!a",
            "[a",
            "a, b",
            "%a",
            "@a",
            "`a",
            "?a",
        ] {
            assert_eq!(string(text), format!("'{text}'"));
        }
        for text in ["a\nb", "\t", "a\u{85}b", "\u{2028}", "\u{7f}", "\"\\\n", "\u{feff}"] {
            let written = string(text);
            assert!(written.starts_with('"') && !written.contains(text), "{written}");
            assert_eq!(serde_yaml::from_str::<String>(&written).unwrap(), text);
        }
        assert_eq!(string("it's 5"), "'it''s 5'");
        for text in ["gated", "cuda:1", "../a/b.csv", "/x/y", "fold_1_of_5", "ärger.png", "_a"] {
            assert_eq!(string(text), text);
        }
    }

    #[test]
    fn floats_have_a_dot_and_a_sign_in_the_exponent() {
        for (value, expected) in [
            (1e-8, "1.0e-8"),
            (1e300, "1.0e+300"),
            (2.5e-10, "2.5e-10"),
            (0.05, "0.05"),
            (10.0, "10.0"),
            (f64::INFINITY, ".inf"),
        ] {
            let written = flow(&Value::from(value));
            assert_eq!(written, expected);
            assert_eq!(serde_yaml::from_str::<f64>(&written).unwrap(), value);
        }
    }
}
