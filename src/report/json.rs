//! The report's numbers as JSON.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::assemble::{DetailedModel, RunReport};
use super::breakdown::Breakdown;
use super::sources::FoundRun;
use crate::data::Split;
use crate::eval::comparison::{Comparison, RankedModel};

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
        ReportJson {
            title: &self.title,
            split: self.split,
            leaderboards: (0..self.leaderboards.len())
                .map(|at| self.leaderboard_json(at))
                .collect(),
            runs: self.runs.iter().map(run).collect(),
            notes: &self.notes,
            files,
        }
    }

    fn leaderboard_json(&self, at: usize) -> LeaderboardJson<'_> {
        let board = &self.leaderboards[at];
        let model = |(place, model)| {
            let detail = self.details_of(at).find(|detail| detail.place == place);
            ModelJson {
                model,
                by_group: detail.map(|DetailedModel { groups, .. }| groups.as_slice()),
                by_score: detail.map(|detail| &detail.scores),
            }
        };
        LeaderboardJson {
            images: board.images,
            models: board.models.iter().enumerate().map(model).collect(),
            comparisons: &board.comparisons,
        }
    }
}
