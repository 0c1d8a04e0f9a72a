//! The functions that the kernels compute with, value by value, for tests of their accuracy.

use std::ffi::CString;

use super::OpError;
use super::ffi;
use super::scan::Path;

/// A function of `csrc/cpu/vec_math.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `2^(x y)`, rounded once: the decay of the state.
    Exp2Product,
    /// `e^x`.
    Exp,
    /// `log(1 + e^x)`, and `x` itself above 20.
    Softplus,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::Exp2Product => "exp2_product",
            Function::Exp => "exp",
            Function::Softplus => "softplus",
            Function::Sigmoid => "sigmoid",
        }
    }
}

/// The function on each value by the kernels of `path`. Of two operands the second is read by
/// [`Function::Exp2Product`] alone, and has the first one's length or is empty.
///
/// # Errors
/// A path that this processor lacks, or operands of different lengths.
pub fn evaluate(function: Function, path: Path, x: &[f32], y: &[f32]) -> Result<Vec<f32>, OpError> {
    let y = if y.is_empty() && function != Function::Exp2Product { x } else { y };
    if x.len() != y.len() {
        let message = format!("elementwise: {} and {} values must be as many", x.len(), y.len());
        return Err(OpError(message));
    }
    let name = CString::new(function.name()).unwrap_or_default();
    let path = path.c_name();
    let mut out = vec![0.0; x.len()];
    // SAFETY: x, y and out hold `x.len()` values each and outlive the call, as the names do.
    ffi::check(unsafe {
        ffi::vmb_elementwise(
            name.as_ptr(),
            path.as_ptr(),
            x.as_ptr(),
            y.as_ptr(),
            out.as_mut_ptr(),
            x.len() as i64,
        )
    })?;
    Ok(out)
}
