//! The selective scan of Mamba (arXiv 2312.00752, algorithm 2) and the convolution in front of it.

use std::ffi::{CStr, c_void};

use tch::Tensor;

use super::OpError;
use super::ffi;

/// The instruction set of the CPU kernels. All give the same values within rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// The widest that this processor supports.
    #[default]
    Auto,
    /// The baseline of the target (SSE2 on x86-64).
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, DQ, VL and BW.
    Avx512,
}

impl Path {
    /// The paths that name an instruction set.
    pub const ALL: [Path; 3] = [Path::Portable, Path::Avx2, Path::Avx512];

    /// Returns the name of the path in the operators.
    pub fn name(self) -> &'static str {
        match self {
            Path::Auto => "auto",
            Path::Portable => "portable",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
        }
    }

    pub(super) fn c_name(self) -> &'static CStr {
        match self {
            Path::Auto => c"auto",
            Path::Portable => c"portable",
            Path::Avx2 => c"avx2",
            Path::Avx512 => c"avx512",
        }
    }

    /// Returns whether this processor can run the path.
    pub fn available(self) -> bool {
        // SAFETY: the function only reads the string that it is given.
        self == Path::Auto || unsafe { ffi::vmb_path_available(self.c_name().as_ptr()) } != 0
    }

    /// Returns the name of the path that [`Path::Auto`] selects on this machine.
    pub fn best() -> String {
        // SAFETY: the function returns a static NUL-terminated string.
        unsafe { CStr::from_ptr(ffi::vmb_best_path()) }.to_string_lossy().into_owned()
    }
}

/// The operands of one scan; any strides, so both `(b, d, l)` storage and transposed `(b, l, d)`
/// storage are read in place.
///
/// For every batch b, channel d and state n:
///
/// ```text
/// dt_l  = softplus(delta_l + delta_bias)
/// h_l   = exp(dt_l A) h_{l-1} + dt_l u_l B_l
/// y_l   = C_l . h_l + D u_l
/// out_l = y_l silu(z_l)
/// ```
#[derive(Debug, Clone, Copy)]
pub struct ScanInputs<'a> {
    /// `(batch, dim, length)`.
    pub u: &'a Tensor,
    /// `(batch, dim, length)`: the step sizes before bias and softplus.
    pub delta: &'a Tensor,
    /// `(dim, state)`, state at most 256.
    pub a: &'a Tensor,
    /// `(batch, state, length)`.
    pub b: &'a Tensor,
    /// `(batch, state, length)`.
    pub c: &'a Tensor,
    /// `(dim)`: the skip connection.
    pub d: Option<&'a Tensor>,
    /// `(batch, dim, length)`: the gate.
    pub z: Option<&'a Tensor>,
    /// `(dim)`.
    pub delta_bias: Option<&'a Tensor>,
    /// Whether softplus is applied to delta.
    pub delta_softplus: bool,
    /// Whether to scan from the last step to the first. Outputs stay at their steps: no operand is
    /// flipped.
    pub reverse: bool,
}

impl<'a> ScanInputs<'a> {
    /// Creates inputs from u, delta, A, B, C, D, z and delta_bias, with softplus.
    pub fn from_operands(operands: &'a [Tensor; 8], reverse: bool) -> Self {
        let [u, delta, a, b, c, d, z, delta_bias] = operands;
        Self {
            u,
            delta,
            a,
            b,
            c,
            d: Some(d),
            z: Some(z),
            delta_bias: Some(delta_bias),
            delta_softplus: true,
            reverse,
        }
    }

    fn raw(&self) -> ffi::RawScanInputs {
        ffi::RawScanInputs {
            u: ffi::pointer(self.u),
            delta: ffi::pointer(self.delta),
            a: ffi::pointer(self.a),
            b: ffi::pointer(self.b),
            c: ffi::pointer(self.c),
            d: ffi::optional_pointer(self.d),
            z: ffi::optional_pointer(self.z),
            delta_bias: ffi::optional_pointer(self.delta_bias),
            delta_softplus: self.delta_softplus.into(),
            reverse: self.reverse.into(),
        }
    }
}

