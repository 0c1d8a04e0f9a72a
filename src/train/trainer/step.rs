//! One optimizer step.

use std::ops::Range;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::Trainer;
use crate::config::OnNan;
use crate::data::HostBatch;
use crate::data::random_stream::mix;
use crate::models::ForwardContext;
use crate::train::gradient_sum::GradientSum;
use crate::train::modulation::modulate;
use crate::train::objective::{Microbatch, Objective, Slice};
use crate::train::observer::StepRecord;
use crate::train::precision::LossScale;

/// The index of the noise of gradient modulation among a step's random numbers, which no microbatch
/// has.
const MODULATION: u64 = u64::MAX;

/// The loss of a step over the global batch.
struct StepLoss {
    /// The ensemble's.
    reported: f64,
    /// Those of the branches' own heads, if gradients are modulated by them.
    branches: Vec<f64>,
}

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
        let StepLoss { reported: loss, branches } = self.backward(batches)?;
        self.gradients.finish()?;
        if let (Some(alpha), &[vit, mamba]) = (self.config.train.gradient_modulation, &branches[..])
        {
            // All ranks have the same noise.
            tch::manual_seed(seed_of(
                seed_of(self.config.seed, self.progress.steps) as u64,
                MODULATION,
            ));
            modulate(&self.parameters, alpha, [vit, mamba])?;
        }
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

    /// Sums this rank's gradients of the step's loss over all microbatches, and returns that loss,
    /// over all ranks.
    fn backward(&mut self, batches: &[HostBatch]) -> Result<StepLoss> {
        let objective = &self.objective;
        let total = self.world.sum(objective.weight(batches, self.progress.epochs))?;
        let gradients = GradientSum::new(&self.trained, &self.slicer);
        let mut terms: Vec<(Tensor, Vec<Tensor>)> = Vec::new();
        for (index, batch) in batches.iter().enumerate() {
            if index + 1 == batches.len() {
                self.gradients.arm()?;
            }
            let microbatch = Microbatch {
                batch,
                slices: self.slices(index, batch),
                total,
                world: &self.world,
                slicer: &self.slicer,
            };
            let joint = objective.joint_loss(&microbatch)?;
            let (slices, before) = (&microbatch.slices, terms.len());
            let scale = self.progress.loss_scale;
            terms.extend(self.slicer.map(slices.len(), |slice| {
                let loss = match &joint {
                    Some(joint) => joint.term(slice)?,
                    None => objective.loss(&slices[slice], total)?,
                };
                gradients.add(before + slice, &LossScale::scaled(scale, loss.total))?;
                let branches = loss.branches.iter().map(Tensor::detach).collect();
                Ok((loss.reported.detach(), branches))
            })?);
        }
        let sum = |terms: Vec<&Tensor>| -> Result<f64> {
            let mine = if terms.is_empty() {
                0.0
            } else {
                Tensor::f_stack(&terms, 0)?.f_sum(Kind::Double)?.double_value(&[])
            };
            self.world.sum(mine)
        };
        // Nothing else compares the branches' losses.
        let compared = if self.config.train.gradient_modulation.is_some() {
            self.objective.branch_heads()
        } else {
            0
        };
        let of_branch =
            |branch: usize| sum(terms.iter().filter_map(|(_, all)| all.get(branch)).collect());
        Ok(StepLoss {
            reported: sum(terms.iter().map(|(reported, _)| reported).collect())?,
            branches: (0..compared).map(of_branch).collect::<Result<_>>()?,
        })
    }

    /// Returns the slices of this rank's shard of a microbatch.
    fn slices<'b>(&self, index: usize, batch: &'b HostBatch) -> Vec<Slice<'b>> {
        // Dropout and stochastic depth depend only on the seed, the step and the microbatch's
        // index, so a resumed run samples the same.
        let seed = match (index, seed_of(self.config.seed, self.progress.steps)) {
            (0, seed) => seed,
            (index, seed) => seed_of(seed as u64, index as u64),
        };
        // On a GPU they sample from its generator.
        tch::manual_seed(seed);
        let ctx = ForwardContext::train_on(self.objective.device(), seed as u64);
        let start = self.world.shard().range(batch.global_len).start;
        let slice = |rows: Range<usize>| {
            let global = start + rows.start..start + rows.end;
            Slice {
                batch,
                rows,
                epoch: self.progress.epochs,
                ctx: ctx.with_batch_shard(&global, batch.global_len),
                autocast: self.autocast,
            }
        };
        self.slicer.slices(batch.len).into_iter().map(slice).collect()
    }
}

/// Counts the images of the global batch.
pub(super) fn images_in(batches: &[HostBatch]) -> usize {
    batches.iter().map(|batch| batch.global_len).sum()
}

/// Returns the seed of torch's generator for one step of a run, so that no two steps use the same
/// random numbers.
pub(in crate::train) fn seed_of(seed: u64, step: u64) -> i64 {
    mix(seed, step) as i64
}
