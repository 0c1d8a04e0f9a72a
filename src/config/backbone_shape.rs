//! The sizes of a backbone, and what its architecture adds to the plain one.

use serde::Serialize;

use super::branch::Branch;
use super::names::names;

names! {
    /// How a backbone turns pixels into tokens.
    pub enum Stem {
        /// One projection of each patch.
        Patchify = "patchify",
        /// Convolutions of 3x3, each halving the side.
        Conv = "conv",
    }
}

names! {
    /// The tokens that a backbone's feature vector is made of, after the last norm.
    pub enum Features {
        /// The class tokens.
        Cls = "cls",
        /// The mean of the patch tokens.
        Mean = "mean",
        /// Both, concatenated.
        ClsMean = "cls_mean",
        /// The patch tokens, concatenated.
        Patches = "patches",
    }
}

impl Features {
    /// Returns whether class tokens are among them.
    pub fn has_class_tokens(self) -> bool {
        matches!(self, Features::Cls | Features::ClsMean)
    }
}

/// What a preset's architecture adds to the plain ViT and Vision Mamba.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Variant {
    /// Class tokens: 1; 2 in a ViT with a distillation token, whose feature is their mean; or more
    /// in a Vision Mamba with registers (Mamba-Reg), whose feature is their concatenation.
    pub class_tokens: i64,
    /// Register tokens of a ViT, which no feature is made of.
    pub register_tokens: i64,
    /// Whether the patches have a position embedding of their own. A Vision Mamba's class tokens
    /// have another, a ViT's none.
    pub patch_positions: bool,
    /// Whether a learned factor per channel (LayerScale) multiplies what each layer of a block
    /// adds.
    pub layer_scale: bool,
    /// Whether a norm precedes the first block; the patch embedding then has no bias.
    pub pre_norm: bool,
    /// Whether the MLPs have `x · sigmoid(1.702 x)` in place of GELU.
    pub quick_gelu: bool,
    /// Added to the variance in a ViT's norms.
    pub norm_eps: f64,
    /// The divisor of a Vision Mamba's class tokens' width before they are concatenated: beyond 1
    /// a linear layer (the neck) and a norm are there.
    pub class_reduction: i64,
}

/// The sizes of a backbone: those of the preset, unless the config overrides them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BackboneShape {
    /// The branch, which is of one family.
    pub branch: Branch,
    /// Side of the square image, in pixels: `patch_size` and a multiple of `stride`.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    /// Pixels from one patch to the next: less than `patch_size` where patches overlap.
    pub stride: i64,
    /// How pixels become tokens. A convolutional one has a power of two of at least 2 for
    /// `patch_size` and `stride`.
    pub stem: Stem,
    /// Width of the tokens; a multiple of `num_heads`.
    pub embed_dim: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads; 0 for a Vim.
    pub num_heads: i64,
    /// Size of the scan's state per channel; 0 for a ViT.
    pub d_state: i64,
    /// Mean by channel of the normalization, for pixels from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation by channel of the normalization.
    pub std: [f32; 3],
    /// Largest probability of skipping a block in training.
    pub drop_path: f64,
    /// What the feature vector is made of.
    pub features: Features,
    /// What the architecture adds to the plain one.
    pub variant: Variant,
}

impl BackboneShape {
    /// Returns the number of tokens of an image: patches, class tokens and registers.
    pub fn tokens(&self) -> i64 {
        self.patches() + self.variant.class_tokens + self.variant.register_tokens
    }

    /// Returns the width of the feature vector.
    pub fn feature_width(&self) -> i64 {
        let mean = self.embed_dim;
        let cls = match self.branch {
            Branch::Vit => self.embed_dim,
            Branch::Mamba => {
                self.variant.class_tokens * (self.embed_dim / self.variant.class_reduction)
            }
        };
        match self.features {
            Features::Cls => cls,
            Features::Mean => mean,
            Features::ClsMean => cls + mean,
            Features::Patches => self.patches() * self.embed_dim,
        }
    }

    /// Returns about how many parameters it has, as a float because sizes multiply.
    pub(super) fn parameters(&self) -> f64 {
        let [width, depth, patch] =
            [self.embed_dim, self.depth, self.patch_size].map(|size| size as f64);
        let per_block = match self.branch {
            Branch::Vit => 12.0 * width * width,
            Branch::Mamba => width * (6.0 * width + 8.0 * self.d_state as f64),
        };
        depth * per_block + width * (3.0 * patch * patch + self.patches() as f64)
    }

    /// Returns whether its patches tile a square image of this side.
    pub(super) fn tiles(&self, side: i64) -> bool {
        side >= self.patch_size && self.stride > 0 && (side - self.patch_size) % self.stride == 0
    }

    /// Describes what is wrong with an image size that the patches do not tile.
    pub(super) fn untiled(&self) -> Option<String> {
        let (size, patch, stride) = (self.image_size, self.patch_size, self.stride);
        if self.tiles(size) {
            return None;
        }
        let rule = if stride == patch {
            format!("a multiple of the patch size {patch}")
        } else {
            format!("the patch size {patch} and a multiple of the stride {stride}")
        };
        let below = patch + (size - patch).div_euclid(stride) * stride;
        let fitting = if below < patch {
            patch.to_string()
        } else {
            format!("{below} or {}", below + stride)
        };
        Some(format!(" must be {rule}, is {size}; the nearest that fits is {fitting}"))
    }

    /// Returns the number of patches in an image.
    pub fn patches(&self) -> i64 {
        self.grid() * self.grid()
    }

    /// Returns the number of patches on a side.
    pub fn grid(&self) -> i64 {
        (self.image_size - self.patch_size) / self.stride + 1
    }
}
