//! Fusion of the two branches into one vector.
//!
//! In the equations, `v` and `m` are the class tokens of the ViT and of the Vision Mamba, `P₁` and
//! `P₂` learned affine projections to `model.fusion.dim` channels, `⊙` is the product by channel,
//! `σ` the logistic function.

mod bilinear;
mod cross_attention;
mod gmu;
mod mixture;
mod plain;
mod projections;
mod score;

use std::fmt::Debug;

use anyhow::{Result, bail};
use tch::{Tensor, nn};

use self::bilinear::Bilinear;
use self::cross_attention::CrossAttention;
use self::gmu::GatedMultimodalUnit;
use self::mixture::{Gated, Weighted};
use self::plain::{Concat, Sum};
use self::score::ScoreAverage;
use super::forward_context::ForwardContext;
use crate::config::{FusionStrategy, ModelConfig};

/// The tokens of a branch, the fusion's input.
#[derive(Debug)]
pub struct BranchTokens {
    /// (b, 1 + patches, d), after the backbone's last norm.
    tokens: Tensor,
    /// Index of the class token.
    class_index: i64,
}

impl BranchTokens {
    /// Wraps tokens (b, 1 + patches, d) with the class token at `class_index`.
    pub fn new(tokens: Tensor, class_index: i64) -> Self {
        Self { tokens, class_index }
    }

    /// Returns the same tokens without a copy.
    pub fn shallow_clone(&self) -> Self {
        Self::new(self.tokens.shallow_clone(), self.class_index)
    }

    /// Returns the class token, which is the branch's feature vector: (b, d).
    pub fn class(&self) -> Tensor {
        self.tokens.select(1, self.class_index)
    }

    /// Returns all tokens, the class token first: (b, 1 + patches, d).
    pub(in crate::models) fn class_first(&self) -> Tensor {
        if self.class_index == 0 {
            return self.tokens.shallow_clone();
        }
        let (at, count) = (self.class_index, self.tokens.size()[1]);
        let tokens = [
            self.tokens.narrow(1, at, 1),
            self.tokens.narrow(1, 0, at),
            self.tokens.narrow(1, at + 1, count - at - 1),
        ];
        Tensor::cat(&tokens, 1)
    }
}

/// The fused vector, and the branches' weights in it.
#[derive(Debug)]
pub struct Fused {
    /// (b, [`Fusion::width`]).
    pub vector: Tensor,
    /// (b, 2): the weights of the ViT and the Mamba branch, which sum to 1; `None` where the
    /// strategy defines none.
    pub weights: Option<Tensor>,
}

/// A fusion strategy for two branches.
trait Join: Debug + Send {
    /// Returns the number of channels of the fused vector.
    fn width(&self) -> i64;

    /// Joins the branches.
    fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens, ctx: ForwardContext) -> Fused;

    /// Returns the multiply-adds for one image beyond one product with each matrix, given the
    /// numbers of patches.
    fn token_multiply_adds(&self, _patches: [i64; 2]) -> i64 {
        0
    }
}

/// The fusion of the model's branches.
#[derive(Debug)]
pub struct Fusion {
    join: Option<Box<dyn Join>>,
    width: i64,
}

impl Fusion {
    /// Returns a fusion with new parameters under `path` for branches of these feature widths,
    /// `None` for an absent branch. A single branch needs no parameters.
    ///
    /// # Errors
    /// Returns an error if the strategy needs a branch that is absent.
    pub fn new(
        path: &nn::Path,
        config: &ModelConfig,
        vit_width: Option<i64>,
        mamba_width: Option<i64>,
    ) -> Result<Self> {
        let strategy = config.fusion.strategy;
        let widths = match (strategy, vit_width, mamba_width) {
            (FusionStrategy::VitOnly, Some(width), _)
            | (FusionStrategy::MambaOnly, _, Some(width)) => {
                return Ok(Self { join: None, width });
            }
            (_, Some(vit), Some(mamba)) => [vit, mamba],
            _ => bail!("model.fusion.strategy {strategy} needs a branch that the model lacks"),
        };
        let dim = config.fusion.dim;
        let join: Box<dyn Join> = match strategy {
            FusionStrategy::Concat => Box::new(Concat::new(path, widths, dim)),
            FusionStrategy::Sum => Box::new(Sum::new(path, widths, dim)),
            FusionStrategy::Weighted => Box::new(Weighted::new(path, widths, dim)),
            FusionStrategy::Gated => Box::new(Gated::new(path, widths, dim)),
            FusionStrategy::Gmu => Box::new(GatedMultimodalUnit::new(path, widths, dim)),
            FusionStrategy::Bilinear => Box::new(Bilinear::new(path, widths, dim)),
            FusionStrategy::CrossAttention => Box::new(CrossAttention::new(path, widths, dim)),
            FusionStrategy::Score => Box::new(ScoreAverage::new(path, widths, &config.head)),
            FusionStrategy::VitOnly | FusionStrategy::MambaOnly => {
                bail!("model.fusion.strategy {strategy} needs a branch that the model lacks")
            }
        };
        Ok(Self { width: join.width(), join: Some(join) })
    }

    /// Returns the number of channels of the fused vector.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Joins the branches that the model has.
    ///
    /// # Errors
    /// Returns an error if a branch that the strategy needs is missing.
    pub fn forward(
        &self,
        vit: Option<&BranchTokens>,
        mamba: Option<&BranchTokens>,
        ctx: ForwardContext,
    ) -> Result<Fused> {
        match (&self.join, vit, mamba) {
            (Some(join), Some(vit), Some(mamba)) => Ok(join.forward(vit, mamba, ctx)),
            (None, Some(alone), None) | (None, None, Some(alone)) => {
                Ok(Fused { vector: alone.class(), weights: None })
            }
            _ => bail!("internal: the fusion got other branches than it was built for"),
        }
    }

    /// Returns the multiply-adds for one image beyond one product with each matrix, given the
    /// numbers of patches of the ViT and the Mamba branch.
    pub(super) fn token_multiply_adds(&self, patches: [i64; 2]) -> i64 {
        self.join.as_ref().map_or(0, |join| join.token_multiply_adds(patches))
    }
}

/// Returns the weighted sum of two tensors (b, dim) with weights (b, 2) or (2).
fn weighted_sum(features: &[Tensor; 2], weights: &Tensor) -> Tensor {
    &features[0] * weights.narrow(-1, 0, 1) + &features[1] * weights.narrow(-1, 1, 1)
}
