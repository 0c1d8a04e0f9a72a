//! Safe bindings to the operators of csrc. All `unsafe` of the library is in this folder.

#![allow(unsafe_code)]

mod autocast;
pub mod distributed;
mod ffi;
pub mod gpu;
mod launches;
mod layers;
mod optimizer;
pub mod profiler;
mod recompute;
mod scan;
pub mod self_test;
mod shared_tensor;

pub use autocast::autocast;
pub use launches::{Launches, count_launches};
pub use layers::{
    LinearParameters, Norm, Update, add_and_norm, attention, linear, mlp, queries_keys_values,
};
pub use optimizer::{
    AdamWStep, LionStep, SgdStep, adamw_step, add_gradient, clip_grad_norm, ema_update, lion_step,
    remove_gradients, sgd_step,
};
pub use recompute::recomputed;
pub use scan::{
    MambaParameters, Path, ScanInputs, bimamba_inner, causal_conv1d_silu, selective_scan,
    selective_scan_eager,
};
pub use shared_tensor::SharedTensor;

/// The message of csrc or libtorch when an operator fails: the argument and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpError(pub String);

/// Returns the version of the libtorch that the program was built against.
pub fn libtorch_version() -> String {
    // SAFETY: the function returns a static NUL-terminated string.
    unsafe { std::ffi::CStr::from_ptr(ffi::vmb_libtorch_version()) }.to_string_lossy().into_owned()
}

/// Makes every operator of the calling thread run on this thread alone, from now on. New threads
/// get the same number until [`tch::set_num_threads`] is called.
pub fn use_one_thread() -> Result<(), OpError> {
    // SAFETY: sets numbers of this thread, and the default of new ones.
    ffi::check(unsafe { ffi::vmb_use_one_thread() })
}

/// Makes the allocator keep freed memory for the next step: training allocates the same sizes in
/// every step, and returning pages to the system in between costs a tenth of a small model's step.
/// Applies to the entire process; call it once, at the start.
pub fn keep_freed_memory() {
    // SAFETY: sets three numbers of the C library's allocator.
    unsafe { ffi::vmb_keep_freed_memory() }
}

/// Returns whether a signal is ignored, as SIGHUP is in a process that `nohup` starts.
pub fn ignores_signal(signal: i32) -> bool {
    // SAFETY: without a new action, the call only writes the current one into `action`, which is
    // plain data.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

impl From<tch::TchError> for OpError {
    fn from(error: tch::TchError) -> Self {
        Self(error.to_string())
    }
}
