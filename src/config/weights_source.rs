//! `model.vit.weights` and `model.mamba.weights`: where a backbone's pretrained weights come from.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::names::is_plain;
use super::schema::VARIABLE;
use super::section::KeyType;

/// Where a backbone's pretrained weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightsSource {
    /// `pretrained`: those that are published for the preset.
    Pretrained,
    /// A file of the Hugging Face hub.
    Hub(HubFile),
    /// A file.
    File(PathBuf),
}

/// A file of the Hugging Face hub: `hf://ORG/NAME[@REVISION][/FILE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// The repository, `ORG/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// The path in the repository; `None` is its `model.safetensors`, or else its
    /// `pytorch_model.bin`.
    pub file: Option<String>,
}

const PRETRAINED: &str = "pretrained";
const SCHEME: &str = "hf://";
const FORM: &str = "hf://ORG/NAME[@REVISION][/FILE]";
/// The branch that every repository has.
const MAIN: &str = "main";

impl WeightsSource {
    /// Returns the path, if the weights are a file on this machine.
    pub(super) fn file_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::Pretrained | Self::Hub(_) => None,
        }
    }
}

impl From<PathBuf> for WeightsSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl fmt::Display for WeightsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pretrained => f.write_str(PRETRAINED),
            Self::Hub(file) => file.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for WeightsSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            PRETRAINED => Ok(Self::Pretrained),
            _ if text.starts_with(SCHEME) => text.parse().map(Self::Hub),
            _ if text.starts_with("https://") || text.starts_with("http://") => Err(format!(
                "must be a file, {PRETRAINED} or {FORM}, is {text}: download it and name the file, \
                 or write its name on the Hugging Face hub"
            )),
            _ => Ok(Self::File(text.into())),
        }
    }
}

// Not as text: a path need not be Unicode.
impl Serialize for WeightsSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => path.serialize(serializer),
            Self::Pretrained | Self::Hub(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for WeightsSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        match path.to_str() {
            Some(text) => text.parse().map_err(de::Error::custom),
            None => Ok(path.into()),
        }
    }
}

impl KeyType for WeightsSource {
    fn schema() -> serde_json::Value {
        let schemes = format!("^(?!https?://)(?!{SCHEME})|^{SCHEME}[^/]+/[^/]+|{VARIABLE}");
        serde_json::json!({"type": "string", "pattern": schemes})
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

impl FromStr for HubFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The parts become folders of the cache, and of an address.
        let plain = |part: &&str| part.starts_with(|c| c != '.') && part.chars().all(is_plain);
        let parse = || {
            let mut parts = text.strip_prefix(SCHEME)?.splitn(3, '/');
            let (organization, name) = (parts.next()?, parts.next()?);
            let (name, revision) = name.split_once('@').unwrap_or((name, MAIN));
            let file = parts.next();
            let file_parts = file.iter().flat_map(|file| file.split('/'));
            let all = [organization, name, revision].into_iter().chain(file_parts);
            all.clone().all(|part| plain(&part)).then(|| Self {
                repository: format!("{organization}/{name}"),
                revision: revision.into(),
                file: file.map(str::to_owned),
            })
        };
        parse().ok_or_else(|| format!("must be {FORM}, is {text}"))
    }
}

/// Returns which files in a folder are meant where the folder is given as a weights file.
pub(super) fn weights_in(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_weights = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| ["safetensors", "pth", "pt", "bin", "ckpt"].contains(&ending))
    };
    let mut files: Vec<PathBuf> = entries.filter(is_weights).collect();
    files.sort();
    let named: Vec<String> = files.iter().take(5).map(|file| file.display().to_string()).collect();
    let folder = folder.display();
    match named.len() {
        0 => format!("must be a file, {folder} is a folder without a weights file"),
        _ => format!("must be a file, {folder} is a folder: set it to {}", named.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Branch, Config};

    #[test]
    fn a_name_on_the_hub_parses_back_from_its_display() {
        for (text, repository, revision, file) in [
            ("hf://timm/vit.a_b", "timm/vit.a_b", "main", None),
            ("hf://timm/vit@v1.0", "timm/vit", "v1.0", None),
            ("hf://o/n/folder/w.pth", "o/n", "main", Some("folder/w.pth")),
            ("hf://o/n@abc/w.pth", "o/n", "abc", Some("w.pth")),
        ] {
            let parsed: HubFile = text.parse().unwrap();
            let expected = (repository, revision, file);
            assert_eq!((&*parsed.repository, &*parsed.revision, parsed.file.as_deref()), expected);
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn a_name_that_could_leave_the_cache_is_refused_with_the_form() {
        for text in [
            "hf://timm",
            "hf://timm/",
            "hf:///vit",
            "hf://../vit",
            "hf://timm/vit@",
            "hf://timm/vit@..",
            "hf://timm/vit/../../x",
            "hf://timm/vit//x",
            "hf://timm/vit/a b?c",
        ] {
            let error = text.parse::<WeightsSource>().unwrap_err();
            assert_eq!(error, format!("must be hf://ORG/NAME[@REVISION][/FILE], is {text}"));
        }
    }

    #[test]
    fn the_first_run_of_the_papers_config_needs_the_data_set_alone() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/scut_fbp5500_paper.yaml");
        let model = Config::load(&path, &[]).unwrap().model;
        for &branch in Branch::ALL {
            let source = model.backbone(branch).weights_source().unwrap();
            assert!(matches!(source, Some(WeightsSource::Hub(_))), "{branch}: {source:?}");
        }
        model.check_weights().unwrap();
    }

    #[test]
    fn weights_are_a_file_a_name_on_the_hub_or_pretrained_and_are_written_as_they_were() {
        for text in ["pretrained", "hf://timm/vit@v1/w.bin", "/w/vit.pth", "./pretrained"] {
            let yaml = format!("model: {{vit: {{weights: {text}}}}}");
            let config = Config::from_yaml(&yaml, "a.yaml", &[]).unwrap();
            let written = config.to_yaml().unwrap();
            assert_eq!(Config::from_yaml(&written, "b.yaml", &[]).unwrap(), config);
            assert_eq!(config.model.vit.weights.unwrap().to_string(), text);
        }
        let yaml = "model: {vit: {weights: 'https://example.com/w.pth'}}";
        let error = Config::from_yaml(yaml, "a.yaml", &[]).unwrap_err().to_string();
        assert!(error.starts_with("a.yaml:1: model.vit.weights must be a file"), "{error}");
        assert!(error.contains("download it and name the file"), "{error}");
    }
}
