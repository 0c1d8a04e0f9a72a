//! The reference of all keys, with defaults and documentation, generated from the types.

use serde_yaml::Value;

use super::section::Key;
use super::{
    AffineConfig, AugmentConfig, BackboneConfig, BlurConfig, Config, CsvConfig, DataConfig,
    EarlyStoppingConfig, ErasingConfig, FreezeConfig, FusionConfig, HeadConfig,
    LabelDistributionConfig, ModelConfig, OptimizerConfig, PretrainConfig, ScheduleConfig,
    SyntheticConfig, TrainConfig, TrivialAugmentConfig,
};

/// A key that has a value (not a section).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReference {
    /// The dotted key, `train.optimizer.lr`.
    pub key: String,
    /// The default, as YAML on one line.
    pub default: String,
    /// What the key does, in a few sentences of Markdown.
    pub doc: String,
}

/// Returns every key in the order of the config.
pub fn reference() -> Vec<KeyReference> {
    let mut rows = Vec::new();
    // Only a path that is not Unicode cannot be serialized, and no default is one.
    let defaults = serde_yaml::to_value(Config::default()).unwrap_or_default();
    describe("", Config::KEYS, &defaults, &mut rows);
    rows
}

/// Returns the reference as Markdown, a heading and a table per section: the generated part of
/// docs/config.md.
pub fn reference_markdown() -> String {
    let mut sections: Vec<(String, String)> = Vec::new();
    for KeyReference { key, default, doc } in reference() {
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let at = sections.iter().position(|(name, _)| name == section).unwrap_or_else(|| {
            sections.push((section.to_owned(), String::new()));
            sections.len() - 1
        });
        sections[at].1.push_str(&format!("| `{key}` | `{default}` | {doc} |\n"));
    }
    let page = sections.iter().map(|(name, rows)| {
        let title = if name.is_empty() { "Top level".into() } else { format!("`{name}`") };
        format!("\n## {title}\n\n| key | default | |\n| --- | --- | --- |\n{rows}")
    });
    page.collect()
}

/// Returns the keys of the section whose struct is called `type_name`; `None` for a value.
pub(super) fn section_keys(type_name: &str) -> Option<&'static [Key]> {
    Some(match type_name {
        "DataConfig" => DataConfig::KEYS,
        "AugmentConfig" => AugmentConfig::KEYS,
        "AffineConfig" => AffineConfig::KEYS,
        "TrivialAugmentConfig" => TrivialAugmentConfig::KEYS,
        "BlurConfig" => BlurConfig::KEYS,
        "ErasingConfig" => ErasingConfig::KEYS,
        "CsvConfig" => CsvConfig::KEYS,
        "SyntheticConfig" => SyntheticConfig::KEYS,
        "ModelConfig" => ModelConfig::KEYS,
        "BackboneConfig" => BackboneConfig::KEYS,
        "FusionConfig" => FusionConfig::KEYS,
        "HeadConfig" => HeadConfig::KEYS,
        "TrainConfig" => TrainConfig::KEYS,
        "OptimizerConfig" => OptimizerConfig::KEYS,
        "FreezeConfig" => FreezeConfig::KEYS,
        "LabelDistributionConfig" => LabelDistributionConfig::KEYS,
        "EarlyStoppingConfig" => EarlyStoppingConfig::KEYS,
        "PretrainConfig" => PretrainConfig::KEYS,
        "ScheduleConfig" => ScheduleConfig::KEYS,
        _ => return None,
    })
}

fn describe(section: &str, keys: &[Key], defaults: &Value, rows: &mut Vec<KeyReference>) {
    for key in keys {
        let path = join(section, key.name);
        let default = defaults.get(key.name).unwrap_or(&Value::Null);
        match section_keys(key.type_name) {
            Some(keys) => describe(&path, keys, default, rows),
            None => rows.push(KeyReference {
                key: path,
                default: flow(default),
                doc: key.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "),
            }),
        }
    }
}

/// Returns `section.key`; the top has no name.
pub(super) fn join(section: &str, key: &str) -> String {
    match section {
        "" => key.to_owned(),
        section => format!("{section}.{key}"),
    }
}

/// Returns a value on one line, in YAML's flow style.
pub(super) fn flow(value: &Value) -> String {
    match value {
        Value::Sequence(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Mapping(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{}: {}", flow(key), flow(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        scalar => serde_yaml::to_string(scalar).unwrap_or_default().trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dotted keys of a serialized config.
    fn leaves(section: &str, value: &Value, found: &mut Vec<String>) {
        let Value::Mapping(map) = value else {
            found.push(section.to_owned());
            return;
        };
        for (key, value) in map {
            leaves(&join(section, key.as_str().unwrap()), value, found);
        }
    }

    #[test]
    fn every_key_of_a_written_config_is_in_the_reference() {
        let mut keys = Vec::new();
        leaves("", &serde_yaml::to_value(Config::default()).unwrap(), &mut keys);
        let described: Vec<String> = reference().into_iter().map(|row| row.key).collect();
        assert_eq!(described, keys);
    }

    #[test]
    fn a_row_has_the_key_its_default_and_its_documentation() {
        let table = reference_markdown();
        for row in [
            "| `train.epochs` | `30` | Passes over the training images. |",
            "| `data.augment.color_jitter` | `[0.2, 0.2, 0.2, 0.02]` | Largest",
            "| `model.mamba.name` | `vim_tiny_patch16_224` | Preset",
            "| `train.optimizer.backbone_lr` | `null` | Learning",
        ] {
            assert!(table.contains(row), "{row} is not in\n{table}");
        }
        assert!(reference().iter().all(|row| row.doc.ends_with('.')));
    }
}
