//! Reads a [`Config`] from a YAML file and `--set`, and writes it back.
//!
//! Every document (a file, the files that it is based on, an override) is checked for unknown keys
//! separately, so that all of them are reported, with their lines. Then all documents are merged
//! into the defaults and deserialized.

use std::path::Path;

use serde_yaml::Value;

use super::Config;
use super::document::Document;
use super::error::ConfigError;
use super::layers::Layers;
use super::section::{KeyType, join};
use super::{write, wrong_type, yaml};

impl Config {
    /// Reads a config file and those that it is based on, and merges `overrides` into it in order,
    /// each a `key.path=value` whose value is YAML; a map adds to the section it names. Returns an
    /// error if a file cannot be read, or if a key or a value is wrong.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        Layers::read(path)?.resolve(&set(overrides)?)
    }

    /// Reads a config as [`load`](Self::load), and where its values come from.
    pub fn load_with_sources(
        path: &Path,
        overrides: &[String],
    ) -> Result<(Self, Sources), ConfigError> {
        let (layers, mut overrides) = (Layers::read(path)?, set(overrides)?);
        let config = layers.resolve_prepared(&mut overrides)?;
        let mut documents = layers.documents;
        documents.append(&mut overrides);
        Ok((config, Sources(documents)))
    }

    /// Reads a config from a text, which errors call `origin`; otherwise as [`load`](Self::load).
    ///
    /// Returns an error if the text is not YAML, or if a key or a value is wrong.
    ///
    /// # Examples
    /// ```
    /// use vm_beautynet::config::Config;
    ///
    /// let set = ["seed=1".to_string()];
    /// let config = Config::from_yaml("train: {epochs: 5}", "mine.yaml", &set)?;
    /// assert_eq!((config.train.epochs, config.seed), (5, 1));
    ///
    /// let error = Config::from_yaml("train: {epoch: 5}", "mine.yaml", &[]).unwrap_err();
    /// assert!(error.to_string().contains("epochs"), "the nearest known key");
    /// # Ok::<(), vm_beautynet::config::ConfigError>(())
    /// ```
    pub fn from_yaml(text: &str, origin: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        Layers::parse(text, origin)?.resolve(&set(overrides)?)
    }

    /// Merges documents into the defaults, the later ones over the earlier, without checks of the
    /// values. `documents` have known keys only.
    pub(super) fn merge<'a>(
        documents: impl Iterator<Item = &'a Document>,
    ) -> Result<Self, ConfigError> {
        let mut merged = serde_yaml::to_value(Self::default())
            .map_err(|error| ConfigError::Unwritable(error.to_string()))?;
        documents.for_each(|document| document.merge_into(&mut merged, Self::KEYS));
        serde_path_to_error::deserialize(merged).map_err(|error| {
            let (key, message) = wrong_type::describe(&error);
            ConfigError::single(key, message)
        })
    }

    /// Returns the config as YAML, defaults included; [`load`](Self::load) reads an equal one back,
    /// and so does a reader of YAML 1.1, such as PyYAML. Returns an error if a path in it is not
    /// Unicode.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        Ok(write::block(&self.to_stated_value()?))
    }

    /// Returns the dotted keys with their values, in order. Returns an error if a path is not
    /// Unicode.
    pub(crate) fn flat_keys(&self) -> Result<Vec<(String, Value)>, ConfigError> {
        let mut keys = Vec::new();
        flatten(self.to_value()?, "", &mut keys);
        Ok(keys)
    }

    /// Returns the dotted keys in which two configs differ, with both values; null for a key of a
    /// map that one of them does not have, as in `data.normalize`. Returns an error if a path is
    /// not Unicode.
    pub(crate) fn differences(
        &self,
        other: &Self,
    ) -> Result<Vec<(String, [Value; 2])>, ConfigError> {
        if self == other {
            return Ok(Vec::new());
        }
        let (a, b) = (self.flat_keys()?, other.flat_keys()?);
        let of = |keys: &[(String, Value)], key: &str| {
            keys.iter().find(|(known, _)| known == key).map_or(Value::Null, |(_, v)| v.clone())
        };
        let only_b = b.iter().filter(|(key, _)| a.iter().all(|(known, _)| known != key));
        let keys = a.iter().chain(only_b).map(|(key, _)| (key.clone(), [of(&a, key), of(&b, key)]));
        Ok(keys.filter(|(_, [a, b])| a != b).collect())
    }

    /// Returns [`to_yaml`](Self::to_yaml) with a comment after each value: the file and the line
    /// that it comes from, `--set`, a variable of the environment, or the default.
    pub fn to_yaml_with(&self, sources: &Sources) -> Result<String, ConfigError> {
        Ok(write::annotated(&self.to_stated_value()?, &|key| Some(sources.of(key))))
    }

    fn to_value(&self) -> Result<Value, ConfigError> {
        // Through text: a value would have a float32 as the nearest float64, 0.485 with noise.
        let text = serde_yaml::to_string(self);
        let value: serde_yaml::Result<Value> = text.and_then(|text| serde_yaml::from_str(&text));
        value.map_err(|error| ConfigError::Unwritable(error.to_string()))
    }

    /// Returns the values as a config states them, without variables of the environment.
    fn to_stated_value(&self) -> Result<Value, ConfigError> {
        let mut value = self.to_value()?;
        write::escape(&mut value);
        Ok(value)
    }
}

