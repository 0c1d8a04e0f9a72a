//! Layers that this project computes where libtorch is slow, and libtorch elsewhere.

use std::ffi::{c_char, c_void};

use tch::Tensor;

use super::{Path, ffi};

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

/// The weight `(outputs, inputs)` and bias `(outputs)` of a linear layer.
pub type LinearParameters<'a> = (&'a Tensor, Option<&'a Tensor>);

/// Computes a transformer's MLP of x `(…, dim)`: two linear layers with GELU (arXiv 1606.08415)
/// between them, or with its approximation `x sigmoid(1.702 x)` if `quick_gelu`.
///
/// Float32 and float64 on the CPU are one node of autograd, which is differentiable once and keeps
/// the hidden layer once; libtorch computes the rest.
pub fn mlp(x: &Tensor, fc1: LinearParameters, fc2: LinearParameters, quick_gelu: bool) -> Tensor {
    // SAFETY: the tensors are borrowed for the call.
    let ours = ours(|out| unsafe {
        ffi::vmb_mlp(
            ffi::pointer(x),
            ffi::pointer(fc1.0),
            ffi::optional_pointer(fc1.1),
            ffi::pointer(fc2.0),
            ffi::optional_pointer(fc2.1),
            quick_gelu.into(),
            out,
        )
    });
    ours.unwrap_or_else(|| {
        let hidden = linear(x, fc1.0, fc1.1);
        let hidden =
            if quick_gelu { &hidden * (&hidden * 1.702).sigmoid() } else { hidden.gelu("none") };
        linear(&hidden, fc2.0, fc2.1)
    })
}

/// Computes multi-head self-attention (arXiv 1706.03762), `softmax(q kᵀ / √d) v` for each head, of
/// a projection's output qkv `(b, l, 3 · heads · d)`: `(b, l, heads · d)`.
///
/// The CPU has kernels of this project, those of `path`, which are differentiable once and compute
/// half types in float32; libtorch computes it elsewhere, and where the processor lacks the path.
pub fn attention(qkv: &Tensor, heads: i64, path: Path) -> Tensor {
    let (qkv_, path) = (ffi::pointer(qkv), path.c_name().as_ptr());
    // SAFETY: the tensor is borrowed for the call, and the name is static.
    ours(|out| unsafe { ffi::vmb_attention(qkv_, heads, path, out) }).unwrap_or_else(|| {
        let [q, k, v] = queries_keys_values(qkv, heads);
        let mask = None::<&Tensor>;
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, false, None, false);
        out.transpose(1, 2).flatten(2, 3)
    })
}

/// Returns the queries, keys and values of a projection's output `(b, l, 3 · heads · d)`, each
/// `(b, heads, l, d)`.
pub fn queries_keys_values(qkv: &Tensor, heads: i64) -> [Tensor; 3] {
    // Unbound where they are: so backward stacks the three gradients once, in the layout of the
    // projection's output, and copies nothing else.
    let parts = qkv.unflatten(-1, [3, heads, -1]).unbind(2);
    [0, 1, 2].map(|part: usize| parts[part].transpose(1, 2))
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
