//! Backbones by name: their sizes, and the normalization that they were trained with.
//!
//! Sizes are from the papers (ViT: arXiv 2010.11929; DeiT: 2012.12877; DINOv2: 2304.07193;
//! registers: 2309.16588; CLIP: 2103.00020; Vision Mamba: 2401.09417; Mamba-Reg: 2405.14858) and
//! the published checkpoints.

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

/// A backbone by name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// The name in the config.
    pub name: &'static str,
    /// The sizes and normalization of the published checkpoints.
    pub shape: BackboneShape,
    /// Published weights of these sizes: names on timm's hub, and of the authors' files (`.pth`).
    /// The first is the usual choice.
    pub published: &'static [&'static str],
}

const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// The normalization of timm's augreg checkpoints: pixels from -1 to 1.
const HALF: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);
const OPENAI: ([f32; 3], [f32; 3]) =
    ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.261_302_6, 0.275_777_1]);

const PLAIN: Variant = Variant {
    class_tokens: 1,
    register_tokens: 0,
    patch_positions: false,
    layer_scale: false,
    pre_norm: false,
    quick_gelu: false,
    norm_eps: 1e-6,
    class_reduction: 1,
};
const DINOV2: Variant = Variant { layer_scale: true, ..PLAIN };
const DINOV2_REG4: Variant = Variant { register_tokens: 4, patch_positions: true, ..DINOV2 };
const DISTILLED: Variant = Variant { class_tokens: 2, ..PLAIN };
const CLIP: Variant = Variant { pre_norm: true, quick_gelu: true, norm_eps: 1e-5, ..PLAIN };

const fn mamba_reg(class_tokens: i64, class_reduction: i64) -> Variant {
    Variant { class_tokens, class_reduction, patch_positions: true, ..PLAIN }
}

/// Width, depth, and the attention heads of a ViT or the state size of a Vim.
type Sizes = (i64, i64, i64);
const TINY: Sizes = (192, 12, 3);
const SMALL: Sizes = (384, 12, 6);
const BASE: Sizes = (768, 12, 12);
const VIM_T: Sizes = (192, 24, 16);
const VIM_S: Sizes = (384, 24, 16);
const VIM_B: Sizes = (768, 24, 16);
const VIM_L: Sizes = (1024, 48, 16);

