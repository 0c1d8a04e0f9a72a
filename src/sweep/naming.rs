//! The names of runs: what differs between them, in characters that every file system allows.

use std::collections::HashMap;

use serde_yaml::{Mapping, Value};

use crate::config::plain_text;

/// Maximum length of a value in a name.
const MAX_LEN: usize = 40;
/// Maximum length of a run's name. File systems allow 255 bytes, of which the temporary file of its
/// config needs 21: `.NAME.yaml.1234567-0.part`.
const MAX_NAME: usize = 234;
/// Length of the name of a point that is shortened, so that seed and fold have room.
const SHORTENED: usize = 160;

/// Returns each axis's short name: the shortest unique end of its key.
pub(crate) fn axis_names(keys: &[&str]) -> Vec<String> {
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
    // With another form than this, a sweep would not find the folders of its runs.
    let plain: Vec<String> = values.iter().map(|value| clean(&plain_text(value))).collect();
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
            hashed(name, &plain_text(value))
        })
        .collect()
}

/// Returns the text of a sampled value in a run's name, which does not depend on other values:
/// itself if short and plain, else with a hash.
pub(super) fn sampled_name(value: &Value) -> String {
    let text = plain_text(value);
    let plain = clean(&text);
    if value.is_number() || (plain == text && text.len() <= MAX_LEN && !text.is_empty()) {
        return text;
    }
    hashed(&plain, &text)
}

/// Returns the beginning of a name, and a hash of the text.
fn hashed(name: &str, text: &str) -> String {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let short: String = name.chars().take(MAX_LEN / 2).collect();
    format!("{short}-{}", &hash[..8])
}

/// Joins a point's name with the `rest` of a run's: its seed and fold. A point whose run has no
/// room for its name ends in a hash instead; other names never change, for folders have them.
pub(super) fn run_name(point: &str, rest: &[String]) -> String {
    let joined = |point: &str| [&[point.to_string()], rest].concat().join(",");
    let name = joined(point);
    if name.len() <= MAX_NAME {
        return name;
    }
    let hash = &blake3::hash(point.as_bytes()).to_hex()[..16];
    // Axes and values have ASCII names.
    let kept: String = point.chars().take(SHORTENED - hash.len() - 1).collect();
    joined(&format!("{kept}-{hash}"))
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
    fn a_name_that_fits_stays_and_a_longer_one_ends_in_a_hash_of_all_of_it() {
        let rest = ["seed=1".to_string(), "fold=1of5".to_string()];
        let fits = "v".repeat(MAX_NAME - ",seed=1,fold=1of5".len());
        assert_eq!(run_name(&fits, &rest), format!("{fits},seed=1,fold=1of5"));
        let temporary = format!(".{}.yaml.1234567-0.part", run_name(&fits, &rest));
        assert_eq!(temporary.len(), 255);
        let [a, b] = ["x", "y"].map(|last| run_name(&format!("{fits}{last}"), &rest));
        assert!(a.starts_with("vvvv") && a.ends_with(",seed=1,fold=1of5"), "{a}");
        assert_eq!(a.len(), SHORTENED + ",seed=1,fold=1of5".len());
        assert_ne!(a, b);
        assert_eq!(run_name("lr=0.1,x=1", &[]), "lr=0.1,x=1");
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
