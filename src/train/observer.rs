//! What a training run tells those who watch it.

use crate::config::Config;
use crate::data::{HostBatch, ImageDataset};
use crate::eval::metrics::Metrics;
use crate::eval::predictions::Predictions;
use crate::models::BeautyNet;
use crate::run::EpochRecord;

/// How a run begins.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// As resolved.
    pub config: &'a Config,
    /// Numbers of images to train on, to validate and to test with.
    pub images: [usize; 3],
    /// Rows of the data set that were skipped.
    pub skipped_rows: usize,
    /// Trained parameters.
    pub parameters: i64,
    /// Where the model computes, in words.
    pub device: &'a str,
    /// Optimizer steps in an epoch.
    pub steps_per_epoch: usize,
    /// Whether the run goes on with one that was stopped.
    pub resumed: bool,
    /// Epochs done before, where the run is resumed.
    pub epochs_done: usize,
    /// Optimizer steps done before.
    pub steps_done: u64,
    /// Images seen before, of the epoch that the run goes on in.
    pub images_done: usize,
    /// What is worth knowing about the pretrained weights, a line each.
    pub notes: &'a [String],
}

/// One optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// On the scaled scores.
    pub loss: f64,
    /// Learning rate of fusion and head.
    pub lr: f64,
    /// Learning rate of the backbones.
    pub backbone_lr: f64,
    /// 2-norm over all gradients, before clipping; not finite where a loss scale was too large and
    /// the step is left out.
    pub grad_norm: f64,
    /// Images in the batch.
    pub images: usize,
}

/// A step that was left out, because its loss or gradient was not finite.
#[derive(Debug, Clone, Copy)]
pub struct Skipped<'a> {
    /// Its number, from 1.
    pub step: u64,
    /// Images in the batch.
    pub images: usize,
    /// What was not finite, and where.
    pub reason: &'a str,
}

/// The network that was just validated.
#[derive(Clone, Copy)]
pub struct Validated<'a> {
    /// The epoch that ends, from 1.
    pub epoch: usize,
    /// Optimizer steps done since the start.
    pub step: u64,
    /// With the weights that were measured: their average, where one is kept.
    pub net: &'a BeautyNet,
    /// The validation images.
    pub images: &'a ImageDataset,
}

/// What there is to look at when an epoch is done. Nothing of it was computed or copied for the
/// observers' sake.
#[derive(Clone, Copy)]
pub struct AfterEpoch<'a> {
    /// As in `metrics.jsonl`.
    pub record: &'a EpochRecord,
    /// With the weights that training goes on with (not their average), and the gradients of its
    /// last step, clipped; none where the epoch's steps were done before the run was resumed.
    pub net: &'a BeautyNet,
    /// Of the validation images.
    pub predictions: &'a Predictions,
}

/// Watches a run: a progress bar, TensorBoard. Nothing that it does changes the training: it looks
/// at tensors, and leaves them and torch's generator as they are.
pub trait Observer {
    /// The run begins.
    fn start(&mut self, _start: &Start) {}
    /// The run's first step is about to be made, with these batches as they are fed, before the
    /// model normalizes them. With several processes, of the first one's.
    fn first_step(&mut self, _batches: &[HostBatch]) {}
    /// A step is done.
    fn step(&mut self, _record: &StepRecord) {}
    /// A step was left out.
    fn skipped(&mut self, _skipped: &Skipped) {}
    /// Images of the validation or test split were predicted.
    fn evaluated(&mut self, _split: &str, _images: usize) {}
    /// The validation images were predicted. The network may be used, but not changed; the time
    /// counts as validation's.
    fn validated(&mut self, _validated: &Validated) {}
    /// An epoch is done.
    fn epoch(&mut self, _record: &EpochRecord) {}
    /// An epoch is done and in the checkpoint; called after [`epoch`](Self::epoch).
    fn after_epoch(&mut self, _after: &AfterEpoch) {}
    /// The run is done, with the best weights' metrics by split.
    fn finish(&mut self, _metrics: &[(&str, Metrics)]) {}
}
