//! The differences between models' configs.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_yaml::Value;

use crate::config::Config;

/// Keys that do not affect what a model is.
const IGNORED: [&str; 10] = [
    "name",
    "seed",
    "device",
    "data.seed",
    "data.workers",
    "data.cache",
    "data.cache_dir",
    "train.threads",
    "train.checkpoint_minutes",
    "train.tensorboard",
];

/// Returns the dotted keys in which configs differ, each with every config's value. Name, seed,
/// fold and keys such as `device` are ignored.
///
/// # Errors
/// Returns an error if a config cannot be written as YAML.
pub fn differences(configs: &[&Config]) -> Result<Vec<(String, Vec<String>)>> {
    let text = |(key, value)| (key, plain_text(&value));
    let flat: Vec<Vec<(String, String)>> = configs
        .iter()
        .map(|config| Ok(flat_keys(config)?.into_iter().map(text).collect()))
        .collect::<Result<_>>()?;
    let mut seen = BTreeSet::new();
    let keys = flat.iter().flatten().map(|(key, _)| key);
    let keys = keys.filter(|key| seen.insert(key.as_str()));
    let mut different = Vec::new();
    for key in keys {
        if IGNORED.contains(&key.as_str()) {
            continue;
        }
        let values: Vec<String> = flat
            .iter()
            .map(|config| {
                let found = config.iter().find(|(known, _)| known == key);
                let value = found.map(|(_, value)| value.as_str()).unwrap_or_default();
                if key == "data.split" && value.starts_with("fold_") {
                    "folds".to_string()
                } else {
                    value.to_string()
                }
            })
            .collect();
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            different.push((key.clone(), values));
        }
    }
    Ok(different)
}

/// Returns the dotted keys of a config with their values, in order.
///
/// # Errors
/// Returns an error if the config cannot be written as YAML.
pub(crate) fn flat_keys(config: &Config) -> Result<Vec<(String, Value)>> {
    let value = serde_yaml::to_value(config).context("cannot write a config as YAML")?;
    let mut keys = Vec::new();
    flatten(value, "", &mut keys);
    Ok(keys)
}

fn flatten(value: Value, key: &str, keys: &mut Vec<(String, Value)>) {
    let Value::Mapping(mapping) = value else {
        keys.push((key.to_string(), value));
        return;
    };
    for (name, value) in mapping {
        let name = plain_text(&name);
        let key = if key.is_empty() { name } else { format!("{key}.{name}") };
        flatten(value, &key, keys);
    }
}

/// Returns a string as it is, and any other value as JSON.
pub(crate) fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_else(|_| "?".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_with_different_values_are_listed() {
        let mut other = Config { seed: 7, ..Config::default() };
        other.train.epochs += 1;
        other.data.split = "fold_2_of_5".to_string();
        let base = Config {
            data: crate::config::DataConfig {
                split: "fold_1_of_5".to_string(),
                ..Config::default().data
            },
            ..Config::default()
        };
        let found = differences(&[&base, &other]).unwrap();
        let epochs = [base.train.epochs, other.train.epochs].map(|n| n.to_string());
        assert_eq!(found, [("train.epochs".to_string(), epochs.to_vec())]);
    }
}
