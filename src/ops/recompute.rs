//! Activation checkpointing (arXiv 1604.06174).

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use tch::Tensor;
use torch_sys::{C_tensor, at_shallow_clone};

use super::OpError;
use super::ffi;

type Piece = Box<dyn Fn(&Tensor) -> Result<Tensor, OpError> + Send>;

/// `piece(x)`, of whose intermediate results autograd keeps none: backward runs `piece` again, with
/// the same random draws and the same autocast. `parameters` are the tensors that `piece` reads and
/// that may want gradients; one that is left out gets none.
///
/// The second run may be on another thread while the first one's thread waits.
///
/// # Errors
/// What `piece` returns, and libtorch's messages.
pub fn recomputed(
    piece: impl Fn(&Tensor) -> Result<Tensor, OpError> + Send + 'static,
    x: &Tensor,
    parameters: &[Tensor],
) -> Result<Tensor, OpError> {
    let piece: Box<Piece> = Box::new(Box::new(piece));
    let mut out = null_mut();
    // SAFETY: the tensors are borrowed for the call. `data` is a `Box<Piece>` that the call owns
    // and gives to `destroy` once; `run` reads it as what it is.
    ffi::check(unsafe {
        ffi::vmb_recomputed(
            run,
            Box::into_raw(piece).cast(),
            destroy,
            ffi::pointer(x),
            ffi::pointers(parameters).as_ptr(),
            parameters.len() as i64,
            &mut out,
        )
    })?;
    // SAFETY: without a message `out` is a tensor allocated with `new` that nothing else owns.
    Ok(unsafe { Tensor::from_ptr(out as *mut C_tensor) })
}

/// No panic may cross into C++: it becomes a message.
extern "C" fn run(data: *mut c_void, x: *const c_void, out: *mut *mut c_void) -> *mut c_char {
    // SAFETY: `data` is the `Box<Piece>` of `recomputed`, alive until `destroy`, and used by one
    // thread at a time.
    let piece = unsafe { &*data.cast::<Piece>() };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `x` points to a tensor that lives for the call; the copy shares its storage.
        let x = unsafe { Tensor::clone_from_ptr(x as *mut C_tensor) };
        piece(&x)
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
            .unwrap_or_else(|| "a piece of the network panicked".to_string()),
    };
    let error = CString::new(error.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the text is copied before it is freed.
    unsafe { ffi::vmb_copy_message(error.as_ptr()) }
}

extern "C" fn destroy(data: *mut c_void) {
    // SAFETY: called once, with what `Box::into_raw` gave.
    drop(unsafe { Box::from_raw(data.cast::<Piece>()) });
}
