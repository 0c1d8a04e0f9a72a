//! Properties of the operators, and the arguments that they reject.

use crate::generator::{alone_with_seed, alone_with_the_generator};
use crate::gpu::gpu;
use tch::{Device, IndexOp, Kind, Tensor};
use vm_beautynet::ops::{self, Path, ScanInputs};

/// The operands of a scan, as leaves that require gradients.
struct Operands(Vec<Tensor>);

impl Operands {
    fn random(b: i64, d: i64, l: i64, n: i64) -> Self {
        Self::random_on(Device::Cpu, [b, d, l, n])
    }

    fn random_on(device: Device, [b, d, l, n]: [i64; 4]) -> Self {
        let options = (Kind::Float, device);
        let normal = |shape: &[i64]| Tensor::randn(shape, options).set_requires_grad(true);
        let a = (-Tensor::rand([d, n], options) * 3.0).set_requires_grad(true);
        Self(vec![
            normal(&[b, d, l]),
            normal(&[b, d, l]),
            a,
            normal(&[b, n, l]),
            normal(&[b, n, l]),
            normal(&[d]),
            normal(&[b, d, l]),
            normal(&[d]),
        ])
    }

    fn inputs(&self) -> ScanInputs<'_> {
        ScanInputs::from_operands(self.0[..].try_into().unwrap(), false)
    }

    /// Returns the bits of the output and of all gradients.
    fn run(&self, path: Path) -> Vec<Vec<u32>> {
        let out = ops::selective_scan(&self.inputs(), path).unwrap();
        let gradients =
            Tensor::run_backward(&[(&out * &out).sum(Kind::Float)], &self.0, false, false);
        let bits = |t: &Tensor| {
            let values = Vec::<f32>::try_from(t.contiguous().view([-1])).unwrap();
            values.iter().map(|x| x.to_bits()).collect()
        };
        std::iter::once(&out).chain(&gradients).map(bits).collect()
    }
}

fn largest(t: &Tensor) -> f64 {
    t.abs().max().double_value(&[])
}

#[test]
fn outputs_and_gradients_are_the_same_bit_for_bit_for_any_number_of_threads() {
    let _alone = alone_with_seed(1);
    let operands = Operands::random(3, 200, 70, 16);
    for path in Path::ALL.into_iter().filter(|path| path.available()) {
        tch::set_num_threads(1);
        let one = operands.run(path);
        tch::set_num_threads(2);
        assert_eq!(one, operands.run(path), "{}", path.name());
    }
}

#[test]
fn a_batch_gives_the_results_of_its_items() {
    let _alone = alone_with_seed(2);
    let operands = Operands::random(3, 20, 40, 8);
    let inputs = operands.inputs();
    let batch = ops::selective_scan(&inputs, Path::Auto).unwrap();
    for item in 0..3 {
        let one = |t: &Tensor| t.narrow(0, item, 1);
        let (u, delta, b, c, z) =
            (one(inputs.u), one(inputs.delta), one(inputs.b), one(inputs.c), one(&operands.0[6]));
        let item_inputs = ScanInputs { u: &u, delta: &delta, b: &b, c: &c, z: Some(&z), ..inputs };
        let alone = ops::selective_scan(&item_inputs, Path::Auto).unwrap();
        assert!(alone.equal(&batch.narrow(0, item, 1)));
    }
}

#[test]
fn a_reverse_scan_is_a_scan_of_the_flipped_sequence_flipped_back() {
    let _alone = alone_with_seed(3);
    let operands = Operands::random(2, 18, 37, 5);
    let inputs = operands.inputs();
    let reversed =
        ops::selective_scan(&ScanInputs { reverse: true, ..inputs }, Path::Auto).unwrap();
    let flip = |t: &Tensor| t.flip([2]);
    let (u, delta, b, c, z) =
        (flip(inputs.u), flip(inputs.delta), flip(inputs.b), flip(inputs.c), flip(&operands.0[6]));
    let flipped = ScanInputs { u: &u, delta: &delta, b: &b, c: &c, z: Some(&z), ..inputs };
    let expected = ops::selective_scan(&flipped, Path::Auto).unwrap().flip([2]);
    assert!(reversed.equal(&expected));
}

