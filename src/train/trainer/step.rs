//! One optimizer step.

use anyhow::Result;
use tch::Tensor;

use super::Trainer;
use crate::config::OnNan;
use crate::data::HostBatch;
use crate::models::images::upload;
use crate::models::{ForwardContext, Images, Output};
use crate::train::loss::Criterion;
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
    /// One optimizer step with the images of all `batches`.
    pub(super) fn train_step(&mut self, batches: &[HostBatch]) -> Result<Stepped> {
        self.optimizer.zero_grad();
        let loss = self.backward(batches)?.double_value(&[]);
        self.gradients.finish()?;
        let rates = self.optimizer.rates(&self.schedule, self.progress.steps);
        let grad_norm = if loss.is_finite() {
            let clip = self.config.train.clip_grad_norm;
            let scale = &mut self.progress.loss_scale;
            self.optimizer.step_scaled(scale, rates, clip)?
        } else {
            f64::NAN
        };
        let scaled_down = !grad_norm.is_finite()
            && loss.is_finite()
            && (self.progress.loss_scale).is_some_and(|scale| !scale.is_exhausted());
        if !grad_norm.is_finite() && !scaled_down {
            let found = self.describe_not_finite(batches, loss)?;
            if self.config.train.on_nan == OnNan::Stop {
                return Err(self.end_not_finite(batches, &found));
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
            images: images_in(batches),
        }))
    }

    /// Leaves this rank's part of the gradients of the step's loss over all batches, and returns
    /// that loss.
    fn backward(&mut self, batches: &[HostBatch]) -> Result<Tensor> {
        let targets = batches.iter().map(|batch| {
            let targets = self.criterion.targets(batch, self.net.head())?;
            self.ranks.gather_batch(&targets, batch.global_len)
        });
        let targets = targets.collect::<Result<Vec<_>>>()?;
        let total = Criterion::total_weight(&targets)?;
        let mut sum = total.zeros_like();
        for (i, (batch, targets)) in batches.iter().zip(&targets).enumerate() {
            // Dropout and stochastic depth depend on the seed, the step and the batch's place in it
            // alone, so a resumed run draws the same.
            let seed = match (i, seed_of(self.config.seed, self.progress.steps)) {
                (0, seed) => seed,
                (i, seed) => seed_of(seed as u64, i as u64),
            };
            tch::manual_seed(seed);
            if i + 1 == batches.len() {
                self.gradients.arm()?;
            }
            let rows = self.ranks.shard().range(batch.global_len);
            let ctx = ForwardContext::train().with_batch_shard(&rows, batch.global_len);
            sum += self.forward_backward(batch, ctx, targets, &total)?.detach();
        }
        Ok(sum)
    }

    /// Adds this rank's part of the gradients of a batch's part in the step's loss, and returns
    /// that part. `targets` and `total` are those of all ranks.
    fn forward_backward(
        &self,
        batch: &HostBatch,
        ctx: ForwardContext,
        targets: &Tensor,
        total: &Tensor,
    ) -> Result<Tensor> {
        // The last batch may have fewer images than there are ranks.
        let predictions = match batch.len {
            0 => self.criterion.no_predictions(self.net.device())?,
            _ => self.criterion.predictions(&self.forward(batch, ctx)?)?,
        };
        let predictions = self.ranks.gather_batch(&predictions, batch.global_len)?;
        let loss = self.criterion.loss(&predictions, targets, total)?;
        if loss.requires_grad() {
            LossScale::backward(self.progress.loss_scale, &loss)?;
        }
        Ok(loss)
    }

    /// In mixed precision where the config says so.
    fn forward(&self, batch: &HostBatch, ctx: ForwardContext) -> Result<Output> {
        let pixels = upload(batch, self.net.device())?;
        in_precision(self.autocast, self.net.device(), || {
            self.net.forward(Images::Pixels(&pixels), ctx)
        })
    }
}

/// Over all ranks.
pub(super) fn images_in(batches: &[HostBatch]) -> usize {
    batches.iter().map(|batch| batch.global_len).sum()
}

/// A seed of torch's generator for one step of a run (SplitMix64's mixing), so that steps do not
/// share their draws.
pub(super) fn seed_of(seed: u64, step: u64) -> i64 {
    let mut z = seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as i64
}
