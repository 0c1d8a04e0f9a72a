//! The linear layer, norms, attention and the MLP against libtorch's own.

use crate::generator::alone_with_seed;
use crate::gradcheck::assert_gradients_are_finite_differences;
use tch::{Device, Kind, Tensor};
use vm_beautynet::ops::{self, Norm, Path, Update, add_and_norm};

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
    let _alone = alone_with_seed(1);
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
    let _alone = alone_with_seed(2);
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
    let _alone = alone_with_seed(3);
    let [x, weight] = [leaf(&[197, 96]), leaf(&[96, 96])];
    let both = || (ops::linear(&x, &weight, None), x.linear(&weight, None::<&Tensor>));
    let (ours, theirs) = ops::autocast(Device::Cpu, Kind::BFloat16, both).unwrap();
    assert_eq!((ours.kind(), &ours), (Kind::BFloat16, &theirs));
    let [x, weight] = [x, weight].map(|t| t.to_kind(Kind::Double));
    assert_eq!(ops::linear(&x, &weight, None), x.linear(&weight, None::<&Tensor>));
}

#[test]
fn two_runs_of_a_linear_layer_are_equal_bit_for_bit() {
    let _alone = alone_with_seed(4);
    let [x, weight, bias] = [leaf(&[8, 197, 192]), leaf(&[768, 192]), leaf(&[768])];
    let dout = Tensor::randn([8, 197, 768], (Kind::Float, Device::Cpu));
    let once = || run(&ops::linear(&x, &weight, Some(&bias)), &dout, &[&x, &weight, &bias]);
    let first = once();
    for _ in 0..3 {
        assert_eq!(first, once());
    }
}

