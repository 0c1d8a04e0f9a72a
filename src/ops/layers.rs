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

/// A norm over the last dimension: layer normalization (arXiv 1607.06450), or root mean square
/// normalization (arXiv 1910.07467) without a bias.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// (dim).
    pub weight: &'a Tensor,
    /// (dim).
    pub bias: Option<&'a Tensor>,
    /// Added to the variance, or to the mean square.
    pub eps: f64,
}

impl Norm<'_> {
    /// Normalizes x `(…, dim)`. It is differentiable once on the CPU.
    pub fn of(&self, x: &Tensor) -> Tensor {
        add_and_norm(x, None, Some(self)).1.unwrap_or_else(|| self.by_libtorch(x))
    }

    fn by_libtorch(&self, x: &Tensor) -> Tensor {
        let (dim, weight) = (self.weight.size(), Some(self.weight));
        match self.bias {
            Some(bias) => x.layer_norm(dim, weight, Some(bias), self.eps, false),
            None => x.rms_norm(dim, weight, self.eps),
        }
    }
}

/// What a layer adds to a residual stream.
#[derive(Debug)]
pub struct Update {
    /// `(b, …)`, of the stream's shape.
    pub value: Tensor,
    /// `(b, 1, …)`: a factor for each sample, without a gradient.
    pub factors: Option<Tensor>,
}

/// Returns `x + update`, and its norm if one is given.
///
/// On the CPU both are one pass over x, and backward adds their gradients in another; elsewhere
/// libtorch's operators compute them. It is differentiable once on the CPU.
pub fn add_and_norm(
    x: &Tensor,
    update: Option<&Update>,
    norm: Option<&Norm>,
) -> (Tensor, Option<Tensor>) {
    let factors = update.and_then(|update| update.factors.as_ref());
    let mut out: *mut c_void = std::ptr::null_mut();
    // SAFETY: the tensors are borrowed for the call, and `out` outlives it.
    let sum = ours(|sum| unsafe {
        ffi::vmb_norm(
            ffi::pointer(x),
            ffi::optional_pointer(update.map(|update| &update.value)),
            ffi::optional_pointer(factors),
            ffi::optional_pointer(norm.map(|norm| norm.weight)),
            ffi::optional_pointer(norm.and_then(|norm| norm.bias)),
            norm.map_or(0.0, |norm| norm.eps),
            sum,
            &mut out,
        )
    });
    if let Some(sum) = sum {
        return (sum, ffi::taken_tensor(out));
    }
    let sum = match update {
        Some(Update { value, factors: Some(factors) }) => x + value * factors,
        Some(Update { value, factors: None }) => x + value,
        None => x.shallow_clone(),
    };
    let of_sum = |norm: &Norm| match update {
        Some(_) => norm.of(&sum),
        None => norm.by_libtorch(&sum),
    };
    let out = norm.map(of_sum);
    (sum, out)
}

/// Returns the tensor that the function writes; `None` where it writes null, because libtorch's
/// layer is to be used, and where it fails, because libtorch's layer reports what is wrong.
fn ours(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Option<Tensor> {
    let result = ffi::optional_tensor(call);
    debug_assert!(result.is_ok(), "{result:?}");
    result.ok().flatten()
}
