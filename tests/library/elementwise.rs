//! The accuracy of the functions that the CPU kernels compute with, against float64, on every
//! instruction set of this machine.

#![allow(unsafe_code)]

use std::ffi::c_int;

use vm_beautynet::ops::Path;

/// A compiled copy: writes the values of a function (by number) for `count` operands.
type Kernel = unsafe extern "C" fn(c_int, *const f32, *const f32, *mut f32, i64);

// csrc/testing/elementwise.cpp, which build.rs links into test programs only.
unsafe extern "C" {
    fn vmb_elementwise_portable(f: c_int, x: *const f32, y: *const f32, out: *mut f32, count: i64);
    #[cfg(target_arch = "x86_64")]
    fn vmb_elementwise_avx2(f: c_int, x: *const f32, y: *const f32, out: *mut f32, count: i64);
    #[cfg(target_arch = "x86_64")]
    fn vmb_elementwise_avx512(f: c_int, x: *const f32, y: *const f32, out: *mut f32, count: i64);
}

/// A function of csrc/cpu/vec_math.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    /// `2^(x y)`, rounded once: the decay of the state.
    Exp2Product,
    /// `e^x`.
    Exp,
    /// `log(1 + e^x)`, and `x` itself above 20.
    Softplus,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
}

/// Evaluates the function on every value with the instruction set of `path`, which must be
/// available. Only [`Function::Exp2Product`] reads `y`.
fn evaluate(function: Function, path: Path, x: &[f32], y: &[f32]) -> Vec<f32> {
    let kernel: Kernel = match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => vmb_elementwise_avx2,
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => vmb_elementwise_avx512,
        _ => vmb_elementwise_portable,
    };
    let y = if function == Function::Exp2Product { y } else { x };
    assert_eq!(x.len(), y.len());
    let mut out = vec![0.0; x.len()];
    // SAFETY: x, y and out hold `x.len()` values each, and the caller asks for available paths.
    unsafe {
        kernel(function as c_int, x.as_ptr(), y.as_ptr(), out.as_mut_ptr(), x.len() as i64);
    }
    out
}

fn paths() -> impl Iterator<Item = Path> {
    Path::ALL.into_iter().filter(|path| path.available())
}

/// Returns `count` evenly spaced values from `from` to `to`.
fn sweep(from: f64, to: f64, count: usize) -> Vec<f32> {
    let step = (to - from) / (count - 1) as f64;
    (0..count).map(|i| (from + step * i as f64) as f32).collect()
}

/// Returns the distance in units of the last place of the float nearest to the exact value.
fn ulps(found: f32, exact: f64) -> f64 {
    let nearest = exact as f32;
    let spacing = f64::from(nearest.abs().next_up()) - f64::from(nearest.abs());
    (f64::from(found) - exact).abs() / spacing
}

/// Returns the largest distance over all values, and where it is.
fn worst(
    function: Function,
    path: Path,
    x: &[f32],
    y: &[f32],
    exact: impl Fn(usize) -> f64,
) -> (f64, f32) {
    let found = evaluate(function, path, x, y);
    (0..x.len()).fold((0.0, 0.0), |worst, i| {
        let distance = ulps(found[i], exact(i));
        if distance > worst.0 || distance.is_nan() { (distance, x[i]) } else { worst }
    })
}

#[test]
fn the_decay_is_within_2_ulp_of_the_exact_power_of_the_unrounded_product() {
    // Step sizes and rates whose products cover every normal result, and are rarely exact.
    for rate in [-1.0f32, -0.123_456_7, -23.1, -std::f32::consts::LOG2_E, 0.75] {
        let x = sweep(-126.0 / f64::from(rate), 127.4 / f64::from(rate), 1 << 20);
        let y = vec![rate; x.len()];
        let exact = |i: usize| (f64::from(x[i]) * f64::from(rate)).exp2();
        for path in paths() {
            let (distance, at) = worst(Function::Exp2Product, path, &x, &y, exact);
            assert!(distance <= 2.0, "{}: {distance} ulp at {at} * {rate}", path.name());
        }
    }
}

#[test]
fn the_exponential_is_within_2_ulp() {
    let x = sweep(-87.3, 88.3, 1 << 21);
    for path in paths() {
        let (distance, at) = worst(Function::Exp, path, &x, &[], |i| f64::from(x[i]).exp());
        assert!(distance <= 2.0, "{}: {distance} ulp at {at}", path.name());
    }
}

#[test]
fn powers_beyond_the_range_are_zero_or_infinite_and_nan_stays_nan() {
    let inf = f32::INFINITY;
    // Lowest and highest, products that overflow, and both infinities.
    let low = [-150.5f32, -1e3, -2.2e5, -1e9, -3e38, -inf];
    let high = [128.1f32, 1e3, 2.2e5, 1e9, 3e38, inf];
    for path in paths() {
        let name = path.name();
        for scale in [1.0f32, 5.0] {
            let power = |x: &[f32]| evaluate(Function::Exp2Product, path, x, &vec![scale; x.len()]);
            assert_eq!(power(&low), [0.0; 6], "{name}");
            assert_eq!(power(&high), [inf; 6], "{name}");
            assert!(power(&[f32::NAN])[0].is_nan(), "{name}");
            // Below the normal numbers: zero or a denormal number.
            let small = power(&sweep(-149.0 / f64::from(scale), -126.0 / f64::from(scale), 999));
            assert!(small.iter().all(|&p| (0.0..=f32::MIN_POSITIVE).contains(&p)), "{name}");
        }
        let exp = evaluate(Function::Exp, path, &[-inf, -200.0, 0.0, 200.0, inf], &[]);
        assert_eq!(exp, [0.0, 0.0, 1.0, inf, inf], "{name}");
        for function in [Function::Exp, Function::Softplus, Function::Sigmoid] {
            assert!(evaluate(function, path, &[f32::NAN], &[])[0].is_nan(), "{name} {function:?}");
        }
    }
}

#[test]
fn softplus_is_within_5_ulp_and_linear_above_20() {
    let x = sweep(-87.0, 20.0, 1 << 21);
    let exact = |i: usize| f64::from(x[i]).exp().ln_1p();
    for path in paths() {
        let (distance, at) = worst(Function::Softplus, path, &x, &[], exact);
        assert!(distance <= 5.0, "{}: {distance} ulp at {at}", path.name());
        let ends = [20.5, 1e30, f32::INFINITY, f32::NEG_INFINITY];
        let found = evaluate(Function::Softplus, path, &ends, &[]);
        assert_eq!(found, [20.5, 1e30, f32::INFINITY, 0.0], "{}", path.name());
    }
}

#[test]
fn sigmoid_is_within_5_ulp() {
    let x = sweep(-87.0, 40.0, 1 << 21);
    let exact = |i: usize| 1.0 / (1.0 + (-f64::from(x[i])).exp());
    for path in paths() {
        let (distance, at) = worst(Function::Sigmoid, path, &x, &[], exact);
        assert!(distance <= 5.0, "{}: {distance} ulp at {at}", path.name());
        let found = evaluate(Function::Sigmoid, path, &[f32::INFINITY, f32::NEG_INFINITY], &[]);
        assert_eq!(found, [1.0, 0.0], "{}", path.name());
    }
}
