//! The report as one HTML page that needs no other file and no network.

mod chart;
mod charts;
mod embedded_images;
mod search;

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use embedded_images::EmbeddedImages;

use self::charts::row_of;
use super::assemble::{DetailedModel, RunReport};
use super::selection::{SIGNIFICANT, selection, shown};
use super::tables::Table;
use crate::eval::comparison::{Comparison, Leaderboard};
use crate::eval::metrics::Metric;
use crate::eval::statistics::{Interval, MIN_SEEDS};
use crate::files::without_own_folders;

const STYLE: &str = include_str!("style.css");
const MAX_CONFIGS: usize = 40;
/// Models of each leaderboard whose scatter plots are visible at once.
const OPEN_SCATTERS: usize = 2;

type Section = (&'static str, &'static str, Markup);

impl RunReport {
    /// Renders the page.
    pub fn to_html(&self, images: &EmbeddedImages) -> Result<String> {
        let sections = self.sections(&self.tables()?, images)?;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width,initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    link rel="icon" href="data:,";
                    title { (self.title) ": vmbeauty report" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        p.over { "vmbeauty report, " (self.split) " images" }
                        h1 { (self.title) }
                        (self.lead())
                        (self.tiles())
                        nav { @for (id, title, _) in &sections { a href={ "#" (id) } { (title) } } }
                    }
                    main { @for (id, title, body) in &sections {
                        section id=(id) { h2 { (title) } (body) }
                    } }
                    footer {
                        "Written by vmbeauty " (env!("CARGO_PKG_VERSION")) ". Ratings are opinions \
                        of the raters who were asked. They are not a property of a face, and no \
                        model of them may be used to evaluate or identify anyone."
                    }
                }
            }
        };
        Ok(page.into_string())
    }

    /// States the result in a sentence or two for each leaderboard.
    fn lead(&self) -> Markup {
        let result = |board: &Leaderboard| {
            let best = board.models.first()?;
            let pc = best.metric(Metric::Pc);
            Some(html! {
                p.lead {
                    @if let Some((name, pc)) = board.winning_baseline(Metric::Pc) {
                        strong { "A baseline wins: " (name) }
                        ": PC " (format!("{pc:.4}")) ". The selected model: "
                    }
                    strong { (best.name) }
                    ": PC " (shown(pc.mean)) " on " (best.images) " " (self.split) " images"
                    @if let Some(Interval { lo, hi }) = pc.ci_over_images {
                        " (95 % CI " (format!("{lo:.4} to {hi:.4}")) ")"
                    }
                    "."
                    @if board.models.len() > 1 { " " (significance(board)) }
                }
                @for sentence in selection(self, board) { p { (sentence) } }
            })
        };
        let finished = self.runs.iter().any(|run| run.summary().is_some());
        html! {
            @for result in self.leaderboards.iter().filter_map(result).take(3) { (result) }
            @if self.leaderboards.is_empty() {
                p.lead {
                    @if finished { "No finished run can be ranked: the notes say why." }
                    @else { "No run has finished yet." }
                }
            }
        }
    }

    fn tiles(&self) -> Markup {
        let finished = self.runs.iter().filter(|run| run.summary().is_some()).count();
        let images = self.leaderboards.first().map_or(0, |board| board.images);
        html! {
            div.tiles {
                div { b { (self.models.len()) } span { "models" } }
                div { b { (finished) " of " (self.runs.len()) } span { "runs finished" } }
                div { b { (images) } span { (self.split) " images" } }
            }
        }
    }

    fn sections(&self, tables: &[Table], images: &EmbeddedImages) -> Result<Vec<Section>> {
        let titled = |name| html! { @for table in named(tables, name) { (with_title(table)) } };
        let folded = |name| html! { @for table in named(tables, name) { (fold(table)) } };
        let legend = charts::legend(self);
        let curves = charts::curves(self).map(|curves| {
            html! {
                (legend) (curves)
                p.note {
                    "A line for each run, thin where a model has several, and a thick one for \
                     their mean, up to the last epoch that all of them have. The dot marks the \
                     epoch of the best weights. Hover over a line for its name."
                }
            }
        });
        let boards = 0..self.leaderboards.len();
        let best = boards.clone().filter_map(|at| self.details_of(at).next());
        let groups = best.filter_map(|detail| charts::by_group(self, detail));
        let weights = self.details.iter().map(|detail| self.ranked(detail));
        let weights = weights.filter_map(|ranked| charts::branch_weights(self, ranked));
        let weights: Vec<Markup> = weights.collect();
        let sections = [
            ("models", "Leaderboard", self.leaderboard_section(tables)),
            ("differences", "Significance of differences", differences(tables)),
            ("search", "Search", self.search_section(tables)),
            ("compare", "Two models compared", self.comparison_section(tables, images)),
            ("curves", "Learning curves", curves.unwrap_or_default()),
            ("predictions", "Predicted vs. true scores", self.scatters()),
            (
                "scores",
                "Errors by score range",
                html! {
                    @for chart in boards.filter_map(|at| charts::by_score(self, at)) {
                        (legend) (chart)
                    }
                    (folded("by-score"))
                },
            ),
            (
                "groups",
                "Errors by group",
                html! {
                    @for charts in groups { (charts) }
                    @for by in ["by-sex", "by-ethnicity", "by-group"] { (folded(by)) }
                },
            ),
            (
                "branches",
                "Branches",
                html! { (titled("branches")) @if !weights.is_empty() { (row_of(&weights)) } },
            ),
            ("worst", "Largest errors", embedded_images::worst(self, images)),
            (
                "maps",
                "Attribution maps",
                html! { (embedded_images::explained(self, images)) (titled("maps")) },
            ),
            ("configs", "Configs", html! { (titled("configs")) (self.configs()?) }),
            ("runs", "Runs", titled("runs")),
        ];
        Ok(sections.into_iter().filter(|(_, _, body)| !body.0.is_empty()).collect())
    }

    fn leaderboard_section(&self, tables: &[Table]) -> Markup {
        let several = self.leaderboards.len() > 1;
        html! {
            @for (table, board) in named(tables, "leaderboard").zip(&self.leaderboards) {
                @if several { (with_title(table)) } @else { (table.to_html()) }
                (charts::metrics(self, board))
            }
            @if !self.notes.is_empty() {
                ul.notes { @for note in &self.notes { li { (note) } } }
            }
        }
    }

    fn search_section(&self, tables: &[Table]) -> Markup {
        html! {
            @for (table, search) in named(tables, "search").zip(&self.searches) {
                (with_title(table)) (search::search_charts(search))
            }
        }
    }

    fn comparison_section(&self, tables: &[Table], images: &EmbeddedImages) -> Markup {
        let Some(two) = &self.compared else {
            return Markup::default();
        };
        let [first, second] = &two.names;
        html! {
            @for table in named(tables, "compare") { (with_title(table)) }
            (charts::two_models(self, two))
            p.note {
                "Predictions are means over each model's seeds. On the dashed line both models \
                 agree; an error above it is larger for " (second) "."
            }
            @if !two.disagreements.is_empty() {
                h3 { "Largest disagreements: predictions of " (first) " and " (second) }
                (embedded_images::disagreements(self, two, images))
            }
        }
    }

    fn scatters(&self) -> Markup {
        let (open, folded): (Vec<&DetailedModel>, Vec<&DetailedModel>) =
            self.details.iter().partition(|detail| detail.place < OPEN_SCATTERS);
        let pairs = |details: &[&DetailedModel]| {
            html! {
                div.charts.two { @for detail in details { (charts::scatter(self, detail)) } }
            }
        };
        html! {
            @if !open.is_empty() {
                (pairs(&open))
                p.note {
                    "A point for each image, predicted by the model of the first seed. On the \
                     dashed line a prediction is exact. Hover over a point for its image."
                }
            }
            @if !folded.is_empty() {
                details { summary { (folded.len()) " more models" } (pairs(&folded)) }
            }
        }
    }

    fn configs(&self) -> Result<Markup> {
        let models = self.models.iter().take(MAX_CONFIGS);
        let configs =
            models.map(|model| Ok((&model.name, without_own_folders(&model.config.to_yaml()?))));
        let configs: Vec<(&String, String)> = configs.collect::<Result<_>>()?;
        Ok(html! {
            @for (name, yaml) in &configs {
                details { summary { (name) } pre tabindex="0" { (yaml) } }
            }
            @if self.models.len() > MAX_CONFIGS {
                p.note { "The first " (MAX_CONFIGS) " of " (self.models.len()) " configs." }
            }
        })
    }
}

