//! How the batches of a pass are loaded.

use super::shard::RankShard;
use crate::config::Config;
use crate::data::image_dataset::Mode;

/// The options of a pass.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// The mode of the pass.
    pub mode: Mode,
    /// Images per batch, at least 1.
    pub batch_size: usize,
    /// Worker threads; with 0 the calling thread loads each batch on demand.
    pub workers: usize,
    /// Batches that may be loaded ahead of the next one; at least the number of workers, so that
    /// each is busy.
    pub prefetch: usize,
    /// Whether an incomplete last batch is skipped.
    pub drop_last: bool,
    /// The index of the first batch, for a run that resumes within an epoch.
    pub start_batch: usize,
    /// Whether pixels are loaded; batches without them have scores and indices only.
    pub pixels: bool,
    /// This process's shard of each training batch, or of the list of evaluation batches.
    pub shard: RankShard,
}

impl LoaderOptions {
    /// Options of a full pass that prefetches two batches per worker.
    pub fn new(mode: Mode, batch_size: usize, workers: usize) -> Self {
        Self {
            mode,
            batch_size,
            workers,
            prefetch: 2 * workers,
            drop_last: false,
            start_batch: 0,
            pixels: true,
            shard: RankShard::SINGLE,
        }
    }

    /// Returns the settings of a pass that evaluates a model with this config.
    pub fn for_evaluation(config: &Config) -> Self {
        Self::new(Mode::Eval, config.train.batch_size, config.data.workers)
    }
}
