//! The report's tables, and their forms: Markdown, CSV, LaTeX and HTML.

mod comparison;
mod csv_form;
mod html_form;
mod latex;
mod markdown;
mod parts;
mod runs;

pub use comparison::{comparisons, differences_to_best, leaderboard};
pub use latex::PREAMBLE;
pub use markdown::escape as escape_markdown;
pub use parts::{group_tables, range_table};
pub use runs::{config_table, maps_table, runs_table};

use super::assemble::Report;
use crate::eval::comparison::Leaderboard;
use crate::eval::statistics::Interval;

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A whole number.
    Count(i64),
    /// A number; shown in units of `per`, for example 1e6, with so many digits behind the point.
    Number {
        /// `None` where it is not defined.
        value: Option<f64>,
        /// The unit that it is shown in.
        per: f64,
        /// Behind the point.
        digits: usize,
    },
    /// A metric, shown with four digits.
    Metric {
        /// `None` where it is not defined.
        value: Option<f64>,
        /// 95 %, over images.
        ci: Option<Interval>,
        /// Standard deviation over seeds.
        sd: Option<f64>,
        /// Whether it is the best of its column.
        best: bool,
        /// Whether it is a difference, which is shown with its sign.
        signed: bool,
    },
    /// A p-value.
    P(Option<f64>),
    /// Nothing.
    Empty,
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A metric with its interval.
    pub fn metric(value: Option<f64>, ci: Option<Interval>) -> Self {
        Self::Metric { value, ci, sd: None, best: false, signed: false }
    }

    /// A difference with its interval.
    pub fn signed(value: Option<f64>, ci: Option<Interval>) -> Self {
        Self::Metric { value, ci, sd: None, best: false, signed: true }
    }

    /// A number as it is.
    pub fn number(value: Option<f64>, digits: usize) -> Self {
        Self::Number { value, per: 1.0, digits }
    }

    /// The cell's value for people, without its interval and spread.
    fn shown(&self) -> String {
        let or_dash = |value: Option<f64>, text: &dyn Fn(f64) -> String| {
            value.filter(|v| v.is_finite()).map_or("–".to_string(), text)
        };
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => grouped(*count),
            Cell::Number { value, per, digits } => {
                or_dash(*value, &|value| grouped_number(value / per, *digits))
            }
            Cell::Metric { value, signed, .. } => or_dash(*value, &|value| match signed {
                true => format!("{value:+.4}"),
                false => format!("{value:.4}"),
            }),
            Cell::P(p) => {
                or_dash(*p, &|p| if p < 0.001 { "< 0.001".to_string() } else { format!("{p:.3}") })
            }
            Cell::Empty => String::new(),
        }
    }

    /// The ends of the interval, for people.
    fn ends(&self) -> Option<(String, String)> {
        let Cell::Metric { ci: Some(ci), signed, .. } = self else {
            return None;
        };
        let end = |value: f64| match signed {
            true => format!("{value:+.4}"),
            false => format!("{value:.4}"),
        };
        Some((end(ci.lo), end(ci.hi)))
    }

    /// The spread over seeds, for people.
    fn spread(&self) -> Option<String> {
        match self {
            Cell::Metric { sd: Some(sd), .. } => Some(format!("{sd:.4}")),
            _ => None,
        }
    }

    fn is_best(&self) -> bool {
        matches!(self, Cell::Metric { best: true, .. })
    }

    fn is_text(&self) -> bool {
        matches!(self, Cell::Text(_))
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name for programs.
    pub key: String,
    /// Its name for people.
    pub title: String,
    /// Whether words stand in it, which go to the left.
    pub words: bool,
}

impl Column {
    /// A column of words.
    pub fn words(key: &str, title: &str) -> Self {
        Self { key: key.to_string(), title: title.to_string(), words: true }
    }

    /// A column of numbers.
    pub fn numbers(key: &str, title: &str) -> Self {
        Self { key: key.to_string(), title: title.to_string(), words: false }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its name for programs, in LaTeX's label.
    pub key: String,
    /// What it shows.
    pub title: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Rows of as many cells as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// What a reader must know of it, a sentence each.
    pub notes: Vec<String>,
}

/// A table's name, with a number for all boards but the first.
fn key(name: &str, board: usize) -> String {
    match board {
        0 => name.to_string(),
        at => format!("{name}-{}", at + 1),
    }
}

fn on(report: &Report, board: &Leaderboard) -> String {
    format!("{} {} images", board.images, report.split)
}

/// 1234567 as 1,234,567.
fn grouped(value: i64) -> String {
    grouped_number(value as f64, 0)
}

fn grouped_number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.as_str()),
    };
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut shown = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row of every kind of cell, with names that no form may take for its own signs.
    pub(super) fn hostile() -> Table {
        let ci = Some(Interval { lo: -0.5, hi: 0.25 });
        Table {
            key: "t".into(),
            title: "A & B".into(),
            columns: vec![
                Column::words("model", "model"),
                Column::numbers("n", "n"),
                Column::numbers("pc", "PC"),
                Column::numbers("p", "p"),
                Column::numbers("flops", "MFLOPs"),
            ],
            rows: vec![vec![
                Cell::text("<script>alert(\"1\")</script>|`a`_b%$#{}~^\\ 'x'\nnext"),
                Cell::Count(12345),
                Cell::Metric { value: Some(0.125), ci, sd: Some(0.01), best: true, signed: false },
                Cell::P(Some(0.00001)),
                Cell::Number { value: Some(2_500_000.0), per: 1e6, digits: 1 },
            ]],
            notes: vec!["100 % of <all>".into()],
        }
    }

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!(Cell::Count(-1234567).shown(), "-1,234,567");
        assert_eq!(Cell::number(Some(1234.56), 1).shown(), "1,234.6");
        assert_eq!(Cell::number(Some(f64::NAN), 1).shown(), "–");
        assert_eq!(Cell::P(Some(0.0312)).shown(), "0.031");
        assert_eq!(Cell::P(Some(0.0001)).shown(), "< 0.001");
        assert_eq!(Cell::signed(Some(0.1), None).shown(), "+0.1000");
    }
}
