//! The report as one page of HTML that needs no other file and no network.

mod chart;
mod charts;
mod embedded_images;
mod style;

use anyhow::Result;

pub use embedded_images::EmbeddedImages;

use self::charts::boxed;
use self::style::STYLE;
use super::assemble::{Detail, Report};
use super::tables::Table;
use crate::data::embed::escape;
use crate::eval::comparison::Leaderboard;
use crate::eval::metrics::Metric;
use crate::eval::statistics::Interval;

/// More configs are not written out.
const MOST_CONFIGS: usize = 40;

/// A part of the page.
struct Section {
    id: &'static str,
    title: &'static str,
    body: String,
}

impl Report {
    /// The page.
    ///
    /// # Errors
    /// A config that has no YAML.
    pub fn to_html(&self, images: &EmbeddedImages) -> Result<String> {
        let tables = self.tables()?;
        let sections = self.sections(&tables, images)?;
        let nav: String = sections
            .iter()
            .map(|section| format!("<a href=\"#{}\">{}</a>", section.id, section.title))
            .collect();
        let body: String = sections
            .iter()
            .map(|s| {
                format!("<section id=\"{}\"><h2>{}</h2>\n{}</section>\n", s.id, s.title, s.body)
            })
            .collect();
        let title = escape(&self.title);
        Ok(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\"><title>{title}: vmbeauty report</title><style>{STYLE}</style></head>\n<body>\n\
             <header><p class=\"over\">vmbeauty report, {} images</p><h1>{title}</h1>\n{}{}<nav>{nav}</nav></header>\n<main>\n{body}</main>\n\
             <footer>Written by vmbeauty {}. Ratings are opinions of the raters who were asked; they are not a property of a face, and no model of them \
             may be used to judge or identify anyone.</footer>\n</body></html>\n",
            self.split,
            self.lead(),
            self.tiles(),
            env!("CARGO_PKG_VERSION"),
        ))
    }

    /// The result in a sentence or two.
    fn lead(&self) -> String {
        let sentences = self.boards.iter().filter_map(|board| {
            let best = board.models.first()?;
            let pc = best.metric(Metric::Pc);
            let Interval { lo, hi } = pc.ci_over_images?;
            let mut text = format!(
                "<p class=\"lead\"><strong>{}</strong>: PC {:.4} on {} {} images (95 % interval {lo:.4} to {hi:.4}).",
                escape(&best.name),
                pc.mean?,
                best.images,
                self.split
            );
            if board.models.len() > 1 {
                text += &standing(board);
            }
            Some(text + "</p>\n")
        });
        let text: String = sentences.take(3).collect();
        if text.is_empty() {
            "<p class=\"lead\">No run is done yet.</p>\n".to_string()
        } else {
            text
        }
    }

    fn tiles(&self) -> String {
        let done = self.runs.iter().filter(|run| run.outcome().is_some()).count();
        let images = self.boards.first().and_then(|board| board.models.first());
        let tiles = [
            (self.models.len().to_string(), "models".to_string()),
            (format!("{done} of {}", self.runs.len()), "runs done".to_string()),
            (
                images.map_or(0, |judged| judged.images).to_string(),
                format!("{} images", self.split),
            ),
        ];
        let tiles =
            tiles.map(|(value, name)| format!("<div><b>{value}</b><span>{name}</span></div>"));
        format!("<div class=\"tiles\">{}</div>\n", tiles.concat())
    }

    fn sections(&self, tables: &[Table], images: &EmbeddedImages) -> Result<Vec<Section>> {
        let mut sections = Vec::new();
        let mut add = |id: &'static str, title: &'static str, body: String| {
            if !body.is_empty() {
                sections.push(Section { id, title, body });
            }
        };
        let of = |name: &str| with_titles(tables, name);
        let mut models = String::new();
        for (at, board) in self.boards.iter().enumerate() {
            models += &table_of(tables, "leaderboard", at, self.boards.len() > 1);
            models += &charts::metrics(self, board);
        }
        models += &self.notes_list();
        add("models", "Models", models);
        let mut differences = of("differences");
        for table in tables.iter().filter(|table| table.key.starts_with("comparisons")) {
            differences += &if Report::is_for_people(table) {
                format!(
                    "<details><summary>{} ({})</summary>{}</details>\n",
                    escape(&table.title),
                    table.rows.len(),
                    table.to_html()
                )
            } else {
                format!(
                    "<p class=\"note\">{}: {} pairs, in the CSV file.</p>\n",
                    escape(&table.title),
                    table.rows.len()
                )
            };
        }
        add("differences", "Which differences are real", differences);
        let curves = charts::curves(self).map(|curves| {
            let note = "<p class=\"note\">A line for each run; the dot marks the epoch of the best weights. Point at a line for its name.</p>\n";
            charts::legend(self) + &curves + note
        });
        add("curves", "Learning curves", curves.unwrap_or_default());
        add("predictions", "Predicted and true scores", self.scatters());
        let mut scores = String::new();
        for at in 0..self.boards.len() {
            if let Some(chart) = charts::by_score(self, at) {
                scores += &(charts::legend(self) + &chart);
            }
        }
        add("scores", "Errors by score range", scores + &folded(tables, "by-score"));
        let first = |at: usize| self.details.iter().find(|d| (d.board, d.place) == (at, 0));
        let groups = (0..self.boards.len()).filter_map(|at| charts::by_group(self, first(at)?));
        let mut groups: String = groups.collect();
        for by in ["by-sex", "by-ethnicity", "by-group"] {
            groups += &folded(tables, by);
        }
        add("groups", "Errors by group", groups);
        let weights = self.details.iter().map(|detail| self.judged(detail));
        let weights: Vec<String> =
            weights.filter_map(|judged| charts::branch_weights(self, judged)).collect();
        if !weights.is_empty() {
            add("weights", "Weights of the branches", boxed(&weights));
        }
        add("worst", "Largest errors", embedded_images::worst(self, images));
        let maps = embedded_images::explained(self, images) + &of("maps");
        add("maps", "What the branches look at", maps);
        add("configs", "Configs", of("configs") + &self.configs()?);
        add("runs", "Runs", of("runs"));
        Ok(sections)
    }

    fn notes_list(&self) -> String {
        let notes: String =
            self.notes.iter().map(|note| format!("<li>{}</li>", escape(note))).collect();
        if notes.is_empty() { notes } else { format!("<ul class=\"notes\">{notes}</ul>\n") }
    }

    fn scatters(&self) -> String {
        let mut text = String::new();
        let (shown, rest): (Vec<&Detail>, Vec<&Detail>) =
            self.details.iter().partition(|detail| detail.place < 2);
        let all = |details: &[&Detail]| -> String {
            details.iter().map(|detail| charts::scatter(self, detail)).collect()
        };
        if !shown.is_empty() {
            text += &paired(&all(&shown));
            text += "<p class=\"note\">One point for each image, with the first seed's model; the dashed line is a perfect prediction. Point at one for its name.</p>\n";
        }
        if !rest.is_empty() {
            text += &format!(
                "<details><summary>{} more models</summary>{}</details>\n",
                rest.len(),
                paired(&all(&rest))
            );
        }
        text
    }

    fn configs(&self) -> Result<String> {
        let mut text = String::new();
        for model in self.models.iter().take(MOST_CONFIGS) {
            text += &format!(
                "<details><summary>{}</summary><pre tabindex=\"0\">{}</pre></details>\n",
                escape(&model.name),
                escape(&model.config.to_yaml()?)
            );
        }
        if self.models.len() > MOST_CONFIGS {
            text += &format!(
                "<p class=\"note\">The first {MOST_CONFIGS} of {} configs.</p>\n",
                self.models.len()
            );
        }
        Ok(text)
    }
}

