//! Which samples each batch of a pass holds, and how one is made.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};

use super::options::LoaderOptions;
use super::shard::RankShard;
use crate::data::augment;
use crate::data::batch::{HostBatch, Vote};
use crate::data::image::Workspace;
use crate::data::image_dataset::{ImageDataset, Mode};
use crate::data::random_stream::RandomStream;

/// An image's votes with equal probabilities.
fn equal_probabilities(votes: &[f32]) -> Vec<Vote> {
    let probability = 1.0 / votes.len() as f32;
    votes.iter().map(|&rating| Vote { rating, probability }).collect()
}

/// Which samples each batch holds.
pub(super) struct BatchPlan {
    images: Arc<ImageDataset>,
    order: Vec<usize>,
    batch_size: usize,
    /// The first of this process, and where they end.
    pub(super) first: usize,
    pub(super) batches: usize,
    pass: Mode,
    shard: RankShard,
}

impl BatchPlan {
    pub(super) fn new(images: Arc<ImageDataset>, options: LoaderOptions) -> Result<Self> {
        let LoaderOptions { pass, batch_size, drop_last, shard, .. } = options;
        ensure!(batch_size > 0, "train.batch_size: 0 is no size; set at least 1");
        let mut order: Vec<usize> = (0..images.len()).collect();
        if let Mode::Train { seed, epoch } = pass {
            RandomStream::new(seed, epoch, 0, "shuffle").shuffle(&mut order);
        }
        let whole = order.len() / batch_size;
        ensure!(
            !drop_last || whole > 0,
            "train.batch_size: {} images do not fill a batch of {batch_size}; lower it",
            order.len()
        );
        let mut batches = if drop_last { whole } else { order.len().div_ceil(batch_size) };
        let mut first = 0;
        if pass == Mode::Eval {
            let mine = shard.range(batches);
            (first, batches) = (mine.start, mine.end);
        }
        Ok(Self { images, order, batch_size, batches, first, pass, shard })
    }

    pub(super) fn make(&self, batch: usize, workspace: &mut Workspace) -> Result<HostBatch> {
        let start = batch * self.batch_size;
        let end = (start + self.batch_size).min(self.order.len());
        let order = self.order.get(start..end).unwrap_or_default();
        let mine = match self.pass {
            Mode::Train { .. } => self.shard.range(order.len()),
            Mode::Eval => 0..order.len(),
        };
        let config = self.images.augment();
        // Images are mixed with the one before: the first of a part needs the last of the part
        // before.
        let partner = mine.len() < order.len() && !mine.is_empty() && augment::mixes(config);
        let mut indices = order[mine.clone()].to_vec();
        if partner {
            let before = (mine.start + order.len() - 1) % order.len();
            indices.insert(0, order[before]);
        }
        let size = self.images.size();
        let mut pixels = vec![0; indices.len() * 3 * size * size];
        for (&index, out) in indices.iter().zip(pixels.chunks_exact_mut(3 * size * size)) {
            let made = catch_unwind(AssertUnwindSafe(|| {
                self.images.pixels(index, self.pass, workspace, out)
            }));
            made.unwrap_or_else(|panic| {
                Err(anyhow!(
                    "{}: a panic while making it: {}",
                    self.images.describe(index),
                    panic_message(&*panic)
                ))
            })?;
        }
        let samples = self.images.samples();
        let of_samples = || indices.iter().map(|&index| &samples[index]);
        let mut made = HostBatch {
            pixels,
            len: indices.len(),
            size,
            targets: of_samples().map(|sample| sample.score).collect(),
            weights: of_samples().map(|sample| sample.weight).collect(),
            votes: of_samples().map(|sample| equal_probabilities(&sample.votes)).collect(),
            indices,
            global_len: order.len(),
        };
        if let Mode::Train { seed, epoch } = self.pass {
            let mut draws = RandomStream::new(seed, epoch, batch as u64, "mix");
            augment::mix(config, &mut made, &mut draws);
        }
        if partner {
            made.leave_first_out();
        }
        Ok(made)
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
