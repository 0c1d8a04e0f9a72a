//! The loaders of the training batches.

use std::sync::Arc;

use anyhow::Result;

use super::Trainer;
use crate::config::Config;
use crate::data::{ImageDataset, Loader, LoaderOptions, Mode};
use crate::train::distributed::World;
use crate::train::objective::Objective;

/// Starts a loader of an epoch's batches, from `start_batch` on; its workers prepare the first ones
/// at once, if they have pixels. `batch_size` is per process.
pub(in crate::train) fn batches(
    config: &Config,
    world: &World,
    images: &Arc<ImageDataset>,
    batch_size: usize,
    (epoch, start_batch): (usize, usize),
    pixels: bool,
) -> Result<Loader> {
    let pass = Mode::Train { seed: config.seed, epoch: epoch as u64 };
    let workers = if pixels { config.data.workers } else { 0 };
    let options = LoaderOptions {
        shard: world.shard(),
        start_batch,
        pixels,
        ..LoaderOptions::new(pass, batch_size * world.size(), workers)
    };
    Loader::new(Arc::clone(images), options)
}

impl<O: Objective> Trainer<'_, O> {
    /// Returns the remaining batches of the current epoch.
    pub(super) fn remaining_batches(&mut self) -> Result<Loader> {
        match self.ahead.take() {
            Some(loader) => Ok(loader),
            None => self.batches(self.progress.epochs, self.progress.within.batches),
        }
    }

    /// Starts the loader of the epoch after this one, if this process trains one, so that its
    /// batches are ready when validation is done.
    pub(super) fn load_ahead(&mut self) -> Result<()> {
        let next = self.progress.epochs + 1;
        if next < self.last_epoch {
            self.ahead = Some(self.batches(next, 0)?);
        }
        Ok(())
    }

    fn batches(&self, epoch: usize, start_batch: usize) -> Result<Loader> {
        let (images, batch_size) = (self.objective.train_images(), self.recipe.batch_size);
        let pixels = self.objective.needs_pixels();
        batches(self.config, &self.world, images, batch_size, (epoch, start_batch), pixels)
    }
}
