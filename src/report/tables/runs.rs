//! Tables of the runs, the differences of their configs, and the metrics of attribution maps.

use std::iter;

use anyhow::Result;

use super::{Cell, Column, Table};
use crate::config::Config;
use crate::data::Split;
use crate::eval::statistics::Mean;
use crate::report::assemble::RunReport;
use crate::report::config_keys::{differences, fold_of};
use crate::report::sources::FoundRun;
use crate::run::Status;
use crate::run::explanations::MapMetrics;

/// The metrics of the branches' attribution maps; `None` if no run has any.
pub(super) fn maps_table(report: &RunReport) -> Option<Table> {
    let mut rows = Vec::new();
    for (name, measures) in &report.maps {
        let mut row = |metric: String, mean: &Mean| {
            rows.push(vec![
                Cell::text(name),
                Cell::text(&measures.method),
                Cell::text(metric),
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
            row(format!("{}: insertion over random", curves.map), &curves.insertion_over_random);
            row(format!("{}: deletion over random", curves.map), &curves.deletion_over_random);
        }
    }
    let verdict = |(name, measures): &(String, MapMetrics)| {
        format!("{name}, {}, {}.", measures.method, measures.verdict())
    };
    (!rows.is_empty()).then(|| Table {
        key: "maps".to_string(),
        title: format!("Faithfulness and agreement of the maps, {} images", report.split),
        columns: vec![
            Column::named("model"),
            Column::named("method"),
            Column::named("metric"),
            Column::numbers("n", "n"),
            Column::numbers("mean", "mean"),
        ],
        rows,
        notes: iter::once(
            "Insertion: how much the score rises if a map's patches are revealed first, compared \
             with random orders (higher is better). Deletion: how much it falls if they are \
             hidden first (lower is better). 95 % intervals over images in brackets."
                .to_string(),
        )
        .chain(report.maps.iter().map(verdict))
        .collect(),
    })
}

/// The config keys in which models differ, as rows or columns, whichever makes the table narrower.
pub(super) fn config_table(report: &RunReport) -> Result<Option<Table>> {
    let configs: Vec<&Config> = report.models.iter().map(|model| &model.config).collect();
    let different = differences(&configs)?;
    if different.is_empty() {
        return Ok(None);
    }
    // The header, then a line for each model.
    let names = report.models.iter().map(|model| vec![model.name.clone()]);
    let mut lines: Vec<Vec<String>> = iter::once(vec!["model".to_string()]).chain(names).collect();
    for (key, values) in different {
        let cells = iter::once(key).chain(values);
        lines.iter_mut().zip(cells).for_each(|(line, cell)| line.push(cell));
    }
    if lines[0].len() > lines.len() {
        lines[0][0] = "key".to_string();
        let column = |i: usize| lines.iter().map(|line| line[i].clone()).collect();
        lines = (0..lines[0].len()).map(column).collect();
    }
    Ok(Some(Table {
        key: "configs".to_string(),
        title: "Config differences".to_string(),
        columns: lines[0].iter().map(|title| Column::named(title)).collect(),
        rows: lines[1..].iter().map(|line| line.iter().map(Cell::text).collect()).collect(),
        notes: Vec::new(),
    }))
}

/// All runs, including those that are not finished.
pub(super) fn runs_table(report: &RunReport) -> Table {
    let names = ["run", "model", "seed", "fold", "status", "epochs"];
    let mut columns = names.map(Column::named).to_vec();
    columns.extend([
        Column::numbers("best_epoch", "best epoch"),
        Column::numbers("pc", "PC"),
        Column::numbers("seconds", "training, min"),
        Column::named("device"),
        Column::named("commit"),
    ]);
    Table {
        key: "runs".to_string(),
        title: "Runs".to_string(),
        columns,
        rows: report.runs.iter().map(|run| run_row(report, run)).collect(),
        notes: Vec::new(),
    }
}

fn run_row(report: &RunReport, run: &FoundRun) -> Vec<Cell> {
    let status = match &run.status {
        Status::Failed(failure) => format!("failed: {}", failure.error),
        Status::Paused(pause) => pause.reason.clone(),
        status => status.name().to_string(),
    };
    let text = |text: Option<&str>| Cell::text(text.unwrap_or_default());
    let (config, summary) = (run.config.as_ref(), run.summary());
    let epochs = run.epochs.len().max(summary.map_or(0, |summary| summary.epochs));
    let metrics = summary.and_then(|summary| match report.split {
        Split::Test => summary.test.as_ref(),
        _ => Some(&summary.val),
    });
    let provenance = summary.map(|summary| &summary.provenance);
    vec![
        Cell::text(run.folder.display().to_string()),
        text(report.model_of(run).map(|model| model.name.as_str())),
        Cell::text(config.map(|config| config.seed.to_string()).unwrap_or_default()),
        text(config.and_then(fold_of)),
        Cell::text(status),
        config.map_or(Cell::Empty, |c| Cell::text(format!("{epochs} of {}", c.train.epochs))),
        summary.map_or(Cell::Empty, |summary| Cell::Count(summary.best_epoch as i64)),
        metrics.map_or(Cell::Empty, |split| Cell::metric(Some(split.metrics.pc), split.pc_ci)),
        summary.map_or(Cell::Empty, |summary| Cell::minutes(summary.seconds)),
        text(provenance.map(|provenance| provenance.device.as_str())),
        text(provenance.and_then(|provenance| provenance.commit.as_deref())),
    ]
}
