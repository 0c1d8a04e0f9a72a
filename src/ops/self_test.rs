//! A self-test of the operators: this machine's kernels compared with libtorch's own operations.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::{OpError, Path, ScanInputs, causal_conv1d_silu, selective_scan, selective_scan_eager};

/// The difference between one operator and libtorch's own operations in float32.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The operator and direction.
    pub op: String,
    /// The type of the sequences: float32, bf16 or fp16.
    pub dtype: &'static str,
    /// The instruction set, or the device.
    pub path: String,
    /// The largest difference of output and gradients, each relative to the largest value.
    pub error: f64,
    /// The difference that the type's rounding allows.
    pub tolerance: f64,
    /// Whether the difference is within the tolerance.
    pub passed: bool,
}

/// The types of the sequences, and the differences that they allow. A result of a half type depends
/// on half a dozen operands, each off by the unit of the type: 16 units.
const TYPES: [(Kind, &str, f64); 3] = [
    (Kind::Float, "float32", 1e-4),
    (Kind::BFloat16, "bf16", 16.0 / 512.0),
    (Kind::Half, "fp16", 16.0 / 4096.0),
];

/// Runs both operators, forward and backward, in both directions and each type, on every available
/// instruction set of the CPU, or on a GPU. Samples the operands from torch's generator.
pub fn self_test(device: Device) -> Result<Vec<Check>, OpError> {
    let paths: Vec<Path> = match device {
        Device::Cpu => Path::ALL.into_iter().filter(|path| path.available()).collect(),
        _ => vec![Path::Auto],
    };
    let mut checks = Vec::new();
    for path in paths {
        let label = match device {
            Device::Cpu => path.name().to_string(),
            Device::Cuda(index) => format!("cuda:{index}"),
            other => format!("{other:?}"),
        };
        for (kind, dtype, tolerance) in TYPES {
            for reverse in [false, true] {
                let direction = if reverse { ", reversed" } else { "" };
                for (op, error) in [
                    ("selective_scan", scan_error(device, path, reverse, kind)?),
                    ("causal_conv1d_silu", conv_error(device, path, reverse, kind)?),
                ] {
                    let (op, passed) = (format!("{op}{direction}"), error <= tolerance);
                    checks.push(Check { op, dtype, path: label.clone(), error, tolerance, passed });
                }
            }
        }
    }
    Ok(checks)
}

/// Returns a random (b, d, l) tensor, stored as (b, l, d) like the model's.
fn sequence([b, d, l]: [i64; 3], (kind, device): (Kind, Device)) -> Tensor {
    let tensor = Tensor::randn([b, l, d], (Kind::Float, device)).to_kind(kind);
    tensor.transpose(1, 2).set_requires_grad(true)
}

/// Returns the same values in float32, as leaves of their own.
fn in_float<const N: usize>(leaves: &[Tensor; N]) -> [Tensor; N] {
    std::array::from_fn(|i| leaves[i].detach().to_kind(Kind::Float).set_requires_grad(true))
}

/// Returns the error of one scan. Neither its 70 channels nor its 50 steps fill the last vector or
/// chunk.
fn scan_error(device: Device, path: Path, reverse: bool, kind: Kind) -> Result<f64, OpError> {
    let (b, d, l, n) = (2, 70, 50, 16);
    let vector = || Tensor::randn([d], (Kind::Float, device)).set_requires_grad(true);
    let sequence = |rows: i64| sequence([b, rows, l], (kind, device));
    let leaves = [
        sequence(d),
        sequence(d),
        (-Tensor::rand([d, n], (Kind::Float, device)) * 4.0).set_requires_grad(true),
        sequence(n),
        sequence(n),
        vector(),
        sequence(d),
        vector(),
    ];
    let exact = in_float(&leaves);
    let ours = selective_scan(&ScanInputs::from_operands(&leaves, reverse), path)?;
    let eager = selective_scan_eager(&ScanInputs::from_operands(&exact, reverse))?;
    Ok(difference((&ours, &leaves), (&eager, &exact)))
}

fn conv_error(device: Device, path: Path, reverse: bool, kind: Kind) -> Result<f64, OpError> {
    let (b, d, l, width) = (2, 70, 50, 4);
    let parameter = |shape: &[i64]| Tensor::randn(shape, (kind, device)).set_requires_grad(true);
    let leaves = [sequence([b, d, l], (kind, device)), parameter(&[d, 1, width]), parameter(&[d])];
    let exact = in_float(&leaves);
    let ours = causal_conv1d_silu(&leaves[0], &leaves[1], Some(&leaves[2]), reverse, path)?;
    let [x, weight, bias] = &exact;
    let flipped = |t: &Tensor| {
        if reverse { t.flip([2]) } else { t.shallow_clone() }
    };
    let padded = flipped(x).constant_pad_nd([width - 1, 0]);
    let eager = flipped(&padded.conv1d(weight, Some(bias), 1, 0, 1, d).silu());
    Ok(difference((&ours, &leaves), (&eager, &exact)))
}

/// Returns the largest difference of the outputs and of the gradients of every leaf, for one random
/// gradient of the output.
fn difference<const N: usize>(
    (ours, leaves): (&Tensor, &[Tensor; N]),
    (expected, exact): (&Tensor, &[Tensor; N]),
) -> f64 {
    let dout = expected.randn_like();
    let gradients = |out: &Tensor, leaves: &[Tensor; N]| {
        let loss = (out.to_kind(Kind::Float) * &dout).sum(Kind::Float);
        Tensor::run_backward(&[loss], leaves, false, false)
    };
    let (ours_grad, expected_grad) = (gradients(ours, leaves), gradients(expected, exact));
    let relative = |a: &Tensor, b: &Tensor| {
        let scale = b.detach().abs().max().double_value(&[]).max(1e-30);
        (a.detach().to_kind(Kind::Float) - b.detach()).abs().max().double_value(&[]) / scale
    };
    ours_grad.iter().zip(&expected_grad).map(|(a, b)| relative(a, b)).fold(
        relative(ours, expected),
        |worst, error| {
            if error.is_nan() { f64::INFINITY } else { worst.max(error) }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_gpu::gpu;

    fn check(device: Device) {
        tch::manual_seed(3);
        let checks = self_test(device).unwrap();
        assert!(checks.len() >= 12);
        assert!(checks.iter().all(|check| check.passed), "{checks:#?}");
    }

    #[test]
    fn every_kernel_of_this_machine_agrees_with_libtorch() {
        check(Device::Cpu);
    }

    #[test]
    fn on_a_gpu_scan_and_convolution_agree_with_libtorch_in_all_types_and_directions() {
        if let Some(device) = gpu() {
            check(device);
        }
    }
}
