//! The GPU that tests run on, with the same code as on the CPU.

use std::io::Write;
use std::{env, io, thread};

use tch::{Cuda, Device};
use vm_beautynet::ops::gpu::set_math;

/// Returns the first GPU. Without one, says on stderr that the test is skipped, or fails if
/// VMB_REQUIRE_GPU is set, as by `make test-gpu`.
pub(crate) fn gpu() -> Option<Device> {
    if Cuda::is_available() {
        // Float32 in the products too, and the same bits in every run.
        set_math(false, true);
        return Some(Device::Cuda(0));
    }
    let thread = thread::current();
    let test = thread.name().unwrap_or_default();
    assert!(env::var_os("VMB_REQUIRE_GPU").is_none(), "{test}: no GPU");
    // Not eprintln!, whose text the test harness keeps to itself where a test passes.
    let _ = writeln!(io::stderr(), "SKIPPED: {test} (no GPU)");
    None
}