/// Random operands of a residual addition and a norm; layer normalization if there is a bias.
struct Residual {
    x: Tensor,
    update: Option<Update>,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Residual {
    fn random(kind: Kind, shape: [i64; 3], has_bias: bool, update: &str) -> Self {
        let leaf = |shape: &[i64]| leaf(shape).detach().to_kind(kind).set_requires_grad(true);
        let factors = || Tensor::from_slice(&[0.0f32, 1.25, 1.25]).view([3, 1, 1]).to_kind(kind);
        let factors = (update == "scaled").then(factors);
        let update = (update != "none").then(|| Update { value: leaf(&shape), factors });
        let dim = &shape[2..];
        Self { x: leaf(&shape), update, weight: leaf(dim), bias: has_bias.then(|| leaf(dim)) }
    }

    fn leaves(&self) -> Vec<&Tensor> {
        let update = self.update.as_ref().map(|update| &update.value);
        [Some(&self.x), update, Some(&self.weight), self.bias.as_ref()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The sum and its norm, as `(2, …)`.
    fn ours(&self) -> Tensor {
        let norm = Norm { weight: &self.weight, bias: self.bias.as_ref(), eps: 1e-5 };
        let (sum, out) = add_and_norm(&self.x, self.update.as_ref(), Some(&norm));
        Tensor::stack(&[sum, out.unwrap()], 0)
    }

    fn composed(&self) -> Tensor {
        let sum = match &self.update {
            Some(Update { value, factors: Some(factors) }) => &self.x + value * factors,
            Some(Update { value, factors: None }) => &self.x + value,
            None => self.x.shallow_clone(),
        };
        let (dim, weight) = (self.weight.size(), Some(&self.weight));
        let out = match &self.bias {
            Some(bias) => sum.layer_norm(dim, weight, Some(bias), 1e-5, false),
            None => sum.rms_norm(dim, weight, 1e-5),
        };
        Tensor::stack(&[sum, out], 0)
    }
}

#[test]
fn norms_with_the_addition_before_them_are_libtorchs_in_every_type() {
    let _alone = alone_with_seed(5);
    for shape in [[3, 3, 5], [3, 41, 192], [3, 1, 33]] {
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            for (has_bias, update) in
                [false, true].into_iter().flat_map(|b| ["none", "plain", "scaled"].map(|u| (b, u)))
            {
                let operands = Residual::random(kind, shape, has_bias, update);
                let dout = Tensor::randn([2, 3, shape[1], shape[2]], (Kind::Float, Device::Cpu));
                let leaves = operands.leaves();
                let found = run(&operands.ours(), &dout, &leaves);
                assert_close(&found, &run(&operands.composed(), &dout, &leaves));
            }
        }
    }
}

#[test]
fn a_norm_of_transposed_or_no_tokens_is_libtorchs() {
    let _alone = alone_with_seed(6);
    let (weight, x) = (leaf(&[41]), leaf(&[3, 41, 7]));
    let dout = Tensor::randn([3, 7, 41], (Kind::Float, Device::Cpu));
    let norm = Norm { weight: &weight, bias: None, eps: 1e-5 };
    let found = run(&norm.of(&x.transpose(1, 2)), &dout, &[&x, &weight]);
    let expected = x.transpose(1, 2).rms_norm([41], Some(&weight), 1e-5);
    assert_close(&found, &run(&expected, &dout, &[&x, &weight]));
    assert_eq!(norm.of(&x.narrow(0, 0, 0).transpose(1, 2)).size(), [0, 7, 41]);
}

#[test]
fn under_autocast_an_update_in_half_precision_is_added_in_single() {
    let _alone = alone_with_seed(7);
    let mut operands = Residual::random(Kind::Float, [3, 5, 33], true, "scaled");
    let half = leaf(&[3, 5, 33]).detach().to_kind(Kind::BFloat16).set_requires_grad(true);
    if let Some(update) = &mut operands.update {
        update.value = half;
    }
    let dout = Tensor::randn([2, 3, 5, 33], (Kind::Float, Device::Cpu));
    let leaves = operands.leaves();
    let found = run(&operands.ours(), &dout, &leaves);
    assert_eq!(found[1].kind(), Kind::BFloat16);
    let expected = run(&operands.composed(), &dout, &leaves);
    assert_close(&found[2..], &expected[2..]);
}

#[test]
fn gradients_of_norms_are_finite_differences() {
    let _alone = alone_with_seed(8);
    for (has_bias, update) in [(false, "plain"), (true, "scaled"), (true, "none")] {
        let operands = Residual::random(Kind::Double, [3, 4, 5], has_bias, update);
        let leaves: Vec<Tensor> =
            operands.leaves().into_iter().map(Tensor::shallow_clone).collect();
        assert_gradients_are_finite_differences(&leaves, || operands.ours());
    }
}

#[test]
fn without_a_norm_the_addition_has_the_same_bits_and_gradients() {
    let _alone = alone_with_seed(9);
    for update in ["plain", "scaled"] {
        let operands = Residual::random(Kind::Float, [3, 5, 33], true, update);
        let (sum, none) = add_and_norm(&operands.x, operands.update.as_ref(), None);
        assert!(none.is_none());
        let dout = Tensor::randn([3, 5, 33], (Kind::Float, Device::Cpu));
        let leaves = &operands.leaves()[..2];
        let found = run(&sum, &dout, leaves);
        assert_eq!(found, run(&operands.ours().get(0), &dout, leaves));
    }
}

#[test]
fn gradients_of_norms_are_the_same_bit_for_bit_on_one_and_two_threads() {
    let _alone = alone_with_seed(10);
    let operands = Residual::random(Kind::Float, [3, 197, 192], true, "scaled");
    let dout = Tensor::randn([2, 3, 197, 192], (Kind::Float, Device::Cpu));
    let [one, two] = [1, 2].map(|threads| {
        tch::set_num_threads(threads);
        run(&operands.ours(), &dout, &operands.leaves())
    });
    assert_eq!(one, two);
}

/// Returns attention as libtorch computes it.
fn attention_by_libtorch(qkv: &Tensor, heads: i64) -> Tensor {
    let [q, k, v] = ops::queries_keys_values(qkv, heads);
    let scores = q.matmul(&k.transpose(2, 3)) / (q.size()[3] as f64).sqrt();
    scores.softmax(-1, None).matmul(&v).transpose(1, 2).flatten(2, 3)
}

#[test]
fn attention_and_its_gradient_are_libtorchs_for_every_size_and_instruction_set() {
    let _alone = alone_with_seed(10);
    // Tokens and sizes of heads that fill blocks and vectors, and that do not.
    let sizes = [(1, 1, 1, 1), (2, 5, 3, 7), (1, 24, 1, 16), (2, 65, 3, 32), (1, 197, 2, 64)];
    for (batch, length, heads, dim) in sizes {
        let qkv = leaf(&[batch, length, 3 * heads * dim]);
        let dout = Tensor::randn([batch, length, heads * dim], (Kind::Float, Device::Cpu));
        let expected = run(&attention_by_libtorch(&qkv, heads), &dout, &[&qkv]);
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            let found = run(&ops::attention(&qkv, heads, path), &dout, &[&qkv]);
            assert_close(&found, &expected);
            assert_eq!(found, run(&ops::attention(&qkv, heads, path), &dout, &[&qkv]));
        }
    }
}

#[test]
fn attention_of_large_scores_is_that_of_the_largest() {
    let _alone = alone_with_seed(11);
    let qkv = Tensor::randn([2, 33, 24], (Kind::Float, Device::Cpu)) * 100.0;
    let found = ops::attention(&qkv, 2, Path::Auto);
    assert_close(&[found], &[attention_by_libtorch(&qkv, 2)]);
    let broken = qkv.copy();
    _ = broken.get(1).get(3).fill_(f64::NAN);
    let found = ops::attention(&broken, 2, Path::Auto).isnan();
    assert_eq!(found, attention_by_libtorch(&broken, 2).isnan());
}

#[test]
fn gradients_of_attention_are_finite_differences() {
    let _alone = alone_with_seed(12);
    let qkv = leaf(&[2, 5, 18]).detach().to_kind(Kind::Double).set_requires_grad(true);
    let attention = || ops::attention(&qkv, 2, Path::Auto);
    assert_gradients_are_finite_differences(&[qkv.shallow_clone()], attention);
}

#[test]
fn attention_in_half_precision_is_that_in_single_rounded() {
    let _alone = alone_with_seed(13);
    for (kind, tolerance) in [(Kind::BFloat16, 2e-2), (Kind::Half, 2e-3)] {
        let half = leaf(&[2, 33, 48]).detach().to_kind(kind);
        let (single, half) =
            (half.to_kind(Kind::Float).set_requires_grad(true), half.set_requires_grad(true));
        let dout = Tensor::randn([2, 33, 16], (Kind::Float, Device::Cpu));
        let found = run(&ops::attention(&half, 2, Path::Auto), &dout, &[&half]);
        let expected = run(&attention_by_libtorch(&single, 2), &dout, &[&single]);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((found.kind(), found.size()), (kind, expected.size()));
            let error = (found.to_kind(Kind::Float) - expected).abs().max().double_value(&[]);
            assert!(error < tolerance, "{kind:?}: {error}");
        }
    }
    let none = Tensor::zeros([0, 33, 48], (Kind::Float, Device::Cpu));
    assert_eq!(ops::attention(&none, 2, Path::Auto).size(), [0, 33, 16]);
}