fn significance(board: &Leaderboard) -> String {
    let others = board.models.len() - 1;
    let with_first = || {
        let comparison = |place| board.with_best(place, Metric::Pc);
        (1..board.models.len()).filter_map(comparison)
    };
    if !with_first().any(Comparison::has_enough_seeds) {
        return format!("Fewer than {MIN_SEEDS} seeds: too few to claim a difference in PC.");
    }
    let significant = with_first().filter(|comparison| {
        comparison.has_enough_seeds() && comparison.p_holm.is_some_and(|p| p < SIGNIFICANT)
    });
    let several = format!("of the {others} other models");
    match (significant.count(), others) {
        (0, 1) => "The other model's PC does not differ significantly (p ≥ 0.05).".to_string(),
        (0, _) => format!("None {several} differs significantly in PC (p ≥ 0.05, Holm)."),
        (1, 1) => "The other model's PC differs significantly (p < 0.05).".to_string(),
        (n, _) => format!("{n} {several} differ significantly in PC (p < 0.05, Holm)."),
    }
}

/// Returns the tables of a name, one for each leaderboard that has it.
fn named<'a>(tables: &'a [Table], name: &'a str) -> impl Iterator<Item = &'a Table> {
    tables.iter().filter(move |table| {
        let number = table.key.strip_prefix(name);
        number.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

fn with_title(table: &Table) -> Markup {
    html! { h3 { (table.title) } (table.to_html()) }
}

fn fold(table: &Table) -> Markup {
    html! { details { summary { "Table: " (table.title) } (table.to_html()) } }
}

fn differences(tables: &[Table]) -> Markup {
    html! {
        @for table in named(tables, "differences") { (with_title(table)) }
        @for table in named(tables, "comparisons") {
            @if table.is_short() {
                details { summary { (table.title) " (" (table.rows.len()) ")" } (table.to_html()) }
            } @else {
                p.note { (table.title) ": " (table.rows.len()) " pairs, in the CSV file." }
            }
        }
    }
}
