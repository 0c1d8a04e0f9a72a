//! `train.schedule`: the learning-rate schedule.

use super::checks::Checks;
use super::names::names;
use super::optimizer::OptimizerConfig;
use super::section::section;

section! {
    /// The learning-rate schedule.
    pub struct ScheduleConfig {
        /// `cosine`, `linear`, `step` or `constant`, after warm-up; updated at every optimizer
        /// step.
        pub name: ScheduleName = ScheduleName::Cosine,
        /// Epochs, which may be fractional, in which the learning rate rises from 0.
        pub warmup_epochs: f64 = 2.0,
        /// Learning rate at the end of `cosine` and `linear`, and the lowest of `step`.
        pub min_lr: f64 = 1e-6,
        /// Epochs, which may be fractional, after each of which `step` multiplies the learning rate
        /// by `gamma`; counted from the start of the run.
        pub step_epochs: f64 = 10.0,
        /// Epochs, which may be fractional, at which `step` does so instead, in ascending order;
        /// `[]` uses `step_epochs`.
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
        /// A constant learning rate.
        Constant = "constant",
    }
}

impl ScheduleConfig {
    pub(super) fn check(&self, optimizer: &OptimizerConfig, checks: &mut Checks) {
        let min_lr = self.min_lr;
        checks.not_negative("warmup_epochs", self.warmup_epochs);
        checks.not_negative("min_lr", min_lr);
        // A decay from a learning rate below its end would rise. A backbone at 0 does not train.
        for (key, lr) in [
            ("train.optimizer.lr", optimizer.lr),
            ("train.optimizer.backbone_lr", optimizer.backbone_lr()),
        ] {
            if self.name != ScheduleName::Constant && lr > 0.0 && min_lr > lr {
                let rule = format!("at most {key}, {lr}");
                checks.require(false, "min_lr", rule, min_lr);
                break;
            }
        }
        checks.positive("step_epochs", self.step_epochs);
        let milestones = &self.milestones;
        let ascending = milestones.windows(2).all(|pair| pair[0] < pair[1]);
        let holds = ascending && milestones.iter().all(|at| *at > 0.0 && at.is_finite());
        let rule = "numbers above 0 in ascending order";
        checks.require(holds, "milestones", rule, format_args!("{milestones:?}"));
        let gamma = self.gamma;
        let holds = 0.0 < gamma && gamma <= 1.0;
        checks.require(holds, "gamma", "above 0 and at most 1", gamma);
    }
}
