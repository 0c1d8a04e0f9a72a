//! Keeps what chosen blocks receive during a forward pass.

use tch::{NoGradGuard, Tensor};

use crate::config::BackboneKind;
use crate::models::Tap;

/// Keeps the input of one block's mixer per branch as a leaf that wants its gradient. Below that block nothing is recorded, so a
/// backward pass is short and its memory small.
#[derive(Default)]
pub struct Recorder {
    /// Block by branch, as [`Recorder::slot`] numbers them.
    layers: [usize; 2],
    kept: [Option<Tensor>; 2],
    guard: Option<NoGradGuard>,
}

impl Recorder {
    /// For the given blocks of the ViT and of the Vision Mamba; that of a branch that the model lacks is not looked at.
    pub fn new(vit_layer: usize, mamba_layer: usize) -> Self {
        Self {
            layers: [vit_layer, mamba_layer],
            ..Self::default()
        }
    }

    /// What a branch's block received: (b, 1 + patches, d).
    pub fn kept(&self, branch: BackboneKind) -> Option<&Tensor> {
        self.kept[Self::slot(branch)].as_ref()
    }

    fn slot(branch: BackboneKind) -> usize {
        match branch {
            BackboneKind::Vit => 0,
            BackboneKind::Vim => 1,
        }
    }
}

impl Tap for Recorder {
    fn pictures(&mut self, _branch: BackboneKind, x: Tensor) -> Tensor {
        // The old guard goes first: it would otherwise switch recording on again under the new one.
        self.guard = None;
        self.guard = Some(tch::no_grad_guard());
        x
    }

    fn mixer_input(&mut self, branch: BackboneKind, layer: usize, tokens: Tensor) -> Tensor {
        let slot = Self::slot(branch);
        if layer != self.layers[slot] {
            return tokens;
        }
        self.guard = None; // gradients are recorded from here on
        let leaf = tokens.detach().set_requires_grad(true);
        self.kept[slot] = Some(leaf.shallow_clone());
        leaf
    }
}
