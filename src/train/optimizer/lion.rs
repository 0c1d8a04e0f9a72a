//! Lion (arXiv 2302.06675, algorithm 2): `p ← (1 - lr λ) p - lr sign(β₁ m + (1 - β₁) g)`, `m ← β₂ m
//! + (1 - β₂) g`.

use anyhow::Result;
use tch::Tensor;

use super::{Update, UpdateRule};
use crate::config::OptimizerConfig;
use crate::ops::{self, LionStep};

/// Lion's settings and momenta.
#[derive(Debug)]
pub(super) struct Lion {
    betas: [f64; 2],
    exp_avgs: Vec<Tensor>,
}

impl Lion {
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { betas: config.betas(), exp_avgs: Vec::new() }
    }
}

impl UpdateRule for Lion {
    fn add(&mut self, parameter: &Tensor) {
        self.exp_avgs.push(parameter.detach().zeros_like());
    }

    fn step(&self, update: &Update) -> Result<()> {
        let step = LionStep { lr: update.lr, betas: self.betas, weight_decay: update.weight_decay };
        Ok(ops::lion_step(update.params, update.grads, &self.exp_avgs, &step)?)
    }

    fn state(&self) -> Vec<(&'static str, &[Tensor])> {
        vec![("exp_avg", &self.exp_avgs)]
    }
}
