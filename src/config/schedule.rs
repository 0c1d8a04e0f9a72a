//! `train.schedule`: how the rates change over the run.

use super::checks::Checks;
use super::names::names;
use super::optimizer::OptimizerConfig;
use super::section::section;

section! {
    /// How the rates change over the run.
    pub struct ScheduleConfig {
        /// `cosine`, `linear`, `step` or `constant`, after warm-up; by optimizer step, not by
        /// epoch.
        pub name: ScheduleName = ScheduleName::Cosine,
        /// Epochs, or parts of one, in which the rate rises from 0.
        pub warmup_epochs: f64 = 2.0,
        /// Rate at the end of `cosine` and `linear`, and the least rate of `step`.
        pub min_lr: f64 = 1e-6,
        /// Epochs, or parts of one, after each of which `step` multiplies the rate by `gamma`;
        /// counted from the run's start.
        pub step_epochs: f64 = 10.0,
        /// Epochs, or parts of one, at which `step` does so instead, in rising order; `[]` takes
        /// `step_epochs`.
        pub milestones: Vec<f64> = Vec::new(),
        /// Factor of `step`.
        pub gamma: f64 = 0.1,
    }
}

names! {
    /// The schedule after warm-up.
    pub enum ScheduleName {
        /// Half a cosine down to `min_lr` (arXiv 1608.03983, without restarts).
        Cosine = "cosine",
        /// A straight line down to `min_lr`.
        Linear = "linear",
        /// Times `gamma` at milestones.
        Step = "step",
        /// The full rate.
        Constant = "constant",
    }
}

impl ScheduleConfig {
    pub(super) fn check(&self, optimizer: &OptimizerConfig, checks: &mut Checks) {
        let min_lr = self.min_lr;
        checks.not_negative("train.schedule.warmup_epochs", self.warmup_epochs);
        checks.not_negative("train.schedule.min_lr", min_lr);
        // A descent from a rate below its end would rise. A backbone at 0 is at rest.
        for (key, lr) in [
            ("train.optimizer.lr", optimizer.lr),
            ("train.optimizer.backbone_lr", optimizer.backbone_lr()),
        ] {
            if self.name != ScheduleName::Constant && lr > 0.0 && min_lr > lr {
                let rule = format!("at most {key}, {lr}");
                checks.require(false, "train.schedule.min_lr", rule, min_lr);
                break;
            }
        }
        checks.positive("train.schedule.step_epochs", self.step_epochs);
        let milestones = &self.milestones;
        let rises = milestones.windows(2).all(|pair| pair[0] < pair[1]);
        checks.require(
            rises && milestones.iter().all(|at| *at > 0.0 && at.is_finite()),
            "train.schedule.milestones",
            "numbers above 0 in rising order",
            format_args!("{milestones:?}"),
        );
        let gamma = self.gamma;
        let holds = 0.0 < gamma && gamma <= 1.0;
        checks.require(holds, "train.schedule.gamma", "above 0 and at most 1", gamma);
    }
}
