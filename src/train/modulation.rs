//! Gradient modulation: OGM-GE, on-the-fly gradient modulation with generalization enhancement
//! (Peng et al., "Balanced multimodal learning via on-the-fly gradient modulation", arXiv
//! 2203.15332).
//!
//! The paper compares branches by their softmax's confidence in the true class. A regression has
//! none: here a branch is ahead by the ratio of the losses of the branches' own heads,
//! `ρ_vit = L_mamba / L_vit` over the step's images, and its reciprocal for the other. The gradient
//! of the backbone that is ahead (ρ > 1) is multiplied by `1 − tanh(α ρ)`; the other's stays. As in
//! the paper's code, noise is added to each tensor's gradient. Its standard deviation is the root
//! mean square of the gradient's elements.

use anyhow::Result;
use tch::{Device, Tensor};

use super::groups::layer_of;

/// Elements that libtorch adds with one thread, so that sums do not depend on their number.
const SERIAL: i64 = 16_384;

/// Returns the factors on the gradients of the ViT and the Mamba for the losses of their own heads.
fn factors(alpha: f64, [vit, mamba]: [f64; 2]) -> [f64; 2] {
    [mamba / vit, vit / mamba]
        .map(|ratio| if ratio > 1.0 { 1.0 - (alpha * ratio).tanh() } else { 1.0 })
}

/// Modulates the backbones' gradients in place, for the losses of the branches' own heads over the
/// step's images. The noise is of torch's generator. Returns libtorch's error.
pub(super) fn modulate(
    parameters: &[(String, Tensor)],
    alpha: f64,
    losses: [f64; 2],
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let factors = factors(alpha, losses);
    for (name, parameter) in parameters {
        let mut gradient = parameter.grad();
        let branch = layer_of(name).filter(|_| gradient.defined());
        let Some(factor) = branch.map(|(branch, _)| factors[branch]) else {
            continue;
        };
        let noise = gradient.f_randn_like()?.f_mul(&root_mean_square(&gradient)?)?;
        let _ = gradient.f_mul_scalar_(factor)?.f_add_(&noise)?;
    }
    Ok(())
}

fn root_mean_square(x: &Tensor) -> Result<Tensor> {
    let count = x.numel() as i64;
    let size = if x.device() == Device::Cpu { SERIAL } else { count };
    let norms = x.f_flatten(0, -1)?.f_split(size, 0)?;
    let norms: Vec<Tensor> = norms.iter().map(Tensor::f_norm).collect::<Result<_, _>>()?;
    Ok(Tensor::f_stack(&norms, 0)?.f_norm()?.f_div_scalar((count as f64).sqrt())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn the_branch_that_is_ahead_is_slowed_down_and_the_other_is_not() {
        let [vit, mamba] = factors(0.5, [0.2, 0.6]);
        assert!((vit - (1.0 - 1.5f64.tanh())).abs() < 1e-12);
        assert_eq!(mamba, 1.0);
        assert_eq!(factors(0.5, [0.3, 0.3]), [1.0; 2]);
        let [vit, mamba] = factors(0.1, [1.0, 0.5]);
        assert_eq!(vit, 1.0);
        assert!((mamba - (1.0 - 0.2f64.tanh())).abs() < 1e-12);
    }

    #[test]
    fn backbones_get_a_factor_and_noise_of_their_gradients_deviation_and_all_else_is_untouched() {
        tch::manual_seed(1);
        let leaf = || {
            let leaf = Tensor::randn([2000], tch::kind::FLOAT_CPU).set_requires_grad(true);
            leaf.square().sum(Kind::Float).backward();
            leaf
        };
        let names = [
            "vit.norm.weight",
            "mamba.norm_f.weight",
            "head.layers.0.weight",
            "branch_heads.vit.weight",
        ];
        let parameters = names.map(|name| (name.to_string(), leaf()));
        let before = parameters.each_ref().map(|(_, leaf)| leaf.grad().copy());
        modulate(&parameters, 0.5, [0.2, 0.4]).unwrap();
        let factors = [1.0 - 1f64.tanh(), 1.0, 1.0, 1.0];
        for (at, ((name, leaf), before)) in parameters.iter().zip(&before).enumerate() {
            let noise = leaf.grad() - before * factors[at];
            let ratio = (noise.std(false) / before.std(false)).double_value(&[]);
            let expected = if at < 2 { 1.0 } else { 0.0 };
            assert!((ratio - expected).abs() < 0.1, "{name}: {ratio}");
            assert!(noise.mean(Kind::Float).double_value(&[]).abs() < 0.2, "{name}");
        }
    }
}