/// Returns the dotted keys that a config file states, with their values. They are not checked, and
/// files that it is based on are not read: it is for the resolved config of a run. Returns an error
/// if the file cannot be read.
pub fn stated_keys(path: &Path) -> Result<Vec<(String, Value)>, ConfigError> {
    let value = yaml::parse(&yaml::read(path)?, &path.display().to_string())?;
    let mut keys = Vec::new();
    flatten(value, "", &mut keys);
    Ok(keys)
}

/// Adds the dotted keys of a `section` with their values, in order.
fn flatten(value: Value, section: &str, keys: &mut Vec<(String, Value)>) {
    let Value::Mapping(map) = value else {
        return keys.push((section.to_owned(), value));
    };
    for (name, value) in map {
        flatten(value, &join(section, name.as_str().unwrap_or_default()), keys);
    }
}

/// Where the values of a config come from.
#[derive(Debug)]
pub struct Sources(Vec<Document>);

impl Sources {
    /// Returns where the value of a dotted key comes from: `a.yaml:3`, `--set` or `default`, with
    /// the variables of the environment in it.
    pub fn of(&self, key: &str) -> String {
        let stated = self.0.iter().rfind(|document| document.states(key));
        stated.map_or("default".to_owned(), |document| document.source(key))
    }
}

