//! Stochastic gradient descent with momentum, as in `torch.optim.SGD`: `g ← g + λ p`, `b ← μ b
//! + g`, `p ← p - lr b`; with Nesterov's momentum `p ← p - lr (g + μ b)`.

use anyhow::Result;
use tch::Tensor;

use super::{Update, UpdateRule};
use crate::config::OptimizerConfig;
use crate::ops::{self, SgdStep};

/// SGD's settings and momentum buffers; there are none if momentum is 0.
#[derive(Debug)]
pub(super) struct Sgd {
    momentum: f64,
    nesterov: bool,
    momentum_buffers: Vec<Tensor>,
}

impl Sgd {
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { momentum: config.momentum, nesterov: config.nesterov, momentum_buffers: Vec::new() }
    }

    fn buffers(&self) -> Option<&[Tensor]> {
        (self.momentum > 0.0).then_some(&self.momentum_buffers)
    }
}

impl UpdateRule for Sgd {
    fn add(&mut self, parameter: &Tensor) {
        if self.momentum > 0.0 {
            self.momentum_buffers.push(parameter.detach().zeros_like());
        }
    }

    fn step(&self, update: &Update) -> Result<()> {
        let step = SgdStep {
            lr: update.lr,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: update.weight_decay,
        };
        Ok(ops::sgd_step(update.params, update.grads, self.buffers(), &step)?)
    }

    fn state(&self) -> Vec<(&'static str, &[Tensor])> {
        let buffers = self.buffers().into_iter();
        buffers.map(|list| ("momentum_buffer", list)).collect()
    }
}
