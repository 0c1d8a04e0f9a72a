//! Gradients compared with finite differences.

use tch::{Device, Kind, Tensor};

/// Checks the gradients of every element of the leaves, which are float64 and contiguous.
pub(crate) fn assert_gradients_are_finite_differences(leaves: &[Tensor], f: impl Fn() -> Tensor) {
    let out = f();
    let weights = Tensor::arange(out.numel() as i64, (Kind::Double, Device::Cpu)).cos();
    let gradients = Tensor::run_backward(&[out.reshape([-1]).dot(&weights)], leaves, false, false);
    let loss = || tch::no_grad(|| f().reshape([-1]).dot(&weights).double_value(&[]));
    for (leaf, gradient) in leaves.iter().zip(&gradients) {
        let values = leaf.detach().view([-1]);
        let gradient = gradient.reshape([-1]);
        for i in 0..values.size()[0] {
            let value = values.double_value(&[i]);
            let [above, below] = [1e-5, -1e-5].map(|step| {
                let _ = values.get(i).fill_(value + step);
                loss()
            });
            let _ = values.get(i).fill_(value);
            let (expected, found) = ((above - below) / 2e-5, gradient.double_value(&[i]));
            let bound = 1e-7 * expected.abs().max(1.0);
            assert!((expected - found).abs() < bound, "{:?}: {found} for {expected}", leaf.size());
        }
    }
}
