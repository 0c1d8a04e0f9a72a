//! Names of runs: what differs, in letters that every file system takes.

use std::collections::HashMap;

use serde_yaml::{Mapping, Value};

/// Longest text of a value in a name.
const LONGEST: usize = 40;

/// Each axis's short name: the last part of its key, and as many more parts as it takes to tell it
/// from the others.
pub(super) fn axis_names(keys: &[&str]) -> Vec<String> {
    let tail = |key: &str, parts: usize| -> String {
        let all: Vec<&str> = key.split('.').collect();
        all[all.len().saturating_sub(parts)..].join(".")
    };
    keys.iter()
        .map(|key| {
            let longest = key.split('.').count();
            let unique = |parts: &usize| {
                let alike = keys.iter().filter(|other| tail(other, *parts) == tail(key, *parts));
                alike.count() == 1
            };
            let parts = (1..=longest).find(unique).unwrap_or(longest);
            tail(key, parts)
        })
        .collect()
}

/// Each value's text in a run's name, all different: itself where it is short and plain, else its
/// beginning and a hash.
pub(super) fn value_names(values: &[Value]) -> Vec<String> {
    let plain: Vec<String> = values.iter().map(text).map(|text| clean(&text)).collect();
    let mut count: HashMap<&str, usize> = HashMap::new();
    for name in &plain {
        *count.entry(name).or_default() += 1;
    }
    plain
        .iter()
        .zip(values)
        .map(|(name, value)| {
            if name.len() <= LONGEST && !name.is_empty() && count[name.as_str()] == 1 {
                return name.clone();
            }
            let hash = blake3::hash(text(value).as_bytes()).to_hex();
            let short: String = name.chars().take(LONGEST / 2).collect();
            format!("{short}-{}", &hash[..8])
        })
        .collect()
}

/// A value on one line, as YAML reads it back.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => flow(other),
    }
}

/// A value as JSON, which YAML is a superset of. A text is quoted, so that it stays one.
pub(super) fn flow(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| {
        // Keys that are not texts have no JSON; the config refuses them by what YAML calls them.
        serde_yaml::to_string(value).unwrap_or_default()
    })
}

/// Letters, digits, `.`, `_`, `+` and `-`; a run of others becomes one `-`.
fn clean(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "._+-".contains(c) {
            name.push(c);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    name.trim_matches('-').to_string()
}

/// Keys and values of a mapping whose keys are texts.
pub(super) fn pairs(mapping: &Mapping) -> impl Iterator<Item = (&str, &Value)> {
    mapping.iter().filter_map(|(key, value)| Some((key.as_str()?, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_called_by_as_little_of_its_key_as_tells_it_apart() {
        let keys = ["model.vit.depth", "model.mamba.depth", "train.optimizer.lr", "lr"];
        assert_eq!(axis_names(&keys), ["vit.depth", "mamba.depth", "optimizer.lr", "lr"]);
        assert_eq!(axis_names(&["model.fusion.strategy"]), ["strategy"]);
    }

    #[test]
    fn values_become_different_names_of_plain_letters() {
        let values: Vec<Value> = serde_yaml::from_str(
            "[gated, 0.0003, 1e-4, true, null, -1, [64, 32], {a: 1}, ../x/y z.csv, '', ü, ö]",
        )
        .unwrap();
        let names = value_names(&values);
        assert_eq!(
            names[..6],
            ["gated", "0.0003", "0.0001", "true", "null", "-1"]
                .map(|n| n.trim_matches('-').to_string())
        );
        assert_eq!(names[6..9], ["64-32", "a-1", "..-x-y-z.csv"]);
        let distinct: std::collections::HashSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        let long = value_names(&[Value::String("x".repeat(300))]);
        assert!(long[0].len() < 50, "{long:?}");
    }
}
