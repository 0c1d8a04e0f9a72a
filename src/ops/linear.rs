//! The linear layer.

use std::ptr::null_mut;

use tch::Tensor;
use torch_sys::C_tensor;

use super::ffi;

/// Computes `x · weightᵀ + bias` over the last dimension: x `(…, inputs)`, weight
/// `(outputs, inputs)`, bias `(outputs)`.
///
/// It is libtorch's linear layer, except that oneDNN computes float32 on the CPU where the
/// processor has AVX-512 and libtorch's MKL does not use it. It is differentiable once there.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let mut out = null_mut();
    let (x_, weight_, bias_) = (ffi::pointer(x), ffi::pointer(weight), ffi::optional_pointer(bias));
    // SAFETY: the tensors are borrowed for the call.
    let found = ffi::check(unsafe { ffi::vmb_linear(x_, weight_, bias_, &mut out) });
    // libtorch's own reports what is wrong with the arguments.
    if found.is_err() || out.is_null() {
        return x.linear(weight, bias);
    }
    // SAFETY: csrc has stored a tensor allocated with `new` that nothing else owns.
    unsafe { Tensor::from_ptr(out as *mut C_tensor) }
}