#[test]
fn any_state_size_and_strided_views_agree_with_the_eager_scan() {
    let _alone = alone_with_seed(4);
    for state in [1, 3, 16, 17, 256] {
        let operands = Operands::random(1, 5, 33, state);
        // Every other step of a longer sequence: neither dimension is contiguous.
        let long = Tensor::randn([1, 5, 66], (Kind::Float, Device::Cpu));
        let u = long.i((.., .., ..)).slice(2, 0, 66, 2);
        let inputs = ScanInputs { u: &u, ..operands.inputs() };
        let expected = ops::selective_scan_eager(&inputs).unwrap();
        let found = ops::selective_scan(&inputs, Path::Auto).unwrap();
        assert!(largest(&(found - &expected)) <= 1e-4 * largest(&expected), "state {state}");
    }
}

#[test]
fn an_empty_batch_and_an_empty_sequence_give_empty_outputs_and_zero_gradients() {
    let _alone = alone_with_seed(5);
    for (b, l) in [(0, 7), (2, 0)] {
        let operands = Operands::random(b, 4, l, 3);
        let out = ops::selective_scan(&operands.inputs(), Path::Auto).unwrap();
        assert_eq!(out.size(), [b, 4, l]);
        let gradients = Tensor::run_backward(&[out.sum(Kind::Float)], &operands.0, false, false);
        assert_eq!(largest(&gradients[2]), 0.0);
    }
}

#[test]
fn half_types_keep_their_type_and_are_accurate_to_their_precision() {
    let _alone = alone_with_seed(6);
    let operands = Operands::random(2, 20, 50, 16);
    let expected = ops::selective_scan(&operands.inputs(), Path::Auto).unwrap();
    // A type with p bits after the point rounds inputs and output by 2^-(p+1) each.
    for (kind, tolerance) in [(Kind::BFloat16, 3e-2), (Kind::Half, 4e-3)] {
        let cast: Vec<Tensor> =
            operands.0.iter().map(|t| t.detach().to_kind(kind).set_requires_grad(true)).collect();
        // A, D and the bias stay float: autocast produces mixed types.
        let inputs = ScanInputs {
            u: &cast[0],
            delta: &cast[1],
            b: &cast[3],
            c: &cast[4],
            z: Some(&cast[6]),
            ..operands.inputs()
        };
        let out = ops::selective_scan(&inputs, Path::Auto).unwrap();
        assert_eq!(out.kind(), kind);
        assert!(
            largest(&(out.to_kind(Kind::Float) - &expected)) <= tolerance * largest(&expected),
            "{kind:?}"
        );
        let gradients = Tensor::run_backward(
            &[out.to_kind(Kind::Float).sum(Kind::Float)],
            &[&cast[0], inputs.a],
            false,
            false,
        );
        assert_eq!([gradients[0].kind(), gradients[1].kind()], [kind, Kind::Float]);
    }
}

#[test]
fn a_nan_or_infinity_stays_in_its_channel_and_after_its_step() {
    let _alone = alone_with_seed(7);
    for poison in [f64::NAN, f64::INFINITY] {
        let operands = Operands::random(1, 20, 40, 4);
        let u = operands.0[0].detach().copy();
        let _ = u.i((0, 3, 10)).fill_(poison);
        let clean = ops::selective_scan(&operands.inputs(), Path::Auto).unwrap();
        let out =
            ops::selective_scan(&ScanInputs { u: &u, ..operands.inputs() }, Path::Auto).unwrap();
        assert!(!out.double_value(&[0, 3, 10]).is_finite());
        assert!(out.i((0, 3, ..10)).equal(&clean.i((0, 3, ..10))));
        assert!(out.i((0, 4, ..)).equal(&clean.i((0, 4, ..))));
    }
}

