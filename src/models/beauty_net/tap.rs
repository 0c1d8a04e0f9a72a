//! The network seen from inside, for explanations.

use anyhow::{Context, Result};
use tch::Tensor;

use super::super::fusion::BranchTokens;
use super::super::vim::{ScanOperands, class_index};
use super::{BeautyNet, Images, Output};
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
        self.join(vit, mamba, false)
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
        let Some(class_index) = self.class_index(branch) else {
            return Ok(None);
        };
        let tokens = match (branch, &self.vit, &self.mamba) {
            (Branch::Vit, Some(vit), _) => {
                let x = tap.images(branch, vit.prepare(images)?);
                let mut mixer = |layer: usize, x: Tensor| tap.mixer_input(branch, layer, x);
                vit.backbone.forward_tapped(&x, &mut mixer)
            }
            (Branch::Mamba, _, Some(mamba)) => {
                let x = tap.images(branch, mamba.prepare(images)?);
                let mut mixer = |layer: usize, x: Tensor| tap.mixer_input(branch, layer, x);
                mamba.backbone.forward_tapped(&x, &mut mixer)?
            }
            _ => return Ok(None),
        };
        Ok(Some(BranchTokens::new(tokens, class_index)))
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
        self.join(vit, mamba, false)
    }

    /// The shape of a branch, if the model has it.
    pub fn branch(&self, branch: Branch) -> Option<&BackboneShape> {
        match branch {
            Branch::Vit => self.vit.as_ref().map(|branch| &branch.shape),
            Branch::Mamba => self.mamba.as_ref().map(|branch| &branch.shape),
        }
    }

    /// Where the class token stands among a branch's tokens, if the model has it.
    pub fn class_index(&self, branch: Branch) -> Option<i64> {
        let shape = self.branch(branch)?;
        Some(match branch {
            Branch::Vit => 0,
            Branch::Mamba => class_index(shape.patches()),
        })
    }

    /// The attention of a ViT's block that receives `normed` (b, l, d): (b, heads, l, l), rows sum
    /// to 1.
    ///
    /// # Errors
    /// The model has no ViT, or not so many blocks.
    pub fn attention(&self, layer: usize, normed: &Tensor) -> Result<Tensor> {
        let branch = self.vit.as_ref().context("the model has no ViT branch")?;
        branch.backbone.attention(layer, normed)
    }

    /// The operands of both scans of a Vision Mamba's block whose mixer receives `normed` (b, l,
    /// d).
    ///
    /// # Errors
    /// The model has no Vision Mamba, or not so many blocks.
    pub fn scan_operands(&self, layer: usize, normed: &Tensor) -> Result<[ScanOperands; 2]> {
        let branch = self.mamba.as_ref().context("the model has no Mamba branch")?;
        branch.backbone.scan_operands(layer, normed)
    }
}