/// Parses the values of `--set`.
fn set(overrides: &[String]) -> Result<Vec<Document>, ConfigError> {
    overrides.iter().map(|text| Document::set(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DatasetName, Device, FusionStrategy, Normalize};

    fn load(text: &str, overrides: &[&str]) -> Result<Config, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Config::from_yaml(text, "a.yaml", &overrides)
    }

    #[track_caller]
    fn assert_error(text: &str, overrides: &[&str], expected: &str) {
        match load(text, overrides) {
            Ok(_) => panic!("{text:?} {overrides:?} was accepted"),
            Err(error) => assert_eq!(error.to_string(), expected),
        }
    }

    #[test]
    fn an_empty_file_is_the_default_config() {
        for text in ["", "# nothing\n", "---\n", "{}"] {
            assert_eq!(load(text, &[]).unwrap(), Config::default());
        }
    }

    #[test]
    fn a_config_changes_only_what_it_states() {
        let text = "data: {augment: {rotation: 3}}\nmodel:\n  mamba: {drop_path: 0.2}\n";
        let mut expected = Config::default();
        expected.data.augment.rotation = 3.0;
        expected.model.mamba.drop_path = 0.2;
        assert_eq!(load(text, &[]).unwrap(), expected);
    }

    #[test]
    fn a_written_config_loads_back_equal() {
        let mut config = Config {
            name: "007".into(),
            seed: u64::MAX,
            device: Device::Cuda(1),
            ..Config::default()
        };
        config.data.dataset = DatasetName::Csv;
        config.data.root = "my: images #1/ä.csv".into();
        config.data.normalize = Some(Normalize {
            mean: [0.485, 0.456, 0.406],
            std: [0.1, 1.0 / 3.0, f32::MIN_POSITIVE],
        });
        config.data.augment.random_resized_crop = None;
        config.model.fusion.strategy = FusionStrategy::MambaOnly;
        config.model.vit.weights = Some(std::path::PathBuf::from("null").into());
        config.model.head.hidden = vec![];
        config.train.optimizer.lr = 1e-4 / 3.0;
        config.train.schedule.min_lr = 1e-300;
        config.train.clip_grad_norm = None;
        let text = config.to_yaml().unwrap();
        assert_eq!(load(&text, &[]).unwrap(), config);
    }

    #[test]
    fn numbers_may_have_exponents_or_no_fraction() {
        let text = "train: {optimizer: {lr: 1e-3, eps: 1.0e-8, weight_decay: 0}}";
        let optimizer = load(text, &[]).unwrap().train.optimizer;
        assert_eq!((optimizer.lr, optimizer.eps), (1e-3, 1e-8));
        assert_eq!(optimizer.weight_decay, 0.0);
    }

    #[test]
    fn a_wrong_type_is_reported_in_plain_words() {
        for (text, expected) in [
            ("train: {epochs: many}", "train.epochs must be a whole number, is \"many\""),
            ("train: {epochs: 3.5}", "train.epochs must be a whole number, is 3.5"),
            ("train: {epochs: -1}", "train.epochs must not be negative, is -1"),
            ("train: {epochs: }", "train.epochs must be a whole number, is empty"),
            (
                "model: {head: {hidden: [1, x]}}",
                "model.head.hidden[1] must be a whole number, is \"x\"",
            ),
            ("data: {verify: 3}", "data.verify must be true or false, is 3"),
            ("name: 3", "name must be a text (in quotes if it looks like something else), is 3"),
            (
                "data: {augment: {color_jitter: [1, 2]}}",
                "data.augment.color_jitter must be a list of 4, is a list of 2",
            ),
            (
                "data: {normalize: imagenet}",
                "data.normalize must be {mean: [red, green, blue], std: [red, green, blue]}, is \
                 \"imagenet\"",
            ),
            ("data: {normalize: {mean: [0, 0, 0]}}", "data.normalize.std is missing"),
            (
                "data: {background: [300, 0, 0]}",
                "data.background[0] must be a whole number from 0 to 255, is 300",
            ),
            (
                "train: {precision: 32}",
                "train.precision must be one of float32, bf16, fp16, auto, is 32; did you mean \
                 float32?",
            ),
            (
                "data: {root: }",
                "data.root must be a text (in quotes if it looks like something else), is empty",
            ),
        ] {
            assert_error(text, &[], &format!("a.yaml:1: {expected}"));
        }
    }

    #[test]
    fn an_unknown_name_is_reported_with_the_nearest() {
        for (text, key, hint) in [
            (
                "model: {fusion: {strategy: gatd}}",
                "model.fusion.strategy must be one of concat, ",
                ", is gatd; did you mean gated?",
            ),
            (
                "model: {fusion: {strategy: cross-attention}}",
                "model.fusion.strategy must be one of concat, ",
                ", is cross-attention; did you mean cross_attention?",
            ),
            (
                "data: {dataset: mebauty}",
                "data.dataset must be one of synthetic, mebeauty, scut_fbp5500, csv, ",
                "is mebauty; did you mean mebeauty?",
            ),
            (
                "train: {loss: rmse}",
                "train.loss must be one of mse, huber, l1, pearson, label_distribution, ",
                "is rmse; did you mean mse?",
            ),
            (
                "model: {vit: {name: vit_tiny_patch16}}",
                "model.vit.name: unknown backbone vit_tiny_patch16; ",
                "did you mean vit_tiny_patch16_224?",
            ),
            ("device: gpu", "device must be auto, cpu, ", "cuda or cuda:N, is gpu"),
        ] {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("a.yaml:1: {key}")), "{error}");
            assert!(error.ends_with(hint), "{error}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_reported_with_the_place_that_set_it() {
        let text = "name: a\ntrain:\n  epochs: 0\n";
        assert_error(text, &[], "a.yaml:3: train.epochs must be at least 1, is 0");
        assert_error(
            "train: {epochs: 9}",
            &["train.epochs=5", "train.epochs=0"],
            "--set train.epochs=0: train.epochs must be at least 1, is 0",
        );
        assert_error(
            text,
            &["train={epochs: 0, batch_size: 2}"],
            "--set train={epochs: 0, batch_size: 2}: train.epochs must be at least 1, is 0",
        );
    }

    #[test]
    fn overrides_set_scalars_lists_and_keys_of_sections() {
        let overrides = [
            "train.epochs=3",
            "model.head.hidden=[64, 32]",
            "data.augment={rotation: 0, random_resized_crop: null}",
            "device=cuda:1",
            "data.root=../shared/a b=c",
            "model.vit.weights=null",
        ];
        let text = "data: {augment: {horizontal_flip: 0.1}}";
        let config = load(text, &overrides).unwrap();
        assert_eq!(config.train.epochs, 3);
        assert_eq!(config.model.head.hidden, [64, 32]);
        assert_eq!(config.data.augment.rotation, 0.0);
        assert_eq!(config.data.augment.random_resized_crop, None);
        assert_eq!(config.data.augment.horizontal_flip, 0.1);
        assert_eq!(config.device, Device::Cuda(1));
        assert_eq!(config.data.root, Path::new("../shared/a b=c"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.yaml");
        let error = Config::load(&missing, &[]).unwrap_err().to_string();
        assert!(error.ends_with("none.yaml: there is no such file"), "{error}");
        let error = Config::load(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("is a folder, expected a YAML file"), "{error}");
    }

    #[test]
    fn the_configs_that_come_with_the_project_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let mut read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let config = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(path.file_stem().unwrap(), config.name.as_str());
            read += 1;
        }
        assert!(read >= 3);
    }
}
