//! Tables of the best models' errors by group and by score range.

use super::{Cell, Column, Table, key, on};
use crate::report::assemble::{DetailedModel, RunReport};
use crate::report::breakdown::{Breakdown, Estimate, MIN_IMAGES};

/// A table of one breakdown of each detailed model; `None` if no model has it.
fn table<'a>(
    report: &'a RunReport,
    at: usize,
    by: &str,
    breakdown: impl Fn(&'a DetailedModel) -> Option<&'a Breakdown>,
) -> Option<Table> {
    // Scores within a narrow range hardly correlate.
    let with_pc = by != "score range";
    let metric = |estimate: &Estimate| Cell::metric(estimate.value, estimate.ci);
    let mut rows = Vec::new();
    for detail in report.details_of(at) {
        for subset in breakdown(detail).iter().flat_map(|breakdown| &breakdown.subsets) {
            let mut row = vec![
                Cell::text(&report.ranked(detail).name),
                Cell::text(&subset.label),
                Cell::Count(subset.images as i64),
            ];
            row.extend(with_pc.then(|| metric(&subset.pc)));
            row.extend([metric(&subset.mae), Cell::difference(subset.bias.value, subset.bias.ci)]);
            rows.push(row);
        }
    }
    let mut columns = vec![
        Column::named("model"),
        Column::text(&by.replace(' ', "_"), by),
        Column::numbers("n", "n"),
    ];
    columns.extend(with_pc.then(|| Column::numbers("pc", "PC")));
    columns.extend([Column::numbers("mae", "MAE"), Column::numbers("bias", "bias")]);
    let name = if with_pc { format!("by-{by}") } else { "by-score".to_string() };
    (!rows.is_empty()).then(|| Table {
        key: key(&name, at),
        title: format!("Errors by {by}, {}", on(report, &report.leaderboards[at])),
        columns,
        rows,
        notes: vec![format!(
            "Means over seeds, with 95 % bootstrap intervals over the subset's images in \
             brackets. bias: mean of prediction minus true score. Subsets of fewer than \
             {MIN_IMAGES} images have no interval."
        )],
    })
}

pub fn group_tables(report: &RunReport, at: usize) -> Vec<Table> {
    let by = ["sex", "ethnicity", "group"].into_iter();
    by.filter_map(|by| table(report, at, by, |detail| detail.groups.iter().find(|g| g.by == by)))
        .collect()
}

pub fn range_table(report: &RunReport, at: usize) -> Option<Table> {
    table(report, at, "score range", |detail| Some(&detail.scores))
}
