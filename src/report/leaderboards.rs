//! The leaderboards of a report's models.

use anyhow::Result;

use super::models::Model;
use super::sources::FoundRun;
use crate::data::Split;
use crate::eval::comparison::{Candidate, EvaluatedRun, Leaderboards, rank};
use crate::run::evaluated_run;

/// Ranks every model that has a seed with all its runs finished. Models that were evaluated on the
/// same images with the same targets are compared.
pub fn leaderboards(models: &[Model], split: Split) -> Result<Leaderboards> {
    let mut notes = Vec::new();
    let mut candidates = Vec::new();
    for model in models {
        let mut seeds = Vec::new();
        for (seed, runs) in model.by_seed() {
            match evaluated_folds(model, &runs, split)? {
                Ok(runs) => seeds.push((seed, runs)),
                Err(why) => notes.push(format!("{}, seed {seed}, is skipped: {why}", model.name)),
            }
        }
        candidates.push(Candidate {
            name: &model.name,
            config: &model.config,
            folds: model.folds().len(),
            seeds,
        });
    }
    let mut ranked = rank(candidates)?;
    ranked.notes.splice(0..0, notes);
    Ok(ranked)
}

/// Reads the runs of one seed, or returns why the seed is skipped.
fn evaluated_folds(
    model: &Model,
    runs: &[&FoundRun],
    split: Split,
) -> Result<Result<Vec<EvaluatedRun>, &'static str>> {
    let mut runs = runs.to_vec();
    runs.sort_by_key(|run| run.config.as_ref().map(|config| config.data.split.clone()));
    let folds = model.folds().len();
    let summaries: Option<Vec<_>> = runs.iter().map(|run| run.summary()).collect();
    let Some(summaries) = summaries.filter(|_| folds == 0 || runs.len() == folds) else {
        return Ok(Err("not all of its runs are finished"));
    };
    if split == Split::Test && summaries.iter().any(|summary| summary.test.is_none()) {
        return Ok(Err("it has no test images; --split val ranks it"));
    }
    let runs = runs.iter().zip(summaries);
    Ok(Ok(runs
        .map(|(run, summary)| evaluated_run(&run.folder, summary, split))
        .collect::<Result<_>>()?))
}
