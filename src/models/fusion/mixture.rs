//! Mixtures: a weighted sum of the two projected features, with two weights that sum to 1.

use tch::{Kind, Tensor, nn};

use super::projections::Projections;
use super::{BranchTokens, Fused, Join, weighted_sum};
use crate::models::forward_context::ForwardContext;
use crate::models::layers::{Init, Linear};

/// `weighted`: `w = softmax(a)` with two learned scalars `a`, the same for all images; `z = w₁ P₁v
/// + w₂ P₂m`. The softmax-based fusion of EfficientDet (arXiv 1911.09070).
#[derive(Debug)]
pub(super) struct Weighted {
    project: Projections,
    weights: Tensor,
    dim: i64,
}

impl Weighted {
    pub fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        Self {
            project: Projections::new(path, widths, dim),
            weights: Init::Constant(0.0).parameter(path, "weights", &[2]),
            dim,
        }
    }
}

impl Join for Weighted {
    fn width(&self) -> i64 {
        self.dim
    }

    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, _ctx: ForwardContext) -> Fused {
        let projected = self.project.forward(vit, mamba);
        let weights = self.weights.softmax(-1, Kind::Float);
        let b = projected[0].size()[0];
        Fused {
            vector: weighted_sum(&projected, &weights),
            weights: Some(weights.expand([b, 2], false)),
        }
    }
}

/// `gated`: `w = softmax(G [P₁v; P₂m] + c)`, for each image; `z = w₁ P₁v + w₂ P₂m`. The dynamic
/// weighting of VM-BeautyNet (arXiv 2510.16220).
#[derive(Debug)]
pub(super) struct Gated {
    project: Projections,
    gate: Linear,
    dim: i64,
}

impl Gated {
    pub fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        Self {
            project: Projections::new(path, widths, dim),
            // Zero weights: training starts from equal weights.
            gate: Linear::new(path / "gate", 2 * dim, 2, true, Init::Constant(0.0)),
            dim,
        }
    }
}

impl Join for Gated {
    fn width(&self) -> i64 {
        self.dim
    }

    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, _ctx: ForwardContext) -> Fused {
        let projected = self.project.forward(vit, mamba);
        let weights = self.gate.forward(&Tensor::cat(&projected, -1)).softmax(-1, Kind::Float);
        Fused { vector: weighted_sum(&projected, &weights), weights: Some(weights) }
    }
}
