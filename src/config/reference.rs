//! The reference of all keys, with defaults and documentation, generated from the types.

use indexmap::IndexMap;
use serde::Serialize;
use serde_yaml::Value;

use super::Config;
use super::names::nearest;
use super::schema::type_name;
use super::section::{Key, KeyType, join};
use super::write::flow;

/// A key that has a value (not a section).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyReference {
    /// The dotted key, `train.optimizer.lr`.
    pub key: String,
    /// The type in plain words, `whole number | null`.
    pub kind: String,
    /// The default, as YAML on one line.
    pub default: String,
    /// What the key does, in a few sentences of Markdown.
    pub doc: String,
}

/// Returns every key in the order of the config.
pub fn reference() -> Vec<KeyReference> {
    reference_of::<Config>()
}

/// Returns every key of a file, in its order.
pub(crate) fn reference_of<T: KeyType + Default + Serialize>() -> Vec<KeyReference> {
    let mut rows = Vec::new();
    // Only a path that is not Unicode cannot be serialized, and no default is one.
    let defaults = serde_yaml::to_value(T::default()).unwrap_or_default();
    describe("", T::KEYS, &defaults, &mut rows);
    rows
}

/// Returns the key that is most like a misspelled one, if one is like it.
pub fn nearest_key(name: &str) -> Option<String> {
    let rows = reference();
    let whole = nearest(name, rows.iter().map(|row| row.key.as_str()));
    let last = |row: &KeyReference| row.key.rsplit('.').next().map(str::to_owned);
    let lasts: Vec<String> = rows.iter().filter_map(last).collect();
    let by_last = || {
        let found = nearest(name, lasts.iter().map(String::as_str))?;
        lasts.iter().position(|last| last == found).map(|at| rows[at].key.as_str())
    };
    whole.or_else(by_last).map(str::to_owned)
}

/// Returns the reference as Markdown, a heading and a table per section: the generated part of
/// docs/config.md.
pub fn reference_markdown() -> String {
    let mut sections: IndexMap<String, String> = IndexMap::new();
    for KeyReference { key, default, doc, .. } in reference() {
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let rows = sections.entry(section.to_owned()).or_default();
        rows.push_str(&format!("| `{key}` | `{default}` | {doc} |\n"));
    }
    let page = sections.iter().map(|(name, rows)| {
        let title = if name.is_empty() { "Top level".into() } else { format!("`{name}`") };
        format!("\n## {title}\n\n| key | default | |\n| --- | --- | --- |\n{rows}")
    });
    page.collect()
}

fn describe(section: &str, keys: &[Key], defaults: &Value, rows: &mut Vec<KeyReference>) {
    for key in keys {
        let path = join(section, key.name);
        let default = defaults.get(key.name).unwrap_or(&Value::Null);
        if key.keys.is_empty() {
            let kind = type_name(&(key.schema)());
            let (default, doc) = (flow(default), key.documentation());
            rows.push(KeyReference { key: path, kind, default, doc });
        } else {
            describe(&path, key.keys, default, rows);
        }
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
