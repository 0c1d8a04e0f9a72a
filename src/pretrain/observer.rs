//! What a pretraining tells those who watch it.

use serde::{Deserialize, Serialize};

use crate::config::Branch;

/// How a backbone's pretraining begins.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// Which branch.
    pub branch: Branch,
    /// Images to learn from, and to look at after each epoch.
    pub images: [usize; 2],
    /// Rows of the data set that were left out, of these two.
    pub skipped: usize,
    /// Trained parameters, those that only pretraining needs included.
    pub parameters: i64,
    /// Epochs in all.
    pub epochs: usize,
    /// Epochs done before, where it is resumed.
    pub epochs_done: usize,
    /// What is worth knowing about the weights that it began from, a line each.
    pub notes: &'a [String],
}

/// One epoch of a backbone: a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Which branch.
    pub branch: Branch,
    /// From 1.
    pub epoch: usize,
    /// Optimizer steps done since the start.
    pub step: u64,
    /// Mean squared error of the pixels of the training images' masked patches.
    pub train_loss: f64,
    /// The same of the validation images, with masks that stay the same, after the epoch.
    pub val_loss: f64,
    /// Mean squared error of the mean colors that the class token predicts, of the validation
    /// images; none without that task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_color_loss: Option<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Training images per second, validation not counted.
    pub images_per_second: f64,
    /// Wall time of the epoch with its validation, in seconds.
    pub seconds: f64,
    /// Steps that were left out, because they were not finite.
    #[serde(default)]
    pub skipped: usize,
}

/// Watches a pretraining. Nothing that it does changes it.
pub trait Observer {
    /// A backbone begins.
    fn start(&mut self, _start: &Start) {}
    /// A step with so many images is done; the loss is that of the pixels.
    fn step(&mut self, _images: usize, _loss: f64) {}
    /// Something that a person should know.
    fn note(&mut self, _text: &str) {}
    /// An epoch is done.
    fn epoch(&mut self, _record: &EpochRecord) {}
}

/// Looks away.
impl Observer for () {}
