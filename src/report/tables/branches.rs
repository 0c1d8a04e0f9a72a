//! The table of the branches: what each predicts on its own, and its weight in the ensemble.

use anyhow::Result;

use super::{Cell, Column, Table, key, on};
use crate::eval::comparison::RankedModel;
use crate::eval::evaluate::{BRANCH_PREDICTIONS, BRANCH_WEIGHTS};
use crate::eval::metrics::Metric;
use crate::eval::predictions::Predictions;
use crate::eval::statistics::mean_and_sd;
use crate::report::assemble::RunReport;

/// The PC of a leaderboard's models and of their branches' own heads; `None` if no model has such
/// heads.
pub(super) fn branch_table(report: &RunReport, at: usize) -> Result<Option<Table>> {
    let board = &report.leaderboards[at];
    let has_heads = |ranked: &&RankedModel| {
        ranked.predictions.iter().any(|set| set.column(BRANCH_PREDICTIONS[0]).is_some())
    };
    let row = |ranked: &RankedModel| {
        let pc = ranked.metric(Metric::Pc);
        let of_head = |name: &str| {
            over_seeds(ranked, |set| Ok(set.metrics_of(name)?.map(|metrics| metrics.pc)))
        };
        Ok(vec![
            Cell::text(&ranked.name),
            Cell::metric(pc.mean, None),
            of_head(BRANCH_PREDICTIONS[0])?,
            of_head(BRANCH_PREDICTIONS[1])?,
            over_seeds(ranked, |set| Ok(set.mean_of(BRANCH_WEIGHTS[0])))?,
        ])
    };
    let rows: Vec<_> = board.models.iter().filter(has_heads).map(row).collect::<Result<_>>()?;
    Ok((!rows.is_empty()).then(|| Table {
        key: key("branches", at),
        title: format!("Branches, {}", on(report, board)),
        columns: vec![
            Column::named("model"),
            Column::numbers("pc", "PC"),
            Column::numbers("pc_vit", "PC of the ViT"),
            Column::numbers("pc_mamba", "PC of the Mamba"),
            Column::numbers("weight_vit", "weight of the ViT"),
        ],
        rows,
        notes: vec![
            "The PC of a branch is that of its own head (train.branch_loss), which was trained \
             with the ensemble. Means over seeds; sd: standard deviation over seeds."
                .to_string(),
        ],
    }))
}

/// Returns the mean of a number over a model's seeds; empty if one of them has none.
fn over_seeds(
    ranked: &RankedModel,
    of: impl Fn(&Predictions) -> Result<Option<f64>>,
) -> Result<Cell> {
    let values: Vec<Option<f64>> = ranked.predictions.iter().map(of).collect::<Result<_>>()?;
    let values: Option<Vec<f64>> = values.into_iter().collect();
    Ok(values.map_or(Cell::Empty, |values| {
        let (value, sd) = mean_and_sd(&values);
        Cell::Metric { value, ci: None, sd, best: false, signed: false }
    }))
}
