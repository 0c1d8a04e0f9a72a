//! Branch dropout: images of a training batch whose fusion gets one branch alone.

use tch::{Device, Kind, Tensor};

use super::BranchTokens;
use crate::models::forward_context::ForwardContext;

/// Which branches the fusion gets of the images of a training batch: (b, 2), 1 or 0 for the ViT and
/// the Mamba. No image lacks both.
#[derive(Debug)]
pub(super) struct Present(Tensor);

impl Present {
    /// Drops one of the branches of each of `b` images with probability `p`, either as often as the
    /// other; `None` in evaluation and where `p` is 0.
    pub(super) fn sample(p: f64, b: i64, device: Device, ctx: ForwardContext) -> Option<Self> {
        if !ctx.is_train() || p <= 0.0 {
            return None;
        }
        // The parts before these are the branches' heads of the strategy `score`.
        let both = ctx.of_part(2).keep_mask(&[b, 1], 1.0 - p, device);
        let first = ctx.of_part(3).keep_mask(&[b, 1], 0.5, device);
        let one = Tensor::cat(&[&first, &(1.0 - &first)], 1); // (b, 2)
        Some(Self(one.maximum(&both)))
    }

    /// Returns the features of the ViT and the Mamba, and their tokens if they are read, with zeros
    /// where a branch is dropped.
    pub(super) fn apply(&self, of: [&BranchTokens; 2], reads_tokens: bool) -> [BranchTokens; 2] {
        [0, 1].map(|branch| {
            let BranchTokens { tokens, layout, features } = of[branch];
            // (b, 1)
            let present = self.0.narrow(1, branch as i64, 1).to_kind(features.kind());
            let features = features * &present;
            if reads_tokens {
                BranchTokens::new(tokens * present.unsqueeze(1), *layout, features)
            } else {
                BranchTokens::of_features(features, *layout)
            }
        })
    }

    /// Returns branches' scores (2) or (b, 2) that softmax makes the weight 0 of where the branch
    /// is dropped: (b, 2).
    pub(super) fn mask_scores(&self, scores: &Tensor) -> Tensor {
        scores.to_kind(Kind::Float) + self.0.log()
    }

    /// Returns a gate (b, d), the weight of the ViT, of which the other branch has the rest: 0
    /// where the ViT is dropped, 1 where the Mamba is.
    pub(super) fn mask_gate(&self, gate: &Tensor) -> Tensor {
        let [vit, mamba] = [0, 1].map(|branch| self.0.narrow(1, branch, 1)); // (b, 1)
        gate * (vit * &mamba) + (1.0 - mamba)
    }
}
