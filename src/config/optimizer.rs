//! `train.optimizer` and `train.schedule`: the optimizer, its learning rates and their schedule.

use super::checks::Checks;
use super::names::names;
use super::section::section;

section! {
    /// The optimizer and its learning rates.
    pub struct OptimizerConfig {
        /// `adamw`, `sgd` or `lion`.
        pub name: OptimizerName = OptimizerName::Adamw,
        /// Learning rate after warm-up. `lion` needs a third to a tenth of AdamW's, and three to
        /// ten times its weight decay.
        pub lr: f64 = 1e-4,
        /// Learning rate of the two backbones; `null` is `lr`.
        pub backbone_lr: Option<f64> = None,
        /// Factor on the learning rate from each block of a backbone to the one below it, down to
        /// the embeddings; 1 gives all the same learning rate.
        pub layer_decay: f64 = 1.0,
        /// Weight decay. For `adamw` and `lion` it is decoupled: a weight shrinks by `lr *
        /// weight_decay`. For `sgd` it is PyTorch's: `weight_decay` times the weight is added to
        /// the gradient, so momentum carries it. Biases, norms, tokens, position embeddings and the
        /// scan's A and D are not decayed.
        pub weight_decay: f64 = 0.05,
        /// Decay rates of the moments; `null` is `[0.9, 0.999]` for `adamw` and `[0.9, 0.99]` for
        /// `lion`. `sgd` has none.
        pub betas: Option<[f64; 2]> = None,
        /// Term that `adamw` adds to the root of the second moment.
        pub eps: f64 = 1e-8,
        /// Momentum of `sgd`; 0 disables it.
        pub momentum: f64 = 0.9,
        /// Nesterov momentum, for `sgd`.
        pub nesterov: bool = false,
    }
}

names! {
    /// The optimizer.
    pub enum OptimizerName {
        /// Adam with decoupled weight decay (arXiv 1711.05101).
        Adamw = "adamw",
        /// Stochastic gradient descent with momentum, as in PyTorch.
        Sgd = "sgd",
        /// The sign of an interpolated momentum (arXiv 2302.06675).
        Lion = "lion",
    }
}

impl OptimizerConfig {
    /// Returns the learning rate of the two backbones.
    pub fn backbone_lr(&self) -> f64 {
        self.backbone_lr.unwrap_or(self.lr)
    }

    /// Returns the decay rates of the moments.
    pub fn betas(&self) -> [f64; 2] {
        self.betas.unwrap_or(match self.name {
            OptimizerName::Lion => [0.9, 0.99],
            OptimizerName::Adamw | OptimizerName::Sgd => [0.9, 0.999],
        })
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        checks.positive("lr", self.lr);
        if let Some(lr) = self.backbone_lr {
            checks.not_negative("backbone_lr", lr);
        }
        let decay = self.layer_decay;
        let holds = 0.0 < decay && decay <= 1.0;
        checks.require(holds, "layer_decay", "above 0 and at most 1", decay);
        checks.not_negative("weight_decay", self.weight_decay);
        let betas = self.betas();
        let holds = betas.iter().all(|beta| (0.0..1.0).contains(beta));
        let rule = "two numbers, each at least 0 and less than 1";
        checks.require(holds, "betas", rule, format_args!("{betas:?}"));
        checks.positive("eps", self.eps);
        checks.fraction("momentum", self.momentum);
        let holds = !self.nesterov || self.momentum > 0.0;
        let rule = "false where train.optimizer.momentum is 0";
        checks.require(holds, "nesterov", rule, self.nesterov);
    }
}

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
