//! Tables of the searches of sweeps.

use super::{Cell, Column, Table};
use crate::report::axis::short;
use crate::report::search::{SearchAxis, SearchOverview};

/// A search's axes, the most important first.
pub(super) fn search_table(search: &SearchOverview, key: String) -> Table {
    let row = |axis: &SearchAxis| {
        vec![
            Cell::text(&axis.key),
            Cell::number(axis.importance, 2),
            Cell::text(&axis.best),
            Cell::text(tried(axis)),
        ]
    };
    Table {
        key,
        title: format!("Search {}", search.name),
        columns: vec![
            Column::named("axis"),
            Column::numbers("importance", "importance"),
            Column::text("best", "value of the best point"),
            Column::text("tried", "tried"),
        ],
        rows: search.axes.iter().map(row).collect(),
        notes: vec![
            budget(search),
            "Importance: the fraction of the variance of the best validation PC that lies between \
             the values of the axis (numbers in up to four bins of equal counts), adjusted for \
             their number (ε²), so that an axis without effect is near 0. Each axis is taken \
             alone: effects of combinations do not show. A run that the search stopped counts with \
             its best epoch so far."
                .to_string(),
        ],
    }
}

/// States what a search has spent.
fn budget(search: &SearchOverview) -> String {
    let SearchOverview { epochs, all_epochs, finished, paused, points, .. } = search;
    let percent = 100.0 * *epochs as f64 / (*all_epochs).max(1) as f64;
    let stopped = match paused {
        0 => String::new(),
        paused => format!(", and the search stopped {paused}"),
    };
    format!(
        "{} runs trained {epochs} of {all_epochs} epochs ({percent:.0} %): {finished} are \
         finished{stopped}.",
        points.len()
    )
}

/// Returns the range of numbers, or the different texts.
fn tried(axis: &SearchAxis) -> String {
    if let Some(numbers) = &axis.numbers {
        let min = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let max = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        return format!("{} to {}", short(min), short(max));
    }
    axis.distinct().join(", ")
}
