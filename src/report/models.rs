//! Which runs are of one model: the same config but for seed and fold.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::sources::{FoundRun, Kind};
use crate::config::{Config, DatasetName};
use crate::data::Split;
use crate::train::RunDir;

/// A model: what was trained with one config, with several seeds and on several folds.
#[derive(Debug, Clone)]
pub struct Model {
    /// What tells it from the others, in the words of its folder.
    pub name: String,
    /// The config of its first run.
    pub config: Config,
    /// Its runs.
    pub runs: Vec<FoundRun>,
}

impl Model {
    /// The runs by seed.
    pub fn by_seed(&self) -> BTreeMap<u64, Vec<&FoundRun>> {
        let mut by_seed: BTreeMap<u64, Vec<&FoundRun>> = BTreeMap::new();
        for run in &self.runs {
            by_seed.entry(slot(run).0).or_default().push(run);
        }
        by_seed
    }

    /// The folds that any of its runs is of; empty where it has none.
    pub fn folds(&self) -> HashSet<String> {
        self.runs.iter().filter_map(|run| slot(run).1).collect()
    }
}

/// Where models come from.
#[derive(Debug, Clone, Default)]
pub struct Grouped {
    /// In the order in which they were found, with different names.
    pub models: Vec<Model>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Puts runs together that differ in nothing but seed and fold, or in what has no part in the
/// result: name, device, paths, workers. A second run of the same seed and fold is left out where
/// it is a copy, and makes a model of its own where it is not. Runs without a config are of no
/// model.
///
/// # Errors
/// A config that cannot be written as YAML, or a file that cannot be read.
pub fn group(runs: &[FoundRun], split: Split) -> Result<Grouped> {
    let mut grouped = Grouped::default();
    let mut keys: Vec<(String, usize)> = Vec::new();
    for run in runs {
        let Some(config) = &run.config else { continue };
        let key = key(config)?;
        let mut twin = 0;
        loop {
            let place = keys.iter().position(|known| *known == (key.clone(), twin));
            let Some(place) = place else {
                keys.push((key, twin));
                grouped.models.push(Model {
                    name: own_name(run),
                    config: config.clone(),
                    runs: vec![run.clone()],
                });
                break;
            };
            let runs = &mut grouped.models[place].runs;
            match runs.iter_mut().find(|other| slot(other) == slot(run)) {
                None => runs.push(run.clone()),
                Some(other) if other.outcome().is_none() && run.outcome().is_some() => {
                    *other = run.clone(); // what one machine began, another brought to its end
                }
                Some(other) if run.outcome().is_none() || is_copy(other, run, split)? => {
                    let (left_out, kept) = (run.folder.display(), other.folder.display());
                    grouped.notes.push(match run.outcome() {
                        Some(_) => format!("{left_out} is a copy of {kept} and counts once"),
                        None => format!(
                            "{left_out} is not done; {kept} is the same run and stands for it"
                        ),
                    });
                }
                Some(_) => {
                    twin += 1;
                    continue;
                }
            }
            break;
        }
    }
    name(&mut grouped.models);
    Ok(grouped)
}

/// Whether two runs have the same weights' predictions.
fn is_copy(a: &FoundRun, b: &FoundRun, split: Split) -> Result<bool> {
    let read = |run: &FoundRun| {
        let path = RunDir::predictions_in(&run.folder, split);
        if path.exists() {
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        } else {
            Ok(Vec::new())
        }
    };
    Ok(read(a)? == read(b)?)
}

/// Seed and fold.
fn slot(run: &FoundRun) -> (u64, Option<String>) {
    let Some(config) = &run.config else {
        return (0, None);
    };
    (config.seed, fold_of(config).map(str::to_string))
}

/// The fold that a config trains on, if it is one.
pub fn fold_of(config: &Config) -> Option<&str> {
    Some(config.data.split.as_str()).filter(|split| split.starts_with("fold_"))
}

/// The config without what a model's runs may differ in.
fn key(config: &Config) -> Result<String> {
    let mut plain = Config { name: String::new(), seed: 0, ..config.clone() };
    let default = Config::default();
    plain.device = default.device;
    if fold_of(config).is_some() {
        plain.data.split = "folds".to_string();
    }
    plain.data.seed = None;
    plain.data.workers = 0;
    plain.data.cache = default.data.cache;
    plain.data.cache_dir = None;
    if plain.data.dataset != DatasetName::Csv && plain.data.dataset != DatasetName::Folder {
        plain.data.root = default.data.root;
    }
    plain.train.threads = default.train.threads;
    plain.train.checkpoint_minutes = default.train.checkpoint_minutes;
    plain.train.tensorboard = default.train.tensorboard;
    Ok(plain.to_yaml()?)
}

/// What a run's place says of its model: in a sweep its point; in a cross-validation the folder's
/// name; else its own folder's name.
fn own_name(run: &FoundRun) -> String {
    match run.kind {
        Kind::Run => run.name.clone(),
        Kind::Sweep => {
            let parts = run.name.split(',');
            let point: Vec<&str> = parts
                .filter(|part| !part.starts_with("seed=") && !part.starts_with("fold="))
                .collect();
            match point.as_slice() {
                [] | ["base"] => source_name(&run.source),
                parts => parts.join(","),
            }
        }
        Kind::Folder if run.name.starts_with("fold_") => source_name(&run.source),
        Kind::Folder => run.name.clone(),
    }
}

fn source_name(source: &Path) -> String {
    let real = fs::canonicalize(source).unwrap_or_else(|_| source.to_path_buf());
    let name = real.file_name().unwrap_or(real.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Gives every model a name that no other has: several standing runs of one config by the config's
/// name, those of one name by their source in front, and by a number where that does not tell them
/// apart.
fn name(models: &mut [Model]) {
    for model in models.iter_mut() {
        let standing = model.runs.iter().all(|run| run.kind != Kind::Sweep);
        let several = model.runs.iter().any(|run| own_name(run) != model.name);
        if standing && several {
            model.name = model.config.name.clone();
        }
    }
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    for (at, model) in models.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[at]).count() > 1 {
            let source = &model.runs[0].source;
            let source = match model.runs[0].kind {
                Kind::Run => source.parent().unwrap_or(source),
                Kind::Sweep | Kind::Folder => source,
            };
            let front = source_name(source);
            if !front.is_empty() && front != names[at] {
                model.name = format!("{front}: {}", names[at]);
            }
        }
    }
    let mut taken = HashSet::new();
    for model in models.iter_mut() {
        let (name, mut number) = (model.name.clone(), 2);
        while !taken.insert(model.name.clone()) {
            model.name = format!("{name} ({number})");
            number += 1;
        }
    }
}
