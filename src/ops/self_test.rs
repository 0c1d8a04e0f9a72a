//! A self-test of the operators: this machine's kernels compared with libtorch's own operations.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::{OpError, Path, ScanInputs, causal_conv1d_silu, selective_scan, selective_scan_eager};

/// The tolerance for rounding, relative to the largest value.
pub const TOLERANCE: f64 = 1e-4;

/// The difference between one operator and libtorch's own operations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The operator and direction.
    pub op: String,
    /// The instruction set, or the device.
    pub path: String,
    /// The largest difference of output and gradients, each relative to the largest value.
    pub error: f64,
    /// Whether the difference is within [`TOLERANCE`].
    pub passed: bool,
}

/// Runs both operators, forward and backward, in both directions, on every available instruction
/// set of the CPU, or on a GPU. Samples the operands from torch's generator.
pub fn self_test(device: Device) -> Result<Vec<Check>, OpError> {
    let paths: Vec<Path> = match device {
        Device::Cpu => Path::ALL.into_iter().filter(|path| path.available()).collect(),
        _ => vec![Path::Auto],
    };
    let mut checks = Vec::new();
    for path in paths {
        let label = match device {
            Device::Cpu => path.name().to_string(),
            _ => format!("{device:?}").to_lowercase(),
        };
        for reverse in [false, true] {
            let direction = if reverse { ", reversed" } else { "" };
            for (op, error) in [
                ("selective_scan", scan_error(device, path, reverse)?),
                ("causal_conv1d_silu", conv_error(device, path, reverse)?),
            ] {
                let (op, passed) = (format!("{op}{direction}"), error <= TOLERANCE);
                checks.push(Check { op, path: label.clone(), error, passed });
            }
        }
    }
    Ok(checks)
}

/// Returns a random (b, d, l) tensor, stored as (b, l, d) like the model's.
fn sequence(shape: [i64; 3], device: Device) -> Tensor {
    let [b, d, l] = shape;
    Tensor::randn([b, l, d], (Kind::Float, device)).transpose(1, 2).set_requires_grad(true)
}

/// Returns the error of one scan. Neither its 70 channels nor its 50 steps fill the last vector or
/// chunk.
fn scan_error(device: Device, path: Path, reverse: bool) -> Result<f64, OpError> {
    let (b, d, l, n) = (2, 70, 50, 16);
    let vector = || Tensor::randn([d], (Kind::Float, device)).set_requires_grad(true);
    let leaves = [
        sequence([b, d, l], device),
        sequence([b, d, l], device),
        (-Tensor::rand([d, n], (Kind::Float, device)) * 4.0).set_requires_grad(true),
        sequence([b, n, l], device),
        sequence([b, n, l], device),
        vector(),
        sequence([b, d, l], device),
        vector(),
    ];
    let inputs = ScanInputs::from_operands(&leaves, reverse);
    let ours = selective_scan(&inputs, path)?;
    let eager = selective_scan_eager(&inputs)?;
    Ok(difference(&ours, &eager, &leaves))
}

fn conv_error(device: Device, path: Path, reverse: bool) -> Result<f64, OpError> {
    let (b, d, l, width) = (2, 70, 50, 4);
    let leaves = [
        sequence([b, d, l], device),
        Tensor::randn([d, 1, width], (Kind::Float, device)).set_requires_grad(true),
        Tensor::randn([d], (Kind::Float, device)).set_requires_grad(true),
    ];
    let ours = causal_conv1d_silu(&leaves[0], &leaves[1], Some(&leaves[2]), reverse, path)?;
    let [x, weight, bias] = &leaves;
    let flipped = |t: &Tensor| {
        if reverse { t.flip([2]) } else { t.shallow_clone() }
    };
    let padded = flipped(x).constant_pad_nd([width - 1, 0]);
    let eager = flipped(&padded.conv1d(weight, Some(bias), 1, 0, 1, d).silu());
    Ok(difference(&ours, &eager, &leaves))
}

/// Returns the largest difference of the outputs and of the gradients of every leaf, for one random
/// gradient of the output.
fn difference(ours: &Tensor, expected: &Tensor, leaves: &[Tensor]) -> f64 {
    let dout = ours.randn_like();
    let gradients = |out: &Tensor| {
        Tensor::run_backward(&[(out * &dout).sum(Kind::Float)], leaves, false, false)
    };
    let (ours_grad, expected_grad) = (gradients(ours), gradients(expected));
    let relative = |a: &Tensor, b: &Tensor| {
        let scale = b.detach().abs().max().double_value(&[]).max(1e-30);
        (a.detach() - b.detach()).abs().max().double_value(&[]) / scale
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

    #[test]
    fn every_kernel_of_this_machine_agrees_with_libtorch() {
        tch::manual_seed(3);
        let checks = self_test(Device::Cpu).unwrap();
        assert!(checks.len() >= 4);
        assert!(checks.iter().all(|check| check.passed), "{checks:#?}");
    }
}
