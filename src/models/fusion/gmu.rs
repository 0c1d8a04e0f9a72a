//! The gated multimodal unit.

use tch::{Kind, Tensor, nn};

use super::projections::Projections;
use super::{BranchTokens, Fused, Join};
use crate::models::forward_context::ForwardContext;
use crate::models::layers::{Init, Linear};

/// `gmu` (Arevalo et al., "Gated multimodal units for information fusion", arXiv 1702.01992): `h₁ =
/// tanh(P₁v)`, `h₂ = tanh(P₂m)`, `g = σ(G [v; m] + c)`, `z = g ⊙ h₁ + (1 − g) ⊙ h₂`. An image's
/// weight of the ViT branch is the mean of `g` over the channels.
#[derive(Debug)]
pub(super) struct GatedMultimodalUnit {
    project: Projections,
    gate: Linear,
    dim: i64,
}

impl GatedMultimodalUnit {
    pub fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        let inputs = widths[0] + widths[1];
        Self {
            project: Projections::new(path, widths, dim),
            // Zero weights: training starts from equal weights.
            gate: Linear::new(path / "gate", inputs, dim, true, Init::Constant(0.0)),
            dim,
        }
    }
}

impl Join for GatedMultimodalUnit {
    fn width(&self) -> i64 {
        self.dim
    }

    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, _ctx: ForwardContext) -> Fused {
        let [vit_hidden, mamba_hidden] = self.project.forward(vit, mamba).map(|x| x.tanh());
        let features = Tensor::cat(&[vit.class(), mamba.class()], -1);
        let gate = self.gate.forward(&features).sigmoid(); // (b, dim)
        let vit_weight = gate.mean_dim([-1i64].as_slice(), true, Kind::Float); // (b, 1)
        Fused {
            vector: &mamba_hidden + &gate * (vit_hidden - &mamba_hidden),
            weights: Some(Tensor::cat(&[&vit_weight, &(1.0 - &vit_weight)], -1)),
        }
    }
}
