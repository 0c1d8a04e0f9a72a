//! The runs, what their configs differ in, and what was measured of their maps.

use anyhow::Result;

use super::{Cell, Column, Table};
use crate::config::Config;
use crate::data::Split;
use crate::eval::statistics::Mean;
use crate::report::assemble::Report;
use crate::report::config_differences::differences;
use crate::report::models::fold_of;
use crate::report::sources::Progress;

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
                Cell::metric(mean.mean, mean.ci),
            ]);
        };
        if let Some(agreement) = &measures.agreement {
            row("ViT and Mamba: rank correlation".to_string(), &agreement.spearman);
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
        title: format!("Agreement of the branches' maps, {} images", report.split),
        columns: vec![
            Column::words("model", "model"),
            Column::words("method", "method"),
            Column::words("measure", "measure"),
            Column::numbers("n", "n"),
            Column::numbers("mean", "mean"),
        ],
        rows,
        notes: vec!["Insertion: how far the score rises when a map's patches are shown first, against random orders (more is better); deletion: how far it falls when they are hidden first (less is better). In brackets 95 % intervals over images.".to_string()],
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
    let names: Vec<&str> = report.models.iter().map(|model| model.name.as_str()).collect();
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
            Progress::Failed(error) => format!("failed: {error}"),
            progress => progress.name().to_string(),
        };
        let config = run.config.as_ref();
        let model = report.model_of(run).map(|model| model.name.as_str());
        let epochs = run.epochs.len().max(outcome.map_or(0, |outcome| outcome.epochs));
        let or_empty = |cell: Option<Cell>| cell.unwrap_or(Cell::Empty);
        vec![
            Cell::text(run.folder.display().to_string()),
            Cell::text(model.unwrap_or_default()),
            Cell::text(config.map(|config| config.seed.to_string()).unwrap_or_default()),
            Cell::text(config.and_then(fold_of).unwrap_or_default()),
            Cell::text(state),
            match config {
                Some(config) => Cell::text(format!("{epochs} of {}", config.train.epochs)),
                None => Cell::Empty,
            },
            or_empty(outcome.map(|outcome| Cell::Count(outcome.best_epoch as i64))),
            or_empty(judged.map(|j| Cell::metric(Some(j.metrics.pc), j.pc_ci))),
            or_empty(outcome.map(|outcome| Cell::Number {
                value: Some(outcome.seconds),
                per: 60.0,
                digits: 1,
            })),
            Cell::text(outcome.map(|o| o.provenance.device.as_str()).unwrap_or_default()),
            Cell::text(outcome.map(|o| o.provenance.commit.as_str()).unwrap_or_default()),
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
