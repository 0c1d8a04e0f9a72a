//! The table of the runs of a sweep that are under way.

use crate::cli::output::{metric, shorten};
use crate::report::text_table;
use crate::run::Best;

/// Lines of the terminal that the table leaves for what is above and below it.
const SPARE: usize = 4;
/// The echo of Ctrl-C moves a terminal's cursor to the next line, so that the table's first line
/// stays above what follows: it is blank (and not of spaces, which are trimmed).
const BLANK: &str = "\u{2800}";
/// The least width of the column of names.
const MIN_NAME: usize = 12;

/// A run under way.
pub(super) struct Row {
    pub name: String,
    pub state: &'static str,
    pub epochs: String,
    pub best: Option<Best>,
    pub left: String,
}

/// Returns the lines of the table: a blank one, a header, and a line for each run, as many as fit.
/// Names are shortened so that no line is wider than `width`.
pub(super) fn lines(rows: Vec<Row>, width: usize, height: usize) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let total = rows.len();
    let room = height.saturating_sub(SPARE + 1).max(1);
    let shown = if total > room { room.saturating_sub(1) } else { total };
    let monitor = rows.iter().find_map(|row| row.best).map(|best| best.monitor);
    let heading = monitor.map_or("best".to_string(), |of| format!("best {}", of.heading()));
    let header = ["run", "state", "epochs", &heading, "time left"];
    let cells = |row: Row| {
        let best = row.best.map(|best| metric(best.value)).unwrap_or_default();
        vec![row.name, row.state.to_string(), row.epochs, best, row.left]
    };
    let mut rows: Vec<Vec<String>> = rows.into_iter().take(shown).map(cells).collect();
    let others = (1..header.len()).map(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        2 + cells.chain([header[column].len()]).max().unwrap_or(0)
    });
    let name = width.saturating_sub(others.sum()).max(MIN_NAME);
    rows.iter_mut().for_each(|row| row[0] = shorten(&row[0], name));
    let table = text_table(&header, &rows, |column| column < 2);
    let more = (total > shown).then(|| format!("… and {} more", total - shown));
    let table = table.lines().map(str::to_string);
    [BLANK.to_string()].into_iter().chain(table).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Monitor;

    fn row(name: &str, value: Option<f64>) -> Row {
        Row {
            name: name.to_string(),
            state: "training",
            epochs: "12/30".to_string(),
            best: value.map(|value| Best { monitor: Monitor::Pc, value, epoch: 3 }),
            left: "12 min 34 s".to_string(),
        }
    }

    #[test]
    fn the_table_fits_the_terminal_and_keeps_both_ends_of_names() {
        let name = format!("strategy=gated,{},seed=1", "x".repeat(100));
        let rows = || vec![row(&name, Some(0.61234)), row("short", None)];
        for width in [80, 200] {
            let lines = lines(rows(), width, 24);
            assert_eq!(lines.len(), 4);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
            assert!(lines[1].contains("best val PC"), "{lines:?}");
            assert!(lines[2].starts_with("strategy=") && lines[2].contains(",seed=1"), "{lines:?}");
            assert!(lines[2].contains("12/30") && lines[2].ends_with("12 min 34 s"), "{lines:?}");
        }
        assert!(lines(Vec::new(), 80, 24).is_empty());
    }

    #[test]
    fn runs_that_do_not_fit_are_counted() {
        let rows = (0..50).map(|n| row(&format!("seed={n}"), None)).collect();
        let lines = lines(rows, 80, 10);
        // Of ten lines, the totals and two more stay free.
        assert_eq!(lines.len(), 7);
        assert_eq!(lines.last().unwrap(), "… and 46 more");
    }
}
