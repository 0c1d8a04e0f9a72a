//! What a pretraining tells those who watch it.

use crate::config::Branch;
use crate::run::PretrainEpochRecord as EpochRecord;

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
