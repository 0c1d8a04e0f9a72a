//! The selective scan against the sequential float64 scan.

use tch::{Device, Kind, Tensor};
use vm_beautynet::ops::{self, Path, ScanInputs};

use crate::files::{Reference, assert_close, matching};
use crate::gpu::gpu;

const NAMES: [&str; 8] = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"];

/// How a reference case is computed.
#[derive(Clone, Copy, Debug)]
struct Form {
    device: Device,
    /// The type of the sequences; parameters are float32, or float64 like the sequences.
    kind: Kind,
    /// `None` is the eager formulation.
    path: Option<Path>,
    channels_last: bool,
    /// The reversed sequence, scanned in reverse.
    flip: bool,
}

impl Form {
    /// Returns the tolerance, relative to the largest reference value.
    ///
    /// A half type has p bits after the point, so that every operand and result is off by 2^-(p+1)
    /// of itself: 2^-9 for bfloat16, 2^-12 for float16. A result depends on half a dozen such
    /// operands, and a step size's error grows with the states it passes through: 16 times the
    /// unit, 3e-2 and 4e-3, is what the type allows.
    fn tolerance(self) -> f64 {
        match self.kind {
            Kind::BFloat16 => 16.0 / 512.0,
            Kind::Half => 16.0 / 4096.0,
            _ => 1e-4,
        }
    }

    /// Returns the operands of a case as leaves that require gradients; absent ones are None.
    fn leaves(self, case: &Reference) -> Vec<Option<Tensor>> {
        let leaf = |name: &&str| {
            let tensor = case.optional(name)?;
            let tensor = if tensor.dim() == 3 {
                let tensor = self.turned(&tensor).to_kind(self.kind);
                if self.channels_last {
                    tensor.transpose(1, 2).contiguous().transpose(1, 2)
                } else {
                    tensor
                }
            } else {
                let double = self.kind == Kind::Double;
                tensor.to_kind(if double { Kind::Double } else { Kind::Float })
            };
            Some(tensor.copy().to_device(self.device).set_requires_grad(true))
        };
        NAMES.iter().map(leaf).collect()
    }

    /// Flips a sequence where the form is reversed: from the case's order, or back to it.
    fn turned(self, t: &Tensor) -> Tensor {
        if self.flip && t.dim() == 3 { t.flip([2]) } else { t.shallow_clone() }
    }

    /// Checks the output and all gradients of a case, and their types.
    fn check(self, case: &Reference) {
        let leaves = self.leaves(case);
        let inputs = inputs(case, &leaves, self.flip);
        let out = match self.path {
            Some(path) => ops::selective_scan(&inputs, path),
            None => ops::selective_scan_eager(&inputs),
        }
        .unwrap();
        let name = format!("{} {self:?}", case.path.display());
        let close = |what: &str, found: &Tensor, kind: Kind, reference: &str| {
            assert_eq!(found.kind(), kind, "{name}: {what}");
            let found = self.turned(&found.to_device(Device::Cpu));
            let what = format!("{name}: {what}");
            assert_close(&what, &found, &case.tensor(reference), self.tolerance());
        };
        close("out", &out, self.kind, "out");
        let dout = self.turned(&case.tensor("dout")).to_kind(self.kind).to_device(self.device);
        (out * dout).to_kind(Kind::Double).sum(Kind::Double).backward();
        for (leaf, leaf_name) in leaves.iter().zip(NAMES) {
            if let Some(leaf) = leaf {
                let gradient = format!("d{leaf_name}");
                close(&gradient, &leaf.grad(), leaf.kind(), &gradient);
            }
        }
    }
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

/// Checks every case on a device in all types, both layouts and both directions.
fn check_every_form(device: Device, paths: &[Option<Path>]) {
    for case in matching("scan_", "") {
        for &path in paths {
            for kind in [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double] {
                for (channels_last, flip) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    Form { device, kind, path, channels_last, flip }.check(&case);
                }
            }
        }
    }
}

#[test]
fn every_path_type_layout_and_direction_matches_the_reference_scan_and_its_gradients() {
    let paths = Path::ALL.into_iter().filter(|path| path.available());
    check_every_form(Device::Cpu, &paths.map(Some).collect::<Vec<_>>());
}

#[test]
fn the_eager_formulation_matches_the_reference_scan_and_its_gradients() {
    for case in matching("scan_", "") {
        for flip in [false, true] {
            let (device, kind) = (Device::Cpu, Kind::Float);
            Form { device, kind, path: None, channels_last: false, flip }.check(&case);
        }
    }
}

/// Without a GPU, `make test-kernels` executes the same kernels in a simulator.
#[test]
fn on_a_gpu_every_type_layout_and_direction_matches_the_reference_scan_and_its_gradients() {
    if let Some(device) = gpu() {
        check_every_form(device, &[Some(Path::Auto)]);
    }
}
