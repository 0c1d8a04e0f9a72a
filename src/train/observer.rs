//! What observers of a run are told.

use super::compute::Compute;
use crate::config::{Branch, Config};
use crate::data::{HostBatch, ImageDataset};
use crate::eval::metrics::Metrics;
use crate::eval::predictions::Predictions;
use crate::models::BeautyNet;
use crate::models::weights::{Download, Note};
use crate::run::EpochRecord;

/// The start of a run, or of a backbone in a pretraining.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The resolved config.
    pub config: &'a Config,
    /// The backbone that is pretrained; `None` in a run.
    pub branch: Option<Branch>,
    /// Numbers of training, validation and test images.
    pub images: [usize; 3],
    /// Rows of the dataset that were skipped.
    pub skipped_rows: usize,
    /// Number of trained parameters.
    pub parameters: i64,
    /// What computes.
    pub compute: &'a Compute,
    /// Number of epochs.
    pub epochs: usize,
    /// Optimizer steps in an epoch.
    pub steps_per_epoch: usize,
    /// Whether the run resumes one that was stopped.
    pub resumed: bool,
    /// Epochs done before.
    pub epochs_done: usize,
    /// Optimizer steps done before.
    pub steps_done: u64,
    /// Images trained on before, in the current epoch.
    pub images_done: usize,
    /// What makes results on the dataset doubtful.
    pub warnings: &'a [String],
    /// Notes about the pretrained weights.
    pub notes: &'a [Note],
}

/// One optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct StepRecord {
    /// The step, from 1.
    pub step: u64,
    /// The loss: of a run on the scaled scores, of a pretraining of the pixels.
    pub loss: f64,
    /// Learning rate of fusion and head.
    pub lr: f64,
    /// Learning rate of the backbones.
    pub backbone_lr: f64,
    /// 2-norm of all gradients before clipping; not finite if the loss scale was too large, so that
    /// the weights were not updated.
    pub grad_norm: f64,
    /// Images in the global batch.
    pub images: usize,
}

/// A step that was skipped because its loss or gradient was not finite.
#[derive(Debug, Clone, Copy)]
pub struct Skipped<'a> {
    /// The step, from 1.
    pub step: u64,
    /// Images in the global batch.
    pub images: usize,
    /// What was not finite, and in which modules.
    pub reason: &'a str,
}

/// The network that was just validated.
#[derive(Clone, Copy)]
pub struct Validated<'a> {
    /// The epoch that ends, from 1.
    pub epoch: usize,
    /// Optimizer steps done since the start.
    pub step: u64,
    /// The network with the validated weights: the EMA weights, if there are any.
    pub net: &'a BeautyNet,
    /// The validation images.
    pub images: &'a ImageDataset,
    /// Predictions for them.
    pub predictions: &'a Predictions,
}

/// The state of a run when an epoch is done. Nothing of it was computed or copied for observers.
#[derive(Clone, Copy)]
pub struct AfterEpoch<'a> {
    /// The line of `metrics.jsonl`.
    pub record: &'a EpochRecord,
    /// The network with the trained weights (not the EMA weights), and the clipped gradients of its
    /// last step; none if the epoch's steps were done before the run was resumed.
    pub net: &'a BeautyNet,
    /// Predictions on the validation images.
    pub predictions: &'a Predictions,
}

/// Watches a run (or with `R` = [`PretrainEpochRecord`](crate::run::PretrainEpochRecord), a
/// pretraining): a progress bar, TensorBoard. An observer never changes the training: it leaves
/// tensors and torch's generator as they are.
pub trait Observer<R = EpochRecord> {
    /// Pretrained weights are being downloaded, before the run starts.
    fn download(&mut self, _download: &Download) {}
    /// The run starts; a pretraining does so for each backbone.
    fn start(&mut self, _start: &Start) {}
    /// The run's first step is about to be made with these microbatches, before the model
    /// normalizes them; with several processes, those of rank 0.
    fn first_step(&mut self, _batches: &[HostBatch]) {}
    /// A step is done.
    fn step(&mut self, _record: &StepRecord) {}
    /// A step was skipped.
    fn skipped(&mut self, _skipped: &Skipped) {}
    /// A checkpoint was written after this step, because SIGUSR1 asked for one.
    fn checkpoint(&mut self, _step: u64) {}
    /// A note on how the run is computed.
    fn note(&mut self, _text: &str) {}
    /// Features of frozen backbones are computed: rows of the encoder with this name.
    fn computing(&mut self, _name: &str, _done: usize, _total: usize) {}
    /// Something is unusual, but training continues.
    fn warning(&mut self, _text: &str) {}
    /// Images of the validation or test split were evaluated.
    fn evaluated(&mut self, _split: &str, _images: usize) {}
    /// The validation images were predicted. The network may be used, but not changed; the time
    /// counts as validation time.
    fn validated(&mut self, _validated: &Validated) {}
    /// An epoch is done.
    fn epoch(&mut self, _record: &R) {}
    /// An epoch is done and in the checkpoint; called after [`epoch`](Self::epoch).
    fn after_epoch(&mut self, _after: &AfterEpoch) {}
    /// The run is done, with the best weights' metrics by split.
    fn finish(&mut self, _metrics: &[(&str, Metrics)]) {}
}
