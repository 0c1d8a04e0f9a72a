//! The inner part of the bidirectional mixer against the operators that it is composed of.

use crate::generator::{alone_with_seed, alone_with_the_generator};
use crate::gradcheck::assert_gradients_are_finite_differences;
use tch::{Device, Kind, Tensor};
use vm_beautynet::ops::profiler::MemoryWatch;
use vm_beautynet::ops::{self, MambaParameters, Path, ScanInputs};

/// Batch, length, inner, rank, state and width.
const SIZES: [[i64; 6]; 4] = [
    [2, 37, 20, 3, 16, 4],
    [1, 1, 5, 1, 1, 1],
    [3, 70, 70, 2, 5, 3],
    // Products so large that oneDNN may compute them.
    [2, 130, 192, 12, 16, 4],
];

/// xz, then seven parameters of each direction, as leaves that require gradients.
struct Operands(Vec<Tensor>);

impl Operands {
    fn random([batch, length, inner, rank, state, width]: [i64; 6], kind: Kind) -> Self {
        let normal = |shape: &[i64], scale: f64| {
            (Tensor::randn(shape, (kind, Device::Cpu)) * scale).detach().set_requires_grad(true)
        };
        let mut all = vec![normal(&[batch, length, 2 * inner], 1.0)];
        for _ in 0..2 {
            all.extend([
                normal(&[inner, 1, width], 0.5),
                normal(&[inner], 0.5),
                normal(&[rank + 2 * state, inner], (inner as f64).powf(-0.5)),
                normal(&[inner, rank], 1.0),
                normal(&[inner], 1.0),
                normal(&[inner, state], 0.5),
                normal(&[inner], 1.0),
            ]);
        }
        Self(all)
    }

    fn direction(&self, index: usize) -> MambaParameters<'_> {
        let p = &self.0[1 + 7 * index..];
        MambaParameters {
            conv1d_weight: &p[0],
            conv1d_bias: &p[1],
            x_proj: &p[2],
            dt_proj_weight: &p[3],
            dt_proj_bias: &p[4],
            a_log: &p[5],
            d: &p[6],
        }
    }

    fn fused(&self, path: Path) -> Tensor {
        ops::bimamba_inner(&self.0[0], &self.direction(0), &self.direction(1), path).unwrap()
    }

    /// The same by the separate operators.
    fn composed(&self) -> Tensor {
        let xz = self.0[0].transpose(1, 2).chunk(2, 1);
        let scanned = [0, 1].map(|index| {
            let (p, reverse) = (self.direction(index), index == 1);
            let [rank, state] = [p.dt_proj_weight.size()[1], p.a_log.size()[1]];
            let (weight, bias) = (p.conv1d_weight, Some(p.conv1d_bias));
            let u = ops::causal_conv1d_silu(&xz[0], weight, bias, reverse, Path::Auto).unwrap();
            let low = u.transpose(1, 2).linear(p.x_proj, None::<&Tensor>);
            let low = low.split_with_sizes([rank, state, state], -1);
            let delta = low[0].linear(p.dt_proj_weight, None::<&Tensor>);
            let inputs = ScanInputs {
                u: &u,
                delta: &delta.transpose(1, 2),
                a: &-p.a_log.exp(),
                b: &low[1].transpose(1, 2),
                c: &low[2].transpose(1, 2),
                d: Some(p.d),
                z: Some(&xz[1]),
                delta_bias: Some(p.dt_proj_bias),
                delta_softplus: true,
                reverse,
            };
            ops::selective_scan(&inputs, Path::Auto).unwrap()
        });
        ((&scanned[0] + &scanned[1]) * 0.5).transpose(1, 2)
    }

    /// Returns the output and the gradients of all operands for a fixed gradient of the output.
    fn run(&self, out: Tensor) -> Vec<Tensor> {
        let weights = Tensor::arange(out.numel() as i64, (Kind::Float, Device::Cpu)).cos();
        let loss =
            out.to_kind(self.0[0].kind()).reshape([-1]).dot(&weights.to_kind(self.0[0].kind()));
        let mut all = Tensor::run_backward(&[loss], &self.0, false, false);
        all.push(out.detach());
        all
    }
}

fn largest(t: &Tensor) -> f64 {
    t.abs().max().double_value(&[])
}

fn assert_close(found: &[Tensor], expected: &[Tensor], tolerance: f64, label: &str) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(
            (found.size(), found.kind()),
            (expected.size(), expected.kind()),
            "{label}: {i}"
        );
        let error = largest(&(found - expected).to_kind(Kind::Double));
        let bound = tolerance * largest(&expected.to_kind(Kind::Double)).max(1e-3);
        assert!(error <= bound, "{label}: operand {i} is off by {error}, more than {bound}");
    }
}

