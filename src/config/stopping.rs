//! `train.monitor` and `train.early_stopping`: which epoch is the best, and when there is no better
//! one to hope for.

use super::checks::Checks;
use super::names::names;
use super::section::section;

section! {
    /// When a run ends before its last epoch.
    pub struct EarlyStoppingConfig {
        /// Ends the run after so many epochs in a row without a better `train.monitor`; `null`
        /// never does.
        pub patience: Option<usize> = None,
        /// How much better it must be to count, in the metric's own units.
        pub min_delta: f64 = 0.0,
    }
}

names! {
    /// The metric that chooses the best epoch.
    pub enum Monitor {
        /// Pearson correlation on the validation images; more is better.
        Pc = "pc",
        /// Mean absolute error on them; less is better.
        Mae = "mae",
        /// Root mean square error on them; less is better.
        Rmse = "rmse",
        /// Spearman's rank correlation on them; more is better.
        Srcc = "srcc",
        /// Mean loss over the epoch's training images; less is better.
        TrainLoss = "train_loss",
    }
}

impl Monitor {
    /// What the metric is called in a sentence.
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
            checks.size("train.early_stopping.patience", patience);
        }
        checks.not_negative("train.early_stopping.min_delta", self.min_delta);
    }
}