/// Builds a preset. `last_size` is the heads of a ViT, the state of a Vim.
const fn sized(
    (name, branch, published): (&'static str, Branch, &'static [&'static str]),
    (embed_dim, depth, last_size): Sizes,
    (patch_size, stride, image_size): (i64, i64, i64),
    (mean, std): ([f32; 3], [f32; 3]),
) -> Preset {
    let (num_heads, d_state) = match branch {
        Branch::Vit => (last_size, 0),
        Branch::Mamba => (0, last_size),
    };
    let shape = BackboneShape {
        branch,
        image_size,
        patch_size,
        stride,
        stem: Stem::Patchify,
        embed_dim,
        depth,
        num_heads,
        d_state,
        mean,
        std,
        drop_path: 0.0,
        features: Features::Cls,
        variant: PLAIN,
    };
    Preset { name, shape, published }
}

impl Preset {
    const fn with(mut self, variant: Variant) -> Self {
        self.shape.variant = variant;
        self
    }
}

/// A ViT. The names of published weights are given by what follows the preset's name in them.
macro_rules! vit {
    ($name:literal, $sizes:expr, $patch:expr, $image:expr, $norm:expr, [$($end:literal),*]) => {{
        let named = ($name, Branch::Vit, &[$(concat!($name, $end)),*] as &[_]);
        sized(named, $sizes, ($patch, $patch, $image), $norm)
    }};
}

const fn vim(
    name: &'static str,
    sizes: Sizes,
    patches: (i64, i64, i64),
    published: &'static [&'static str],
) -> Preset {
    sized((name, Branch::Mamba, published), sizes, patches, IMAGENET)
}

/// Every preset. The `micro` presets are ours: small enough to train from scratch on a CPU within
/// minutes; no weights are published for them. The `stride8` presets are Vim's fine-tuned variants,
/// whose patches overlap; none is published for the base model, but its weights load at that
/// stride.
pub const PRESETS: &[Preset] = &[
    vit!("vit_tiny_patch16_224", TINY, 16, 224, HALF, [".augreg_in21k_ft_in1k"]),
    vit!("vit_tiny_patch16_384", TINY, 16, 384, HALF, [".augreg_in21k_ft_in1k"]),
    vit!("vit_small_patch16_224", SMALL, 16, 224, HALF, [".augreg_in21k_ft_in1k", ".augreg_in1k"]),
    vit!("vit_small_patch16_384", SMALL, 16, 384, HALF, [".augreg_in21k_ft_in1k", ".augreg_in1k"]),
    vit!(
        "vit_base_patch16_224",
        BASE,
        16,
        224,
        HALF,
        [".augreg2_in21k_ft_in1k", ".augreg_in21k_ft_in1k", ".augreg_in1k"]
    ),
    vit!("vit_base_patch16_384", BASE, 16, 384, HALF, [".augreg_in21k_ft_in1k", ".augreg_in1k"]),
    vit!("deit_tiny_patch16_224", TINY, 16, 224, IMAGENET, [".fb_in1k", "-a1311bcf.pth"]),
    vit!("deit_small_patch16_224", SMALL, 16, 224, IMAGENET, [".fb_in1k", "-cd65a155.pth"]),
    vit!("deit_base_patch16_224", BASE, 16, 224, IMAGENET, [".fb_in1k", "-b5f2ef4d.pth"]),
    vit!("deit_tiny_distilled_patch16_224", TINY, 16, 224, IMAGENET, [".fb_in1k", "-b40b3cf7.pth"])
        .with(DISTILLED),
    vit!(
        "deit_small_distilled_patch16_224",
        SMALL,
        16,
        224,
        IMAGENET,
        [".fb_in1k", "-649709d9.pth"]
    )
    .with(DISTILLED),
    vit!("vit_small_patch14_dinov2", SMALL, 14, 518, IMAGENET, [".lvd142m"]).with(DINOV2),
    vit!("vit_base_patch14_dinov2", BASE, 14, 518, IMAGENET, [".lvd142m"]).with(DINOV2),
    vit!("vit_small_patch14_reg4_dinov2", SMALL, 14, 518, IMAGENET, [".lvd142m"]).with(DINOV2_REG4),
    vit!("vit_base_patch14_reg4_dinov2", BASE, 14, 518, IMAGENET, [".lvd142m"]).with(DINOV2_REG4),
    vit!("vit_base_patch16_clip_quickgelu_224", BASE, 16, 224, OPENAI, [".openai"]).with(CLIP),
    vit!("vit_micro_patch8_64", (96, 4, 3), 8, 64, IMAGENET, []),
    vim("vim_tiny_patch16_224", VIM_T, (16, 16, 224), &["vim_t_midclstok_76p1acc.pth"]),
    vim("vim_small_patch16_224", VIM_S, (16, 16, 224), &["vim_s_midclstok_80p5acc.pth"]),
    vim("vim_base_patch16_224", VIM_B, (16, 16, 224), &["vim_b_midclstok_81p9acc.pth"]),
    vim("vim_tiny_patch16_stride8_224", VIM_T, (16, 8, 224), &["vim_t_midclstok_ft_78p3acc.pth"]),
    vim("vim_small_patch16_stride8_224", VIM_S, (16, 8, 224), &["vim_s_midclstok_ft_81p6acc.pth"]),
    vim("vim_base_patch16_stride8_224", VIM_B, (16, 8, 224), &[]),
    vim("vim_micro_patch8_64", (96, 6, 8), (8, 8, 64), &[]),
    vim("mambar_small_patch16_224", VIM_S, (16, 16, 224), &["mambar_small_patch16_224.pth"])
        .with(mamba_reg(12, 2)),
    vim("mambar_base_patch16_224", VIM_B, (16, 16, 224), &["mambar_base_patch16_224.pth"])
        .with(mamba_reg(12, 4)),
    vim("mambar_large_patch16_224", VIM_L, (16, 16, 224), &["mambar_large_patch16_224.pth"])
        .with(mamba_reg(16, 8)),
    vim("mambar_micro_patch8_64", (96, 6, 8), (8, 8, 64), &[]).with(mamba_reg(5, 1)),
];

/// Returns the preset with this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_unique() {
        for known in PRESETS {
            assert_eq!(preset(known.name), Some(known));
            let same = PRESETS.iter().filter(|other| other.name == known.name);
            assert_eq!(same.count(), 1, "{}", known.name);
        }
        assert_eq!(preset("vit_huge_patch14_224"), None);
    }

    #[test]
    fn names_state_the_patch_and_image_size() {
        for preset in PRESETS {
            let stride = if preset.shape.stride == preset.shape.patch_size {
                String::new()
            } else {
                format!("_stride{}", preset.shape.stride)
            };
            let patch = format!("_patch{}{stride}_", preset.shape.patch_size);
            assert!(preset.name.contains(&patch), "{}", preset.name);
            let image = preset.name.rsplit('_').next().unwrap_or_default();
            let image = if image == "dinov2" { "518" } else { image };
            assert_eq!(preset.shape.image_size.to_string(), image, "{}", preset.name);
            let is_mamba = preset.name.starts_with("vim_") || preset.name.starts_with("mambar_");
            assert_eq!(is_mamba, preset.shape.branch == Branch::Mamba);
        }
    }

    #[test]
    fn a_vit_has_heads_and_a_vim_has_a_state() {
        for preset in PRESETS {
            let vit = preset.shape.branch == Branch::Vit;
            assert_eq!(preset.shape.num_heads > 0, vit, "{}", preset.name);
            assert_eq!(preset.shape.d_state > 0, !vit, "{}", preset.name);
            let rest = (preset.shape.image_size - preset.shape.patch_size) % preset.shape.stride;
            assert_eq!(rest, 0, "{}", preset.name);
            if vit {
                assert_eq!(preset.shape.embed_dim % preset.shape.num_heads, 0, "{}", preset.name);
            }
        }
    }

    #[test]
    fn published_files_have_the_presets_size_in_their_name() {
        for preset in PRESETS {
            for file in preset.published {
                let letter = preset.name.split('_').nth(1).and_then(|size| size.chars().next());
                let named = match preset.shape.branch {
                    Branch::Vit => file.starts_with(preset.name),
                    Branch::Mamba if preset.name.starts_with("mambar_") => {
                        file.strip_suffix(".pth") == Some(preset.name)
                    }
                    Branch::Mamba => file.starts_with(&format!("vim_{}_", letter.unwrap())),
                };
                assert!(named, "{}: {file}", preset.name);
                assert_eq!(
                    file.contains("_ft_7") || file.contains("_ft_8"),
                    preset.shape.stride == 8
                );
            }
            let ours =
                preset.name.contains("micro") || preset.name == "vim_base_patch16_stride8_224";
            assert_eq!(preset.published.is_empty(), ours, "{}", preset.name);
        }
    }

    #[test]
    fn only_the_augreg_checkpoints_are_normalized_to_half() {
        for preset in PRESETS {
            let others = ["micro", "dinov2", "clip"];
            let augreg = preset.name.starts_with("vit_")
                && !others.iter().any(|other| preset.name.contains(other));
            assert_eq!(preset.shape.mean == [0.5; 3], augreg, "{}", preset.name);
            assert_eq!(preset.shape.std == [0.5; 3], augreg, "{}", preset.name);
        }
    }
}
