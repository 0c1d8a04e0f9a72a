//! Low-rank bilinear pooling.

use tch::nn;

use super::projections::Projections;
use super::{BranchTokens, Fused, Join};
use crate::models::forward_context::ForwardContext;
use crate::models::layers::{Init, Linear};

/// `bilinear`: `z = W (tanh(P₁v) ⊙ tanh(P₂m)) + c`, which sees every product of a channel of `v`
/// with one of `m` through a tensor of rank `dim` (Kim et al., "Hadamard product for low-rank
/// bilinear pooling", arXiv 1610.04325).
#[derive(Debug)]
pub(super) struct Bilinear {
    project: Projections,
    pool: Linear,
    dim: i64,
}

impl Bilinear {
    pub fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        let init = Init::pytorch_default(dim);
        Self {
            project: Projections::new(path, widths, dim),
            pool: Linear::new(path / "pool", dim, dim, true, init),
            dim,
        }
    }
}

impl Join for Bilinear {
    fn width(&self) -> i64 {
        self.dim
    }

    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, _ctx: ForwardContext) -> Fused {
        let [vit, mamba] = self.project.forward(vit, mamba).map(|x| x.tanh());
        Fused { vector: self.pool.forward(&(vit * mamba)), weights: None }
    }
}