/// Returns an MLP as libtorch computes it.
fn mlp_by_libtorch(x: &Tensor, [w1, b1, w2, b2]: [&Tensor; 4], quick: bool) -> Tensor {
    let hidden = x.linear(w1, Some(b1));
    let hidden = if quick { &hidden * (&hidden * 1.702).sigmoid() } else { hidden.gelu("none") };
    hidden.linear(w2, Some(b2))
}

fn mlp_leaves(kind: Kind, dim: i64, hidden: i64) -> [Tensor; 4] {
    [vec![hidden, dim], vec![hidden], vec![dim, hidden], vec![dim]]
        .map(|shape| leaf(&shape).detach().to_kind(kind).set_requires_grad(true))
}

#[test]
fn an_mlp_and_its_gradients_are_libtorchs_also_where_parts_are_frozen() {
    let _alone = alone_with_seed(14);
    for (length, dim, hidden) in [(3, 5, 7), (65, 96, 384)] {
        for quick in [false, true] {
            let (x, leaves) = (leaf(&[2, length, dim]), mlp_leaves(Kind::Float, dim, hidden));
            let dout = Tensor::randn([2, length, dim], (Kind::Float, Device::Cpu));
            let all: [Tensor; 5] =
                std::array::from_fn(|i| [&x, &leaves[0], &leaves[1], &leaves[2], &leaves[3]][i])
                    .map(Tensor::shallow_clone);
            // Bits of what is trained: everything, the input, each layer, and one bias.
            for trained in [0b11111, 0b00001, 0b00110, 0b11000, 0b10000] {
                let all: Vec<Tensor> = all
                    .iter()
                    .enumerate()
                    .map(|(i, t)| if trained >> i & 1 == 1 { t.copy() } else { t.detach() })
                    .collect();
                let wanted: Vec<&Tensor> = all.iter().filter(|t| t.requires_grad()).collect();
                let [x, w1, b1, w2, b2] = [0, 1, 2, 3, 4].map(|i: usize| &all[i]);
                let found = ops::mlp(x, (w1, Some(b1)), (w2, Some(b2)), quick);
                let expected = mlp_by_libtorch(x, [w1, b1, w2, b2], quick);
                assert_close(&run(&found, &dout, &wanted), &run(&expected, &dout, &wanted));
            }
        }
    }
}

