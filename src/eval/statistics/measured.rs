//! Figures with their intervals, as they stand in `summary.json`.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::interval::Interval;
use super::replicates::Bootstrap;
use super::sample::Sample;
use crate::eval::metrics::Metrics;
use crate::eval::predictions::Predictions;

/// The figures of one set of predictions, with 95 % intervals over images. In JSON an object of both: `pc`, …, `n`, `pc_ci`, ….
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The figures.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Of the Pearson correlation.
    #[serde(default)]
    pub pc_ci: Option<Interval>,
    /// Of the mean absolute error.
    #[serde(default)]
    pub mae_ci: Option<Interval>,
    /// Of the root mean square error.
    #[serde(default)]
    pub rmse_ci: Option<Interval>,
    /// Of Spearman's correlation.
    #[serde(default)]
    pub srcc_ci: Option<Interval>,
}

impl Measured {
    /// The figures of these predictions. The intervals depend on nothing else.
    ///
    /// # Errors
    /// If the columns are not equally long.
    pub fn new(predictions: &Predictions) -> Result<Self> {
        let metrics = predictions.metrics()?;
        let sample = Sample::new(&predictions.predictions, &predictions.targets)?;
        let replicates = Bootstrap::default().replicate(&[sample])?;
        let [pc_ci, mae_ci, rmse_ci, srcc_ci] = Figure::ALL.map(|figure| {
            let replicates = replicates.first()?;
            replicates.interval(figure)
        });
        Ok(Self {
            metrics,
            pc_ci,
            mae_ci,
            rmse_ci,
            srcc_ci,
        })
    }

    /// The interval of one figure; `None` where it is not defined.
    pub fn interval(&self, figure: Figure) -> Option<Interval> {
        match figure {
            Figure::Pc => self.pc_ci,
            Figure::Mae => self.mae_ci,
            Figure::Rmse => self.rmse_ci,
            Figure::Srcc => self.srcc_ci,
        }
    }
}
