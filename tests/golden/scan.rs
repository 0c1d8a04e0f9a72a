//! The selective scan against the sequential float64 scan.

use tch::{Device, Kind, Tensor};
use vm_beautynet::ops::{self, Path, ScanInputs};

use crate::files::{Reference, assert_close, matching};

const NAMES: [&str; 8] = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"];

/// Returns the operands of a case as leaves that require gradients; absent ones are None.
fn leaves(
    case: &Reference,
    device: Device,
    kind: Kind,
    channels_last: bool,
) -> Vec<Option<Tensor>> {
    NAMES
        .iter()
        .map(|name| {
            let tensor = case.optional(name)?.to_kind(kind).copy().to_device(device);
            let sequence = tensor.dim() == 3;
            let tensor = if channels_last && sequence {
                tensor.transpose(1, 2).contiguous().transpose(1, 2)
            } else {
                tensor
            };
            Some(tensor.set_requires_grad(true))
        })
        .collect()
}

fn inputs<'a>(case: &Reference, leaves: &'a [Option<Tensor>], reverse: bool) -> ScanInputs<'a> {
    let required = |i: usize| leaves[i].as_ref().expect("u, delta, A, B and C are in every case");
    ScanInputs {
        u: required(0),
        delta: required(1),
        a: required(2),
        b: required(3),
        c: required(4),
        d: leaves[5].as_ref(),
        z: leaves[6].as_ref(),
        delta_bias: leaves[7].as_ref(),
        delta_softplus: case.meta("delta_softplus") == Some("1"),
        reverse,
    }
}

/// Checks the output and all gradients of a case; with `flip`, of the reversed sequence, scanned in
/// reverse.
fn check(
    case: &Reference,
    label: &str,
    device: Device,
    kind: Kind,
    path: Option<Path>,
    channels_last: bool,
    flip: bool,
) {
    let mut leaves = leaves(case, device, kind, channels_last);
    if flip {
        for leaf in leaves.iter_mut().flatten() {
            if leaf.dim() == 3 {
                *leaf = leaf.detach().flip([2]).set_requires_grad(true);
            }
        }
    }
    let inputs = inputs(case, &leaves, flip);
    let out = match path {
        Some(path) => ops::selective_scan(&inputs, path),
        None => ops::selective_scan_eager(&inputs),
    }
    .unwrap();
    let upright = |t: &Tensor| {
        let t = t.to_device(Device::Cpu);
        if flip && t.dim() == 3 { t.flip([2]) } else { t }
    };
    let name = format!("{} {label}", case.path.display());
    assert_close(&format!("{name}: out"), &upright(&out), &case.tensor("out"), 1e-4);
    let dout = upright(&case.tensor("dout").to_kind(kind)).to_device(device);
    (out * dout).sum(kind).backward();
    for (leaf, leaf_name) in leaves.iter().zip(NAMES) {
        if let Some(leaf) = leaf {
            let expected = case.tensor(&format!("d{leaf_name}"));
            assert_close(&format!("{name}: d{leaf_name}"), &upright(&leaf.grad()), &expected, 1e-4);
        }
    }
}

#[test]
fn every_path_and_layout_matches_the_reference_scan_and_its_gradients() {
    for case in matching("scan_", "") {
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            for channels_last in [false, true] {
                let label = format!("({}, channels last: {channels_last})", path.name());
                check(&case, &label, Device::Cpu, Kind::Float, Some(path), channels_last, false);
                check(
                    &case,
                    &format!("{label} reversed"),
                    Device::Cpu,
                    Kind::Float,
                    Some(path),
                    channels_last,
                    true,
                );
            }
        }
        check(&case, "(double)", Device::Cpu, Kind::Double, Some(Path::Auto), false, false);
    }
}

#[test]
fn the_eager_formulation_matches_the_reference_scan_and_its_gradients() {
    for case in matching("scan_", "") {
        check(&case, "(eager)", Device::Cpu, Kind::Float, None, false, false);
        check(&case, "(eager) reversed", Device::Cpu, Kind::Float, None, false, true);
    }
}

/// On a machine without a GPU there is nothing to run: `make test-kernels` executes the same
/// kernels in a simulator.
#[cfg(feature = "cuda")]
#[test]
fn the_cuda_kernels_match_the_reference_scan_and_its_gradients_on_every_gpu() {
    for index in 0..usize::try_from(tch::Cuda::device_count()).unwrap_or(0) {
        for case in matching("scan_", "") {
            for channels_last in [false, true] {
                for flip in [false, true] {
                    let label =
                        format!("(GPU {index}, channels last: {channels_last}, reversed: {flip})");
                    let device = Device::Cuda(index);
                    check(
                        &case,
                        &label,
                        device,
                        Kind::Float,
                        Some(Path::Auto),
                        channels_last,
                        flip,
                    );
                }
            }
        }
    }
}

/// Checks the output and every gradient with sequences rounded to a half type and parameters in
/// float.
///
/// The type has p bits after the point, so that every operand and result is off by 2^-(p+1) of
/// itself: 2^-9 for bfloat16, 2^-12 for float16. A result depends on half a dozen such operands,
/// and a step size's error grows with the states it passes through: 16 times the unit, 3e-2 and
/// 4e-3 of the largest reference value, is what the type allows.
#[test]
fn half_types_match_the_reference_scan_within_what_the_type_allows() {
    for case in matching("scan_", "") {
        for (kind, tolerance) in [(Kind::BFloat16, 16.0 / 512.0), (Kind::Half, 16.0 / 4096.0)] {
            for path in Path::ALL.into_iter().filter(|path| path.available()) {
                check_half(&case, kind, path, tolerance);
            }
        }
    }
}

fn check_half(case: &Reference, kind: Kind, path: Path, tolerance: f64) {
    let leaves: Vec<Option<Tensor>> = leaves(case, Device::Cpu, Kind::Float, false)
        .into_iter()
        .map(|leaf| {
            let leaf = leaf?;
            let low = leaf.dim() == 3;
            let leaf = if low { leaf.detach().to_kind(kind) } else { leaf };
            Some(leaf.set_requires_grad(true))
        })
        .collect();
    let out = ops::selective_scan(&inputs(case, &leaves, false), path).unwrap();
    assert_eq!(out.kind(), kind);
    let name = format!("{} ({kind:?}, {})", case.path.display(), path.name());
    assert_close(&format!("{name}: out"), &out, &case.tensor("out"), tolerance);
    (out * case.tensor("dout").to_kind(kind)).to_kind(Kind::Float).sum(Kind::Float).backward();
    for (leaf, leaf_name) in leaves.iter().zip(NAMES) {
        if let Some(leaf) = leaf {
            assert_eq!(leaf.grad().kind(), leaf.kind(), "{name}: d{leaf_name}");
            let expected = case.tensor(&format!("d{leaf_name}"));
            assert_close(&format!("{name}: d{leaf_name}"), &leaf.grad(), &expected, tolerance);
        }
    }
}
