//! Models beside each other: their metrics, and which differ.

use super::{Cell, Column, Table, key, on};
use crate::eval::comparison::RankedModel;
use crate::eval::metrics::{Metric, Metrics};
use crate::report::assemble::Report;

/// Whether one value of a metric is better than another.
fn better(metric: Metric, a: f64, b: f64) -> bool {
    match metric {
        Metric::Pc | Metric::Srcc => a > b,
        Metric::Mae | Metric::Rmse => a < b,
    }
}

/// Every model with its metrics, the best first; below them what has to be beaten.
pub fn leaderboard(report: &Report, at: usize) -> Table {
    let board = &report.boards[at];
    let several = board.models.len() > 1;
    let folds = board.models.iter().any(|judged| judged.folds > 0);
    let largest = board.models.iter().map(|judged| judged.flops).max();
    let (unit, per) = match largest.unwrap_or(0) {
        1_000_000_000.. => ("GFLOPs", 1e9),
        _ => ("MFLOPs", 1e6),
    };
    let mut columns = vec![Column::words("model", "model"), Column::numbers("seeds", "seeds")];
    if folds {
        columns.push(Column::numbers("folds", "folds"));
    }
    columns.extend(Metric::ALL.map(|f| Column::numbers(f.name(), &f.name().to_uppercase())));
    if several {
        columns.push(Column::numbers("p_best", "p (PC vs first)"));
    }
    columns.extend([
        Column::numbers("parameters", "parameters"),
        Column::numbers("flops", unit),
        Column::numbers("images_per_second", "images/s"),
        Column::numbers("seconds", "training, min"),
    ]);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (place, judged) in board.models.iter().enumerate() {
        let mut row = vec![Cell::text(&judged.name), Cell::Count(judged.seeds.len() as i64)];
        if folds {
            row.push(Cell::Count(judged.folds as i64));
        }
        for metric in Metric::ALL {
            let own = judged.metric(metric);
            let others = || board.models.iter().filter_map(|m| m.metric(metric).mean);
            row.push(Cell::Metric {
                value: own.mean,
                ci: own.ci_over_images,
                sd: own.sd_over_seeds,
                best: several
                    && own
                        .mean
                        .is_some_and(|own| !others().any(|other| better(metric, other, own))),
                signed: false,
            });
        }
        if several {
            row.push(match board.with_best(place, Metric::Pc) {
                Some(contrast) => Cell::P(contrast.p_holm),
                None => Cell::Empty,
            });
        }
        row.extend([
            Cell::Count(judged.parameters),
            Cell::Number {
                value: Some(judged.flops as f64),
                per,
                digits: if per > 1e6 { 2 } else { 1 },
            },
            Cell::number(judged.images_per_second, 1),
            Cell::Number { value: Some(judged.seconds), per: 60.0, digits: 1 },
        ]);
        rows.push(row);
    }
    let baselines = board.models.iter().find_map(|judged| judged.baselines);
    if let Some(baselines) = baselines {
        let named = baselines.named();
        rows.extend(named.map(|(name, metrics)| baseline(name, &metrics, &columns)));
    }
    let mut notes = vec![
        "Metrics are means over seeds. In brackets: 95 % bootstrap intervals over images, with the seeds as they are; sd: standard deviation over seeds, on the same images.".to_string(),
    ];
    if folds {
        notes.push("Predictions of a model's folds are pooled: each image is predicted by the model that has not seen it.".to_string());
    }
    if several {
        notes.push(format!(
            "p: of no difference in PC from {}, paired bootstrap, corrected for all comparisons of PC (Holm).",
            board.models[0].name
        ));
    }
    Table {
        key: key("leaderboard", at),
        title: format!("Leaderboard, {}", on(report, board)),
        columns,
        rows,
        notes,
    }
}

fn baseline(name: &str, metrics: &Metrics, columns: &[Column]) -> Vec<Cell> {
    let mut row = vec![Cell::text(name)];
    for column in columns.iter().skip(1) {
        let mut all = Metric::ALL.into_iter();
        row.push(match all.find(|metric| metric.name() == column.key) {
            Some(metric) => Cell::metric(Some(metric.of(metrics)).filter(|v| v.is_finite()), None),
            None => Cell::Empty,
        });
    }
    row
}

/// Each model's differences to the best one, metric by metric.
pub fn differences_to_best(report: &Report, at: usize) -> Table {
    let board = &report.boards[at];
    let mut columns = vec![Column::words("model", "model")];
    for metric in Metric::ALL {
        let name = metric.name();
        columns.push(Column::numbers(name, &format!("Δ {}", name.to_uppercase())));
        columns.push(Column::numbers(&format!("{name}_p_holm"), "p"));
    }
    let row = |(place, judged): (usize, &RankedModel)| {
        let mut row = vec![Cell::text(&judged.name)];
        for metric in Metric::ALL {
            let contrast = board.with_best(place, metric);
            let difference = contrast.map(|contrast| contrast.difference);
            // The contrast is the best minus this one.
            let ci = difference.and_then(|d| d.ci);
            let value = difference.and_then(|d| d.difference).map(|d| 0.0 - d);
            let ci = ci.map(|ci| [0.0 - ci.hi, 0.0 - ci.lo].into());
            row.push(Cell::signed(value, ci));
            row.push(Cell::P(contrast.and_then(|contrast| contrast.p_holm)));
        }
        row
    };
    Table {
        key: key("differences", at),
        title: format!("Differences to {}", board.models[0].name),
        columns,
        rows: board.models.iter().enumerate().skip(1).map(row).collect(),
        notes: vec![
            "Paired bootstrap on the same images, means over seeds; in brackets 95 % intervals; p corrected for all comparisons of a metric (Holm). A difference with p below 0.05 is real at that level.".to_string(),
        ],
    }
}

/// Each pair of models.
pub fn comparisons(report: &Report, at: usize) -> Table {
    let board = &report.boards[at];
    let rows = board.comparisons.iter().map(|contrast| {
        let difference = contrast.difference;
        vec![
            Cell::text(&contrast.first),
            Cell::text(&contrast.second),
            Cell::text(contrast.metric.name().to_uppercase()),
            Cell::signed(difference.difference, difference.ci),
            Cell::P(difference.p),
            Cell::P(contrast.p_holm),
            Cell::text(match contrast.p_holm {
                Some(p) if p < 0.05 => "real",
                Some(_) => "within chance",
                None => "",
            }),
        ]
    });
    Table {
        key: key("comparisons", at),
        title: format!("All comparisons, {}", on(report, board)),
        columns: vec![
            Column::words("first", "first"),
            Column::words("second", "second"),
            Column::words("metric", "metric"),
            Column::numbers("difference", "first − second"),
            Column::numbers("p", "p"),
            Column::numbers("p_holm", "p (Holm)"),
            Column::words("verdict", "at 5 %"),
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}
