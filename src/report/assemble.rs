//! A report before it takes a form.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::breakdown::{Breakdown, Estimate, by_group, by_score};
use super::explained::{self, Measures};
use super::leaderboards::leaderboards;
use super::models::{Model, group};
use super::sources::{FoundRun, find};
use super::tables::{
    Table, comparisons, config_table, differences_to_best, group_tables, leaderboard, maps_table,
    range_table, runs_table,
};
use crate::data::Split;
use crate::eval::comparison::{Leaderboard, RankedModel};
use crate::sweep::default_split;

/// So many models of a board are looked at closely, the best ones; it is also the number of colors
/// that can be told apart.
pub const DETAILED: usize = 8;
/// Longer tables of pairs stand in the CSV file only.
const MOST_PAIRS: usize = 120;

/// What to report on.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Run directories, sweeps' and cross-validations' folders.
    pub folders: Vec<PathBuf>,
    /// Which images the models are judged on; `None` for the usual ones.
    pub split: Option<Split>,
    /// Folders of explained images.
    pub explain: Vec<PathBuf>,
    /// What it is called; `None` for the folders' names.
    pub title: Option<String>,
}

/// A model looked at closely.
#[derive(Debug)]
pub struct Detail {
    /// Its board.
    pub board: usize,
    /// Its place there.
    pub place: usize,
    /// By group, and by sex and ethnicity where groups say them.
    pub groups: Vec<Breakdown>,
    /// By range of the score.
    pub scores: Breakdown,
}

/// Everything that is reported.
#[derive(Debug)]
pub struct Report {
    /// What it is called.
    pub title: String,
    /// Which images the models are judged on.
    pub split: Split,
    /// Every run that was found.
    pub runs: Vec<FoundRun>,
    /// The models that they are of.
    pub models: Vec<Model>,
    /// Models judged on the same images.
    pub boards: Vec<Leaderboard>,
    /// The best of each board.
    pub details: Vec<Detail>,
    /// What `vmbeauty explain --evaluate` measured, by model.
    pub maps: Vec<(String, Measures)>,
    /// Figures of explained images.
    pub figures: Vec<explained::Figure>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

impl Report {
    /// Reads the runs, and measures.
    ///
    /// # Errors
    /// A folder without runs, or a file of a run that cannot be read; each names it. A run that is
    /// not done is none: it is listed.
    pub fn new(request: &Request) -> Result<Self> {
        let runs = find(&request.folders)?;
        let split = request
            .split
            .unwrap_or_else(|| default_split(runs.iter().filter_map(FoundRun::outcome)));
        let grouped = group(&runs, split)?;
        let (models, mut notes) = (grouped.models, grouped.notes);
        let ranked = leaderboards(&models, split)?;
        notes.extend(ranked.notes);
        let boards = ranked.boards;
        let mut details = Vec::new();
        for (index, board) in boards.iter().enumerate() {
            for (place, judged) in board.models.iter().take(DETAILED).enumerate() {
                details.push(Detail {
                    board: index,
                    place,
                    groups: by_group(judged)?,
                    scores: by_score(judged)?,
                });
            }
            if board.models.len() > DETAILED {
                notes.push(format!(
                    "errors, weights and curves are those of the best {DETAILED} of {} models",
                    board.models.len()
                ));
            }
        }
        let mut maps = Vec::new();
        for model in &models {
            for run in model.runs.iter().filter(|run| run.outcome().is_some()) {
                let measures = explained::measures(&run.folder, split)?;
                maps.extend(measures.map(|measures| (run_title(model, run), measures)));
            }
        }
        let all: Vec<&RankedModel> = boards.iter().flat_map(|board| &board.models).collect();
        let (figures, left_out) = explained::figures(&models, &all, &request.explain, split)?;
        if left_out > 0 {
            notes.push(format!(
                "{left_out} explained images are not shown, for they are not known to be {split} images"
            ));
        }
        let title = request.title.clone().unwrap_or_else(|| title(request));
        Ok(Self { title, split, runs, models, boards, details, maps, figures, notes })
    }

