//! How a forward pass runs: in training or in evaluation, on a global batch or some rows of it.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::config::Branch;
use crate::data::random_stream::mix;

/// The mode of a forward pass, and the place of its images in the global batch.
#[derive(Debug, Clone, Copy)]
pub struct ForwardContext {
    train: bool,
    shard: Option<BatchShard>,
    /// The seed of what is dropped here; `None` samples from torch's generator.
    seed: Option<u64>,
    /// The branches whose backbones are frozen.
    frozen: [bool; 2],
}

#[derive(Debug, Clone, Copy)]
struct BatchShard {
    start: i64,
    global_batch: i64,
}

impl ForwardContext {
    /// Evaluation: dropout and stochastic depth are off.
    pub const fn eval() -> Self {
        Self { train: false, shard: None, seed: None, frozen: [false; 2] }
    }

    /// Training: dropout and stochastic depth are on, and sample from torch's generator.
    pub const fn train() -> Self {
        Self { train: true, ..Self::eval() }
    }

    /// Training on a device. On the CPU it samples from `seed` instead of torch's generator: what
    /// is dropped of an image depends on the seed and on the image's row in the global batch alone,
    /// so that several threads may compute slices of a batch.
    pub fn train_on(device: Device, seed: u64) -> Self {
        Self { seed: (device == Device::Cpu).then_some(seed), ..Self::train() }
    }

    /// Marks the images as those at `rows` of a global batch: dropout and stochastic depth drop
    /// what they would in a pass over the global batch, if torch's generator is in the same state
    /// or the seed is the same.
    pub fn with_batch_shard(self, rows: &Range<usize>, global_batch: usize) -> Self {
        let shard = BatchShard { start: rows.start as i64, global_batch: global_batch as i64 };
        Self { shard: (rows.len() < global_batch).then_some(shard), ..self }
    }

    /// Marks branches, which `frozen` tells by, as frozen: their backbones run as in evaluation.
    pub fn with_frozen(self, frozen: impl Fn(Branch) -> bool) -> Self {
        Self { frozen: [Branch::Vit, Branch::Mamba].map(frozen), ..self }
    }

    /// Returns the context of a branch's backbone.
    pub(super) fn of_branch(self, branch: Branch) -> Self {
        if self.frozen[branch as usize] { Self::eval() } else { self.of_part(branch as usize) }
    }

    /// Returns the context of a part of the network with this index among those of the whole:
    /// each samples other numbers.
    pub(super) fn of_part(self, index: usize) -> Self {
        Self { seed: self.seed.map(|seed| mix(seed, index as u64)), ..self }
    }

    /// Whether this is training.
    pub fn is_train(self) -> bool {
        self.train
    }

    /// Returns a tensor of this shape (b, …) that is 1 with probability `keep` and otherwise 0.
    pub(super) fn keep_mask(self, shape: &[i64], keep: f64, device: Device) -> Tensor {
        let mut shape = shape.to_vec();
        let b = shape[0];
        let uniform = match (self.seed, self.shard) {
            (Some(seed), shard) => {
                let (start, width) = (shard.map_or(0, |shard| shard.start), shape[1..].iter());
                Tensor::from_slice(&uniform(seed, start..start + b, width.product()))
                    .view(&*shape)
                    .to_device(device)
            }
            (None, Some(BatchShard { start, global_batch })) => {
                shape[0] = global_batch;
                Tensor::rand(&shape, (Kind::Float, device)).narrow(0, start, b)
            }
            (None, None) => Tensor::rand(&shape, (Kind::Float, device)),
        };
        uniform.lt(keep).to_kind(Kind::Float)
    }

    /// Applies dropout (arXiv 1207.0580) to x (b, …) in training.
    pub(super) fn dropout(self, x: &Tensor, p: f64) -> Tensor {
        let mut shape = x.size();
        if !self.train || p <= 0.0 || shape.is_empty() {
            return x.dropout(p, self.train);
        }
        let mask = match (self.seed, self.shard) {
            (Some(_), _) => self.keep_mask(&shape, 1.0 - p, x.device()) * (1.0 / (1.0 - p)),
            // Dropout of ones is the mask that dropout multiplies by.
            (None, Some(BatchShard { start, global_batch })) => {
                let b = std::mem::replace(&mut shape[0], global_batch);
                let ones = Tensor::ones(&shape, (x.kind(), x.device()));
                ones.dropout(p, true).narrow(0, start, b)
            }
            (None, None) => return x.dropout(p, true),
        };
        x * mask.to_kind(x.kind())
    }
}

/// Returns `width` numbers from [0, 1), in steps of 2^-24, for each of the rows, one after the
/// other.
fn uniform(seed: u64, rows: Range<i64>, width: i64) -> Vec<f32> {
    let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32;
    rows.flat_map(|row| {
        let of_row = mix(seed, row as u64);
        (0..width).map(move |column| unit(mix(of_row, column as u64)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_sampled_by_its_place_in_the_global_batch() {
        let global = uniform(7, 0..6, 40);
        assert_eq!(uniform(7, 2..5, 40), global[80..200]);
        let mean = global.iter().sum::<f32>() / global.len() as f32;
        assert!((0.4..0.6).contains(&mean), "{mean}");
        assert!(global.iter().all(|value| (0.0..1.0).contains(value)));
    }

    #[test]
    fn parts_of_the_network_drop_other_things() {
        let ctx = ForwardContext::train_on(Device::Cpu, 3);
        let mask = |ctx: ForwardContext| {
            let mask = ctx.keep_mask(&[4, 50], 0.5, Device::Cpu);
            Vec::<f32>::try_from(mask.view(-1)).unwrap()
        };
        assert_eq!(mask(ctx), mask(ctx));
        let masks = [ctx, ctx.of_part(0), ctx.of_part(1), ctx.of_part(0).of_part(1)].map(mask);
        for (i, a) in masks.iter().enumerate() {
            for b in &masks[..i] {
                let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
                assert!((60..140).contains(&equal), "{equal} of 200");
            }
        }
    }
}
