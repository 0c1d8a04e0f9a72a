//! The names of runs: what differs between them, in characters that every file system allows.

use std::collections::HashMap;

use serde_yaml::{Mapping, Value};

/// Maximum length of a value in a name.
const MAX_LEN: usize = 40;
/// Maximum length of a point's name. File systems allow 255 bytes, of which seed, fold and the
/// endings of temporary files need some.
const MAX_POINT: usize = 160;

/// Returns each axis's short name: the shortest unique end of its key.
pub(super) fn axis_names(keys: &[&str]) -> Vec<String> {
    let tail = |key: &str, components: usize| -> String {
        let all: Vec<&str> = key.split('.').collect();
        all[all.len().saturating_sub(components)..].join(".")
    };
    keys.iter()
        .map(|key| {
            let longest = key.split('.').count();
            let unique = |components: &usize| {
                let alike =
                    keys.iter().filter(|other| tail(other, *components) == tail(key, *components));
                alike.count() == 1
            };
            let components = (1..=longest).find(unique).unwrap_or(longest);
            tail(key, components)
        })
        .collect()
}

/// Returns each value's unique text in a run's name: itself if short and plain, else with a hash.
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
            if name.len() <= MAX_LEN && !name.is_empty() && count[name.as_str()] == 1 {
                return name.clone();
            }
            let hash = blake3::hash(text(value).as_bytes()).to_hex();
            let short: String = name.chars().take(MAX_LEN / 2).collect();
            format!("{short}-{}", &hash[..8])
        })
        .collect()
}

/// Joins the parts of a point's name; one that is too long for a folder ends in a hash instead. A
/// sweep without axes has one point, whose name is `base`.
pub(super) fn point_name(parts: &[String]) -> String {
    let name = if parts.is_empty() { "base".to_string() } else { parts.join(",") };
    if name.len() <= MAX_POINT {
        return name;
    }
    let hash = &blake3::hash(name.as_bytes()).to_hex()[..16];
    // Axes and values have ASCII names.
    let kept: String = name.chars().take(MAX_POINT - hash.len() - 1).collect();
    format!("{kept}-{hash}")
}

/// Formats a value on one line, a string without quotes.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => flow(other),
    }
}

/// Formats a value as JSON, which YAML is a superset of; a string is quoted, so that it stays one.
pub(super) fn flow(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| {
        // Keys that are not strings have no JSON; the config rejects them.
        serde_yaml::to_string(value).unwrap_or_default()
    })
}

/// Keeps letters, digits, `.`, `_`, `+` and `-`; a sequence of others becomes one `-`.
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

/// Iterates over the keys and values of a mapping whose keys are strings.
pub(super) fn pairs(mapping: &Mapping) -> impl Iterator<Item = (&str, &Value)> {
    mapping.iter().filter_map(|(key, value)| Some((key.as_str()?, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_name_is_the_shortest_unique_end_of_its_key() {
        let keys = ["model.vit.depth", "model.mamba.depth", "train.optimizer.lr", "lr"];
        assert_eq!(axis_names(&keys), ["vit.depth", "mamba.depth", "optimizer.lr", "lr"]);
        assert_eq!(axis_names(&["model.fusion.strategy"]), ["strategy"]);
    }

    #[test]
    fn a_long_name_ends_in_a_hash_of_all_of_it() {
        let parts = |last: &str| -> Vec<String> {
            (0..9)
                .map(|i| format!("axis{i}={}", "v".repeat(40)))
                .chain([last.to_string()])
                .collect()
        };
        let [a, b] = ["x=1", "x=2"].map(|last| point_name(&parts(last)));
        assert!(a.len() == MAX_POINT && a.starts_with("axis0=vvvv"), "{a}");
        assert_ne!(a, b);
        assert_eq!(point_name(&["lr=0.1".to_string(), "x=1".to_string()]), "lr=0.1,x=1");
        assert_eq!(point_name(&[]), "base");
    }

    #[test]
    fn values_have_different_names_of_plain_characters() {
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
