//! How the batches of a pass are loaded.

use super::shard::RankShard;
use crate::config::Config;
use crate::data::image_dataset::Mode;

/// How a pass is delivered.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// What the pass is for.
    pub pass: Mode,
    /// Images per batch, at least 1.
    pub batch_size: usize,
    /// Threads that make batches; with 0 the calling thread does, when it asks for one.
    pub workers: usize,
    /// How many batches may be ready or in the making ahead of the one that is asked for; at least
    /// as many as there are workers, so that each has work.
    pub prefetch: usize,
    /// Whether a last batch that is not full is left out.
    pub drop_last: bool,
    /// How many batches of the pass are skipped, as by a run that resumes within an epoch.
    pub start_batch: usize,
    /// This process's part of each training batch, or of the batches of an evaluation.
    pub shard: RankShard,
}

impl LoaderOptions {
    /// A whole pass with room for two batches per worker.
    pub fn new(pass: Mode, batch_size: usize, workers: usize) -> Self {
        Self {
            pass,
            batch_size,
            workers,
            prefetch: 2 * workers,
            drop_last: false,
            start_batch: 0,
            shard: RankShard::SINGLE,
        }
    }

    /// Returns the settings of a pass that evaluates a model with this config.
    pub fn for_evaluation(config: &Config) -> Self {
        Self::new(Mode::Eval, config.train.batch_size, config.data.workers)
    }
}
