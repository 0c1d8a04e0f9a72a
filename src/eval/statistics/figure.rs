//! The four figures by name.

use serde::{Deserialize, Serialize};

use crate::eval::metrics::Metrics;

/// A figure that predictions are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Figure {
    /// Pearson correlation.
    Pc,
    /// Mean absolute error.
    Mae,
    /// Root mean square error.
    Rmse,
    /// Spearman's rank correlation.
    Srcc,
}

impl Figure {
    /// All four, in the order of every table; a figure's place here is its index in an array of four.
    pub const ALL: [Figure; 4] = [Figure::Pc, Figure::Mae, Figure::Rmse, Figure::Srcc];

    /// `pc`, `mae`, `rmse` or `srcc`.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Pc => "pc",
            Figure::Mae => "mae",
            Figure::Rmse => "rmse",
            Figure::Srcc => "srcc",
        }
    }

    /// This figure of several.
    pub fn of(self, metrics: &Metrics) -> f64 {
        match self {
            Figure::Pc => metrics.pc,
            Figure::Mae => metrics.mae,
            Figure::Rmse => metrics.rmse,
            Figure::Srcc => metrics.srcc,
        }
    }
}
