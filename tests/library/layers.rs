//! The linear layer and RMS normalization against libtorch's own.

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor};
use vm_beautynet::ops;

fn leaf(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true)
}

/// Returns the gradients of the leaves, and the output.
fn run(out: &Tensor, dout: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
    let loss = (out.to_kind(Kind::Float) * dout).sum(Kind::Float);
    let mut all = Tensor::run_backward(&[loss], leaves, false, false);
    all.push(out.detach());
    all
}

fn assert_close(found: &[Tensor], expected: &[Tensor]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()));
        let largest = |t: &Tensor| t.abs().max().double_value(&[]);
        let error = largest(&(found - expected));
        assert!(error <= 1e-5 * largest(expected), "{:?}: {error}", found.size());
    }
}

#[test]
fn a_linear_layer_and_its_gradients_are_libtorchs_for_any_size_layout_and_bias() {
    let _alone = alone_with_the_generator();
    tch::manual_seed(1);
    // Products below and above the size from which on oneDNN may multiply.
    for (batch, length, inputs, outputs) in [(2, 3, 5, 7), (3, 65, 96, 192), (1, 197, 384, 44)] {
        let (weight, bias) = (leaf(&[outputs, inputs]), leaf(&[outputs]));
        let dense = leaf(&[batch, length, inputs]);
        let wide = leaf(&[batch, length, 2 * inputs]);
        let dout = Tensor::randn([batch, length, outputs], (Kind::Float, Device::Cpu));
        for bias in [None, Some(&bias)] {
            // A dense tensor, a slice of a wider one, and one with steps innermost.
            let swapped = dense.detach().transpose(1, 2).contiguous().transpose(1, 2);
            for x in [&dense, &wide.narrow(2, inputs, inputs), &swapped.set_requires_grad(true)] {
                let mut leaves = vec![x, &weight];
                leaves.extend(bias);
                let found = run(&ops::linear(x, &weight, bias), &dout, &leaves);
                assert_close(&found, &run(&x.linear(&weight, bias), &dout, &leaves));
            }
        }
    }
}

#[test]
fn frozen_weights_and_inputs_get_no_gradient_and_the_others_theirs() {
    let _alone = alone_with_the_generator();
    tch::manual_seed(2);
    let [x, weight] = [leaf(&[197, 96]), leaf(&[96, 96])];
    let dout = Tensor::randn([197, 96], (Kind::Float, Device::Cpu));
    for (x, weight) in [(&x, &weight.detach()), (&x.detach(), &weight)] {
        let leaves = if x.requires_grad() { [x] } else { [weight] };
        let found = run(&ops::linear(x, weight, None), &dout, &leaves);
        assert_close(&found, &run(&x.linear(weight, None::<&Tensor>), &dout, &leaves));
    }
    let bias = leaf(&[96]);
    let found = run(&ops::linear(&x.detach(), &weight.detach(), Some(&bias)), &dout, &[&bias]);
    assert_close(&found[..1], &[dout.sum_dim_intlist([0].as_slice(), false, Kind::Float)]);
    let out = tch::no_grad(|| ops::linear(&x, &weight, None));
    assert!(
        !out.requires_grad() && !ops::linear(&x.detach(), &weight.detach(), None).requires_grad()
    );
}

#[test]
fn under_autocast_and_in_double_the_linear_layer_is_libtorchs_bit_for_bit() {
    let _alone = alone_with_the_generator();
    tch::manual_seed(3);
    let [x, weight] = [leaf(&[197, 96]), leaf(&[96, 96])];
    let both = || (ops::linear(&x, &weight, None), x.linear(&weight, None::<&Tensor>));
    let (ours, theirs) = ops::autocast(Device::Cpu, Kind::BFloat16, both).unwrap();
    assert_eq!((ours.kind(), &ours), (Kind::BFloat16, &theirs));
    let [x, weight] = [x, weight].map(|t| t.to_kind(Kind::Double));
    assert_eq!(ops::linear(&x, &weight, None), x.linear(&weight, None::<&Tensor>));
}

#[test]
fn two_runs_of_a_linear_layer_are_equal_bit_for_bit() {
    let _alone = alone_with_the_generator();
    tch::manual_seed(4);
    let [x, weight, bias] = [leaf(&[8, 197, 192]), leaf(&[768, 192]), leaf(&[768])];
    let dout = Tensor::randn([8, 197, 768], (Kind::Float, Device::Cpu));
    let once = || run(&ops::linear(&x, &weight, Some(&bias)), &dout, &[&x, &weight, &bias]);
    let first = once();
    for _ in 0..3 {
        assert_eq!(first, once());
    }
}

#[test]
fn rms_norm_and_its_gradients_are_libtorchs_in_every_type_and_layout() {
    let _alone = alone_with_the_generator();
    tch::manual_seed(5);
    for (batch, length, dim) in [(2, 3, 5), (3, 41, 192), (1, 1, 3), (0, 3, 8)] {
        let weight = leaf(&[dim]);
        let x = leaf(&[batch, length, dim]);
        let swapped = x.detach().transpose(1, 2).contiguous().transpose(1, 2);
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            let weight = weight.detach().to_kind(kind).set_requires_grad(true);
            for x in [&x, &swapped] {
                let x = x.detach().to_kind(kind).set_requires_grad(true);
                let dout = Tensor::randn([batch, length, dim], (Kind::Float, Device::Cpu));
                let leaves = [&x, &weight];
                let found = run(&ops::rms_norm(&x, &weight, 1e-5), &dout, &leaves);
                let theirs = x.rms_norm(weight.size(), Some(&weight), 1e-5);
                if batch > 0 {
                    assert_close(&found, &run(&theirs, &dout, &leaves));
                }
            }
        }
    }
}

#[test]
fn rms_norms_gradients_are_the_same_bit_for_bit_on_one_and_two_threads() {
    let _alone = alone_with_the_generator();
    tch::manual_seed(6);
    let [x, weight] = [leaf(&[8, 197, 192]), leaf(&[192])];
    let dout = Tensor::randn([8, 197, 192], (Kind::Float, Device::Cpu));
    let [one, two] = [1, 2].map(|threads| {
        tch::set_num_threads(threads);
        run(&ops::rms_norm(&x, &weight, 1e-5), &dout, &[&x, &weight])
    });
    assert_eq!(one, two);
}
