//! Projections of both branches' features to one width.

use tch::{Tensor, nn};

use super::BranchTokens;
use crate::models::layers::{Init, Linear};

/// `P₁` and `P₂`: affine maps of the branches to the same number of channels.
#[derive(Debug)]
pub(super) struct Projections {
    vit_proj: Linear,
    mamba_proj: Linear,
    widths: [i64; 2],
}

impl Projections {
    /// Returns projections from branches of these widths to `dim` channels.
    pub fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        let linear = |name: &str, width| {
            Linear::new(path / name, width, dim, true, Init::pytorch_default(width))
        };
        Self {
            vit_proj: linear("vit_proj", widths[0]),
            mamba_proj: linear("mamba_proj", widths[1]),
            widths,
        }
    }

    /// Returns the branches' numbers of channels before the projections.
    pub fn widths(&self) -> [i64; 2] {
        self.widths
    }

    /// Returns the projected class tokens, 2 of (b, dim).
    pub fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens) -> [Tensor; 2] {
        [self.vit_proj.forward(&vit.class()), self.mamba_proj.forward(&mamba.class())]
    }

    /// Returns all projected tokens with the class token first, (b, 1 + patches, dim) for each
    /// branch.
    pub fn tokens(&self, vit: &BranchTokens, mamba: &BranchTokens) -> [Tensor; 2] {
        [self.vit_proj.forward(&vit.class_first()), self.mamba_proj.forward(&mamba.class_first())]
    }
}