#[test]
fn extreme_step_sizes_neither_overflow_nor_lose_the_input() {
    let _alone = alone_with_the_generator();
    // A huge step resets the state; a tiny one keeps it. Neither may produce a NaN.
    let (d, l) = (3, 20);
    let u = Tensor::ones([1, d, l], (Kind::Float, Device::Cpu));
    let delta = Tensor::from_slice(&[-100f32, 0.0, 100.0]).view([1, d, 1]).expand([1, d, l], false);
    let a = Tensor::full([d, 4], -1e4, (Kind::Float, Device::Cpu));
    let bc = Tensor::ones([1, 4, l], (Kind::Float, Device::Cpu));
    let inputs = ScanInputs {
        u: &u,
        delta: &delta,
        a: &a,
        b: &bc,
        c: &bc,
        d: None,
        z: None,
        delta_bias: None,
        delta_softplus: true,
        reverse: false,
    };
    for path in Path::ALL.into_iter().filter(|path| path.available()) {
        let out = ops::selective_scan(&inputs, path).unwrap();
        let expected = ops::selective_scan_eager(&inputs).unwrap();
        assert!(out.isfinite().all().int64_value(&[]) == 1, "{}", path.name());
        assert!(largest(&(out - expected)) < 1e-3, "{}", path.name());
    }
}

#[test]
fn a_step_beyond_the_powers_range_changes_no_bit_before_it() {
    let _alone = alone_with_the_generator();
    // The kernels skip the bounds of a power where no step of the strip can need them, which must
    // not change the result.
    let late = 50;
    let tame = Operands::random(2, 70, 130, 16);
    let delta = tame.0[1].detach().copy();
    let _ = delta.narrow(2, late, 1).fill_(1e4);
    let mut wild = Operands(tame.0.iter().map(Tensor::shallow_clone).collect());
    wild.0[1] = delta;
    for path in Path::ALL.into_iter().filter(|path| path.available()) {
        let before = |operands: &Operands| {
            let out = ops::selective_scan(&operands.inputs(), path).unwrap();
            out.narrow(2, 0, late)
        };
        assert!(before(&tame).equal(&before(&wild)), "{}", path.name());
    }
}

#[test]
fn a_state_too_large_for_the_kernels_is_refused_with_the_largest() {
    let _alone = alone_with_the_generator();
    let operands = Operands::random(2, 6, 9, 4);
    let wide = Tensor::zeros([6, 257], (Kind::Float, Device::Cpu));
    let inputs = ScanInputs { a: &wide, ..operands.inputs() };
    let message = ops::selective_scan(&inputs, Path::Auto).unwrap_err().to_string();
    assert!(message.contains("state size") && message.contains("256"), "{message}");
}

#[test]
fn double_backward_is_an_error_that_says_so() {
    let _alone = alone_with_the_generator();
    let operands = Operands::random(1, 4, 5, 2);
    let out = ops::selective_scan(&operands.inputs(), Path::Auto).unwrap();
    let error =
        Tensor::f_run_backward(&[out.sum(Kind::Float)], &operands.0[..1], true, true).unwrap_err();
    assert!(error.to_string().contains("double backward is not implemented"), "{error}");
}

#[test]
fn the_convolution_rejects_wrong_weights_by_name() {
    let _alone = alone_with_the_generator();
    let x = Tensor::zeros([1, 4, 5], (Kind::Float, Device::Cpu));
    let weight = Tensor::zeros([3, 1, 4], (Kind::Float, Device::Cpu));
    let error = ops::causal_conv1d_silu(&x, &weight, None, false, Path::Auto).unwrap_err();
    assert!(error.to_string().contains("weight must have shape"), "{error}");
}

#[test]
fn each_argument_of_a_wrong_shape_or_type_is_named() {
    let _alone = alone_with_the_generator();
    let operands = Operands::random(2, 6, 9, 4);
    let names = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"];
    let with = |index: usize, wrong: &Tensor| {
        let mut changed = operands.0.iter().map(Tensor::shallow_clone).collect::<Vec<_>>();
        changed[index] = wrong.shallow_clone();
        let changed = Operands(changed);
        ops::selective_scan(&changed.inputs(), Path::Auto).unwrap_err().to_string()
    };
    for (index, name) in names.into_iter().enumerate() {
        let size = operands.0[index].size();
        let integers = Tensor::zeros(&size, (Kind::Int64, Device::Cpu));
        let message = with(index, &integers);
        assert!(message.contains(&format!("{name} must be floating point")), "{message}");
        let mut longer = size.clone();
        // The others are compared with u's shape, so u itself can only have a wrong rank.
        if index == 0 {
            longer.push(1);
        } else {
            *longer.last_mut().unwrap() += 1;
        }
        // A's second dimension defines the state size, so its first is made wrong.
        if index == 2 {
            longer = vec![size[0] + 1, size[1]];
        }
        let message = with(index, &Tensor::zeros(&longer, (Kind::Float, Device::Cpu)));
        assert!(
            message.contains(&format!("{name} must have shape"))
                && message.contains(&format!("{longer:?}")),
            "{message}"
        );
    }
}