#[test]
fn gradients_of_an_mlp_are_finite_differences_and_its_biases_are_optional() {
    let _alone = alone_with_seed(15);
    let x = leaf(&[2, 3, 5]).detach().to_kind(Kind::Double).set_requires_grad(true);
    let [w1, b1, w2, b2] = mlp_leaves(Kind::Double, 5, 7);
    let all = [&x, &w1, &b1, &w2, &b2].map(Tensor::shallow_clone);
    for quick in [false, true] {
        let with_biases = || ops::mlp(&x, (&w1, Some(&b1)), (&w2, Some(&b2)), quick);
        assert_gradients_are_finite_differences(&all, with_biases);
        let without = || ops::mlp(&x, (&w1, None), (&w2, None), quick);
        let weights = [&x, &w1, &w2].map(Tensor::shallow_clone);
        assert_gradients_are_finite_differences(&weights, without);
    }
}

#[test]
fn gelu_is_exact_to_single_precision_and_keeps_what_is_no_number() {
    let _alone = alone_with_seed(16);
    // The identity on both sides.
    let one = Tensor::ones([1, 1], (Kind::Float, Device::Cpu));
    let gelu = |x: &Tensor| ops::mlp(x, (&one, None), (&one, None), false);
    let x = Tensor::linspace(-12, 12, 1 << 18, (Kind::Float, Device::Cpu)).view([-1, 1]);
    let exact = x.to_kind(Kind::Double).gelu("none");
    let error = (gelu(&x).to_kind(Kind::Double) - &exact).abs() / (exact.abs() + 1.0);
    assert!(error.max().double_value(&[]) < 2.5e-7, "{}", error.max().double_value(&[]));
    let ends = Tensor::from_slice(&[f32::INFINITY, 1e30, 0.0, -1e30, f32::NAN]).view([-1, 1]);
    let found = Vec::<f32>::try_from(gelu(&ends).flatten(0, 1)).unwrap();
    assert_eq!(found[..3], [f32::INFINITY, 1e30, 0.0]);
    assert!(found[3] == 0.0 && found[4].is_nan(), "{found:?}");
}

#[test]
fn under_autocast_an_mlp_is_libtorchs_bit_for_bit() {
    let _alone = alone_with_seed(17);
    let (x, [w1, b1, w2, b2]) = (leaf(&[3, 65, 96]), mlp_leaves(Kind::Float, 96, 384));
    let both = || {
        let found = ops::mlp(&x, (&w1, Some(&b1)), (&w2, Some(&b2)), false);
        (found, mlp_by_libtorch(&x, [&w1, &b1, &w2, &b2], false))
    };
    let (found, expected) = ops::autocast(Device::Cpu, Kind::BFloat16, both).unwrap();
    assert_eq!((found.kind(), &found), (Kind::BFloat16, &expected));
}
