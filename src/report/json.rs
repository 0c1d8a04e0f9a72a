//! The report's numbers as JSON.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::assemble::RunReport;
use super::breakdown::Breakdown;
use super::sources::FoundRun;
use crate::data::Split;
use crate::eval::baselines::Baselines;
use crate::eval::comparison::{Comparison, Leaderboard, RankedModel};

/// What `vmbeauty report --json` prints.
#[derive(Debug, Serialize)]
pub struct ReportJson<'a> {
    title: &'a str,
    split: Split,
    leaderboards: Vec<LeaderboardJson<'a>>,
    runs: Vec<RunJson<'a>>,
    notes: &'a [String],
    files: &'a [PathBuf],
}

#[derive(Debug, Serialize)]
struct LeaderboardJson<'a> {
    images: usize,
    models: Vec<ModelJson<'a>>,
    baselines: Option<Baselines>,
    /// The best baseline, if no model reaches its PC.
    winning_baseline: Option<&'static str>,
    comparisons: &'a [Comparison],
}

#[derive(Debug, Serialize)]
struct ModelJson<'a> {
    #[serde(flatten)]
    model: &'a RankedModel,
    by_group: Option<&'a [Breakdown]>,
    by_score: Option<&'a Breakdown>,
}

#[derive(Debug, Serialize)]
struct RunJson<'a> {
    run: &'a Path,
    model: Option<&'a str>,
    status: &'static str,
    epochs: usize,
}

impl RunReport {
    /// Returns the numbers, and the paths of the report's files.
    pub fn to_json<'a>(&'a self, files: &'a [PathBuf]) -> ReportJson<'a> {
        let run = |run: &'a FoundRun| RunJson {
            run: &run.folder,
            model: self.model_of(run).map(|model| model.name.as_str()),
            status: run.status.name(),
            epochs: run.epochs.len(),
        };
        let model = |at: usize, place: usize| {
            let detail = self.details_of(at).find(|detail| detail.place == place);
            ModelJson {
                model: &self.leaderboards[at].models[place],
                by_group: detail.map(|detail| detail.groups.as_slice()),
                by_score: detail.map(|detail| &detail.scores),
            }
        };
        let board = |(at, board): (usize, &'a Leaderboard)| LeaderboardJson {
            images: board.images,
            models: (0..board.models.len()).map(|place| model(at, place)).collect(),
            baselines: board.baselines(),
            winning_baseline: board.winning_baseline().map(|(name, _)| name),
            comparisons: &board.comparisons,
        };
        let leaderboards = self.leaderboards.iter().enumerate().map(board).collect();
        let runs = self.runs.iter().map(run).collect();
        let Self { title, split, notes, .. } = self;
        ReportJson { title, split: *split, leaderboards, runs, notes, files }
    }
}
