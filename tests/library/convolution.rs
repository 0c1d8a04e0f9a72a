//! The causal convolution against libtorch's own operations.

use crate::generator::alone_with_the_generator;
use crate::gpu::gpu;
use tch::{Device, Kind, Tensor};
use vm_beautynet::ops::{Path, causal_conv1d_silu};

/// The types, and the differences that they allow: four products of operands, each off by half a
/// unit in the last place, and the rounding of the result. 2^-9 is bfloat16's, 2^-12 float16's.
const TYPES: [(Kind, f64); 4] = [
    (Kind::Float, 1e-5),
    (Kind::Double, 1e-12),
    (Kind::BFloat16, 8.0 / 512.0),
    (Kind::Half, 8.0 / 4096.0),
];

/// Channels and steps: on a CPU, last strips of 18, 40 and 2 steps.
const SIZES: [[i64; 2]; 3] = [[37, 50], [200, 72], [3, 2]];

/// Computes `silu(conv1d(x) + bias)` in double precision, over the steps before each, or after.
fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor, reverse: bool) -> Tensor {
    let width = weight.size()[2];
    let turned = |t: &Tensor| {
        if reverse { t.flip([2]) } else { t.shallow_clone() }
    };
    let padded = turned(x).constant_pad_nd([width - 1, 0]);
    turned(&padded.conv1d(weight, Some(bias), 1, 0, 1, x.size()[1]).silu())
}

/// Checks outputs and gradients of some sizes (dim, length), in every type, both layouts and both
/// directions.
fn check(device: Device, path: Path, [d, l]: [i64; 2]) {
    tch::manual_seed(1);
    let (b, width) = (2, 4);
    let shapes: [&[i64]; 4] = [&[b, d, l], &[d, 1, width], &[d], &[b, d, l]];
    let sampled = shapes.map(|shape| Tensor::randn(shape, (Kind::Double, device)));
    for (kind, tolerance) in TYPES {
        // The same rounded values for both.
        let rounded = sampled.each_ref().map(|t| t.to_kind(kind));
        for (channels_last, reverse) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let leaf = |t: &Tensor| t.copy().set_requires_grad(true);
            let x = if channels_last {
                let rows = rounded[0].transpose(1, 2).contiguous();
                rows.transpose(1, 2).set_requires_grad(true)
            } else {
                leaf(&rounded[0])
            };
            let [weight, bias] = [&rounded[1], &rounded[2]].map(leaf);
            let [exact_x, exact_weight, exact_bias] =
                [0, 1, 2].map(|i| leaf(&rounded[i].to_kind(Kind::Double)));
            let ours = causal_conv1d_silu(&x, &weight, Some(&bias), reverse, path).unwrap();
            let exact = reference(&exact_x, &exact_weight, &exact_bias, reverse);
            let name = format!("{kind:?}, {device:?}, {}, {channels_last} {reverse}", path.name());
            let gradients = |out: &Tensor, leaves: &[&Tensor]| {
                let loss = (out.to_kind(Kind::Double) * &sampled[3]).sum(Kind::Double);
                Tensor::run_backward(&[loss], leaves, false, false)
            };
            let mut found = gradients(&ours, &[&x, &weight, &bias]);
            let mut expected = gradients(&exact, &[&exact_x, &exact_weight, &exact_bias]);
            found.push(ours);
            expected.push(exact);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.kind(), kind, "{name}");
                let difference = found.to_kind(Kind::Double) - expected;
                let error = difference.abs().max() / expected.abs().max();
                let error = error.double_value(&[]);
                assert!(error <= tolerance, "{name}, {index}: {error:.2e}");
            }
        }
    }
}

#[test]
fn the_convolution_is_libtorchs_in_every_type_layout_and_direction() {
    let _alone = alone_with_the_generator();
    for path in Path::ALL.into_iter().filter(|path| path.available()) {
        for sizes in SIZES {
            check(Device::Cpu, path, sizes);
        }
    }
}

#[test]
fn on_a_gpu_the_convolution_is_libtorchs_in_every_type_layout_and_direction() {
    let _alone = alone_with_the_generator();
    if let Some(device) = gpu() {
        for sizes in SIZES {
            check(device, Path::Auto, sizes);
        }
    }
}
