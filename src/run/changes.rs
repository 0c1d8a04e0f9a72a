//! What a resumed run may change in its config.

use std::fmt;

use serde_yaml::Value;

use super::kind::RunKind;
use crate::config::{Config, ConfigError, yaml_value};

/// Keys that do not change the weights: where things are, and how fast they are computed.
const FREE: &[&str] = &[
    "name",
    "device",
    "data.root",
    "data.csv.image_dir",
    "data.verify",
    "data.workers",
    "data.cache",
    "data.cache_dir",
    "train.on_nan",
    "train.checkpoint_activations",
    "train.checkpoint_minutes",
    "train.tensorboard",
    "train.explain_every",
    "train.errors_every",
    "train.threads",
];
/// Keys that are read at the start only: once there is a checkpoint, the run keeps its own.
const STARTING: &[&str] = &[
    "model.weights",
    "model.vit.weights",
    "model.vit.weights_ema",
    "model.vit.strict",
    "model.mamba.weights",
    "model.mamba.weights_ema",
    "model.mamba.strict",
];
/// The key that may grow.
const EPOCHS: &str = "train.epochs";

/// A key that differs from that of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    key: String,
    old: Value,
    new: Value,
}

impl Change {
    /// Returns the dotted key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, was {}", self.key, yaml_value(&self.new), yaml_value(&self.old))
    }
}

/// The changes of a resumed run's config.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) allowed: Vec<Change>,
    pub(super) refused: Vec<Change>,
}

impl Changes {
    /// Compares the config of a run with another one. The keys of the starting weights are ignored
    /// once the run has `started` to train.
    pub(super) fn between(
        old: &Config,
        new: &Config,
        kind: RunKind,
        started: bool,
    ) -> Result<Self, ConfigError> {
        let changed = old.differences(new)?.into_iter();
        let changed = changed.map(|(key, [old, new])| Change { key, old, new });
        let is_starting = |key: &str| STARTING.contains(&key);
        let (allowed, refused) = changed
            .filter(|change| !(started && is_starting(&change.key)))
            .partition(|change| FREE.contains(&change.key.as_str()) || change.is_unused(kind));
        Ok(Self { allowed, refused })
    }

    /// Allows a run to be lengthened, and returns the number of epochs that it had.
    pub(super) fn allow_more_epochs(&mut self) -> Option<usize> {
        let grows =
            |change: &Change| change.key == EPOCHS && change.new.as_u64() > change.old.as_u64();
        let index = self.refused.iter().position(grows)?;
        let change = self.refused.remove(index);
        let epochs = change.old.as_u64()? as usize;
        self.allowed.push(change);
        Some(epochs)
    }

    /// Returns the changes that are refused, in a sentence.
    pub(super) fn refusal(&self) -> String {
        let each = self.refused.iter().map(Change::to_string);
        let shorter = self.refused.iter().any(|change| change.key == EPOCHS);
        let hint = if shorter { " (train.epochs may only grow, with train --resume)" } else { "" };
        each.collect::<Vec<_>>().join("; ") + hint
    }
}

impl Change {
    /// Returns whether a kind of run does not read the key.
    fn is_unused(&self, kind: RunKind) -> bool {
        kind == RunKind::Train && self.key.starts_with("pretrain.")
    }
}

/// Keys below `data.` that decide how an image is read, not which images a split has.
const READING: &[&str] = &[
    "data.votes",
    "data.verify",
    "data.image_size",
    "data.resize",
    "data.short_side",
    "data.background",
    "data.interpolation",
    "data.workers",
    "data.cache",
    "data.cache_dir",
    "data.test_time_flip",
];

/// Returns the keys that decide which images and ratings a run's splits have, where two runs differ
/// in them: the data set, its splits, and the seed that samples them.
pub fn data_differences(run: &Config, other: &Config) -> Result<Vec<Change>, ConfigError> {
    let mut run = run.clone();
    // What samples the splits is the data's seed.
    run.data.seed = Some(run.data.seed.unwrap_or(run.seed));
    let mut other = other.clone();
    other.data.seed = Some(other.data.seed.unwrap_or(other.seed));
    let decides = |key: &str| {
        let read = ["data.normalize", "data.augment."].iter().any(|start| key.starts_with(start));
        key.starts_with("data.") && !read && !READING.contains(&key)
    };
    let differences = run.differences(&other)?.into_iter();
    let changes = differences.map(|(key, [old, new])| Change { key, old, new });
    Ok(changes.filter(|change| decides(&change.key)).collect())
}

