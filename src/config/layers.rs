//! A config file and the files that it is based on (`base: other.yaml`).

use std::fs;
use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::Config;
use super::document::Document;
use super::error::{ConfigError, Problem};
use super::section::KeyType;
use super::{paths, variables, yaml};

/// Maximum number of files in a chain of bases.
const MAX_FILES: usize = 32;

/// A config file and the files that it is based on, before overrides.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    /// The base of all first, the file itself last.
    pub(super) documents: Vec<Document>,
    /// The problems of their form.
    problems: Vec<Problem>,
}

impl Layers {
    /// Reads a file and those that it is based on. Returns an error if one cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&yaml::read(path)?, &path.display().to_string())
    }

    /// Parses the text of the file `origin`, which its bases are relative to. Returns an error if
    /// one of the files is not YAML, is a sweep, or is its own base.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let mut documents = vec![Document::file(text, origin)?];
        let mut files = vec![canonical(Path::new(origin))];
        loop {
            let document = &mut documents[0];
            refuse_sweep(document)?;
            let Some((path, place)) = base(document)? else { break };
            let file = canonical(&path);
            let wrong = |message: String| ConfigError::at(&place, "", format!("base: {message}"));
            if files.contains(&file) || files.len() == MAX_FILES {
                let chain = documents.iter().rev().map(|document| document.origin());
                let chain = chain.chain([origin]).collect::<Vec<_>>().join(" is based on ");
                let chain = match files.len() {
                    MAX_FILES => format!("more than {MAX_FILES} files are based on each other"),
                    _ => format!("the files are based on each other: {chain}"),
                };
                return Err(wrong(format!("{chain}; remove one base")));
            }
            let text = yaml::read(&path).map_err(|error| wrong(error.to_string()))?;
            documents.insert(0, Document::file(&text, &path.display().to_string())?);
            files.push(file);
        }
        let mut problems = Vec::new();
        for document in documents.iter_mut().rev() {
            document.prepare(Config::KEYS, &mut problems);
        }
        Ok(Self { documents, problems })
    }

    /// Checks the keys of an override and the types of its values, not whether these are in range.
    /// Returns an error with the problems.
    pub(crate) fn check_form(document: &Document) -> Result<(), ConfigError> {
        let mut document = document.clone();
        let mut problems = Vec::new();
        document.prepare(Config::KEYS, &mut problems);
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        let typed = Config::merge([&document].into_iter());
        typed.map(drop).map_err(|error| with_places(error, &[&document]))
    }

    /// Merges the overrides in order, and returns the config. Returns an error with all problems of
    /// form, or else with those of the values.
    pub(crate) fn resolve(&self, overrides: &[Document]) -> Result<Config, ConfigError> {
        self.resolve_prepared(&mut overrides.to_vec())
    }

    /// Resolves as [`resolve`](Self::resolve), and expands the variables of the overrides.
    pub(super) fn resolve_prepared(
        &self,
        overrides: &mut [Document],
    ) -> Result<Config, ConfigError> {
        let mut problems = self.problems.clone();
        for document in &mut *overrides {
            document.prepare(Config::KEYS, &mut problems);
        }
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        let documents: Vec<&Document> = self.documents.iter().chain(&*overrides).collect();
        let config = Config::merge(documents.iter().copied()).and_then(|mut config| {
            paths::expand(&mut config)?;
            config.validate()?;
            Ok(config)
        });
        config.map_err(|error| with_places(error, &documents))
    }
}

/// Adds the place where the key of each problem got its value: the last document that sets it,
/// else the last file.
fn with_places(error: ConfigError, documents: &[&Document]) -> ConfigError {
    let ConfigError::Invalid(mut problems) = error else {
        return error;
    };
    let file = documents.iter().rfind(|document| document.is_file());
    for problem in &mut problems {
        let path: Vec<&str> = problem.key.split('.').collect();
        let stated = documents.iter().rfind(|document| document.states(&problem.key));
        problem.place = stated.or(file).map(|document| document.place(&path));
    }
    ConfigError::Invalid(problems)
}

