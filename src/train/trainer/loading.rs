//! Where the training batches come from.

use std::sync::Arc;

use anyhow::Result;

use super::Trainer;
use crate::config::Config;
use crate::data::{ImageDataset, Loader, LoaderOptions, Mode};
use crate::train::distributed::Ranks;

/// Starts an epoch's batches, from `start_batch` on: workers make the first while the trainer still
/// does something else.
pub(super) fn batches(
    config: &Config,
    ranks: &Ranks,
    images: &Arc<ImageDataset>,
    epoch: usize,
    start_batch: usize,
) -> Result<Loader> {
    let pass = Mode::Train { seed: config.seed, epoch: epoch as u64 };
    let batch_size = config.train.batch_size * ranks.size();
    let options = LoaderOptions {
        shard: ranks.shard(),
        start_batch,
        ..LoaderOptions::new(pass, batch_size, config.data.workers)
    };
    Loader::new(Arc::clone(images), options)
}

impl Trainer<'_> {
    /// The batches that are left of the epoch under way.
    pub(super) fn batches_left(&mut self) -> Result<Loader> {
        match self.ahead.take() {
            Some(loader) => Ok(loader),
            None => self.batches(self.progress.epochs, self.progress.within.batches),
        }
    }

    /// Starts on the batches of the epoch after this one, if there is one, so that they are ready
    /// when validation is done.
    pub(super) fn load_ahead(&mut self) -> Result<()> {
        let next = self.progress.epochs + 1;
        if next < self.config.train.epochs {
            self.ahead = Some(self.batches(next, 0)?);
        }
        Ok(())
    }

    fn batches(&self, epoch: usize, start_batch: usize) -> Result<Loader> {
        let images = &self.splits.train;
        batches(self.config, &self.ranks, images, epoch, start_batch)
    }
}
