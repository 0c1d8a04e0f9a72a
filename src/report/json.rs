//! The report's numbers as JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::assemble::RunReport;
use super::breakdown::Breakdown;
use super::compare::TwoModels;
use super::search::SearchOverview;
use super::selection::selection;
use super::sources::FoundRun;
use crate::data::Split;
use crate::eval::baselines::Baselines;
use crate::eval::comparison::{Comparison, Leaderboard, RankedModel};
use crate::eval::metrics::Metric;

/// What `vmbeauty report --json` prints.
#[derive(Debug, Serialize)]
pub struct ReportJson<'a> {
    title: &'a str,
    split: Split,
    leaderboards: Vec<LeaderboardJson<'a>>,
    compared: Option<&'a TwoModels>,
    searches: &'a [SearchOverview],
    runs: Vec<RunJson<'a>>,
    notes: &'a [String],
    files: &'a [PathBuf],
}

#[derive(Debug, Serialize)]
struct LeaderboardJson<'a> {
    images: usize,
    /// The split whose PC ranks the models.
    ranked_by: Split,
    models: Vec<ModelJson<'a>>,
    /// The best model on the evaluated images, by metric.
    winners: BTreeMap<&'static str, &'a str>,
    /// What was selected, and how, in sentences.
    selection: Vec<String>,
    baselines: Option<Baselines>,
    /// The best baseline, if its PC is higher than that of the model that is ranked first.
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
            ranked_by: board.ranked_by,
            winners: winners(board),
            selection: selection(self, board),
            models: (0..board.models.len()).map(|place| model(at, place)).collect(),
            baselines: board.baselines(),
            winning_baseline: board.winning_baseline(Metric::Pc).map(|(name, _)| name),
            comparisons: &board.comparisons,
        };
        let leaderboards = self.leaderboards.iter().enumerate().map(board).collect();
        let runs = self.runs.iter().map(run).collect();
        let Self { title, split, notes, .. } = self;
        let compared = self.compared.as_ref();
        let (split, searches) = (*split, &self.searches);
        ReportJson { title, split, leaderboards, compared, searches, runs, notes, files }
    }
}

fn winners(board: &Leaderboard) -> BTreeMap<&'static str, &str> {
    let winner = |metric: Metric| {
        let place = board.winner(metric)?;
        Some((metric.name(), board.models[place].name.as_str()))
    };
    Metric::ALL.into_iter().filter_map(winner).collect()
}
