//! Layers that this project computes where libtorch is slow, and libtorch elsewhere.

use std::ffi::{c_char, c_void};

use tch::Tensor;

use super::ffi;

/// Computes `x · weightᵀ + bias` over the last dimension: x `(…, inputs)`, weight
/// `(outputs, inputs)`, bias `(outputs)`.
///
/// It is libtorch's linear layer, except that oneDNN computes float32 on the CPU where the
/// processor has AVX-512 and libtorch's MKL does not use it. It is differentiable once there.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (x_, weight_, bias_) = (ffi::pointer(x), ffi::pointer(weight), ffi::optional_pointer(bias));
    // SAFETY: the tensors are borrowed for the call.
    ours(|out| unsafe { ffi::vmb_linear(x_, weight_, bias_, out) })
        .unwrap_or_else(|| x.linear(weight, bias))
}

/// Computes root mean square normalization (arXiv 1910.07467) of x `(…, dim)` over the last
/// dimension: `x / sqrt(mean(x²) + eps) · weight`, with weight `(dim)`.
///
/// On the CPU, libtorch composes it of several operators; ours is one. It is differentiable once
/// there.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let (x_, weight_) = (ffi::pointer(x), ffi::pointer(weight));
    // SAFETY: the tensors are borrowed for the call.
    ours(|out| unsafe { ffi::vmb_rms_norm(x_, weight_, eps, out) })
        .unwrap_or_else(|| x.rms_norm(weight.size(), Some(weight), eps))
}

/// Returns the tensor that the function writes; `None` where it writes null, because libtorch's
/// layer is to be used, and where it fails, because libtorch's layer reports what is wrong.
fn ours(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Option<Tensor> {
    ffi::optional_tensor(call).ok().flatten()
}
