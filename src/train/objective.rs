//! What the training loop asks of an objective: supervised training and masked-image pretraining
//! are two.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::distributed::World;
use super::loss::SliceLoss;
use super::observer::Observer;
use super::slice_loss::JointLoss;
use crate::config::{Branch, FreezeConfig, OptimizerConfig, ScheduleConfig};
use crate::data::{HostBatch, ImageDataset, Split};
use crate::models::weights::Note;
use crate::models::{ForwardContext, Slicer};
use crate::run::RunDir;

/// The settings in which objectives differ.
pub(super) struct Recipe {
    pub epochs: usize,
    /// Images per microbatch and process.
    pub batch_size: usize,
    /// Microbatches per optimizer step.
    pub accumulate: usize,
    pub optimizer: OptimizerConfig,
    pub schedule: ScheduleConfig,
    pub freeze: FreezeConfig,
    pub ema_decay: Option<f64>,
    /// The config key to lower when training diverges.
    pub lr_key: &'static str,
    /// The name of the checkpoint in the run directory.
    pub checkpoint: String,
    /// Images per slice on the CPU; `None` chooses by the size of the batch.
    pub slice: Option<usize>,
}

/// What observers are told of an objective before it starts.
pub(super) struct Description<'a> {
    /// The backbone that is pretrained.
    pub branch: Option<Branch>,
    /// Numbers of training, validation and test images.
    pub images: [usize; 3],
    /// Rows of the dataset that were skipped.
    pub skipped_rows: usize,
    /// What makes results on the dataset doubtful.
    pub warnings: &'a [String],
    /// Notes about the pretrained weights.
    pub notes: &'a [Note],
}

/// One microbatch of an optimizer step, this rank's shard of it.
pub(super) struct Microbatch<'a> {
    pub batch: &'a HostBatch,
    pub slices: Vec<Slice<'a>>,
    /// The weight of the step's images.
    pub total: f64,
    pub world: &'a World,
    pub slicer: &'a Slicer,
}

/// One slice of a microbatch.
pub(super) struct Slice<'a> {
    pub batch: &'a HostBatch,
    /// Its images in the batch.
    pub rows: Range<usize>,
    /// The epoch, from 0.
    pub epoch: usize,
    pub ctx: ForwardContext,
    /// The type that autocast computes in, if any.
    pub autocast: Option<Kind>,
}

/// Sums over the training steps of an epoch that is done.
pub(super) struct EpochStats {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Optimizer steps since the start.
    pub step: u64,
    pub train_loss: f64,
    /// Learning rates of the last step: head, backbones.
    pub lr: [f64; 2],
    pub images_per_second: f64,
    /// Fraction of the training time that the steps waited for data.
    pub data_wait: f64,
    /// Wall time with validation, in seconds.
    pub seconds: f64,
    pub skipped_steps: usize,
}

/// What an evaluation reports to, and what may stop it.
pub(super) struct Evaluation<'a, R> {
    /// The epoch that ends, from 1.
    pub epoch: usize,
    /// Optimizer steps since the start.
    pub step: u64,
    pub world: &'a World,
    pub slicer: &'a Slicer,
    pub observers: &'a mut [Box<dyn Observer<R>>],
    /// Returns the error of a run that was asked to stop.
    pub check_stop: &'a dyn Fn() -> Result<()>,
}

impl<R> Evaluation<'_, R> {
    /// Reports a batch of images that was evaluated.
    pub(super) fn advance(&mut self, split: Split, images: usize) -> Result<()> {
        self.observers.iter_mut().for_each(|observer| observer.evaluated(split.name(), images));
        (self.check_stop)()
    }
}

/// A model with its data and its loss, trained by the [trainer](super::trainer::Trainer).
pub(super) trait Objective: Sync {
    /// A line of `metrics.jsonl`.
    type Record: Serialize + DeserializeOwned;
    /// The result of a validation.
    type Validation;

    fn describe(&self) -> Description<'_>;

    fn device(&self) -> Device;

    /// Every parameter by name; the tensors share their storage with the model.
    fn parameters(&self) -> Vec<(String, Tensor)>;

    /// The parameters that require gradients now, in the order in which backward reaches them.
    fn trained_parameters(&self) -> Vec<Tensor>;

    fn train_images(&self) -> &Arc<ImageDataset>;

    /// Whether training needs the pixels of its batches.
    fn needs_pixels(&self) -> bool {
        true
    }

    /// Returns a batch of an epoch with the pixels of its images, where training
    /// [needs none](Self::needs_pixels).
    fn with_pixels(&self, batch: &HostBatch, _epoch: usize) -> Result<HostBatch> {
        Ok(batch.clone())
    }

    /// Prepares to train, once the weights are those that training starts from.
    fn prepare(&self, _evaluation: &mut Evaluation<Self::Record>) -> Result<()> {
        Ok(())
    }

    /// A hash of the data: a run resumes with the same data only.
    fn fingerprint(&self) -> String;

    /// Returns the weight of these images of an epoch, by the sum of which over all microbatches
    /// and ranks the step's loss is divided.
    fn weight(&self, batches: &[HostBatch], epoch: usize) -> f64;

    /// Returns the number of branches that have losses of their own.
    fn branch_heads(&self) -> usize {
        0
    }

    /// Computes a slice's term of the step's loss, which is divided by `total`.
    fn loss(&self, slice: &Slice, total: f64) -> Result<SliceLoss>;

    /// Computes a microbatch's loss if it has no terms that depend on one slice each.
    fn joint_loss(&self, _microbatch: &Microbatch) -> Result<Option<JointLoss>> {
        Ok(None)
    }

    fn validate(&self, evaluation: &mut Evaluation<Self::Record>) -> Result<Self::Validation>;

    /// Builds the record of an epoch; `before` are those of the epochs before it.
    fn record(
        &self,
        stats: EpochStats,
        validation: &Self::Validation,
        before: &[Self::Record],
    ) -> Result<Self::Record>;

    /// Writes the metrics, and weights to keep, after an epoch. `origin` says where they come from.
    fn save(&self, run: &RunDir, records: &[Self::Record], origin: Value) -> Result<()>;

    /// Tells observers what else there is after an epoch.
    fn after_epoch(
        &self,
        _record: &Self::Record,
        _validation: &Self::Validation,
        _observers: &mut [Box<dyn Observer<Self::Record>>],
    ) {
    }

    /// Returns what there is to warn of after the last of these epochs.
    fn warning(&self, _validation: &Self::Validation, _records: &[Self::Record]) -> Option<String> {
        None
    }

    /// Returns whether early stopping ends training after these epochs.
    fn stops_early(&self, _records: &[Self::Record]) -> bool {
        false
    }
}