#[test]
fn every_length_and_layout_give_the_same_values() {
    let _alone = alone_with_seed(8);
    // The last strip on a CPU has 9 to 40 steps, or those of a short sequence.
    for (dim, length) in [(19, 1), (19, 5), (19, 31), (19, 33), (19, 40), (19, 41), (200, 72)] {
        let operands = Operands::random(2, dim, length, 5);
        let expected = ops::selective_scan_eager(&operands.inputs()).unwrap();
        // Both dense layouts, a slice of a wider tensor, and steps that are not adjacent.
        let layouts: [fn(&Tensor) -> Tensor; 4] = [
            |t| t.copy(),
            |t| t.transpose(1, 2).contiguous().transpose(1, 2),
            |t| Tensor::cat(&[t, t], 1).narrow(1, t.size()[1], t.size()[1]),
            |t| Tensor::stack(&[t, t], -1).select(-1, 1),
        ];
        for (layout, arrange) in layouts.iter().enumerate() {
            for path in Path::ALL.into_iter().filter(|path| path.available()) {
                let changed = Operands(
                    operands
                        .0
                        .iter()
                        .map(|t| if t.dim() == 3 { arrange(&t.detach()) } else { t.detach() })
                        .map(|t| t.set_requires_grad(true))
                        .collect(),
                );
                let found = ops::selective_scan(&changed.inputs(), path).unwrap();
                let error = largest(&(&found - &expected));
                assert!(
                    error <= 1e-4 * largest(&expected),
                    "length {length}, layout {layout}, {}: {error}",
                    path.name()
                );
                let ours =
                    Tensor::run_backward(&[found.sum(Kind::Float)], &changed.0, false, false);
                let eager = ops::selective_scan_eager(&operands.inputs()).unwrap();
                let theirs =
                    Tensor::run_backward(&[eager.sum(Kind::Float)], &operands.0, false, false);
                for (a, b) in ours.iter().zip(&theirs) {
                    assert!(
                        largest(&(a - b)) <= 1e-4 * largest(b).max(1e-3),
                        "length {length}, layout {layout}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_nan_in_any_sequence_stays_in_its_batch_and_a_channels_own_in_its_channel() {
    let _alone = alone_with_seed(9);
    for index in [0, 1, 6] {
        let operands = Operands::random(2, 20, 40, 4);
        let clean = ops::selective_scan(&operands.inputs(), Path::Auto).unwrap();
        let mut changed: Vec<Tensor> = operands.0.iter().map(|t| t.detach().copy()).collect();
        let _ = changed[index].i((1, 7, 12)).fill_(f64::NAN);
        changed = changed.into_iter().map(|t| t.set_requires_grad(true)).collect();
        let changed = Operands(changed);
        let out = ops::selective_scan(&changed.inputs(), Path::Auto).unwrap();
        assert!(out.double_value(&[1, 7, 12]).is_nan());
        // Everything but batch 1, channel 7.
        assert!(out.i((0, .., ..)).equal(&clean.i((0, .., ..))));
        assert!(out.i((1, ..7, ..)).equal(&clean.i((1, ..7, ..))));
        assert!(out.i((1, 8.., ..)).equal(&clean.i((1, 8.., ..))));
        // Backward too: the other channels' gradients are finite.
        let gradients = Tensor::run_backward(&[out.sum(Kind::Float)], &changed.0, false, false);
        for gradient in [&gradients[0], &gradients[1], &gradients[6]] {
            let others = Tensor::cat(&[gradient.i((1, ..7, ..)), gradient.i((1, 8.., ..))], 0);
            assert_eq!(others.isfinite().all().int64_value(&[]), 1);
            assert_eq!(gradient.i((0, .., ..)).isfinite().all().int64_value(&[]), 1);
        }
    }
}

#[test]
fn under_autocast_sequences_are_low_precision_and_parameters_keep_their_type() {
    let _alone = alone_with_the_generator();
    check_autocast(Device::Cpu);
}

#[test]
fn on_a_gpu_under_autocast_sequences_are_low_precision_and_parameters_keep_their_type() {
    let _alone = alone_with_the_generator();
    if let Some(device) = gpu() {
        check_autocast(device);
    }
}

fn check_autocast(device: Device) {
    tch::manual_seed(10);
    let operands = Operands::random_on(device, [2, 20, 50, 16]);
    let expected = ops::selective_scan(&operands.inputs(), Path::Auto).unwrap();
    let x = Tensor::randn([2, 20, 50], (Kind::Float, device)).set_requires_grad(true);
    let weight = Tensor::randn([20, 1, 4], (Kind::Float, device)).set_requires_grad(true);
    let convolved = ops::causal_conv1d_silu(&x, &weight, None, false, Path::Auto).unwrap();
    for (kind, tolerance) in [(Kind::BFloat16, 3e-2), (Kind::Half, 4e-3)] {
        let run = || {
            let out = ops::selective_scan(&operands.inputs(), Path::Auto).unwrap();
            let conv = ops::causal_conv1d_silu(&x, &weight, None, false, Path::Auto).unwrap();
            (out, conv)
        };
        let (out, conv) = ops::autocast(device, kind, run).unwrap();
        assert_eq!([out.kind(), conv.kind()], [kind; 2]);
        for (found, exact) in [(&out, &expected), (&conv, &convolved)] {
            let error = largest(&(found.to_kind(Kind::Float) - exact));
            assert!(error <= tolerance * largest(exact), "{kind:?}: {error}");
        }
        let mut leaves: Vec<&Tensor> = operands.0.iter().collect();
        leaves.extend([&x, &weight]);
        let loss =
            out.to_kind(Kind::Float).sum(Kind::Float) + conv.to_kind(Kind::Float).sum(Kind::Float);
        for gradient in Tensor::run_backward(&[loss], &leaves, false, false) {
            assert_eq!(gradient.kind(), Kind::Float);
            assert_eq!(gradient.isfinite().all().int64_value(&[]), 1);
        }
    }
    // Autocast ends, and double is not cast.
    assert_eq!(ops::selective_scan(&operands.inputs(), Path::Auto).unwrap().kind(), Kind::Float);
    let double = Operands(operands.0.iter().map(|t| t.detach().to_kind(Kind::Double)).collect());
    let out = ops::autocast(device, Kind::BFloat16, || {
        ops::selective_scan(&double.inputs(), Path::Auto).unwrap()
    });
    assert_eq!(out.unwrap().kind(), Kind::Double);
    assert!(ops::autocast(device, Kind::Float, || ()).is_err());
}

#[test]
fn a_linear_layers_low_precision_output_feeds_the_scan_with_float_parameters() {
    let _alone = alone_with_the_generator();
    // The types under autocast without a cast of ours: low sequences, float A, D, bias and gate.
    tch::manual_seed(11);
    let operands = Operands::random(1, 12, 20, 4);
    let low: Vec<Tensor> = operands.0.iter().map(|t| t.detach().to_kind(Kind::BFloat16)).collect();
    let inputs = ScanInputs { u: &low[0], delta: &low[1], b: &low[3], ..operands.inputs() };
    let out = ops::selective_scan(&inputs, Path::Auto).unwrap();
    assert_eq!(out.kind(), Kind::BFloat16);
    let rounded: Vec<Tensor> = low.iter().map(|t| t.to_kind(Kind::Float)).collect();
    let same =
        ScanInputs { u: &rounded[0], delta: &rounded[1], b: &rounded[3], ..operands.inputs() };
    // The state is float32: only the output is rounded.
    let expected = ops::selective_scan(&same, Path::Auto).unwrap();
    assert!(out.equal(&expected.to_kind(Kind::BFloat16)));
}
