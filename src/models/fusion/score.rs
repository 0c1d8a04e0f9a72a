//! Late fusion: each branch predicts a score.

use tch::{Kind, Tensor, nn};

use super::{BranchTokens, Fused, Join, weighted_sum};
use crate::config::HeadConfig;
use crate::models::forward_context::ForwardContext;
use crate::models::head::Regressor;
use crate::models::layers::Init;

/// `score`: `ŷ = w₁ f₁(v) + w₂ f₂(m)` with `w = softmax(a)` of two learned scalars, where `f₁` and
/// `f₂` are regressors with the layers of `model.head`, one for each branch. A linear opinion pool
/// (Stone, "The opinion pool", Annals of Mathematical Statistics 32, 1961) with learned weights.
/// The fused vector is the prediction itself.
#[derive(Debug)]
pub(super) struct ScoreAverage {
    vit_head: Regressor,
    mamba_head: Regressor,
    weights: Tensor,
}

impl ScoreAverage {
    pub fn new(path: &nn::Path, widths: [i64; 2], head: &HeadConfig) -> Self {
        Self {
            vit_head: Regressor::new(&(path / "vit_head"), widths[0], head, 1),
            mamba_head: Regressor::new(&(path / "mamba_head"), widths[1], head, 1),
            weights: Init::Constant(0.0).parameter(path, "weights", &[2]),
        }
    }
}

impl Join for ScoreAverage {
    fn width(&self) -> i64 {
        1
    }

    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, ctx: ForwardContext) -> Fused {
        let scores = [
            self.vit_head.forward(&vit.class(), ctx),
            self.mamba_head.forward(&mamba.class(), ctx),
        ];
        let weights = self.weights.softmax(-1, Kind::Float);
        let b = scores[0].size()[0];
        Fused {
            vector: weighted_sum(&scores, &weights),
            weights: Some(weights.expand([b, 2], false)),
        }
    }
}
