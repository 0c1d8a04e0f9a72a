//! Adam with decoupled weight decay (arXiv 1711.05101).

use anyhow::Result;
use tch::{Kind, Tensor};

use super::{Update, UpdateRule};
use crate::config::OptimizerConfig;
use crate::ops::{self, AdamWStep};

/// AdamW's settings, first and second moments and step counts.
#[derive(Debug)]
pub(super) struct AdamW {
    betas: [f64; 2],
    eps: f64,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl AdamW {
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self {
            betas: config.betas(),
            eps: config.eps,
            exp_avgs: Vec::new(),
            exp_avg_sqs: Vec::new(),
            steps: Vec::new(),
        }
    }
}

impl UpdateRule for AdamW {
    fn add(&mut self, parameter: &Tensor) {
        self.exp_avgs.push(parameter.detach().zeros_like());
        self.exp_avg_sqs.push(parameter.detach().zeros_like());
        self.steps.push(Tensor::zeros([], (Kind::Float, parameter.device())));
    }

    fn step(&self, update: &Update) -> Result<()> {
        let step = AdamWStep {
            lr: update.lr,
            betas: self.betas,
            weight_decay: update.weight_decay,
            eps: self.eps,
        };
        Ok(ops::adamw_step(
            update.params,
            update.grads,
            &self.exp_avgs,
            &self.exp_avg_sqs,
            &self.steps,
            &step,
        )?)
    }

    fn state(&self) -> Vec<(&'static str, &[Tensor])> {
        vec![("exp_avg", &self.exp_avgs), ("exp_avg_sq", &self.exp_avg_sqs), ("step", &self.steps)]
    }
}
