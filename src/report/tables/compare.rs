//! Tables of two models compared in depth.

use super::{Cell, Column, Table, on};
use crate::eval::metrics::Metric;
use crate::report::assemble::RunReport;
use crate::report::breakdown::MIN_IMAGES;
use crate::report::compare::TwoModels;

/// The metrics of two models and their differences, and their errors by subset.
pub(super) fn compare_tables(report: &RunReport, two: &TwoModels) -> [Table; 2] {
    [metrics(report, two), subsets(report, two)]
}

fn metrics(report: &RunReport, two: &TwoModels) -> Table {
    let board = &report.leaderboards[two.board];
    let row = |metric: Metric| {
        let model = |at: usize| {
            let over = board.models[two.places[at]].metric(metric);
            Cell::metric(over.mean, over.ci_over_images)
        };
        let difference = two.differences[metric as usize];
        vec![
            Cell::text(metric.name().to_uppercase()),
            model(0),
            model(1),
            Cell::difference(difference.difference, difference.ci),
            Cell::P(difference.p),
        ]
    };
    let [first, second] = &two.names;
    let [ours, theirs] = two.closer;
    Table {
        key: "compare".to_string(),
        title: format!("{first} and {second}, {}", on(report, board)),
        columns: vec![
            Column::named("metric"),
            Column::numbers("first", first),
            Column::numbers("second", second),
            Column::numbers("difference", "first − second"),
            Column::numbers("p", "p"),
        ],
        rows: Metric::ALL.map(row).into(),
        notes: vec![
            format!(
                "{first} is closer to the true score on {ours} of {} images, {second} on {theirs}.",
                two.images
            ),
            "p is that of this comparison alone, which is right for two models that were chosen \
             before their results were seen; otherwise the corrected p counts."
                .to_string(),
        ],
    }
}

fn subsets(report: &RunReport, two: &TwoModels) -> Table {
    let rows = two.subsets.iter().map(|subset| {
        let metric = |value: Option<f64>| Cell::metric(value, None);
        let bias = |value: Option<f64>| Cell::difference(value, None);
        let difference = subset.mae_difference;
        vec![
            Cell::text(subset.by),
            Cell::text(&subset.label),
            Cell::Count(subset.images as i64),
            metric(subset.mae[0]),
            metric(subset.mae[1]),
            Cell::difference(difference.value, difference.ci),
            bias(subset.bias[0]),
            bias(subset.bias[1]),
        ]
    });
    let [first, second] = &two.names;
    Table {
        key: "compare-by-group".to_string(),
        title: format!(
            "{first} and {second} by group and score, {}",
            on(report, &report.leaderboards[two.board])
        ),
        columns: vec![
            Column::named("by"),
            Column::named("subset"),
            Column::numbers("n", "n"),
            Column::numbers("mae_first", &format!("MAE {first}")),
            Column::numbers("mae_second", &format!("MAE {second}")),
            Column::numbers("mae_difference", "Δ MAE"),
            Column::numbers("bias_first", &format!("bias {first}")),
            Column::numbers("bias_second", &format!("bias {second}")),
        ],
        rows: rows.collect(),
        notes: vec![format!(
            "Δ MAE: the first model's MAE minus the second's, negative where the first is better, \
             with 95 % intervals over the subset's images in brackets, of {MIN_IMAGES} images and \
             more. bias: mean of prediction minus true score."
        )],
    }
}
