//! A report's content, before it is written in any format.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::breakdown::{Breakdown, by_group, by_score};
use super::compare::{TwoModels, compare};
use super::explained::{self, ExplainedImage};
use super::models::{Model, group};
use super::search::{SearchOverview, searches};
use super::sources::{FoundRun, find, folder_name};
use crate::data::Split;
use crate::eval::comparison::{
    Candidate, EvaluatedRun, Leaderboard, Leaderboards, RankedModel, rank,
};
use crate::files::without_own_folders;
use crate::run::explanations::MapMetrics;
use crate::run::{RunDir, default_split, evaluated_run};

/// Number of the best models of a leaderboard that are shown in detail: there are as many colors.
pub(super) const MAX_DETAILED: usize = 8;

/// What to report on.
#[derive(Debug, Clone, Default)]
pub struct ReportOptions {
    /// Run directories, and folders of sweeps and cross-validations.
    pub folders: Vec<PathBuf>,
    /// The split of the images; `None` for test, or val if a run has no test images.
    pub split: Option<Split>,
    /// The split whose PC ranks the models; `None` for validation.
    pub rank_by: Option<Split>,
    /// The names of two models to compare in depth.
    pub compare: Option<[String; 2]>,
    /// Folders that `vmbeauty explain` wrote.
    pub explain: Vec<PathBuf>,
    /// The title; `None` for the folders' names.
    pub title: Option<String>,
}

#[derive(Debug)]
pub struct DetailedModel {
    pub board: usize,
    pub place: usize,
    /// By group, and by sex and ethnicity if the groups are named for them.
    pub groups: Vec<Breakdown>,
    pub scores: Breakdown,
}

/// A report on runs.
#[derive(Debug)]
pub struct RunReport {
    /// The page's heading.
    pub title: String,
    /// The split that models are evaluated on.
    pub split: Split,
    /// All runs found, finished or not.
    pub runs: Vec<FoundRun>,
    /// Runs that differ only in seed and fold, together.
    pub models: Vec<Model>,
    /// One leaderboard for each set of evaluated images.
    pub leaderboards: Vec<Leaderboard>,
    /// Breakdowns of the models, leaderboard by leaderboard.
    pub details: Vec<DetailedModel>,
    /// Two models compared in depth.
    pub compared: Option<TwoModels>,
    /// The searches of sweeps.
    pub searches: Vec<SearchOverview>,
    /// The metrics of attribution maps, by model.
    pub maps: Vec<(String, MapMetrics)>,
    /// Explained images with their figures.
    pub explained: Vec<ExplainedImage>,
    /// Notes on what was skipped or not compared.
    pub notes: Vec<String>,
}

impl RunReport {
    /// Reads the runs and compares their models.
    pub fn new(options: &ReportOptions) -> Result<Self> {
        let runs = find(&options.folders)?;
        let finished = runs.iter().filter_map(FoundRun::summary);
        let split = options.split.unwrap_or_else(|| default_split(finished));
        let (models, mut notes) = group(&runs, split)?;
        let rank_by = options.rank_by.unwrap_or(Split::Val);
        ensure!(
            rank_by == split || rank_by == Split::Val,
            "--rank-by {rank_by} needs --split {rank_by}: the models are compared on {split} images"
        );
        let ranked = leaderboards(&models, split, rank_by)?;
        notes.extend(ranked.notes);
        let leaderboards = ranked.boards;
        let compared = options.compare.as_ref().map(|names| compare(&leaderboards, names));
        let compared = compared.transpose()?;
        let mut details = Vec::new();
        for (index, board) in leaderboards.iter().enumerate() {
            for (place, ranked) in board.models.iter().take(MAX_DETAILED).enumerate() {
                let (groups, scores) =
                    (by_group(&ranked.predictions)?, by_score(&ranked.predictions)?);
                details.push(DetailedModel { board: index, place, groups, scores });
            }
            if board.models.len() > MAX_DETAILED {
                notes.push(format!(
                    "learning curves, branch weights and breakdowns of errors are shown for the \
                     best {MAX_DETAILED} of {} models",
                    board.models.len()
                ));
            }
        }
        let searches = searches(&runs)?;
        let mut maps = Vec::new();
        for model in &models {
            for run in model.runs.iter().filter(|run| run.summary().is_some()) {
                let measures = MapMetrics::load(&run.folder, split)?;
                maps.extend(measures.map(|measures| (run_title(model, run), measures)));
            }
        }
        let all: Vec<&RankedModel> = leaderboards.iter().flat_map(|board| &board.models).collect();
        let (explained, skipped) =
            explained::explained_images(&models, &all, &options.explain, split)?;
        if skipped > 0 {
            notes.push(format!(
                "{skipped} explained images are skipped: they may not belong to the {split} split"
            ));
        }
        let notes = notes.iter().map(|note| without_own_folders(note)).collect();
        let title = options.title.clone().unwrap_or_else(|| title(&options.folders));
        Ok(Self {
            title,
            split,
            runs,
            models,
            leaderboards,
            details,
            compared,
            searches,
            maps,
            explained,
            notes,
        })
    }