/// Computes the fused scan: `(batch, dim, length)` in `u`'s type and layout, differentiable once.
///
/// The state is float32 (float64 for float64 operands) whatever the operands' type. Gradients are
/// the same bit for bit for any number of threads. An error names the operand that does not fit.
///
/// # Examples
/// With `A = 0` and unit steps the state does not decay, and the scan is a running sum:
/// ```
/// use tch::{Device, Kind, Tensor};
/// use vm_beautynet::ops::{Path, ScanInputs, selective_scan};
///
/// let ones = Tensor::ones([1, 1, 4], (Kind::Float, Device::Cpu));
/// let a = Tensor::zeros([1, 1], (Kind::Float, Device::Cpu));
/// let inputs = ScanInputs {
///     u: &ones, delta: &ones, a: &a, b: &ones, c: &ones, // (1, 1, 4), A (1, 1)
///     d: None, z: None, delta_bias: None, delta_softplus: false, reverse: false,
/// };
/// let y = selective_scan(&inputs, Path::Auto)?;
/// let expected = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([1, 1, 4]);
/// assert!(y.allclose(&expected, 1e-5, 1e-6, false));
/// # Ok::<(), vm_beautynet::ops::OpError>(())
/// ```
pub fn selective_scan(operands: &ScanInputs, path: Path) -> Result<Tensor, OpError> {
    let (operands, path) = (operands.raw(), path.c_name());
    // SAFETY: every pointer is null or an at::Tensor that a tch tensor borrowed for this call owns.
    ffi::returned_tensor(|out| unsafe { ffi::vmb_selective_scan(&operands, path.as_ptr(), out) })
}

/// Computes the same recurrence in libtorch's own operations: slow, with `(b, d, l, n)` tensors,
/// differentiable any number of times.
pub fn selective_scan_eager(operands: &ScanInputs) -> Result<Tensor, OpError> {
    let operands = operands.raw();
    // SAFETY: as in `selective_scan`.
    ffi::returned_tensor(|out| unsafe { ffi::vmb_selective_scan_eager(&operands, out) })
}

/// Computes `silu(conv(x))` with a depthwise causal convolution: x `(batch, dim, length)` in any
/// layout, weight `(dim, 1, width)` with width at most 8, bias `(dim)`. `reverse` convolves each
/// step with the steps after it instead of those before.
pub fn causal_conv1d_silu(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    reverse: bool,
    path: Path,
) -> Result<Tensor, OpError> {
    let path = path.c_name();
    // SAFETY: as in `selective_scan`.
    ffi::returned_tensor(|out| unsafe {
        ffi::vmb_causal_conv1d_silu(
            ffi::pointer(x),
            ffi::pointer(weight),
            ffi::optional_pointer(bias),
            reverse.into(),
            path.as_ptr(),
            out,
        )
    })
}

/// The parameters of one direction of a bidirectional mixer, under the names of Vim's checkpoints.
#[derive(Debug, Clone, Copy)]
pub struct MambaParameters<'a> {
    /// `(inner, 1, width)`, width at most 8.
    pub conv1d_weight: &'a Tensor,
    /// `(inner)`.
    pub conv1d_bias: &'a Tensor,
    /// `(rank + 2 state, inner)`.
    pub x_proj: &'a Tensor,
    /// `(inner, rank)`.
    pub dt_proj_weight: &'a Tensor,
    /// `(inner)`.
    pub dt_proj_bias: &'a Tensor,
    /// `(inner, state)`: the logarithm of -A.
    pub a_log: &'a Tensor,
    /// `(inner)`: the skip connection.
    pub d: &'a Tensor,
}

impl MambaParameters<'_> {
    fn pointers(&self) -> Vec<*mut c_void> {
        ffi::pointers(&[
            self.conv1d_weight,
            self.conv1d_bias,
            self.x_proj,
            self.dt_proj_weight,
            self.dt_proj_bias,
            self.a_log,
            self.d,
        ])
    }
}

/// Computes the inner part of a bidirectional Vision Mamba mixer (arXiv 2401.09417), between its
/// `in_proj` and its `out_proj`: xz `(batch, length, 2 inner)` to `(batch, length, inner)`, the
/// mean of a forward and a backward direction. Each is a causal convolution with SiLU, the
/// projections to step sizes, B and C, and a gated [selective scan](selective_scan).
///
/// Differentiable once, as one node that saves xz, the projections and the scans' states; backward
/// recomputes the convolutions and the step sizes. An error names the argument that does not fit.
pub fn bimamba_inner(
    xz: &Tensor,
    forward: &MambaParameters,
    backward: &MambaParameters,
    path: Path,
) -> Result<Tensor, OpError> {
    let (forward, backward, path) = (forward.pointers(), backward.pointers(), path.c_name());
    // SAFETY: as in `selective_scan`; both lists have the seven tensors that the function reads.
    ffi::returned_tensor(|out| unsafe {
        ffi::vmb_bimamba_inner(
            ffi::pointer(xz),
            forward.as_ptr(),
            backward.as_ptr(),
            path.as_ptr(),
            out,
        )
    })
}
