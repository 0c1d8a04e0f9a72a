//! `model.fusion` and `model.head`: how two feature vectors become a score.

use super::branch::Branch;
use super::checks::Checks;
use super::names::names;
use super::section::section;

/// Maximum number of the head's hidden layers.
const MAX_LAYERS: usize = 16;
/// Largest width of the fusion and of the head's layers.
const MAX_WIDTH: i64 = 16_384;

section! {
    /// How the two feature vectors are combined.
    pub struct FusionConfig {
        /// `concat`, `sum`, `weighted` (two learned weights), `gated` (weights from each image),
        /// `gmu` (a gate per channel), `bilinear` (low rank), `cross_attention` (between the two
        /// token sequences), `score` (learned weights average the branches' predictions),
        /// `vit_only` or `mamba_only`.
        pub strategy: FusionStrategy = FusionStrategy::Gated,
        /// Width to which both branches are projected before fusion.
        pub dim: i64 = 256,
        /// Probability with which training drops one of the two branches of an image, either as
        /// often as the other and never both, so that the fusion also predicts from each branch
        /// alone (modality dropout, after ModDrop, arXiv 1501.00102). The fusion gets zeros for the
        /// features of a dropped branch, and its weight is 0. A model of one branch ignores this.
        pub branch_dropout: f64 = 0.0,
    }
}

section! {
    /// How the fused vector becomes a score.
    pub struct HeadConfig {
        /// Widths of the hidden layers; `[]` is one linear layer.
        pub hidden: Vec<i64> = vec![128],
        /// Dropout before each layer of the head.
        pub dropout: f64 = 0.1,
    }
}

/// What the head predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOutput {
    /// The fused vector is the prediction already: the head only scales it.
    Fused,
    /// One score.
    Score,
    /// The probabilities of ratings, whose mean is the score.
    Distribution {
        /// Number of ratings.
        bins: i64,
    },
}

names! {
    /// How the two branches are combined.
    pub enum FusionStrategy {
        /// Concatenation.
        Concat = "concat",
        /// Sum.
        Sum = "sum",
        /// Two learned scalars through a softmax.
        Weighted = "weighted",
        /// Weights from the image itself: the paper's dynamic weighting.
        Gated = "gated",
        /// A gate per channel (gated multimodal unit).
        Gmu = "gmu",
        /// Low-rank bilinear pooling.
        Bilinear = "bilinear",
        /// Attention between the two token sequences.
        CrossAttention = "cross_attention",
        /// Late fusion: learned weights average the predictions of the branches.
        Score = "score",
        /// The Vision Transformer alone.
        VitOnly = "vit_only",
        /// The Vision Mamba alone.
        MambaOnly = "mamba_only",
    }
}

impl FusionStrategy {
    /// Returns whether the model has the branch.
    pub fn uses(self, branch: Branch) -> bool {
        match branch {
            Branch::Vit => self != Self::MambaOnly,
            Branch::Mamba => self != Self::VitOnly,
        }
    }
}

impl FusionConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        checks.size_up_to("dim", MAX_WIDTH, self.dim);
        checks.fraction("branch_dropout", self.branch_dropout);
    }
}

impl HeadConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        let layers = self.hidden.len();
        checks.require(
            layers <= MAX_LAYERS,
            "hidden",
            format_args!("at most {MAX_LAYERS} widths"),
            layers,
        );
        for &width in self.hidden.iter().take(MAX_LAYERS) {
            checks.size_up_to("hidden", MAX_WIDTH, width);
        }
        checks.fraction("dropout", self.dropout);
    }
}