#[test]
fn the_mixer_and_its_gradients_are_those_of_the_separate_operators() {
    let _alone = alone_with_seed(1);
    for sizes in SIZES {
        for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::Double, 1e-10)] {
            let operands = Operands::random(sizes, kind);
            let expected = operands.run(operands.composed());
            for path in Path::ALL.into_iter().filter(|path| path.available()) {
                let found = operands.run(operands.fused(path));
                assert_close(&found, &expected, tolerance, &format!("{sizes:?}, {}", path.name()));
            }
        }
    }
}

#[test]
fn the_gradients_of_the_mixer_are_finite_differences() {
    let _alone = alone_with_seed(2);
    let operands = Operands::random([2, 5, 4, 2, 3, 4], Kind::Double);
    assert_gradients_are_finite_differences(&operands.0, || operands.fused(Path::Auto));
}

#[test]
fn outputs_and_gradients_of_the_mixer_are_the_same_bit_for_bit_on_one_and_two_threads() {
    let _alone = alone_with_seed(3);
    let operands = Operands::random([3, 70, 200, 2, 16, 4], Kind::Float);
    for path in Path::ALL.into_iter().filter(|path| path.available()) {
        tch::set_num_threads(1);
        let one = operands.run(operands.fused(path));
        tch::set_num_threads(2);
        assert_eq!(one, operands.run(operands.fused(path)), "{}", path.name());
    }
}

#[test]
fn under_autocast_the_mixer_is_that_of_the_separate_operators() {
    let _alone = alone_with_seed(4);
    let operands = Operands::random(SIZES[0], Kind::Float);
    let exact = operands.run(operands.fused(Path::Auto));
    for (kind, tolerance) in [(Kind::BFloat16, 3e-2), (Kind::Half, 4e-3)] {
        let autocast = |f: &dyn Fn() -> Tensor| ops::autocast(Device::Cpu, kind, f).unwrap();
        let out = autocast(&|| operands.fused(Path::Auto));
        assert_eq!(out.kind(), kind);
        let found = operands.run(out);
        let composed = operands.run(autocast(&|| operands.composed()));
        assert_close(&found, &composed, tolerance, &format!("{kind:?}, composed"));
        assert_close(&found[..15], &exact[..15], 3.0 * tolerance, &format!("{kind:?}, exact"));
    }
}

/// Asserts that the operator gives what the separate ones do.
fn assert_composed(operands: &Operands, tolerance: f64, label: &str) {
    let found = operands.run(operands.fused(Path::Auto));
    assert_close(&found, &operands.run(operands.composed()), tolerance, label);
}

#[test]
fn the_mixer_reads_its_input_in_any_layout() {
    let _alone = alone_with_seed(6);
    for sizes in [SIZES[0], SIZES[3], [3, 1, 4, 2, 3, 4], [2, 6, 1, 1, 2, 2]] {
        let mut operands = Operands::random(sizes, Kind::Float);
        let xz = operands.0[0].detach();
        let layouts = [
            ("steps innermost", xz.transpose(1, 2).contiguous().transpose(1, 2)),
            ("a batch between the steps", xz.transpose(0, 1).contiguous().transpose(0, 1)),
            ("part of a wider tensor", Tensor::cat(&[&xz, &xz], 2).narrow(2, 0, xz.size()[2])),
            ("one sequence repeated", xz.narrow(0, 0, 1).expand_as(&xz)),
        ];
        for (label, xz) in layouts {
            operands.0[0] = xz.set_requires_grad(true);
            assert_composed(&operands, 1e-4, &format!("{sizes:?}, {label}"));
        }
    }
}

#[test]
fn an_empty_batch_and_an_empty_sequence_pass_through_the_mixer() {
    let _alone = alone_with_the_generator();
    for sizes in [[0, 5, 4, 2, 3, 4], [2, 0, 4, 2, 3, 4]] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let operands = Operands::random(sizes, kind);
            let gradients = operands.run(operands.fused(Path::Auto));
            assert_eq!(gradients[15].size(), sizes[..3]);
            for (operand, gradient) in operands.0.iter().zip(&gradients) {
                assert_eq!((gradient.size(), gradient.kind()), (operand.size(), kind));
                let sum = gradient.abs().sum(Kind::Double).double_value(&[]);
                assert_eq!(sum, 0.0, "{:?}", operand.size());
            }
        }
    }
}

#[test]
fn what_is_frozen_changes_no_other_gradient_of_the_mixer() {
    let _alone = alone_with_seed(7);
    let all = Operands::random(SIZES[0], Kind::Float);
    let expected = all.run(all.fused(Path::Auto));
    for trained in [&[0][..], &[1, 8], &[3, 6, 13], &[14]] {
        let some = Operands(all.0.iter().map(Tensor::detach).collect());
        let leaves: Vec<Tensor> =
            trained.iter().map(|&i| some.0[i].set_requires_grad(true)).collect();
        let out = some.fused(Path::Auto);
        let weights = Tensor::arange(out.numel() as i64, (Kind::Float, Device::Cpu)).cos();
        let loss = out.reshape([-1]).dot(&weights);
        // Twice: backward changes nothing that it needs again.
        for _ in 0..2 {
            for (i, found) in
                trained.iter().zip(Tensor::run_backward(&[&loss], &leaves, true, false))
            {
                assert_eq!(found, expected[*i], "{i} of {trained:?}");
            }
        }
    }
    assert!(!tch::no_grad(|| all.fused(Path::Auto)).requires_grad());
}

