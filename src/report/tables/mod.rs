//! The report's tables; [`formats`] writes each as CSV, HTML, Markdown and text, [`latex`] as
//! LaTeX.

mod branches;
mod breakdowns;
mod compare;
mod formats;
mod latex;
mod leaderboard;
mod runs;
mod search;

pub(crate) use formats::{escape_markdown, group_thousands, text_table};
pub(crate) use latex::LATEX_PREAMBLE;

use anyhow::Result;

use self::branches::branch_table;
use self::breakdowns::breakdown_tables;
use self::compare::compare_tables;
use self::leaderboard::{comparisons, differences_to_best, leaderboard, leaderboard_summary};
use self::runs::{config_table, maps_table, runs_table};
use self::search::search_table;
use super::assemble::RunReport;
use super::selection::selection;
use crate::eval::comparison::Leaderboard;
use crate::eval::metrics::Metric;
use crate::eval::statistics::Interval;
use crate::files::{printable_lines, without_own_folders};

/// Tables of model pairs with more rows are only written as CSV.
const MAX_PAIRS: usize = 120;

#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Text(String),
    Count(i64),
    /// A number, shown in units of `per`, such as 1e6.
    Number {
        value: Option<f64>,
        per: f64,
        digits: usize,
    },
    /// A metric, shown with four decimals.
    Metric {
        value: Option<f64>,
        ci: Option<Interval>,
        sd: Option<f64>,
        best: bool,
        /// Whether it is a difference, which is shown with its sign.
        signed: bool,
    },
    P(Option<f64>),
    Empty,
}

impl Cell {
    /// Creates a cell of text, in which paths are without the folders of the user.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(without_own_folders(&text.into()))
    }

    pub fn metric(value: Option<f64>, ci: Option<Interval>) -> Self {
        Self::Metric { value, ci, sd: None, best: false, signed: false }
    }

    /// Creates a cell with a difference and its interval.
    pub fn difference(value: Option<f64>, ci: Option<Interval>) -> Self {
        Self::Metric { value, ci, sd: None, best: false, signed: true }
    }

    pub fn number(value: Option<f64>, digits: usize) -> Self {
        Self::Number { value, per: 1.0, digits }
    }

    /// Creates a cell with a duration that is shown in minutes.
    pub fn minutes(seconds: f64) -> Self {
        Self::Number { value: Some(seconds), per: 60.0, digits: 1 }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name in CSV.
    pub key: String,
    pub title: String,
    /// Whether it holds text, which is aligned to the left.
    pub text: bool,
}

impl Column {
    pub fn text(key: &str, title: &str) -> Self {
        Self { key: key.to_string(), title: title.to_string(), text: true }
    }

    /// Creates a column of text whose title is its key.
    pub fn named(key: &str) -> Self {
        Self::text(key, key)
    }

    pub fn numbers(key: &str, title: &str) -> Self {
        Self { key: key.to_string(), title: title.to_string(), text: false }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its name in file names and LaTeX labels.
    pub key: String,
    pub title: String,
    pub columns: Vec<Column>,
    /// Its rows, each with a cell for every column.
    pub rows: Vec<Vec<Cell>>,
    /// Explanations, a sentence or more each.
    pub notes: Vec<String>,
}

impl Table {
    /// Returns whether the table is short enough to be read, or only written as CSV.
    pub fn is_short(&self) -> bool {
        !self.key.starts_with("comparisons") || self.rows.len() <= MAX_PAIRS
    }
}

impl RunReport {
    /// Returns all tables in order.
    pub fn tables(&self) -> Result<Vec<Table>> {
        let mut tables = Vec::new();
        for at in 0..self.leaderboards.len() {
            tables.push(leaderboard(self, at));
            if self.leaderboards[at].models.len() > 1 {
                tables.push(differences_to_best(self, at));
            }
            tables.extend(branch_table(self, at)?);
            tables.extend(breakdown_tables(self, at));
        }
        tables.extend(self.compared.iter().flat_map(|two| compare_tables(self, two)));
        let searches = self.searches.iter().enumerate();
        tables.extend(searches.map(|(at, search)| search_table(search, key("search", at))));
        tables.extend(maps_table(self));
        tables.extend(config_table(self)?);
        tables.push(runs_table(self));
        let pairs =
            (0..self.leaderboards.len()).filter(|&at| self.leaderboards[at].models.len() > 2);
        tables.extend(pairs.map(|at| comparisons(self, at)));
        Ok(tables)
    }

    /// Writes the leaderboards in a few columns, for a terminal.
    pub fn to_text(&self) -> String {
        let text = |(at, board): (usize, &Leaderboard)| {
            let wins = board.winning_baseline(Metric::Pc);
            let wins = wins.map(|(name, _)| format!("a baseline wins: {name}\n"));
            let selection = selection(self, board).join("\n");
            leaderboard_summary(self, at).to_text()
                + &wins.unwrap_or_default()
                + &printable_lines(&without_own_folders(&selection))
                + "\n\n"
        };
        self.leaderboards.iter().enumerate().map(text).collect()
    }
}

/// Returns a table's key, numbered for every leaderboard after the first.
fn key(name: &str, board: usize) -> String {
    if board == 0 { name.to_string() } else { format!("{name}-{}", board + 1) }
}

fn on(report: &RunReport, board: &Leaderboard) -> String {
    format!("{} {} images", board.images, report.split)
}