/// Removes the key `base` from a file, and returns the file that it names, and its place.
fn base(document: &mut Document) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let Some(value) = document.take("base") else {
        return Ok(None);
    };
    let place = document.place(&["base"]);
    let wrong = |message: String| ConfigError::at(&place, "", format!("base{message}"));
    let Value::String(text) = value else {
        return Err(wrong(" must be the path of a config, relative to this file".into()));
    };
    let expanded = variables::expand(&text, |name| std::env::var(name).ok());
    let expanded = expanded.map_err(|message| wrong(format!(": {message}")))?;
    let path = expanded.map_or(text, |expanded| expanded.text);
    let path = paths::expanded(Path::new(&path)).map_err(|reason| wrong(format!(": {reason}")))?;
    let folder = Path::new(document.origin()).parent().unwrap_or(Path::new(""));
    Ok(Some((folder.join(path), place)))
}

fn refuse_sweep(document: &Document) -> Result<(), ConfigError> {
    let has = |key: &str| document.value().get(key).is_some();
    if has("base") && ["axes", "set", "seeds", "folds", "search"].into_iter().any(has) {
        let message = "this is a sweep, not a config: run it with vmbeauty sweep";
        return Err(ConfigError::at(document.origin(), "", message));
    }
    Ok(())
}

/// Returns a path by which a file is recognized; of a file that is not there, the path as given.
fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Device;

    /// Writes files into a folder, and loads the first.
    fn load(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Config, String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let shown = format!("{}/", folder.path().display());
        let config = Config::load(&folder.path().join(files[0].0), &[]);
        (folder, config.map_err(|error| error.to_string().replace(&shown, "")))
    }

    #[test]
    fn a_chain_of_bases_is_merged_deeply_and_lists_replace() {
        let (_folder, config) = load(&[
            ("a/exp.yaml", "base: ../b.yaml\ntrain: {epochs: 3}\nmodel: {head: {hidden: [8]}}\n"),
            ("b.yaml", "base: c/d.yaml\ntrain: {epochs: 5, optimizer: {lr: 0.5}}\nname: b\n"),
            (
                "c/d.yaml",
                "name: d\nseed: 7\ntrain: {optimizer: {lr: 1.0, weight_decay: 0.25}}\n\
                          model: {head: {hidden: [4, 4], dropout: 0.5}}\n",
            ),
        ]);
        let config = config.unwrap();
        assert_eq!((config.name.as_str(), config.seed, config.train.epochs), ("b", 7, 3));
        assert_eq!(config.train.optimizer.lr, 0.5);
        assert_eq!(config.train.optimizer.weight_decay, 0.25);
        assert_eq!((config.model.head.hidden, config.model.head.dropout), (vec![8], 0.5));
    }

    #[test]
    fn a_problem_names_the_file_and_the_line_where_the_value_is_stated() {
        for (file, base, expected) in [
            ("base: b.yaml\n", "name: b\ntrain:\n  epochs: 0\n", "b.yaml:3: train.epochs must be"),
            ("base: b.yaml\ntrain:\n  epochs: 0\n", "train: {epochs: 3}", "a.yaml:3: train.epochs"),
            ("base: b.yaml\n", "train:\n  epoch: 1\n", "b.yaml:2: unknown key train.epoch; did"),
            ("name: a\nbase: b.yaml\n", "seed: [\n", "b.yaml:"),
            ("name: a\nbase: c.yaml\n", "", "a.yaml:2: base: cannot read the config c.yaml: there"),
            ("base: 3\n", "", "a.yaml:1: base must be the path of a config"),
            ("base: b.yaml\n", "base: a.yaml\n", "b.yaml:1: base: the files are based on each"),
            ("base: a.yaml\n", "", "a.yaml:1: base: the files are based on each other: a.yaml is"),
            ("base: b.yaml\n", "base: x.yaml\naxes: {seed: [1]}\n", "b.yaml: this is a sweep"),
            ("\nbase: ${env:VMB_NOT_SET}\n", "", "a.yaml:2: base: the environment variable VMB_"),
        ] {
            let (_folder, config) = load(&[("a.yaml", file), ("b.yaml", base)]);
            let error = config.unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_variable_of_the_environment_is_what_its_key_needs() {
        let home = std::env::var("HOME").unwrap();
        let text = "name: ${env:VMB_NOT_SET:7}\nseed: ${env:VMB_NOT_SET:7}\n\
                    data: {root: '${env:HOME}/faces', verify: '${env:VMB_NOT_SET:false}'}\n\
                    device: ${env:VMB_NOT_SET:cuda:1}\n\
                    model: {head: {hidden: ['${env:VMB_NOT_SET:8}', 4]}, \
                    vit: {weights: 'a/$${env:X}', depth: '${env:VMB_NOT_SET:null}'}}\n\
                    train: {optimizer: {lr: '${env:VMB_NOT_SET:1e-3}'}, \
                    freeze: {vit: '${env:VMB_NOT_SET:3}', mamba: '${env:VMB_NOT_SET:all}'}}\n";
        let (_folder, config) = load(&[("a.yaml", text)]);
        let config = config.unwrap();
        assert_eq!((config.name.as_str(), config.seed), ("7", 7));
        assert_eq!(config.data.root, Path::new(&home).join("faces"));
        assert!(!config.data.verify);
        assert_eq!((config.device, config.train.optimizer.lr), (Device::Cuda(1), 1e-3));
        assert_eq!(config.model.head.hidden, [8, 4]);
        assert_eq!(config.model.vit.depth, None);
        assert_eq!(config.model.vit.weights, Some(std::path::PathBuf::from("a/${env:X}").into()));
        let written = config.to_yaml().unwrap();
        assert_eq!(Config::from_yaml(&written, "a.yaml", &[]).unwrap(), config);
        let set = ["name=${env:VMB_NOT_SET:set}".to_owned()];
        assert_eq!(Config::from_yaml("", "a.yaml", &set).unwrap().name, "set");
    }

    #[test]
    fn a_variable_that_is_not_set_is_an_error_with_key_file_and_remedy() {
        let (_folder, config) =
            load(&[("a.yaml", "data:\n  root: ${env:VMB_NOT_SET}/x\nnane: a\n")]);
        assert_eq!(
            config.unwrap_err(),
            "a.yaml:3: unknown key nane; did you mean name?\n\
             a.yaml:2: data.root: the environment variable VMB_NOT_SET is not set: set it (export \
             VMB_NOT_SET=...), or give a default, ${env:VMB_NOT_SET:default}"
        );
        let set = ["train.epochs=${env:VMB_NOT_SET:many}".to_owned()];
        let error = Config::from_yaml("", "a.yaml", &set).unwrap_err().to_string();
        assert!(error.ends_with("train.epochs must be a whole number, is \"many\""), "{error}");
    }

    #[test]
    fn the_source_of_a_value_is_its_file_and_line_set_environment_or_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = "base: b.yaml\ntrain:\n  batch_size: ${env:VMB_NOT_SET:4}\n";
        fs::write(path("a.yaml"), text).unwrap();
        fs::write(path("b.yaml"), "seed: 1\ntrain: {epochs: 3, batch_size: 8}\n").unwrap();
        let set = ["train.optimizer={lr: 1}".to_owned()];
        let (config, sources) = Config::load_with_sources(&path("a.yaml"), &set).unwrap();
        for (key, ending) in [
            ("seed", "/b.yaml:1"),
            ("train.epochs", "/b.yaml:2"),
            ("train.batch_size", "/a.yaml:3, environment VMB_NOT_SET"),
            ("train.optimizer.lr", "--set"),
            ("train.optimizer.eps", "default"),
        ] {
            assert!(sources.of(key).ends_with(ending), "{key}: {}", sources.of(key));
        }
        let yaml = config.to_yaml_with(&sources).unwrap();
        assert!(yaml.contains("\n    lr: 1.0  # --set\n"), "{yaml}");
        assert!(yaml.contains("    hidden: [128]  # default\n"), "{yaml}");
        assert_eq!(Config::from_yaml(&yaml, "shown", &[]).unwrap(), config);
    }
}
