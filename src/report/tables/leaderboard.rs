//! Tables that compare models: their metrics, and which models differ.

use super::{Cell, Column, Table, key, on};
use crate::data::Split;
use crate::eval::comparison::{Leaderboard, RankedModel};
use crate::eval::metrics::{Metric, Metrics};
use crate::eval::statistics::MIN_SEEDS;
use crate::report::assemble::RunReport;
use crate::report::selection::{SIGNIFICANT, correction};

fn metric_columns() -> [Column; 4] {
    Metric::ALL.map(|metric| Column::numbers(metric.name(), &metric.name().to_uppercase()))
}

/// A leaderboard: every model with its metrics, the best first, followed by the baselines.
pub(super) fn leaderboard(report: &RunReport, at: usize) -> Table {
    let board = &report.leaderboards[at];
    let several = board.models.len() > 1;
    let folds = board.models.iter().any(|ranked| ranked.folds > 0);
    let max_flops = board.models.iter().map(|ranked| ranked.flops).max();
    let (unit, per, digits) = match max_flops {
        Some(1_000_000_000..) => ("GFLOPs", 1e9, 2),
        _ => ("MFLOPs", 1e6, 1),
    };
    let mut columns = vec![Column::named("model"), Column::numbers("seeds", "seeds")];
    columns.extend(folds.then(|| Column::numbers("folds", "folds")));
    let by_val = several && board.ranked_by != board.split;
    columns.extend(by_val.then(|| Column::numbers("val_pc", "val PC")));
    columns.extend(metric_columns());
    columns.extend(by_val.then(|| Column::numbers("rank_on_split", &rank_title(board))));
    columns.extend(several.then(|| Column::numbers("p_best", "p (PC vs. first)")));
    columns.extend([
        Column::numbers("parameters", "parameters"),
        Column::numbers("flops", unit),
        Column::numbers("images_per_second", "images/s"),
        Column::numbers("seconds", "training, min"),
    ]);
    let row = |(place, ranked): (usize, &RankedModel)| {
        let mut row = vec![Cell::text(&ranked.name), Cell::Count(ranked.seeds.len() as i64)];
        row.extend(folds.then_some(Cell::Count(ranked.folds as i64)));
        row.extend(by_val.then(|| Cell::metric(ranked.val_pc, None)));
        row.extend(Metric::ALL.map(|metric| metric_cell(board, ranked, metric)));
        row.extend(by_val.then(|| Cell::Count(board.rank_on_split(place))));
        let p = || board.with_best(place, Metric::Pc).map_or(Cell::Empty, |c| Cell::P(c.p_holm));
        row.extend(several.then(p));
        row.extend([
            Cell::Count(ranked.parameters),
            Cell::Number { value: Some(ranked.flops as f64), per, digits },
            Cell::number(ranked.images_per_second, 1),
            Cell::minutes(ranked.seconds),
        ]);
        row
    };
    let mut rows: Vec<Vec<Cell>> = board.models.iter().enumerate().map(row).collect();
    rows.extend(baseline_rows(board, &columns));
    Table {
        key: key("leaderboard", at),
        title: format!("Leaderboard, {}", on(report, board)),
        columns,
        rows,
        notes: notes(board, folds),
    }
}

fn rank_title(board: &Leaderboard) -> String {
    format!("{} rank (PC)", board.split)
}

fn notes(board: &Leaderboard, folds: bool) -> Vec<String> {
    let mut notes = vec![
        "Metrics are means over seeds, with 95 % bootstrap intervals over images in brackets. sd: \
         standard deviation over seeds on the same images. Bold: the best of all rows, baselines \
         included."
            .to_string(),
    ];
    if board.models.len() > 1 {
        let split = if board.ranked_by == Split::Val { "validation" } else { "test" };
        notes.push(format!("Ranked by mean PC on the {split} images."));
    }
    if folds {
        notes.push(
            "Predictions of all folds are pooled: each image is predicted by the model of the \
             fold that held it out."
                .to_string(),
        );
    }
    if let [best, _, ..] = &board.models[..] {
        notes.push(format!(
            "p: two-sided paired bootstrap test of equal PC with {} over images and, of \
             {MIN_SEEDS} and more, seeds; Holm-corrected for all comparisons of PC.",
            best.name
        ));
    }
    notes
}

fn metric_cell(board: &Leaderboard, ranked: &RankedModel, metric: Metric) -> Cell {
    let over_seeds = ranked.metric(metric);
    Cell::Metric {
        value: over_seeds.mean,
        ci: over_seeds.ci_over_images,
        sd: over_seeds.sd_over_seeds,
        best: is_best(board, metric, over_seeds.mean),
        signed: false,
    }
}

/// Whether no row has a better value, of the models or of the baselines; one row is not compared.
fn is_best(board: &Leaderboard, metric: Metric, value: Option<f64>) -> bool {
    let several = board.models.len() > 1 || board.baselines().is_some();
    several && value.is_some() && value == board.best(metric)
}

