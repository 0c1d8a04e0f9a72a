//! Fusion without weights: concatenation and sum, the baselines of multimodal learning
//! (Baltrušaitis et al., "Multimodal machine learning: a survey and taxonomy", arXiv 1705.09406,
//! section 6).

use tch::{Tensor, nn};

use super::projections::Projections;
use super::{BranchTokens, Fused, Join};
use crate::models::forward_context::ForwardContext;

/// `concat`: `z = [P₁v; P₂m]`, of twice `dim` channels.
#[derive(Debug)]
pub(super) struct Concat {
    project: Projections,
    dim: i64,
}

impl Concat {
    pub fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        Self { project: Projections::new(path, widths, dim), dim }
    }
}

impl Join for Concat {
    fn width(&self) -> i64 {
        2 * self.dim
    }

    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, _ctx: ForwardContext) -> Fused {
        Fused { vector: Tensor::cat(&self.project.forward(vit, mamba), -1), weights: None }
    }
}

/// `sum`: `z = P₁v + P₂m`.
#[derive(Debug)]
pub(super) struct Sum {
    project: Projections,
    dim: i64,
}

impl Sum {
    pub fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        Self { project: Projections::new(path, widths, dim), dim }
    }
}

impl Join for Sum {
    fn width(&self) -> i64 {
        self.dim
    }

    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, _ctx: ForwardContext) -> Fused {
        let [vit, mamba] = self.project.forward(vit, mamba);
        Fused { vector: vit + mamba, weights: None }
    }
}
