//! Metrics with their intervals, as they stand in `summary.json`.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::interval::Interval;
use super::metric::Metric;
use super::replicates::Bootstrap;
use super::sample::Sample;
use crate::eval::metrics::Metrics;
use crate::eval::predictions::Predictions;

/// The metrics of one set of predictions, with 95 % intervals over images. In JSON an object of
/// both: `pc`, …, `n`, `pc_ci`, ….
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The metrics.
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
    /// The metrics of these predictions. The intervals depend on nothing else.
    ///
    /// # Errors
    /// If the columns are not equally long.
    pub fn new(predictions: &Predictions) -> Result<Self> {
        let metrics = predictions.metrics()?;
        let sample = Sample::new(&predictions.predictions, &predictions.targets)?;
        let replicates = Bootstrap::default().replicate(&[sample])?;
        let [pc_ci, mae_ci, rmse_ci, srcc_ci] = Metric::ALL.map(|metric| {
            let replicates = replicates.first()?;
            replicates.interval(metric)
        });
        Ok(Self { metrics, pc_ci, mae_ci, rmse_ci, srcc_ci })
    }

    /// The interval of one metric; `None` where it is not defined.
    pub fn interval(&self, metric: Metric) -> Option<Interval> {
        match metric {
            Metric::Pc => self.pc_ci,
            Metric::Mae => self.mae_ci,
            Metric::Rmse => self.rmse_ci,
            Metric::Srcc => self.srcc_ci,
        }
    }
}
