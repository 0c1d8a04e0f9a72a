//! The assignment of samples to batches, and how a batch is loaded.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::options::LoaderOptions;
use crate::data::augment;
use crate::data::batch::HostBatch;
use crate::data::image::Workspace;
use crate::data::image_dataset::{ImageDataset, Mode};
use crate::data::random_stream::RandomStream;

pub(super) struct BatchPlan {
    images: Arc<ImageDataset>,
    options: LoaderOptions,
    order: Vec<usize>,
    /// The batches that this process loads.
    pub(super) batches: Range<usize>,
}

impl BatchPlan {
    pub(super) fn new(images: Arc<ImageDataset>, options: LoaderOptions) -> Result<Self> {
        let LoaderOptions { mode, batch_size, drop_last, shard, .. } = options;
        ensure!(batch_size > 0, "train.batch_size: 0 is not a valid size; set at least 1");
        let mut order: Vec<usize> = (0..images.len()).collect();
        if let Mode::Train { seed, epoch } = mode {
            RandomStream::new(seed, epoch, 0, "shuffle").shuffle(&mut order);
        }
        let full = order.len() / batch_size;
        ensure!(
            !drop_last || full > 0,
            "train.batch_size: {} images do not fill a batch of {batch_size}; lower it",
            order.len()
        );
        let count = if drop_last { full } else { order.len().div_ceil(batch_size) };
        let batches = match mode {
            Mode::Train { .. } => 0..count,
            Mode::Eval => shard.range(count),
        };
        Ok(Self { images, options, order, batches })
    }

    pub(super) fn load(&self, batch: usize, workspace: &mut Workspace) -> Result<HostBatch> {
        let LoaderOptions { mode, batch_size, shard, pixels, .. } = self.options;
        let start = batch * batch_size;
        let end = (start + batch_size).min(self.order.len());
        let order = self.order.get(start..end).unwrap_or_default();
        let mine = match mode {
            Mode::Train { .. } => shard.range(order.len()),
            Mode::Eval => 0..order.len(),
        };
        if !pixels {
            let labels = self.images.labels(order[mine].to_vec());
            return Ok(HostBatch { global_len: order.len(), ..labels });
        }
        let config = self.images.augment();
        // Each image is mixed with the one before it: the first of a shard needs the last of the
        // shard before.
        let partner = mine.len() < order.len() && !mine.is_empty() && config.mixes();
        let mut indices = order[mine.clone()].to_vec();
        if partner {
            let before = (mine.start + order.len() - 1) % order.len();
            indices.insert(0, order[before]);
        }
        let mut host_batch = self.images.load_batch(indices, mode, workspace)?;
        host_batch.global_len = order.len();
        if let Mode::Train { seed, epoch } = mode {
            let mut rng = RandomStream::new(seed, epoch, batch as u64, "mix");
            augment::mix(config, &mut host_batch, &mut rng);
        }
        if partner {
            host_batch.remove_first();
        }
        Ok(host_batch)
    }
}
