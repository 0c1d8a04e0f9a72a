//! One optimizer step.

use anyhow::{Context, Result};
use tch::Tensor;

use super::Trainer;
use crate::config::OnNan;
use crate::data::HostBatch;
use crate::models::ForwardContext;
use crate::train::objective::{Microbatch, Objective};
use crate::train::observer::StepRecord;
use crate::train::precision::LossScale;

/// The result of a step.
pub(super) enum Stepped {
    /// The weights were updated; or the loss scale was too large, and was reduced instead.
    Done(StepRecord),
    /// The step was skipped because its loss or gradient was not finite, as the text says.
    Skipped(String),
}

impl<O: Objective> Trainer<'_, O> {
    /// Makes one optimizer step with the images of all microbatches. The next step would notice
    /// weights that this one makes not finite; after the `last` of an epoch they are checked. No
    /// step is skipped once they are: nothing repairs them.
    pub(super) fn train_step(&mut self, batches: &[HostBatch], last: bool) -> Result<Stepped> {
        self.optimizer.zero_grad();
        let loss = self.backward(batches)?.double_value(&[]);
        self.gradients.finish()?;
        let lr = self.optimizer.learning_rates(&self.schedule, self.progress.steps);
        let grad_norm = if loss.is_finite() {
            let clip = self.config.train.clip_grad_norm;
            self.optimizer.step_scaled(&mut self.progress.loss_scale, lr, clip)?
        } else {
            f64::NAN
        };
        let scaled_down = !grad_norm.is_finite()
            && loss.is_finite()
            && (self.progress.loss_scale).is_some_and(|scale| !scale.is_exhausted());
        let updated = grad_norm.is_finite();
        let broken = updated && last && !self.weights_are_finite()?;
        if broken || (!updated && !scaled_down) {
            let found = self.describe_not_finite(batches, loss, updated)?;
            if self.config.train.on_nan != OnNan::Skip || found.is_beyond_repair() {
                return Err(self.end_not_finite(batches, &found));
            }
            self.progress.steps += 1;
            return Ok(Stepped::Skipped(found.to_string()));
        }
        self.progress.steps += 1;
        if let Some(ema) = &mut self.ema {
            ema.update(self.progress.steps)?;
        }
        Ok(Stepped::Done(StepRecord {
            step: self.progress.steps,
            loss,
            lr: lr[0],
            backbone_lr: lr[1],
            grad_norm,
            images: images_in(batches),
        }))
    }

    /// Accumulates this rank's gradients of the step's loss over all microbatches, and returns that
    /// loss.
    fn backward(&mut self, batches: &[HostBatch]) -> Result<Tensor> {
        let targets = self.objective.targets(batches, &self.world)?;
        let mut sum: Option<Tensor> = None;
        for (index, batch) in batches.iter().enumerate() {
            // Dropout and stochastic depth depend only on the seed, the step and the microbatch's
            // index, so a resumed run samples the same.
            let seed = match (index, seed_of(self.config.seed, self.progress.steps)) {
                (0, seed) => seed,
                (index, seed) => seed_of(seed as u64, index as u64),
            };
            tch::manual_seed(seed);
            if index + 1 == batches.len() {
                self.gradients.arm()?;
            }
            let rows = self.world.shard().range(batch.global_len);
            let microbatch = Microbatch {
                batch,
                index,
                epoch: self.progress.epochs,
                ctx: ForwardContext::train().with_batch_shard(&rows, batch.global_len),
                autocast: self.autocast,
                world: &self.world,
            };
            let loss = self.objective.loss(&microbatch, &targets)?;
            // A rank without images in the microbatch has no graph.
            if loss.total.requires_grad() {
                LossScale::backward(self.progress.loss_scale, &loss.total)?;
            }
            let reported = loss.reported.detach();
            sum = Some(sum.map_or_else(|| reported.shallow_clone(), |sum| sum + &reported));
        }
        sum.context("internal: a step without microbatches")
    }
}

/// Counts the images of the global batch.
pub(super) fn images_in(batches: &[HostBatch]) -> usize {
    batches.iter().map(|batch| batch.global_len).sum()
}

/// Returns the seed of torch's generator for one step of a run (SplitMix64's mixing), so that no
/// two steps use the same random numbers.
pub(in crate::train) fn seed_of(seed: u64, step: u64) -> i64 {
    let mut z = seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as i64
}
