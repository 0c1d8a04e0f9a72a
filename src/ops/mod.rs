//! Safe Rust over the operators of csrc. All of the project's `unsafe` is in this folder.

mod autocast;
pub mod benchmark;
pub mod distributed;
mod ffi;
pub mod measure;
mod optimizer;
mod recompute;
mod scan;
pub mod self_test;

pub use autocast::autocast;
pub use optimizer::{
    AdamWStep, LionStep, SgdStep, adamw_step, clip_grad_norm, lion_step, sgd_step,
};
pub use recompute::recomputed;
pub use scan::{Path, ScanInputs, causal_conv1d_silu, selective_scan, selective_scan_eager};

/// What an operator refused, in the words of csrc or libtorch: the argument and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpError(pub String);

/// The version of the libtorch that the program was built against.
pub fn libtorch_version() -> String {
    // SAFETY: the function returns a static NUL-terminated string.
    unsafe { std::ffi::CStr::from_ptr(ffi::vmb_libtorch_version()) }.to_string_lossy().into_owned()
}

/// Whether libtorch's CUDA side is loaded: so in every build with CUDA, with or without a GPU, and
/// in no other.
pub fn cuda_loaded() -> bool {
    // SAFETY: reads a table that libtorch fills when its libraries are loaded.
    unsafe { ffi::vmb_cuda_loaded() != 0 }
}

/// Lets the allocator keep freed memory for the next step: training frees and asks for the same
/// sizes again and again, and giving pages back in between costs a tenth of a small model's step.
/// For the whole process; call once, at its start.
pub fn keep_freed_memory() {
    // SAFETY: sets three numbers of the C library's allocator.
    unsafe { ffi::vmb_keep_freed_memory() }
}

impl From<tch::TchError> for OpError {
    fn from(error: tch::TchError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_is_loaded_in_a_build_with_cuda_and_in_no_other() {
        assert_eq!(cuda_loaded(), cfg!(vmb_cuda));
    }
}
