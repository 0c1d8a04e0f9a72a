//! What stands in the report's tables.

use anyhow::Result;

use super::{Cell, Column, Table};
use crate::config::Config;
use crate::data::Split;
use crate::eval::metrics::Metrics;
use crate::eval::statistics::{Figure, Mean};
use crate::report::assemble::{Detail, Report};
use crate::report::breakdown::{Estimate, LEAST, Part};
use crate::report::config_differences::differences;
use crate::report::judged::{Board, Judged};
use crate::report::models::fold_of;

/// A table's name, with a number for all boards but the first.
fn key(name: &str, board: usize) -> String {
    match board {
        0 => name.to_string(),
        at => format!("{name}-{}", at + 1),
    }
}

fn on(report: &Report, board: &Board) -> String {
    let images = board.models.first().map_or(0, Judged::images);
    format!("{images} {} pictures", report.split)
}

/// Whether one value of a figure is better than another.
fn better(figure: Figure, a: f64, b: f64) -> bool {
    match figure {
        Figure::Pc | Figure::Srcc => a > b,
        Figure::Mae | Figure::Rmse => a < b,
    }
}

/// Every model with its figures, the best first; below them what has to be beaten.
pub fn leaderboard(report: &Report, at: usize) -> Table {
    let board = &report.boards[at];
    let several = board.models.len() > 1;
    let folds = board.models.iter().any(|judged| judged.folds > 0);
    let largest = board.models.iter().map(|judged| judged.flops).max();
    let (unit, per) = match largest.unwrap_or(0) {
        1_000_000_000.. => ("GFLOPs", 1e9),
        _ => ("MFLOPs", 1e6),
    };
    let mut columns = vec![
        Column::words("model", "model"),
        Column::numbers("seeds", "seeds"),
    ];
    if folds {
        columns.push(Column::numbers("folds", "folds"));
    }
    columns.extend(Figure::ALL.map(|f| Column::numbers(f.name(), &f.name().to_uppercase())));
    if several {
        columns.push(Column::numbers("p_best", "p, PC as the first's"));
    }
    columns.extend([
        Column::numbers("parameters", "parameters"),
        Column::numbers("flops", unit),
        Column::numbers("images_per_second", "images/s"),
        Column::numbers("seconds", "training, min"),
    ]);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (place, judged) in board.models.iter().enumerate() {
        let mut row = vec![
            Cell::text(&judged.name),
            Cell::Count(judged.seeds.len() as i64),
        ];
        if folds {
            row.push(Cell::Count(judged.folds as i64));
        }
        for figure in Figure::ALL {
            let own = judged.figure(figure);
            let others = || board.models.iter().filter_map(|m| m.figure(figure).mean);
            row.push(Cell::Figure {
                value: own.mean,
                ci: own.ci_over_images,
                sd: own.sd_over_seeds,
                best: several
                    && own
                        .mean
                        .is_some_and(|own| !others().any(|other| better(figure, other, own))),
                signed: false,
            });
        }
        if several {
            row.push(match board.to_best(place, Figure::Pc) {
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
            Cell::Number {
                value: Some(judged.seconds),
                per: 60.0,
                digits: 1,
            },
        ]);
        rows.push(row);
    }
    let baselines = board.models.iter().find_map(|judged| judged.baselines);
    if let Some(baselines) = baselines {
        let named = [
            ("linear model on 16×16 grey pixels", baselines.linear),
            ("mean of the training scores", baselines.constant),
        ];
        rows.extend(named.map(|(name, metrics)| baseline(name, &metrics, &columns)));
    }
    let mut notes = vec![
        "Figures are means over seeds. In brackets: 95 % bootstrap intervals over images, with the seeds as they are; sd: standard deviation over seeds, on the same images.".to_string(),
    ];
    if folds {
        notes.push("Predictions of a model's folds are pooled: each picture is predicted by the model that has not seen it.".to_string());
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
        let mut figures = Figure::ALL.into_iter();
        row.push(match figures.find(|figure| figure.name() == column.key) {
            Some(figure) => Cell::figure(Some(figure.of(metrics)).filter(|v| v.is_finite()), None),
            None => Cell::Empty,
        });
    }
    row
}

/// Each model's differences to the best one, figure by figure.
pub fn differences_to_best(report: &Report, at: usize) -> Table {
    let board = &report.boards[at];
    let mut columns = vec![Column::words("model", "model")];
    for figure in Figure::ALL {
        let name = figure.name();
        columns.push(Column::numbers(name, &format!("Δ {}", name.to_uppercase())));
        columns.push(Column::numbers(&format!("{name}_p_holm"), "p"));
    }
    let row = |(place, judged): (usize, &Judged)| {
        let mut row = vec![Cell::text(&judged.name)];
        for figure in Figure::ALL {
            let contrast = board.to_best(place, figure);
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
            "Paired bootstrap on the same pictures, means over seeds; in brackets 95 % intervals; p corrected for all comparisons of a figure (Holm). A difference with p below 0.05 is real at that level.".to_string(),
        ],
    }
}

/// Each pair of models.
pub fn comparisons(report: &Report, at: usize) -> Table {
    let board = &report.boards[at];
    let rows = board.contrasts.iter().map(|contrast| {
        let difference = contrast.difference;
        vec![
            Cell::text(&board.models[contrast.first].name),
            Cell::text(&board.models[contrast.second].name),
            Cell::text(contrast.figure.name().to_uppercase()),
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
            Column::words("figure", "figure"),
            Column::numbers("difference", "first − second"),
            Column::numbers("p", "p"),
            Column::numbers("p_holm", "p (Holm)"),
            Column::words("verdict", "at 5 %"),
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

/// A part's numbers, behind its model and its label.
fn part_row(judged: &Judged, part: &Part, pc: bool) -> Vec<Cell> {
    let figure = |estimate: &Estimate| Cell::figure(estimate.value, estimate.ci);
    let mut row = vec![
        Cell::text(&judged.name),
        Cell::text(&part.label),
        Cell::Count(part.images as i64),
    ];
    if pc {
        row.push(figure(&part.pc));
    }
    row.push(figure(&part.mae));
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

fn details(report: &Report, at: usize) -> impl Iterator<Item = (&Detail, &Judged)> {
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

/// What was measured of the branches' maps.
pub fn maps_table(report: &Report) -> Option<Table> {
    let mut rows = Vec::new();
    for (name, measures) in &report.maps {
        let mut row = |what: String, mean: &Mean| {
            rows.push(vec![
                Cell::text(name),
                Cell::text(&measures.method),
                Cell::text(what),
                Cell::Count(mean.n as i64),
                Cell::figure(mean.mean, mean.ci),
            ]);
        };
        if let Some(agreement) = &measures.agreement {
            row(
                "ViT and Mamba: rank correlation".to_string(),
                &agreement.spearman,
            );
            let overlap = "ViT and Mamba: overlap of the top 20 % (by chance 0.2)";
            row(overlap.to_string(), &agreement.top20_overlap);
        }
        for curves in &measures.curves {
            let over = |way: &str| format!("{}: {way} over random", curves.map);
            row(over("insertion"), &curves.insertion_over_random);
            row(over("deletion"), &curves.deletion_over_random);
        }
    }
    (!rows.is_empty()).then(|| Table {
        key: "maps".to_string(),
        title: format!("Agreement of the branches' maps, {} pictures", report.split),
        columns: vec![
            Column::words("model", "model"),
            Column::words("method", "method"),
            Column::words("measure", "measure"),
            Column::numbers("n", "n"),
            Column::numbers("mean", "mean"),
        ],
        rows,
        notes: vec!["Insertion: how far the score rises when a map's patches are shown first, against random orders (more is better); deletion: how far it falls when they are hidden first (less is better). In brackets 95 % intervals over pictures.".to_string()],
    })
}

/// The keys that models differ in, in rows or columns, whichever are fewer.
///
/// # Errors
/// A config that has no YAML.
pub fn config_table(report: &Report) -> Result<Option<Table>> {
    let configs: Vec<&Config> = report.models.iter().map(|model| &model.config).collect();
    let different = differences(&configs)?;
    if different.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = report
        .models
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    let keys_in_rows = different.len() > names.len();
    let first = if keys_in_rows { "key" } else { "model" };
    let mut columns = vec![Column::words(first, first)];
    let mut rows = Vec::new();
    if keys_in_rows {
        columns.extend(names.iter().map(|name| Column::words(name, name)));
        for (key, values) in &different {
            let mut row = vec![Cell::text(key)];
            row.extend(values.iter().map(Cell::text));
            rows.push(row);
        }
    } else {
        columns.extend(different.iter().map(|(key, _)| Column::words(key, key)));
        for (at, name) in names.iter().enumerate() {
            let mut row = vec![Cell::text(*name)];
            row.extend(different.iter().map(|(_, values)| Cell::text(&values[at])));
            rows.push(row);
        }
    }
    Ok(Some(Table {
        key: "configs".to_string(),
        title: "What the configs differ in".to_string(),
        columns,
        rows,
        notes: Vec::new(),
    }))
}

/// Every run that was found, also those that are not done.
pub fn runs_table(report: &Report) -> Table {
    let rows = report.runs.iter().map(|run| {
        let outcome = run.outcome();
        let judged = outcome.and_then(|outcome| match report.split {
            Split::Test => outcome.test.as_ref(),
            _ => Some(&outcome.val),
        });
        let state = match &run.progress {
            crate::report::sources::Progress::Failed(error) => format!("failed: {error}"),
            progress => progress.name().to_string(),
        };
        let config = run.config.as_ref();
        let model = report.model_of(run).map(|model| model.name.as_str());
        let epochs = run
            .epochs
            .len()
            .max(outcome.map_or(0, |outcome| outcome.epochs));
        let or_empty = |cell: Option<Cell>| cell.unwrap_or(Cell::Empty);
        vec![
            Cell::text(run.folder.display().to_string()),
            Cell::text(model.unwrap_or_default()),
            Cell::text(
                config
                    .map(|config| config.seed.to_string())
                    .unwrap_or_default(),
            ),
            Cell::text(config.and_then(fold_of).unwrap_or_default()),
            Cell::text(state),
            match config {
                Some(config) => Cell::text(format!("{epochs} of {}", config.train.epochs)),
                None => Cell::Empty,
            },
            or_empty(outcome.map(|outcome| Cell::Count(outcome.best_epoch as i64))),
            or_empty(judged.map(|j| Cell::figure(Some(j.metrics.pc), j.pc_ci))),
            or_empty(outcome.map(|outcome| Cell::Number {
                value: Some(outcome.seconds),
                per: 60.0,
                digits: 1,
            })),
            Cell::text(
                outcome
                    .map(|o| o.provenance.device.as_str())
                    .unwrap_or_default(),
            ),
            Cell::text(
                outcome
                    .map(|o| o.provenance.commit.as_str())
                    .unwrap_or_default(),
            ),
        ]
    });
    Table {
        key: "runs".to_string(),
        title: "Runs".to_string(),
        columns: vec![
            Column::words("run", "run"),
            Column::words("model", "model"),
            Column::words("seed", "seed"),
            Column::words("fold", "fold"),
            Column::words("state", "state"),
            Column::words("epochs", "epochs"),
            Column::numbers("best_epoch", "best epoch"),
            Column::numbers("pc", "PC"),
            Column::numbers("seconds", "training, min"),
            Column::words("device", "device"),
            Column::words("commit", "commit"),
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}
