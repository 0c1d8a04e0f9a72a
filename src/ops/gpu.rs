//! The GPUs of this machine, the kernels of this build for them, and how they compute float32.

use std::ffi::CStr;
use std::sync::OnceLock;

use serde::Serialize;

use super::{OpError, ffi};

/// The compute capability of the first GPUs with tensor cores for bfloat16 and TF32: Ampere.
pub const AMPERE: u32 = 80;

/// The compute capability of the oldest GPUs that the kernels can be compiled for: Turing.
pub const OLDEST: u32 = 75;

/// A GPU that CUDA finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// The name of its model.
    pub name: String,
    /// Identifies the card on all hosts.
    pub uuid: String,
    /// The compute capability, as in 90 for 9.0.
    pub compute_capability: u32,
    /// Its memory in bytes.
    pub memory_bytes: i64,
    /// What runs on it of this build's kernels: `sm_90`, or `PTX of sm_120`; `None` if nothing
    /// does.
    pub kernels: Option<String>,
}

impl Gpu {
    /// Returns the name and the compute capability.
    pub fn title(&self) -> String {
        let capability = self.compute_capability;
        format!("{}, compute capability {}.{}", self.name, capability / 10, capability % 10)
    }
}

/// Returns the architectures that this build's CUDA kernels are compiled for, in ascending order,
/// as in 90 for sm_90: those of build.rs, and none in a build for the CPU.
pub fn architectures() -> Vec<u32> {
    env!("VMB_CUDA_KERNELS").split_whitespace().filter_map(|arch| arch.parse().ok()).collect()
}

/// Returns the GPUs that CUDA finds, in its order. Returns an error with CUDA's reason if there is
/// none, or it cannot be used. A build for the CPU finds none.
pub fn gpus() -> Result<Vec<Gpu>, OpError> {
    // A process sees the same GPUs as long as it runs.
    static GPUS: OnceLock<Result<Vec<Gpu>, OpError>> = OnceLock::new();
    GPUS.get_or_init(find_gpus).clone()
}

fn find_gpus() -> Result<Vec<Gpu>, OpError> {
    let mut count = 0;
    // SAFETY: the function writes the count.
    ffi::check(unsafe { ffi::vmb_gpu_count(&mut count) })?;
    (0..count).map(gpu).collect()
}

fn gpu(index: i32) -> Result<Gpu, OpError> {
    let mut raw =
        ffi::RawGpu { name: [0; 256], uuid: [0; 16], compute_capability: 0, memory_bytes: 0 };
    // SAFETY: the function writes to `raw`, whose layout is that of abi.h.
    ffi::check(unsafe { ffi::vmb_gpu_properties(index, &mut raw) })?;
    // SAFETY: CUDA's names end with NUL within the 256 bytes.
    let name = unsafe { CStr::from_ptr(raw.name.as_ptr()) }.to_string_lossy().into_owned();
    let compute_capability = raw.compute_capability.unsigned_abs();
    Ok(Gpu {
        name,
        uuid: raw.uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
        compute_capability,
        memory_bytes: raw.memory_bytes,
        kernels: kernels_for(compute_capability, &architectures()),
    })
}

/// Returns what a GPU runs of kernels that are compiled for these architectures: native code of its
/// generation, or PTX of the last one if it is later.
fn kernels_for(compute_capability: u32, compiled: &[u32]) -> Option<String> {
    let no_later = compiled.iter().filter(|&&arch| arch <= compute_capability);
    let native = no_later.filter(|&arch| arch / 10 == compute_capability / 10).max();
    let ptx = compiled.last().filter(|&&arch| arch <= compute_capability);
    native.map(|arch| format!("sm_{arch}")).or(ptx.map(|arch| format!("PTX of sm_{arch}")))
}

/// Returns CUDA's versions, as in `13.0`, of the driver (`None` without one) and of the runtime;
/// `None` in a build for the CPU.
pub fn cuda_versions() -> Option<(Option<String>, String)> {
    let (mut driver, mut runtime) = (0, 0);
    // SAFETY: the function writes two numbers.
    unsafe { ffi::vmb_cuda_versions(&mut driver, &mut runtime) };
    let text =
        |version: i32| (version > 0).then(|| format!("{}.{}", version / 1000, version % 1000 / 10));
    Some((text(driver), text(runtime)?))
}

/// Returns whether libtorch's CUDA libraries are loaded: true in every build with CUDA, with or
/// without a GPU, and in no other.
pub fn cuda_loaded() -> bool {
    // SAFETY: reads a table that libtorch fills when its libraries are loaded.
    unsafe { ffi::vmb_cuda_loaded() != 0 }
}

/// Sets for the entire process how GPUs compute: `tf32` allows cuBLAS and cuDNN to round the
/// operands of float32 products to TF32 (10 bits after the point); `deterministic` allows only
/// algorithms of cuDNN and of attention whose sums have a fixed order.
pub fn set_math(tf32: bool, deterministic: bool) {
    // SAFETY: sets flags of libtorch's context.
    unsafe { ffi::vmb_set_gpu_math(tf32.into(), deterministic.into()) }
}

/// Returns whether GPUs may compute float32 products in TF32.
///
/// # Examples
/// ```
/// use vm_beautynet::ops::gpu::{set_math, uses_tf32};
///
/// set_math(false, false);
/// assert!(!uses_tf32());
/// set_math(true, false);
/// assert!(uses_tf32());
/// ```
pub fn uses_tf32() -> bool {
    // SAFETY: reads flags of libtorch's context.
    unsafe { ffi::vmb_gpu_math_uses_tf32() != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_with_cuda_load_it_and_have_kernels_and_others_have_neither() {
        assert_eq!(cuda_loaded(), cfg!(vmb_cuda));
        assert_eq!(architectures().is_empty(), !cfg!(vmb_cuda));
        assert_eq!(cuda_versions().is_some(), cfg!(vmb_cuda));
        if !cfg!(vmb_cuda) {
            assert_eq!(gpus(), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_gpu_runs_kernels_of_its_generation_or_the_last_ptx() {
        let compiled = [75, 80, 86, 89, 90, 100, 120];
        for (capability, kernels) in [
            (70, None),
            (75, Some("sm_75")),
            (87, Some("sm_86")),
            (90, Some("sm_90")),
            (103, Some("sm_100")),
            (110, None),
            (121, Some("sm_120")),
            (130, Some("PTX of sm_120")),
        ] {
            assert_eq!(kernels_for(capability, &compiled).as_deref(), kernels, "{capability}");
        }
        assert_eq!(kernels_for(90, &[]), None);
        assert_eq!(kernels_for(100, &[90]).as_deref(), Some("PTX of sm_90"));
    }
}