    /// The judged model that a detail is of.
    pub fn judged(&self, detail: &Detail) -> &RankedModel {
        &self.boards[detail.board].models[detail.place]
    }

    /// Every table, in order, with the word that its CSV file is called by; the first has none.
    ///
    /// # Errors
    /// A config that has no YAML.
    pub fn tables(&self) -> Result<Vec<Table>> {
        let mut tables = Vec::new();
        for at in 0..self.boards.len() {
            tables.push(leaderboard(self, at));
            if self.boards[at].models.len() > 1 {
                tables.push(differences_to_best(self, at));
            }
            tables.extend(group_tables(self, at));
            tables.extend(range_table(self, at));
        }
        tables.extend(maps_table(self));
        tables.extend(config_table(self)?);
        tables.push(runs_table(self));
        for at in 0..self.boards.len() {
            if self.boards[at].models.len() > 2 {
                tables.push(comparisons(self, at));
            }
        }
        Ok(tables)
    }

    /// Whether a table is short enough for people.
    pub fn is_for_people(table: &Table) -> bool {
        !table.key.starts_with("comparisons") || table.rows.len() <= MOST_PAIRS
    }

    /// The numbers, for programs.
    pub fn to_json(&self) -> Value {
        let runs = self.runs.iter().map(|run| {
            json!({
                "run": run.folder,
                "model": self.model_of(run).map(|model| &model.name),
                "state": run.progress.name(),
                "epochs": run.epochs.len(),
            })
        });
        let boards = self.boards.iter().enumerate().map(|(index, board)| {
            let models = board.models.iter().enumerate().map(|(place, judged)| {
                let mut details = self.details.iter();
                let detail = details.find(|d| (d.board, d.place) == (index, place));
                model_json(judged, detail)
            });
            json!({
                "images": board.images,
                "models": models.collect::<Vec<_>>(),
                "comparisons": board.comparisons,
            })
        });
        json!({
            "title": self.title,
            "split": self.split,
            "boards": boards.collect::<Vec<_>>(),
            "runs": runs.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    /// The model that a run is of.
    pub fn model_of(&self, run: &FoundRun) -> Option<&Model> {
        let of = |model: &&Model| model.runs.iter().any(|own| own.folder == run.folder);
        self.models.iter().find(of)
    }
}

/// The model's name, with the run's where it has several.
fn run_title(model: &Model, run: &FoundRun) -> String {
    match model.runs.len() {
        1 => model.name.clone(),
        _ => format!("{} ({})", model.name, run.name),
    }
}

fn title(request: &Request) -> String {
    let names = request.folders.iter().map(|folder| {
        let real = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        let name = real.file_name().unwrap_or(real.as_os_str());
        name.to_string_lossy().into_owned()
    });
    let names: Vec<String> = names.collect();
    match &names[..] {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        names => names.join(", "),
    }
}

fn model_json(judged: &RankedModel, detail: Option<&Detail>) -> Value {
    let estimate = |estimate: &Estimate| json!({"value": estimate.value, "ci": estimate.ci});
    let breakdown = |breakdown: &Breakdown| {
        let parts = breakdown.parts.iter().map(|part| {
            json!({
                "label": part.label,
                "images": part.images,
                "pc": estimate(&part.pc),
                "mae": estimate(&part.mae),
                "bias": estimate(&part.bias),
            })
        });
        json!({"by": breakdown.by, "parts": parts.collect::<Vec<_>>()})
    };
    let mut value = json!(judged);
    value["by_group"] =
        json!(detail.map(|detail| detail.groups.iter().map(breakdown).collect::<Vec<_>>()));
    value["by_score"] = json!(detail.map(|detail| breakdown(&detail.scores)));
    value
}
