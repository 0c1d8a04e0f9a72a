//! Grouping of runs by model: runs of one model have the same config but for seed and fold.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};

use super::config_keys::{fold_of, model_keys};
use super::sources::{FoundRun, SourceKind, folder_name};
use crate::config::Config;
use crate::data::Split;
use crate::eval::predictions::MAX_BYTES;
use crate::files::read_regular;
use crate::run::RunDir;

/// A model: one config, trained with one or more seeds and on one or more folds.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its name, which comes from its folder and differs from those of the other models.
    pub name: String,
    pub config: Config,
    pub runs: Vec<FoundRun>,
}

impl Model {
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

/// Groups runs that differ only in seed and fold, or in keys that do not affect the result: name,
/// device, paths, workers. A second run of the same seed and fold is skipped if it is a copy, and
/// starts another model otherwise. Runs without a config belong to no model. Returns the models in
/// the order of their first runs, and notes on skipped runs.
pub(super) fn group(runs: &[FoundRun], split: Split) -> Result<(Vec<Model>, Vec<String>)> {
    let (mut models, mut notes, mut all_keys) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        let Some(config) = &run.config else { continue };
        let keys = model_keys(config)?;
        let mut added = false;
        for (known, model) in all_keys.iter().zip(&mut models) {
            added = added || (*known == keys && add(model, run, split, &mut notes)?);
        }
        if !added {
            let (name, config, runs) = (own_name(run), config.clone(), vec![run.clone()]);
            models.push(Model { name, config, runs });
            all_keys.push(keys);
        }
    }
    set_unique_names(&mut models);
    Ok((models, notes))
}

/// Adds a run to a model with the same config; returns whether the model may have it: a run of the
/// same seed and fold must be a copy, or only one of the two may be finished.
fn add(model: &mut Model, run: &FoundRun, split: Split, notes: &mut Vec<String>) -> Result<bool> {
    match model.runs.iter_mut().find(|other| slot(other) == slot(run)) {
        None => model.runs.push(run.clone()),
        Some(other) if other.summary().is_none() && run.summary().is_some() => {
            *other = run.clone(); // started on one machine, finished on another
        }
        Some(other) if run.summary().is_none() || is_copy(other, run, split)? => {
            let (skipped, kept) = (run.folder.display(), other.folder.display());
            notes.push(match run.summary() {
                Some(_) => format!("{skipped} is skipped: it is a copy of {kept}"),
                None => {
                    format!("{skipped} is skipped: it is not finished, and {kept} is the same run")
                }
            });
        }
        Some(_) => return Ok(false),
    }
    Ok(true)
}

fn is_copy(a: &FoundRun, b: &FoundRun, split: Split) -> Result<bool> {
    let read = |run: &FoundRun| {
        let path = RunDir::predictions_in(&run.folder, split);
        if !path.exists() {
            return Ok(Vec::new());
        }
        read_regular(&path, MAX_BYTES).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(read(a)? == read(b)?)
}

fn slot(run: &FoundRun) -> (u64, Option<String>) {
    let fold = |config: &Config| (config.seed, fold_of(config).map(str::to_string));
    run.config.as_ref().map_or((0, None), fold)
}

/// Returns a run's point of a sweep, its cross-validation's folder, or its own folder.
fn own_name(run: &FoundRun) -> String {
    match run.kind {
        SourceKind::Run => run.name.clone(),
        SourceKind::Sweep => {
            let varied = |value: &&str| !value.starts_with("seed=") && !value.starts_with("fold=");
            match run.name.split(',').filter(varied).collect::<Vec<_>>()[..] {
                [] | ["base"] => folder_name(&run.source),
                ref point => point.join(","),
            }
        }
        SourceKind::Folder if run.name.starts_with("fold_") => folder_name(&run.source),
        SourceKind::Folder => run.name.clone(),
    }
}

/// Gives every model a unique name. Several runs of one config outside of a sweep are named after
/// the config, or by what their own names have in common. Equal names are prefixed with the runs'
/// source and, if that is not enough, numbered.
fn set_unique_names(models: &mut [Model]) {
    let config_names: Vec<Option<String>> = models.iter().map(config_name).collect();
    for (at, model) in models.iter_mut().enumerate() {
        let outside_sweep = model.runs.iter().all(|run| run.kind != SourceKind::Sweep);
        let several = model.runs.iter().any(|run| own_name(run) != model.name);
        if outside_sweep && several {
            let unique = config_names.iter().filter(|name| **name == config_names[at]).count() == 1;
            let config = config_names[at].clone();
            model.name = config.clone().filter(|_| unique).unwrap_or_else(|| {
                common_name(&model.runs).or(config).unwrap_or_else(|| model.config.name.clone())
            });
        }
    }
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    for (at, model) in models.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[at]).count() > 1 {
            let FoundRun { kind, source, .. } = &model.runs[0];
            let parent = source.parent().filter(|_| *kind == SourceKind::Run);
            let source = parent.unwrap_or(source);
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

/// Returns the name in the configs of a model's runs; `None` where they differ.
fn config_name(model: &Model) -> Option<String> {
    let mut names = model.runs.iter().filter_map(|run| Some(&run.config.as_ref()?.name));
    let first = names.next()?;
    names.all(|name| name == first).then(|| first.clone())
}

const SEPARATORS: [char; 4] = ['-', '_', ',', ' '];

/// Returns what the names of runs have in common: the name without the seed, or the first words;
/// `None` if there is nothing.
fn common_name(runs: &[FoundRun]) -> Option<String> {
    let names: Vec<String> = runs.iter().map(own_name).collect();
    let mut seedless = names.iter().zip(runs).map(|(name, run)| without_seed(name, slot(run).0));
    let first = seedless.next().filter(|name| !name.is_empty())?;
    if seedless.all(|name| name == first) {
        return Some(first);
    }
    let words: Vec<&str> = names[0].split_inclusive(SEPARATORS).collect();
    let shared = |count: &usize| {
        let start = words[..*count].concat();
        names.iter().all(|name| name.starts_with(&start))
    };
    let count = (1..words.len()).rev().find(shared)?;
    let name = words[..count].concat().trim_end_matches(SEPARATORS).to_string();
    Some(name).filter(|name| !name.is_empty())
}

/// Removes a run's seed from its name: `x-s1`, `x_seed1`, `x-seed_1` and `seed=1,x` become `x`.
fn without_seed<'a>(name: &'a str, seed: u64) -> String {
    let mut kept: Vec<&str> = Vec::new(); // words, each with the separator after it
    let word_of = |piece: &'a str| piece.trim_end_matches(SEPARATORS);
    for piece in name.split_inclusive(SEPARATORS) {
        let word = word_of(piece);
        let marked = ["seed=", "seed", "s"].iter().find_map(|front| word.strip_prefix(front));
        if marked.unwrap_or(word).parse() != Ok(seed) {
            kept.push(piece);
        } else if kept.last().is_some_and(|last| ["seed", "s"].contains(&word_of(last))) {
            kept.pop();
        }
    }
    kept.concat().trim_end_matches(SEPARATORS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_no_part_of_a_models_name() {
        for (name, seed, expected) in [
            ("gated-s1", 1, "gated"),
            ("gated_seed2", 2, "gated"),
            ("gated-seed_3", 3, "gated"),
            ("seed=4,lr=0.1", 4, "lr=0.1"),
            ("lr_0.1-s5-long", 5, "lr_0.1-long"),
            ("gated-s1", 2, "gated-s1"),
            ("s7", 7, ""),
            ("vit", 1, "vit"),
        ] {
            assert_eq!(without_seed(name, seed), expected);
        }
    }
}
