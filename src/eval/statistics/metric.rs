//! The four metrics by name.

use serde::{Deserialize, Serialize};

use crate::eval::metrics::Metrics;

/// A metric that predictions are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Pearson correlation.
    Pc,
    /// Mean absolute error.
    Mae,
    /// Root mean square error.
    Rmse,
    /// Spearman's rank correlation.
    Srcc,
}

impl Metric {
    /// All four, in the order of every table; a metric's place here is its index in an array of
    /// four.
    pub const ALL: [Metric; 4] = [Metric::Pc, Metric::Mae, Metric::Rmse, Metric::Srcc];

    /// `pc`, `mae`, `rmse` or `srcc`.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Pc => "pc",
            Metric::Mae => "mae",
            Metric::Rmse => "rmse",
            Metric::Srcc => "srcc",
        }
    }

    /// This metric of several.
    pub fn of(self, metrics: &Metrics) -> f64 {
        match self {
            Metric::Pc => metrics.pc,
            Metric::Mae => metrics.mae,
            Metric::Rmse => metrics.rmse,
            Metric::Srcc => metrics.srcc,
        }
    }
}
