//! `train.monitor` and `train.early_stopping`: which epoch is the best, and when to stop.

use super::checks::Checks;
use super::names::names;
use super::section::section;

section! {
    /// When a run ends before its last epoch.
    pub struct EarlyStoppingConfig {
        /// Ends the run after this many epochs in a row without a better `train.monitor`; `null`
        /// never does.
        pub patience: Option<usize> = None,
        /// Smallest improvement that counts, in the metric's own units.
        pub min_delta: f64 = 0.0,
    }
}

names! {
    /// The monitored metric, which chooses the best epoch.
    pub enum Monitor {
        /// Pearson correlation on the validation images; higher is better.
        Pc = "pc",
        /// Mean absolute error on them; lower is better.
        Mae = "mae",
        /// Root mean square error on them; lower is better.
        Rmse = "rmse",
        /// Spearman's rank correlation on them; higher is better.
        Srcc = "srcc",
        /// Mean loss over the epoch's training images; lower is better.
        TrainLoss = "train_loss",
    }
}

impl Monitor {
    /// Returns the name of the metric in a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Self::Pc => "validation PC",
            Self::Mae => "validation MAE",
            Self::Rmse => "validation RMSE",
            Self::Srcc => "validation SRCC",
            Self::TrainLoss => "training loss",
        }
    }
}

impl EarlyStoppingConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        if let Some(patience) = self.patience {
            checks.size("patience", patience);
        }
        checks.not_negative("min_delta", self.min_delta);
    }
}
