//! JSON Schema of configs, with which editors complete and check them, generated from the types.
//!
//! It has the keys, their types, names and defaults. Ranges, and what values must fit each other,
//! are checked by the program alone.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Config;
use super::section::{Key, KeyType, join};

/// Matches a text with a variable of the environment, which any key takes.
pub(crate) const VARIABLE: &str = r"\$\{env:";

/// Implements [`KeyType`] for types whose values are written without quotes, or as a variable.
macro_rules! scalar {
    ($($type:ty: $name:literal $(, $limit:literal: $value:literal)*;)+) => {$(
        impl KeyType for $type {
            fn schema() -> Value {
                json!({"type": [$name, "string"], "pattern": VARIABLE $(, $limit: $value)*})
            }
        }
    )+};
}

scalar! {
    bool: "boolean";
    u8: "integer", "minimum": 0, "maximum": 255;
    u32: "integer", "minimum": 0;
    u64: "integer", "minimum": 0;
    usize: "integer", "minimum": 0;
    i64: "integer";
    f32: "number";
    f64: "number";
}

impl KeyType for String {
    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl KeyType for PathBuf {
    fn schema() -> Value {
        String::schema()
    }
}

impl<T: KeyType> KeyType for Option<T> {
    fn schema() -> Value {
        let mut schema = T::schema();
        if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.push(json!({"type": "null"}));
        } else {
            let mut types = types(&schema);
            types.push("null".to_owned());
            schema["type"] = types.into();
        }
        schema
    }
}

impl<T: KeyType> KeyType for Vec<T> {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

impl<T: KeyType, const N: usize> KeyType for [T; N] {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema(), "minItems": N, "maxItems": N})
    }
}

/// Returns the schema of a value that is chosen by name, or by `others` that mean the same.
pub(crate) fn one_of(names: &[&str], others: &[&str]) -> Value {
    let mut choices = vec![json!({"enum": names}), json!({"type": "string", "pattern": VARIABLE})];
    if !others.is_empty() {
        choices.push(json!({"enum": others}));
    }
    json!({"anyOf": choices})
}

/// Returns the names of the JSON types that a schema allows; none where it lists values.
pub(super) fn types(schema: &Value) -> Vec<String> {
    match &schema["type"] {
        Value::String(name) => vec![name.clone()],
        Value::Array(names) => {
            names.iter().filter_map(|name| Some(name.as_str()?.into())).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the type of a key in plain words: `whole number | null`.
pub(super) fn type_name(schema: &Value) -> String {
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    let listed = choices.clone().find_map(|choice| choice["enum"].as_array());
    if let Some(names) = listed {
        let null = choices.clone().any(|choice| choice["type"] == "null");
        let names = names.iter().filter_map(Value::as_str).chain(null.then_some("null"));
        return names.collect::<Vec<_>>().join(" | ");
    }
    let types = types(schema);
    let plain = |name: &String| match name.as_str() {
        "integer" => Some("whole number".to_owned()),
        "boolean" => Some("true | false".to_owned()),
        "array" => Some(match schema["minItems"].as_u64() {
            Some(count) => format!("list of {count}: {}", type_name(&schema["items"])),
            None => format!("list: {}", type_name(&schema["items"])),
        }),
        "object" => Some("map".to_owned()),
        // Any value may be a variable.
        "string" if types.len() > 1 && types[0] != "string" => None,
        "string" => Some("text".to_owned()),
        other => Some(other.to_owned()),
    };
    types.iter().filter_map(plain).collect::<Vec<_>>().join(" | ")
}

/// Returns the JSON Schema (draft 7) of a config file.
pub fn json_schema() -> Value {
    let base = "Config that this one adds to, relative to this file: a key has the value of the \
                last file that states it.";
    let mut schema = object(Config::KEYS, &defaults(&Config::default()));
    schema["properties"]["base"] = json!({"type": "string", "description": base});
    titled(schema, "Config of vmbeauty train")
}

/// Returns the schema of a file: that of its keys, with the version and a title.
pub(crate) fn titled(mut schema: Value, title: &str) -> Value {
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = title.into();
    schema
}

/// Returns the default values of a section as JSON.
pub(crate) fn defaults(section: &impl serde::Serialize) -> Value {
    // By way of YAML text, in which a float32 has its own digits.
    let text = serde_yaml::to_string(section).unwrap_or_default();
    serde_yaml::from_str(&text).unwrap_or_default()
}

/// Returns the schema of a map with these keys and no others.
pub(crate) fn object(keys: &[Key], defaults: &Value) -> Value {
    let properties =
        keys.iter().map(|key| (key.name.to_owned(), property(key, &defaults[key.name])));
    let properties: Map<String, Value> = properties.collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn property(key: &Key, default: &Value) -> Value {
    let mut schema = if key.keys.is_empty() {
        let mut schema = (key.schema)();
        schema["default"] = default.clone();
        schema
    } else {
        object(key.keys, default)
    };
    schema["description"] = key.documentation().into();
    schema
}

/// Returns the schema of each dotted key, sections included, as `--set` and sweeps take them.
pub(crate) fn dotted() -> Map<String, Value> {
    fn add(section: &str, keys: &[Key], defaults: &Value, found: &mut Map<String, Value>) {
        for key in keys {
            let path = join(section, key.name);
            add(&path, key.keys, &defaults[key.name], found);
            found.insert(path, property(key, &defaults[key.name]));
        }
    }
    let mut found = Map::new();
    add("", Config::KEYS, &defaults(&Config::default()), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_reference_has_a_type_a_default_and_a_description() {
        let schema = dotted();
        for row in super::super::reference() {
            let key = &schema[&row.key];
            assert!(!row.kind.is_empty(), "{}", row.key);
            assert!(key.get("default").is_some() && key["description"] == row.doc, "{}", row.key);
        }
        assert_eq!(json_schema()["properties"]["train"]["properties"]["epochs"]["default"], 30);
        assert_eq!(json_schema()["properties"]["data"]["additionalProperties"], false);
    }

    #[test]
    fn types_are_said_in_plain_words() {
        for (schema, words) in [
            (Option::<usize>::schema(), "whole number | null"),
            (<[f64; 2]>::schema(), "list of 2: number"),
            (Option::<[f64; 2]>::schema(), "list of 2: number | null"),
            (Vec::<String>::schema(), "list: text"),
            (bool::schema(), "true | false"),
            (Option::<PathBuf>::schema(), "text | null"),
            (super::super::Cache::schema(), "none | memory | disk"),
        ] {
            assert_eq!(type_name(&schema), words);
        }
    }
}
