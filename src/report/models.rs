//! Grouping of runs by model: runs of one model have the same config but for seed and fold.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use anyhow::{Context, Result};

use super::sources::{FoundRun, SourceKind, folder_name};
use crate::config::{Config, DatasetName};
use crate::data::Split;
use crate::run::RunDir;

/// A model: one config, trained with one or more seeds and on one or more folds.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its name, which comes from its folder and differs from those of the other models.
    pub name: String,
    /// The config of its first run.
    pub config: Config,
    /// Its runs.
    pub runs: Vec<FoundRun>,
}

impl Model {
    /// Returns the runs by seed.
    pub fn by_seed(&self) -> BTreeMap<u64, Vec<&FoundRun>> {
        let mut by_seed: BTreeMap<u64, Vec<&FoundRun>> = BTreeMap::new();
        for run in &self.runs {
            by_seed.entry(slot(run).0).or_default().push(run);
        }
        by_seed
    }

    /// Returns the folds of the runs; empty if they are not folds.
    pub fn folds(&self) -> HashSet<String> {
        self.runs.iter().filter_map(|run| slot(run).1).collect()
    }
}

/// The models of a set of runs.
#[derive(Debug, Clone, Default)]
pub struct Grouped {
    /// The models in the order of their first runs.
    pub models: Vec<Model>,
    /// Notes on runs that are skipped.
    pub notes: Vec<String>,
}

/// Groups runs that differ only in seed and fold, or in keys that do not affect the result: name,
/// device, paths, workers. A second run of the same seed and fold is skipped if it is a copy, and
/// starts another model otherwise. Runs without a config belong to no model.
///
/// # Errors
/// Returns an error if a config cannot be written as YAML, or if a file cannot be read.
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
                Some(other) if other.summary().is_none() && run.summary().is_some() => {
                    *other = run.clone(); // started on one machine, finished on another
                }
                Some(other) if run.summary().is_none() || is_copy(other, run, split)? => {
                    let (skipped, kept) = (run.folder.display(), other.folder.display());
                    grouped.notes.push(match run.summary() {
                        Some(_) => format!("{skipped} is skipped: it is a copy of {kept}"),
                        None => format!(
                            "{skipped} is skipped: it is not finished, and {kept} is the same run"
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

/// Returns whether two runs have the same predictions.
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

/// Returns the seed and the fold of a run.
fn slot(run: &FoundRun) -> (u64, Option<String>) {
    let Some(config) = &run.config else {
        return (0, None);
    };
    (config.seed, fold_of(config).map(str::to_string))
}

/// Returns the fold that a config holds out, if there is one.
pub fn fold_of(config: &Config) -> Option<&str> {
    Some(config.data.split.as_str()).filter(|split| split.starts_with("fold_"))
}

/// Returns the config as YAML, without the keys in which a model's runs may differ.
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

/// Returns the model's name according to the run's folder: the point of a sweep, the folder of a
/// cross-validation, or the run's own folder.
fn own_name(run: &FoundRun) -> String {
    match run.kind {
        SourceKind::Run => run.name.clone(),
        SourceKind::Sweep => {
            let values = run.name.split(',');
            let point: Vec<&str> = values
                .filter(|value| !value.starts_with("seed=") && !value.starts_with("fold="))
                .collect();
            match point.as_slice() {
                [] | ["base"] => folder_name(&run.source),
                point => point.join(","),
            }
        }
        SourceKind::Folder if run.name.starts_with("fold_") => folder_name(&run.source),
        SourceKind::Folder => run.name.clone(),
    }
}

/// Gives every model a unique name. Several runs of one config outside of a sweep are named after
/// the config. Equal names are prefixed with the runs' source and, if that is not enough, numbered.
fn name(models: &mut [Model]) {
    for model in models.iter_mut() {
        let outside_sweep = model.runs.iter().all(|run| run.kind != SourceKind::Sweep);
        let several = model.runs.iter().any(|run| own_name(run) != model.name);
        if outside_sweep && several {
            model.name = model.config.name.clone();
        }
    }
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    for (at, model) in models.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[at]).count() > 1 {
            let source = &model.runs[0].source;
            let source = match model.runs[0].kind {
                SourceKind::Run => source.parent().unwrap_or(source),
                SourceKind::Sweep | SourceKind::Folder => source,
            };
            let front = folder_name(source);
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