/// The baselines as rows of a leaderboard.
fn baseline_rows(board: &Leaderboard, columns: &[Column]) -> Vec<Vec<Cell>> {
    let cell = |column: &Column, metrics: &Metrics| {
        let metric = Metric::ALL.into_iter().find(|metric| metric.name() == column.key);
        metric.map_or(Cell::Empty, |metric| {
            let value = Some(metric.of(metrics));
            let best = is_best(board, metric, value);
            Cell::Metric { value, ci: None, sd: None, best, signed: false }
        })
    };
    let row = |(name, metrics): (&str, Metrics)| {
        let cells = columns.iter().skip(1).map(|column| cell(column, &metrics));
        std::iter::once(Cell::text(name)).chain(cells).collect()
    };
    board.baselines().iter().flat_map(|baselines| baselines.named()).map(row).collect()
}

/// A leaderboard in a few columns, for the terminal.
pub(super) fn leaderboard_summary(report: &RunReport, at: usize) -> Table {
    let board = &report.leaderboards[at];
    let [pc, others @ ..] = metric_columns();
    let mut columns = vec![
        Column::named("model"),
        Column::numbers("seeds", "seeds"),
        Column::numbers("n", report.split.name()),
        pc,
        Column::text("pc_ci", "95 % CI over images"),
    ];
    columns.extend(others);
    let row = |ranked: &RankedModel| {
        let [pc, others @ ..] = Metric::ALL.map(|metric| metric_cell(board, ranked, metric));
        let ci = ranked.metric(Metric::Pc).ci_over_images;
        let mut row = vec![
            Cell::text(&ranked.name),
            Cell::Count(ranked.seeds.len() as i64),
            Cell::Count(ranked.images as i64),
            pc,
            Cell::text(ci.map(|ci| format!("{:.4} to {:.4}", ci.lo, ci.hi)).unwrap_or_default()),
        ];
        row.extend(others);
        row
    };
    let mut rows: Vec<Vec<Cell>> = board.models.iter().map(row).collect();
    rows.extend(baseline_rows(board, &columns));
    Table {
        key: key("summary", at),
        title: format!("Leaderboard, {}", on(report, board)),
        columns,
        rows,
        notes: Vec::new(),
    }
}

fn difference_notes(board: &Leaderboard) -> Vec<String> {
    let mut notes = vec![format!(
        "Paired bootstrap: the same images are resampled for both models, and the seeds of a model \
         that has {MIN_SEEDS} and more, the same ones where both models have the same seeds. Means \
         over seeds, with 95 % intervals in brackets; p is Holm-corrected for all comparisons of a \
         metric. A difference with p < 0.05 is significant."
    )];
    notes.extend(correction(board));
    notes
}

/// Each model's differences from the first model, metric by metric.
pub(super) fn differences_to_best(report: &RunReport, at: usize) -> Table {
    let board = &report.leaderboards[at];
    let mut columns = vec![Column::named("model")];
    for metric in Metric::ALL {
        let name = metric.name();
        columns.push(Column::numbers(name, &format!("Δ {}", name.to_uppercase())));
        columns.push(Column::numbers(&format!("{name}_p_holm"), "p"));
    }
    let row = |(place, ranked): (usize, &RankedModel)| {
        let mut row = vec![Cell::text(&ranked.name)];
        for metric in Metric::ALL {
            let comparison = board.with_best(place, metric);
            let difference = comparison.map(|comparison| comparison.difference);
            // The comparison is the first model minus this one.
            let value = difference.and_then(|d| d.difference).map(|d| 0.0 - d);
            let ci = difference.and_then(|d| d.ci).map(|ci| [0.0 - ci.hi, 0.0 - ci.lo].into());
            row.push(Cell::difference(value, ci));
            row.push(Cell::P(comparison.and_then(|comparison| comparison.p_holm)));
        }
        row
    };
    Table {
        key: key("differences", at),
        title: format!("Differences from {}", board.models[0].name),
        columns,
        rows: board.models.iter().enumerate().skip(1).map(row).collect(),
        notes: difference_notes(board),
    }
}

pub(super) fn comparisons(report: &RunReport, at: usize) -> Table {
    let board = &report.leaderboards[at];
    let rows = board.comparisons.iter().map(|comparison| {
        let difference = comparison.difference;
        vec![
            Cell::text(&comparison.first),
            Cell::text(&comparison.second),
            Cell::text(comparison.metric.name().to_uppercase()),
            Cell::difference(difference.difference, difference.ci),
            Cell::P(difference.p),
            Cell::P(comparison.p_holm),
            Cell::text(match comparison.p_holm {
                None => "",
                Some(_) if !comparison.has_enough_seeds() => "too few seeds",
                Some(p) if p < SIGNIFICANT => "yes",
                Some(_) => "no",
            }),
        ]
    });
    Table {
        key: key("comparisons", at),
        title: format!("All comparisons, {}", on(report, board)),
        columns: vec![
            Column::named("first"),
            Column::named("second"),
            Column::named("metric"),
            Column::numbers("difference", "first − second"),
            Column::numbers("p", "p"),
            Column::numbers("p_holm", "p (Holm)"),
            Column::text("significant", "significant at 5 %"),
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}
