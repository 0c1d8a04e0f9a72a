//! One optimizer step.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::Trainer;
use crate::config::{Loss, OnNan};
use crate::data::HostBatch;
use crate::eval::evaluate;
use crate::models::batch_part::with_part;
use crate::models::{Images, Output};
use crate::train::observer::StepRecord;
use crate::train::precision::{LossScale, in_precision};

/// What became of a step.
pub(super) enum Stepped {
    /// The weights moved; or the loss scale was too large, and moved in their place.
    Done(StepRecord),
    /// Its loss or gradient was not finite, as the text says.
    LeftOut(String),
}

impl Trainer<'_> {
    pub(super) fn train_step(&mut self, batch: &HostBatch) -> Result<Stepped> {
        // Dropout and stochastic depth depend on the seed and the step alone, so a resumed run draws the same.
        tch::manual_seed(seed_of(self.config.seed, self.progress.steps));
        self.optimizer.zero_grad();
        self.gradients.arm()?;
        let part = self.ranks.share().of(batch.whole);
        let loss = with_part(&part, batch.whole, || self.forward_backward(batch))?;
        self.gradients.finish()?;
        let loss = loss.double_value(&[]);
        let rates = self.optimizer.rates(&self.schedule, self.progress.steps);
        let grad_norm = match loss.is_finite() {
            true => self.update(rates)?,
            false => f64::NAN,
        };
        let scaled_down = !grad_norm.is_finite()
            && loss.is_finite()
            && (self.progress.loss_scale).is_some_and(|scale| !scale.is_exhausted());
        if !grad_norm.is_finite() && !scaled_down {
            let found = self.describe_not_finite(batch, loss)?;
            if self.config.train.on_nan == OnNan::Stop {
                return Err(self.end_not_finite(batch, &found));
            }
            self.progress.steps += 1;
            return Ok(Stepped::LeftOut(found.to_string()));
        }
        self.progress.steps += 1;
        if let Some(ema) = &mut self.ema {
            ema.update(self.progress.steps)?;
        }
        Ok(Stepped::Done(StepRecord {
            step: self.progress.steps,
            loss,
            lr: rates[0],
            backbone_lr: rates[1],
            grad_norm,
            images: batch.whole,
        }))
    }

    /// Moves the weights along the gradients, and returns the gradients' norm; where that is not finite, nothing moves.
    fn update(&mut self, rates: [f64; 2]) -> Result<f64> {
        if let Some(LossScale { scale, .. }) = self.progress.loss_scale {
            let _guard = tch::no_grad_guard();
            for (_, parameter) in self.net.parameters() {
                let mut gradient = parameter.grad();
                if gradient.defined() {
                    let _ = gradient.f_mul_scalar_(1.0 / scale)?;
                }
            }
        }
        let norm = self
            .optimizer
            .step(rates, self.config.train.clip_grad_norm)?;
        if let Some(scale) = &mut self.progress.loss_scale {
            scale.update(norm.is_finite());
        }
        Ok(norm)
    }

    /// Returns the loss over the whole batch, and leaves this rank's part of its gradients.
    fn forward_backward(&self, batch: &HostBatch) -> Result<Tensor> {
        let device = self.net.device();
        let targets = Tensor::f_from_slice(&batch.targets)?.to_device(device);
        let targets = self.net.head().to_scaled(&targets);
        // The last batch may have fewer pictures than there are ranks.
        let scaled = match batch.len {
            0 => targets.zeros_like(),
            _ => self.forward(batch)?.scaled.to_kind(Kind::Float),
        };
        let targets = self.ranks.gather_batch(&targets, batch.whole)?;
        let scaled = self.ranks.gather_batch(&scaled, batch.whole)?;
        let loss = loss(self.config.train.loss, &scaled, &targets);
        if loss.requires_grad() {
            match self.progress.loss_scale {
                Some(LossScale { scale, .. }) => (&loss * scale).f_backward()?,
                None => loss.f_backward()?,
            }
        }
        Ok(loss)
    }

    /// In mixed precision where the config says so.
    fn forward(&self, batch: &HostBatch) -> Result<Output> {
        let pixels = evaluate::pixels(batch, &self.net)?;
        in_precision(self.autocast, self.net.device(), || {
            self.net.forward(Images::Pixels(&pixels), true)
        })
    }
}

/// The loss between predictions and targets, both (b) on the scaled scores; a scalar.
fn loss(loss: Loss, predictions: &Tensor, targets: &Tensor) -> Tensor {
    match loss {
        Loss::Mse => predictions.mse_loss(targets, tch::Reduction::Mean),
    }
}

/// A seed of torch's generator for one step of a run (SplitMix64's mixing), so that steps do not share their draws.
pub(super) fn seed_of(seed: u64, step: u64) -> i64 {
    let mut z = seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as i64
}
