//! The keys in which the configs of runs differ.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde_yaml::Value;

use crate::config::plain_text;
use crate::report::affects_results;
use crate::run::Overview;
use crate::sweep::axis_names;

/// Returns the keys in which the configs of runs differ, by folder, under their shortest unique
/// names and with each run's value. Keys that do not affect results are not compared.
pub(super) fn differences<'a>(
    runs: impl Iterator<Item = (&'a PathBuf, &'a Overview)>,
) -> HashMap<PathBuf, Vec<(String, String)>> {
    let runs: Vec<_> = runs.filter(|(_, run)| !run.config.is_empty()).collect();
    let configs: Vec<_> = runs.iter().map(|(_, run)| run.config.as_slice()).collect();
    let folders = runs.iter().map(|(folder, _)| folder.to_path_buf());
    folders.zip(differing(&configs)).collect()
}

/// Returns the keys in which configs differ, for each config with its values.
fn differing(configs: &[&[(String, Value)]]) -> Vec<Vec<(String, String)>> {
    // In how many configs a key has the value of the first one that has it.
    let mut seen: BTreeMap<&str, (&Value, usize)> = BTreeMap::new();
    for (key, value) in configs.iter().copied().flatten() {
        let (first, count) = seen.entry(key).or_insert((value, 0));
        *count += usize::from(*first == value);
    }
    let differs = |key: &str| seen.get(key).is_some_and(|(_, count)| *count < configs.len());
    let keys: Vec<&str> =
        seen.keys().copied().filter(|key| affects_results(key) && differs(key)).collect();
    let names: HashMap<&str, String> = keys.iter().copied().zip(axis_names(&keys)).collect();
    let named = |config: &&[(String, Value)]| {
        let stated =
            config.iter().filter_map(|(key, value)| Some((names.get(key.as_str())?, value)));
        stated.map(|(name, value)| (name.clone(), plain_text(value))).collect()
    };
    configs.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Vec<(String, Value)> {
        let keys: BTreeMap<String, Value> = serde_yaml::from_str(text).unwrap();
        keys.into_iter().collect()
    }

    #[test]
    fn only_keys_that_differ_and_affect_results_are_named_as_shortly_as_is_unique() {
        let configs = [
            "{name: a, seed: 1, model.vit.depth: 2, model.mamba.depth: 2, train.optimizer.lr: 0.1}",
            "{name: b, seed: 1, model.vit.depth: 3, model.mamba.depth: 2, train.optimizer.lr: 0.1}",
            "{name: c, seed: 2, model.vit.depth: 3, model.mamba.depth: 4, data.x: [1]}",
        ]
        .map(config);
        let found = differing(&configs.each_ref().map(Vec::as_slice));
        let text = |run: usize| {
            let pairs = found[run].iter().map(|(name, value)| format!("{name}={value}"));
            pairs.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(0), "mamba.depth=2 vit.depth=2 seed=1 lr=0.1");
        assert_eq!(text(2), "x=[1] mamba.depth=4 vit.depth=3 seed=2");
        assert!(differing(&configs.each_ref().map(Vec::as_slice)[..1]).concat().is_empty());
    }
}
