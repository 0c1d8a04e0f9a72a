//! The best models' errors by group and by range of the score.

use super::{Cell, Column, Table, key, on};
use crate::eval::comparison::RankedModel;
use crate::report::assemble::{Detail, Report};
use crate::report::breakdown::{Estimate, LEAST, Part};

/// A part's numbers, behind its model and its label.
fn part_row(judged: &RankedModel, part: &Part, pc: bool) -> Vec<Cell> {
    let metric = |estimate: &Estimate| Cell::metric(estimate.value, estimate.ci);
    let mut row =
        vec![Cell::text(&judged.name), Cell::text(&part.label), Cell::Count(part.images as i64)];
    if pc {
        row.push(metric(&part.pc));
    }
    row.push(metric(&part.mae));
    row.push(Cell::signed(part.bias.value, part.bias.ci));
    row
}

fn part_columns(by: &str, pc: bool) -> Vec<Column> {
    let mut columns = vec![
        Column::words("model", "model"),
        Column::words(&by.replace(' ', "_"), by),
        Column::numbers("n", "n"),
    ];
    if pc {
        columns.push(Column::numbers("pc", "PC"));
    }
    columns.push(Column::numbers("mae", "MAE"));
    columns.push(Column::numbers("bias", "bias"));
    columns
}

fn part_note() -> String {
    format!(
        "Means over seeds, in brackets 95 % bootstrap intervals over the part's images. bias: mean of prediction minus true score. Parts of fewer than {LEAST} images have no interval."
    )
}

fn details(report: &Report, at: usize) -> impl Iterator<Item = (&Detail, &RankedModel)> {
    let of_board = report.details.iter().filter(move |d| d.board == at);
    of_board.map(|detail| (detail, report.judged(detail)))
}

/// The best models by group; by sex and by ethnicity in tables of their own.
pub fn group_tables(report: &Report, at: usize) -> Vec<Table> {
    let mut tables = Vec::new();
    for by in ["sex", "ethnicity", "group"] {
        let rows: Vec<Vec<Cell>> = details(report, at)
            .flat_map(|(detail, judged)| {
                let parts = detail.groups.iter().filter(|groups| groups.by == by);
                let parts = parts.flat_map(|groups| &groups.parts);
                parts.map(move |part| part_row(judged, part, true))
            })
            .collect();
        if !rows.is_empty() {
            tables.push(Table {
                key: key(&format!("by-{by}"), at),
                title: format!("By {by}, {}", on(report, &report.boards[at])),
                columns: part_columns(by, true),
                rows,
                notes: vec![part_note()],
            });
        }
    }
    tables
}

/// The best models by range of the score.
pub fn range_table(report: &Report, at: usize) -> Option<Table> {
    let rows: Vec<Vec<Cell>> = details(report, at)
        .flat_map(|(detail, judged)| {
            let parts = detail.scores.parts.iter();
            parts.map(move |part| part_row(judged, part, false))
        })
        .collect();
    (!rows.is_empty()).then(|| Table {
        key: key("by-score", at),
        title: format!("By score range, {}", on(report, &report.boards[at])),
        columns: part_columns("score range", false),
        rows,
        notes: vec![part_note()],
    })
}
