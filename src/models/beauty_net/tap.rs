//! The network seen from inside, for explanations.

use anyhow::{Result, bail};
use tch::Tensor;

use super::super::encoder::{Backbone, Encoder};
use super::super::forward_context::ForwardContext;
use super::super::fusion::BranchTokens;
use super::super::images::Images;
use super::super::vim::ScanOperands;
use super::{BeautyNet, Output};
use crate::config::{BackboneShape, Branch};

/// Follows a forward pass, and may change what flows through it.
pub trait Tap {
    /// A branch begins with its normalized images (b, 3, s, s); what is returned goes on in their
    /// place.
    fn images(&mut self, _branch: Branch, x: Tensor) -> Tensor {
        x
    }

    /// What the mixer of a block (a ViT's attention, a Vision Mamba's scans) receives from the norm
    /// before it: (b, 1 + patches, d); what is returned goes on in its place.
    fn mixer_input(&mut self, _branch: Branch, _layer: usize, tokens: Tensor) -> Tensor {
        tokens
    }
}

impl BeautyNet {
    /// As [`forward`](Self::forward) in evaluation, followed by `tap`: the ViT first, then the
    /// Vision Mamba.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_tapped(&self, images: Images, tap: &mut dyn Tap) -> Result<Output> {
        let vit = self.branch_tokens(Branch::Vit, images, tap)?;
        let mamba = self.branch_tokens(Branch::Mamba, images, tap)?;
        self.join(vit, mamba, ForwardContext::eval())
    }

    /// What a branch gives to the fusion in evaluation, followed by `tap`; `None` where the model
    /// lacks the branch.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn branch_tokens(
        &self,
        branch: Branch,
        images: Images,
        tap: &mut dyn Tap,
    ) -> Result<Option<BranchTokens>> {
        let Some(encoder) = self.encoder(branch) else {
            return Ok(None);
        };
        let x = tap.images(branch, encoder.normalize(images)?);
        let mut mixer_input = |layer: usize, x: Tensor| tap.mixer_input(branch, layer, x);
        Ok(Some(encoder.forward_tapped(&x, &mut mixer_input)?))
    }

    fn encoder(&self, branch: Branch) -> Option<&Encoder> {
        match branch {
            Branch::Vit => self.vit.as_ref(),
            Branch::Mamba => self.mamba.as_ref(),
        }
    }

    /// From the branches' tokens to the score, in evaluation.
    ///
    /// # Errors
    /// A branch that the fusion needs is missing.
    pub fn join_tokens(
        &self,
        vit: Option<BranchTokens>,
        mamba: Option<BranchTokens>,
    ) -> Result<Output> {
        self.join(vit, mamba, ForwardContext::eval())
    }

    /// The shape of a branch, if the model has it.
    pub fn branch(&self, branch: Branch) -> Option<&BackboneShape> {
        self.encoder(branch).map(|encoder| &encoder.shape)
    }

    /// The index of the class token among a branch's tokens, if the model has the branch.
    pub fn class_index(&self, branch: Branch) -> Option<i64> {
        self.encoder(branch).map(Encoder::class_index)
    }

    /// The attention of a ViT's block that receives `normed` (b, l, d): (b, heads, l, l), rows sum
    /// to 1.
    ///
    /// # Errors
    /// The model has no ViT, or not so many blocks.
    pub fn attention(&self, layer: usize, normed: &Tensor) -> Result<Tensor> {
        match self.vit.as_ref().map(|encoder| &encoder.backbone) {
            Some(Backbone::Vit(vit)) => vit.attention(layer, normed),
            _ => bail!("the model has no ViT branch"),
        }
    }

    /// The operands of both scans of a Vision Mamba's block whose mixer receives `normed` (b, l,
    /// d).
    ///
    /// # Errors
    /// The model has no Vision Mamba, or not so many blocks.
    pub fn scan_operands(&self, layer: usize, normed: &Tensor) -> Result<[ScanOperands; 2]> {
        match self.mamba.as_ref().map(|encoder| &encoder.backbone) {
            Some(Backbone::Mamba(mamba)) => mamba.scan_operands(layer, normed),
            _ => bail!("the model has no Mamba branch"),
        }
    }
}
