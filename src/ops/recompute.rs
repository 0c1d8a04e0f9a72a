//! Activation checkpointing (arXiv 1604.06174).

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use tch::Tensor;
use torch_sys::{C_tensor, at_shallow_clone};

use super::OpError;
use super::ffi;
use super::shared_tensor::SharedTensor;

type Segment = Box<dyn Fn(&Tensor) -> Result<Tensor, OpError> + Send>;

/// Returns `segment(x)` without saving its activations: backward runs `segment` again, with the
/// same random numbers and the same autocast. `parameters` are the tensors that `segment` reads and
/// that may require gradients; a tensor that is missing in it gets none.
///
/// The second run may be on another thread while the first one's thread waits.
pub fn recomputed(
    segment: impl Fn(&Tensor) -> Result<Tensor, OpError> + Send + 'static,
    x: &Tensor,
    parameters: &[SharedTensor],
) -> Result<Tensor, OpError> {
    let segment: Box<Segment> = Box::new(Box::new(segment));
    // SAFETY: the tensors are borrowed for the call. `data` is a `Box<Segment>` that the call owns
    // and passes to `destroy` once; `run` casts it to the same type.
    ffi::returned_tensor(|out| unsafe {
        ffi::vmb_recomputed(
            run,
            Box::into_raw(segment).cast(),
            destroy,
            ffi::pointer(x),
            ffi::pointers(parameters).as_ptr(),
            parameters.len() as i64,
            out,
        )
    })
}

/// Runs the segment. A panic must not unwind into C++: it becomes a message.
extern "C" fn run(data: *mut c_void, x: *const c_void, out: *mut *mut c_void) -> *mut c_char {
    // SAFETY: `data` is the `Box<Segment>` of `recomputed`, alive until `destroy`, and used by one
    // thread at a time.
    let segment = unsafe { &*data.cast::<Segment>() };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `x` points to a tensor that lives for the call; the copy shares its storage.
        let x = unsafe { Tensor::clone_from_ptr(x as *mut C_tensor) };
        segment(&x)
    }));
    let error = match result {
        Ok(Ok(tensor)) => {
            // SAFETY: `out` has room for a pointer; the caller owns the new tensor.
            unsafe { *out = at_shallow_clone(tensor.as_ptr() as *mut C_tensor).cast() };
            return null_mut();
        }
        Ok(Err(error)) => error.0,
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| "a segment of the network panicked".to_string()),
    };
    let error = CString::new(error.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the text is copied before it is freed.
    unsafe { ffi::vmb_copy_message(error.as_ptr()) }
}

extern "C" fn destroy(data: *mut c_void) {
    // SAFETY: called once, with what `Box::into_raw` gave.
    drop(unsafe { Box::from_raw(data.cast::<Segment>()) });
}
