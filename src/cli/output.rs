//! Printing of results to stdout, and formats of numbers and tables.

use std::io::{BufWriter, ErrorKind, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::eval::statistics::Interval;
use crate::files::printable_lines;
use crate::report::{group_thousands, text_table};

/// Prints a result. A reader that stopped reading (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn printed(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// Prints a message on stderr, in which a file's name cannot command the terminal; work continues
/// if stderr is closed.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable_lines(text));
}

/// Prints a result as one JSON object.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    // Not by way of a string: a check of a million rows has a long one.
    let written = serde_json::to_writer_pretty(&mut out, value).map_err(std::io::Error::from);
    printed(written.and_then(|()| writeln!(out)).and_then(|()| out.flush()))
}

/// Prints a result as one JSON object if `json` is set, else as text.
pub(super) fn print_result(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<()> {
    if json { print_json(value) } else { print(&text()) }
}

/// Formats rows as a table: the first column to the left, the others to the right.
pub(super) fn table<R>(header: &[&str], rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item: ToString>,
{
    let row = |row: R| row.into_iter().map(|cell| cell.to_string()).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(row).collect();
    text_table(header, &rows, |column| column == 0)
}

/// Formats a metric with four digits, an undefined one as a dash.
pub(super) fn metric(value: f64) -> String {
    if value.is_finite() { format!("{value:.4}") } else { "-".to_string() }
}

/// Formats the bounds of an interval with four digits.
pub(super) fn interval(ci: Option<Interval>) -> String {
    ci.map(|Interval { lo, hi }| format!("{lo:.4} to {hi:.4}")).unwrap_or_default()
}

/// Formats 1234567 as `1,234,567`.
pub(super) fn thousands(value: i64) -> String {
    group_thousands(value as f64, 0)
}

/// Formats a duration as `3.2 s`, `4 min 5 s` or `2 h 10 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Cuts a text after `width` characters, the last of which is then `…`.
pub(super) fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_string(),
        Some(_) => {
            let kept = text.chars().take(width.saturating_sub(1));
            kept.chain((width > 0).then_some('…')).collect()
        }
    }
}

/// Shortens a text to `width` characters with `…` in its middle: names differ at both ends.
pub(super) fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_string();
    }
    let tail = width.saturating_sub(1) / 2;
    let head = cut(text, width - tail);
    head + &text.chars().skip(length - tail).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1000, 1234567, -1000].map(thousands),
            ["0", "999", "1,000", "1,234,567", "-1,000"]
        );
    }

    #[test]
    fn a_text_is_cut_at_its_end_or_in_its_middle() {
        assert_eq!(
            [0, 1, 4, 6, 7].map(|width| cut("abcdef", width)),
            ["", "…", "abc…", "abcdef", "abcdef"]
        );
        assert_eq!(
            [1, 4, 5, 6].map(|width| shorten("abcdef", width)),
            ["…", "ab…f", "ab…ef", "abcdef"]
        );
    }
}