/// Charts in pairs, where there is room for two.
fn paired(charts: &str) -> String {
    format!("<div class=\"charts two\">{charts}</div>\n")
}

/// How many others the best one can be told from.
fn standing(board: &Leaderboard) -> String {
    let others = board.models.len() - 1;
    let real = (1..board.models.len()).filter(|&place| {
        let contrast = board.with_best(place, Metric::Pc);
        contrast.and_then(|c| c.p_holm).is_some_and(|p| p < 0.05)
    });
    match (real.count(), others) {
        (0, 1) => " The other model's PC is within chance of it.".to_string(),
        (0, others) => {
            format!(" None of the {others} others differs from it in PC (p &lt; 0.05, corrected).")
        }
        (1, 1) => " The other model's PC is lower (p &lt; 0.05).".to_string(),
        (real, others) => format!(
            " Of {others} others, {real} differ from it in PC (p &lt; 0.05, corrected); the rest are within chance."
        ),
    }
}

/// Whether a table is the named one, of any board.
fn is(table: &Table, name: &str) -> bool {
    let rest = table.key.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn table_of(tables: &[Table], name: &str, at: usize, titled: bool) -> String {
    let mut of = tables.iter().filter(|table| is(table, name));
    let Some(table) = of.nth(at) else {
        return String::new();
    };
    if titled {
        format!("<h3>{}</h3>\n{}", escape(&table.title), table.to_html())
    } else {
        table.to_html()
    }
}

fn with_titles(tables: &[Table], name: &str) -> String {
    let of = tables.iter().filter(|table| is(table, name));
    of.map(|table| format!("<h3>{}</h3>\n{}", escape(&table.title), table.to_html())).collect()
}

/// Under a line that opens them.
fn folded(tables: &[Table], name: &str) -> String {
    let of = tables.iter().filter(|table| is(table, name));
    of.map(|table| {
        format!(
            "<details><summary>Table: {}</summary>{}</details>\n",
            escape(&table.title),
            table.to_html()
        )
    })
    .collect()
}