    /// Returns the place on a leaderboard that the details belong to.
    pub fn ranked(&self, detail: &DetailedModel) -> &RankedModel {
        &self.leaderboards[detail.board].models[detail.place]
    }

    /// Returns the details of a leaderboard's models, the best first.
    pub fn details_of(&self, board: usize) -> impl Iterator<Item = &DetailedModel> {
        self.details.iter().filter(move |detail| detail.board == board)
    }

    /// Returns the model that a run trained, if the run has finished.
    pub fn model_of(&self, run: &FoundRun) -> Option<&Model> {
        let trained = |model: &&Model| model.runs.iter().any(|own| own.folder == run.folder);
        self.models.iter().find(trained)
    }
}

fn run_title(model: &Model, run: &FoundRun) -> String {
    match model.runs.len() {
        1 => model.name.clone(),
        _ => format!("{} ({})", model.name, run.name),
    }
}

fn title(folders: &[PathBuf]) -> String {
    let names: Vec<String> = folders.iter().map(|folder| folder_name(folder)).collect();
    match &names[..] {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        names => names.join(", "),
    }
}

/// Ranks every model that has a seed with all its runs finished.
fn leaderboards(models: &[Model], split: Split, rank_by: Split) -> Result<Leaderboards> {
    let mut notes = Vec::new();
    let mut candidates = Vec::new();
    let given_up = |model: &Model| model.runs.iter().all(|run| run.status.is_paused());
    let stopped = models.iter().filter(|model| given_up(model)).count();
    if stopped > 0 {
        notes.push(format!("{stopped} models are not ranked: the search stopped their runs"));
    }
    for model in models {
        let mut seeds = Vec::new();
        for (seed, runs) in model.by_seed().into_iter().filter(|_| !given_up(model)) {
            match evaluated_folds(model, &runs, split)? {
                Ok(runs) => seeds.push((seed, runs)),
                Err(why) => notes.push(format!("{}, seed {seed}, is skipped: {why}", model.name)),
            }
        }
        let (name, config, folds) = (&model.name, &model.config, model.folds().len());
        candidates.push(Candidate { name, config, folds, seeds });
    }
    let mut ranked = rank(candidates, split, rank_by)?;
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
    // `vmbeauty evaluate` writes the predictions of test images that training did not read.
    let predicted = |run: &FoundRun| RunDir::predictions_in(&run.folder, split).exists();
    let mut tested = runs.iter().zip(&summaries);
    if split == Split::Test && tested.any(|(run, done)| done.test.is_none() && !predicted(run)) {
        return Ok(Err("it has no test images; --split val ranks it"));
    }
    let runs = runs.iter().zip(summaries);
    Ok(Ok(runs
        .map(|(run, summary)| evaluated_run(&run.folder, summary, split))
        .collect::<Result<_>>()?))
}
