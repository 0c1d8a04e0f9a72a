//! Gradients, peak memory and arithmetic of a pass, for the benchmarks.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use tch::Tensor;
use torch_sys::C_tensor;

use super::OpError;
use super::ffi;
use super::scan::Path;

/// Returns the gradients of `leaves` for the gradient `dout` of `out`; `None` for a leaf that `out`
/// does not depend on.
pub fn gradients(
    out: &Tensor,
    dout: &Tensor,
    leaves: &[&Tensor],
) -> Result<Vec<Option<Tensor>>, OpError> {
    let mut found = vec![null_mut(); leaves.len()];
    // SAFETY: the tensors are borrowed for the call; `found` has room for one pointer per leaf.
    ffi::check(unsafe {
        ffi::vmb_gradients(
            ffi::pointer(out),
            ffi::pointer(dout),
            ffi::pointers(leaves).as_ptr(),
            leaves.len() as i64,
            found.as_mut_ptr(),
        )
    })?;
    Ok(found
        .into_iter()
        .map(|pointer: *mut c_void| {
            // SAFETY: without a message each pointer is null or a tensor allocated with `new` that
            // nothing else owns.
            (!pointer.is_null()).then(|| unsafe { Tensor::from_ptr(pointer as *mut C_tensor) })
        })
        .collect())
}

/// Counts the memory, of the CPU and of GPUs, that libtorch allocates and frees for this thread
/// until it is dropped: tensors, what autograd saves, and the workspaces of this project's kernels.
#[derive(Debug)]
pub struct MemoryWatch(*mut c_void);

impl MemoryWatch {
    /// Starts counting.
    pub fn start() -> Result<Self, OpError> {
        let mut watch = null_mut();
        // SAFETY: `watch` is written where no message is returned.
        ffi::check(unsafe { ffi::vmb_memory_watch_begin(&mut watch) })?;
        Ok(Self(watch))
    }

    /// Returns the peak number of allocated bytes since the start, or since the last call, minus
    /// the number at that time.
    pub fn peak(&mut self) -> i64 {
        // SAFETY: the watch lives until it is dropped.
        unsafe { ffi::vmb_memory_watch_peak(self.0) }
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        // SAFETY: ended once, on the thread that began it (a raw pointer makes the type `!Send`).
        unsafe { ffi::vmb_memory_watch_end(self.0) }
    }
}

/// A pass of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// The forward pass of training, which saves what backward needs.
    Forward,
    /// The backward pass: the gradients of every operand.
    Backward,
}

/// Runs only the exponentials and multiply-adds of a scan over `[batch, dim, length, state]`, from
/// registers and on as many threads as the scan: its compute bound. `csrc/README.md` lists what is
/// counted. Returns an error if the processor cannot run `path`.
pub fn run_scan_arithmetic(shape: [i64; 4], pass: Pass, path: Path) -> Result<(), OpError> {
    let [batch, dim, length, state] = shape;
    let path = path.c_name();
    // SAFETY: the function reads the sizes and the name, and no other memory of ours.
    ffi::check(unsafe {
        ffi::vmb_scan_limit(
            batch,
            dim,
            length,
            state,
            c_int::from(pass == Pass::Backward),
            path.as_ptr(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn the_watch_counts_the_peak_and_restarts_from_the_current_memory() {
        let mut watch = MemoryWatch::start().unwrap();
        let options = (Kind::Float, Device::Cpu);
        let kept = Tensor::zeros([1000], options);
        drop(Tensor::zeros([3000], options));
        drop(Tensor::zeros([2000], options));
        assert_eq!(watch.peak(), 4 * 4000);
        drop(kept);
        let _smaller = Tensor::zeros([500], options);
        assert_eq!(watch.peak(), 0, "500 floats fit into what the 1000 left behind");
    }

    #[test]
    fn gradients_are_for_the_given_gradient_of_the_output() {
        let x = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
        let other = Tensor::from_slice(&[1f32]).set_requires_grad(true);
        let found =
            gradients(&(&x * &x), &Tensor::from_slice(&[1f32, 10.0]), &[&x, &other]).unwrap();
        let dx = found[0].as_ref().unwrap();
        assert_eq!(Vec::<f32>::try_from(dx).unwrap(), [2.0, 40.0]);
        assert!(found[1].is_none());
    }
}
