//! The lines of `metrics.jsonl`, one per epoch.

use serde::{Deserialize, Serialize};

use crate::config::Branch;
use crate::eval::metrics::Metrics;

/// One epoch of `vmbeauty train`: a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Optimizer steps since the start of the run.
    pub step: u64,
    /// Mean loss over the epoch's images, on the scaled scores.
    pub train_loss: f64,
    /// Metrics on the validation images, with the weights after this epoch.
    pub val: Metrics,
    /// Learning rate of fusion and head at the epoch's last step.
    pub lr: f64,
    /// Learning rate of the backbones at the epoch's last step.
    pub backbone_lr: f64,
    /// Mean fusion weights of the ViT and the Mamba branch over the validation images; `None` for
    /// a model without both.
    pub fusion_weights: Option<[f64; 2]>,
    /// Training images per second, without validation.
    pub images_per_second: f64,
    /// Fraction of the training time that the steps waited for data.
    pub data_wait: f64,
    /// Wall time of the epoch with its validation, in seconds.
    pub seconds: f64,
    /// Steps that were skipped because their loss or gradient was not finite.
    pub skipped_steps: usize,
    /// Whether it is the best epoch so far.
    pub best: bool,
}

/// One epoch of a backbone in `vmbeauty pretrain`: a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PretrainEpochRecord {
    /// The backbone.
    pub branch: Branch,
    /// The epoch, from 1.
    pub epoch: usize,
    /// Optimizer steps since the start of the backbone's pretraining.
    pub step: u64,
    /// Mean squared error of the pixels of the training images' masked patches.
    pub train_loss: f64,
    /// The same error on the validation images after the epoch, with masks that never change.
    pub val_loss: f64,
    /// Mean squared error of the mean colors that the class token predicts, on the validation
    /// images; `None` without that task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_color_loss: Option<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Training images per second, without validation.
    pub images_per_second: f64,
    /// Fraction of the training time that the steps waited for data.
    pub data_wait: f64,
    /// Wall time of the epoch with its validation, in seconds.
    pub seconds: f64,
    /// Steps that were skipped because their loss or gradient was not finite.
    pub skipped_steps: usize,
}
