//! Safe Rust over the operators of csrc. All of the project's `unsafe` is in this folder.

mod ffi;
mod optimizer;
mod scan;

pub use optimizer::{AdamWStep, adamw_step, clip_grad_norm};
pub use scan::{Path, ScanInputs, causal_conv1d_silu, selective_scan, selective_scan_eager};

/// What an operator refused, in the words of csrc or libtorch: the argument and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpError(pub String);