#[test]
fn low_precision_inputs_of_the_mixer_keep_the_parameters_types() {
    let _alone = alone_with_seed(8);
    for (kind, tolerance) in [(Kind::BFloat16, 5e-2), (Kind::Half, 6e-3), (Kind::Double, 1e-4)] {
        let mut operands = Operands::random(SIZES[0], Kind::Float);
        let expected = operands.run(operands.composed());
        operands.0[0] = operands.0[0].detach().to_kind(kind).set_requires_grad(true);
        let out = operands.fused(Path::Auto);
        assert_eq!(out.kind(), kind);
        let loss = out
            .to_kind(Kind::Float)
            .reshape([-1])
            .dot(&Tensor::arange(out.numel() as i64, (Kind::Float, Device::Cpu)).cos());
        let mut found = Tensor::run_backward(&[loss], &operands.0, false, false);
        assert_eq!(found[0].kind(), kind);
        found[0] = found[0].to_kind(Kind::Float);
        assert_close(&found, &expected[..15], tolerance, &format!("{kind:?}"));
    }
}

#[test]
fn a_gradient_of_gradients_of_the_mixer_is_refused() {
    let _alone = alone_with_the_generator();
    let operands = Operands::random([1, 3, 4, 1, 2, 2], Kind::Float);
    let loss = operands.fused(Path::Auto).sum(Kind::Float);
    let error = Tensor::f_run_backward(&[loss], &operands.0, true, true).unwrap_err().to_string();
    assert!(error.contains("bimamba_inner: double backward is not implemented"), "{error}");
}

#[test]
fn threads_that_share_the_mixers_parameters_get_the_gradients_of_one() {
    let _alone = alone_with_seed(9);
    let operands = Operands::random(SIZES[3], Kind::Float);
    tch::set_num_threads(1);
    let once = |operands: Operands| operands.run(operands.fused(Path::Auto));
    let shared = || Operands(operands.0.iter().map(Tensor::shallow_clone).collect());
    let expected = once(shared());
    std::thread::scope(|scope| {
        let threads: Vec<_> = [shared(), shared(), shared()]
            .map(|operands| {
                scope.spawn(move || {
                    ops::use_one_thread().unwrap();
                    once(operands)
                })
            })
            .into_iter()
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}

#[test]
fn the_mixer_saves_at_most_half_of_what_the_separate_operators_save() {
    let _alone = alone_with_seed(5);
    let operands = Operands::random([4, 128, 192, 12, 16, 4], Kind::Float);
    let saved = |f: &dyn Fn() -> Tensor| {
        let mut watch = MemoryWatch::start().unwrap();
        let outs: Vec<Tensor> = (0..8).map(|_| f()).collect();
        let bytes = watch.peak();
        drop(outs);
        bytes
    };
    let fused = saved(&|| operands.fused(Path::Auto));
    let composed = saved(&|| operands.composed());
    assert!(2 * fused < composed, "{fused} of {composed}");
}

#[test]
fn a_parameter_that_does_not_fit_is_named() {
    let _alone = alone_with_the_generator();
    let operands = Operands::random(SIZES[0], Kind::Float);
    let names =
        ["conv1d.weight", "conv1d.bias", "x_proj", "dt_proj.weight", "dt_proj.bias", "A_log", "D"];
    for (i, name) in names.into_iter().enumerate() {
        for wrong in [Kind::Float, Kind::Int64] {
            let mut all: Vec<Tensor> = operands.0.iter().map(Tensor::detach).collect();
            let shape = all[8 + i].size();
            let longer: Vec<i64> =
                shape.iter().map(|n| n + i64::from(wrong == Kind::Float)).collect();
            all[8 + i] = Tensor::zeros(&longer, (wrong, Device::Cpu));
            let all = Operands(all);
            let (forward, backward) = (all.direction(0), all.direction(1));
            let error = ops::bimamba_inner(&all.0[0], &forward, &backward, Path::Auto).unwrap_err();
            assert!(error.0.contains(&format!("bimamba_inner: {name} must")), "{name}: {error}");
        }
    }
}

#[test]
fn backward_of_a_counted_forward_pass_is_the_same_outside_of_the_count() {
    let _alone = alone_with_seed(11);
    let operands = Operands::random(SIZES[0], Kind::Float);
    let expected = operands.run(operands.fused(Path::Auto));
    let (out, _) = ops::count_launches(|| operands.fused(Path::Auto)).unwrap();
    assert_close(&operands.run(out), &expected, 1e-4, "forward counted");
    let out = operands.fused(Path::Auto);
    let (found, _) = ops::count_launches(|| operands.run(out)).unwrap();
    assert_close(&found, &expected, 1e-4, "backward counted");
}
