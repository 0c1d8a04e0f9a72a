//! Tables of the best models' errors by group and by score range.

use super::{Cell, Column, Table, key, on};
use crate::report::assemble::RunReport;
use crate::report::breakdown::{Estimate, MIN_IMAGES};

/// The errors of a leaderboard's detailed models by sex, ethnicity, group and score range.
pub(super) fn breakdown_tables(report: &RunReport, at: usize) -> Vec<Table> {
    let by = ["sex", "ethnicity", "group", "score range"].into_iter();
    by.filter_map(|by| breakdown_table(report, at, by)).collect()
}

fn breakdown_table(report: &RunReport, at: usize, by: &str) -> Option<Table> {
    // Scores within a narrow range hardly correlate.
    let with_pc = by != "score range";
    let metric = |estimate: &Estimate| Cell::metric(estimate.value, estimate.ci);
    let mut rows = Vec::new();
    for detail in report.details_of(at) {
        let breakdown = detail.groups.iter().chain([&detail.scores]).find(|all| all.by == by);
        for subset in breakdown.iter().flat_map(|breakdown| &breakdown.subsets) {
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
