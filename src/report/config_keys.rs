//! The keys of configs: those that define a model, and those in which models differ.

use std::collections::HashSet;

use anyhow::Result;
use serde_yaml::Value;

use crate::config::{Config, DatasetName, plain_text};

/// Keys that do not affect what a model is.
const IGNORED: [&str; 15] = [
    "name",
    "seed",
    "device",
    "data.seed",
    "data.workers",
    "data.cache",
    "data.cache_dir",
    "train.threads",
    "train.checkpoint_activations",
    "train.checkpoint_minutes",
    "train.deterministic",
    "train.evaluate_test",
    "train.tensorboard",
    "train.explain_every",
    "train.errors_every",
];

/// Returns whether a key affects what a model is, or is the seed.
pub(crate) fn affects_results(key: &str) -> bool {
    key == "seed" || !IGNORED.contains(&key)
}

/// Returns the fold that a config holds out, if there is one.
pub(super) fn fold_of(config: &Config) -> Option<&str> {
    Some(config.data.split.as_str()).filter(|split| split.starts_with("fold_"))
}

/// Returns the keys and values in which runs of one model do not differ: all but the seed, the
/// fold, [`IGNORED`] keys and the folder of a published dataset.
pub(super) fn model_keys(config: &Config) -> Result<Vec<(String, String)>> {
    let own_images = matches!(config.data.dataset, DatasetName::Csv | DatasetName::Folder);
    let keys = config
        .flat_keys()?
        .into_iter()
        .filter(|(key, _)| !IGNORED.contains(&key.as_str()) && (own_images || key != "data.root"));
    let text = |(key, value): (String, Value)| match key.as_str() {
        "data.split" if fold_of(config).is_some() => (key, "folds".to_string()),
        _ => (key, plain_text(&value)),
    };
    Ok(keys.map(text).collect())
}

/// Returns the model keys in which configs differ, each with every config's value.
pub(super) fn differences(configs: &[&Config]) -> Result<Vec<(String, Vec<String>)>> {
    let all: Vec<Vec<(String, String)>> =
        configs.iter().map(|config| model_keys(config)).collect::<Result<_>>()?;
    let value = |keys: &[(String, String)], key: &str| {
        let found = keys.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let mut seen = HashSet::new();
    let keys = all.iter().flatten().filter(|(key, _)| seen.insert(key));
    let values = |key: &str| all.iter().map(|keys| value(keys, key)).collect::<Vec<_>>();
    let different = keys.map(|(key, _)| (key.clone(), values(key)));
    Ok(different.filter(|(_, values)| values.windows(2).any(|pair| pair[0] != pair[1])).collect())
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