/// Returns the config that a resumed run has: the new one, with the starting weights of the old.
pub(super) fn resumed(old: &Config, new: &Config) -> Config {
    let mut config = new.clone();
    config.model.weights.clone_from(&old.model.weights);
    for (new, old) in
        [(&mut config.model.vit, &old.model.vit), (&mut config.model.mamba, &old.model.mamba)]
    {
        new.weights.clone_from(&old.weights);
        (new.weights_ema, new.strict) = (old.weights_ema, old.strict);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reference;

    fn config(set: &[&str]) -> Config {
        let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
        Config::from_yaml("", "a.yaml", &set).unwrap()
    }

    #[test]
    fn what_cannot_change_the_weights_may_change_and_all_else_is_refused_by_key() {
        let old = config(&["data={dataset: csv, root: a}"]);
        let new = config(&[
            "data={dataset: csv, root: b, workers: 3, cache: memory}",
            "train={threads: 2, explain_every: 3, batch_size: 8}",
            "device=cpu",
            "pretrain.epochs=3",
            "model.vit.weights=x.pth",
            "data.normalize={mean: [0, 0, 0], std: [1, 1, 1]}",
        ]);
        let changes = Changes::between(&old, &new, RunKind::Train, true).unwrap();
        let keys: Vec<&str> = changes.allowed.iter().map(|change| change.key.as_str()).collect();
        let expected = [
            "device",
            "data.root",
            "data.workers",
            "data.cache",
            "train.explain_every",
            "train.threads",
            "pretrain.epochs",
        ];
        assert_eq!(keys, expected);
        let refusal = changes.refusal();
        assert!(refusal.contains("train.batch_size 8, was 16"), "{refusal}");
        assert!(refusal.contains("data.normalize.mean [0.0, 0.0, 0.0], was null"), "{refusal}");
        assert_eq!(resumed(&old, &new).model.vit.weights, None);
        let started = Changes::between(&old, &new, RunKind::Train, false).unwrap();
        assert!(started.refusal().contains("model.vit.weights x.pth, was null"));
        assert!(Changes::between(&old, &old, RunKind::Train, true).unwrap().allowed.is_empty());
    }

    #[test]
    fn runs_differ_in_their_data_where_a_key_decides_which_images_a_split_has() {
        let keys = |a: &[&str], b: &[&str]| {
            let changes = data_differences(&config(a), &config(b)).unwrap();
            changes.iter().map(Change::to_string).collect::<Vec<_>>()
        };
        let read = ["data.image_size=64", "data.resize=pad", "data.augment.rotation=9", "name=b"];
        assert!(keys(&[], &read).is_empty());
        assert_eq!(keys(&["seed=1"], &["seed=2"]), ["data.seed 2, was 1"]);
        assert!(keys(&["seed=1"], &["seed=2", "data.seed=1"]).is_empty());
        let folds = keys(&["data.split=fold_1_of_5"], &["data.split=fold_2_of_5"]);
        assert_eq!(folds, ["data.split fold_2_of_5, was fold_1_of_5"]);
        assert_eq!(keys(&[], &["data.synthetic.test=9"]), ["data.synthetic.test 9, was 400"]);
    }

    #[test]
    fn epochs_may_grow_and_not_shrink() {
        let of = |epochs: usize| config(&[&format!("train.epochs={epochs}")]);
        let mut longer = Changes::between(&of(3), &of(5), RunKind::Train, true).unwrap();
        assert_eq!(
            longer.refusal(),
            "train.epochs 5, was 3 (train.epochs may only grow, with train --resume)"
        );
        assert_eq!((longer.allow_more_epochs(), longer.refusal().as_str()), (Some(3), ""));
        let mut shorter = Changes::between(&of(5), &of(3), RunKind::Train, true).unwrap();
        assert_eq!(shorter.allow_more_epochs(), None);
        assert!(shorter.refusal().starts_with("train.epochs 3, was 5 (train.epochs may only grow"));
    }

    #[test]
    fn every_key_that_may_change_exists() {
        let keys: Vec<String> = reference().into_iter().map(|row| row.key).collect();
        for key in FREE.iter().chain(STARTING).chain(READING).chain([&EPOCHS]) {
            assert!(keys.iter().any(|known| known == key), "{key}");
        }
    }
}
