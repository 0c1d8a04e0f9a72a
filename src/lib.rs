//! Train VM-BeautyNet (arXiv 2510.16220): a Vision Transformer and a bidirectional Vision Mamba
//! look at the same face, a fusion weighs their features, and a regression head predicts the mean
//! rating.
//!
//! Each module imports only modules listed above it: [`files`] (atomic writes), [`config`] (YAML to
//! typed config), [`data`] (dataset to batches), [`ops`] (the selective scan), [`models`] (the
//! network), [`faces`] (detection and aligned crops), [`features`] (the outputs of frozen
//! backbones, computed once), [`eval`] (metrics and predictions), [`run`] (the run directory),
//! [`explain`] (what each branch attends to), [`train`] (the loop), [`sweep`] (folds and grids),
//! [`report`] (tables and the HTML report), [`tensorboard`] (event files), [`export`] (weights for
//! timm and Vim), [`benchmark`] (what `vmbeauty benchmark` times).

pub mod benchmark;
pub mod cli;
pub mod config;
pub mod data;
pub mod eval;
pub mod explain;
pub mod export;
pub mod faces;
pub mod features;
pub mod files;

pub mod models;
pub mod ops;
pub mod report;
pub mod run;
pub mod sweep;
pub mod tensorboard;
pub mod train;

#[cfg(test)]
extern crate self as vm_beautynet;
#[cfg(test)]
#[path = "../tests/gpu/mod.rs"]
mod test_gpu;
