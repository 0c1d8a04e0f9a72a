//! Backbones by name: their sizes, the normalization that they were trained with, and where their
//! weights are published.
//!
//! Sizes are from the papers (ViT: arXiv 2010.11929; DeiT: 2012.12877; DINOv2: 2304.07193;
//! registers: 2309.16588; CLIP: 2103.00020; Vision Mamba: 2401.09417; Mamba-Reg: 2405.14858) and
//! the published checkpoints.

use super::backbone_shape::{BackboneShape, Features, Stem, Variant};
use super::branch::Branch;
use super::weights_source::HubFile;

/// A backbone by name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// The name in the config.
    pub name: &'static str,
    /// The sizes and normalization of the published checkpoints.
    pub shape: BackboneShape,
    /// Published weights of these sizes: names on the Hugging Face hub (`hf://…`), the first of
    /// which is `weights: pretrained`, and addresses of the authors' files.
    pub published: &'static [&'static str],
}

const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// The normalization of timm's augreg checkpoints: pixels from -1 to 1.
const HALF: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);

/// Side of a patch and of an image, and the normalization.
type Images = (i64, i64, ([f32; 3], [f32; 3]));
const AUGREG: Images = (16, 224, HALF);
const AUGREG_384: Images = (16, 384, HALF);
const DEIT: Images = (16, 224, IMAGENET);
const DINO: Images = (14, 518, IMAGENET);
const OPENAI: Images =
    (16, 224, ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.261_302_6, 0.275_777_1]));

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
    /// Returns the weights that `weights: pretrained` loads; `None` if none are published.
    pub fn pretrained(&self) -> Option<HubFile> {
        self.published.first()?.parse().ok()
    }

    const fn with(mut self, variant: Variant) -> Self {
        self.shape.variant = variant;
        self
    }

    const fn published(mut self, published: &'static [&'static str]) -> Self {
        self.published = published;
        self
    }
}

/// A ViT, with what follows its name in those of published weights on timm's hub, and in that of
/// DeiT's file.
macro_rules! vit {
    ($name:literal, $sizes:expr, $images:expr, [$($end:literal),*] $(, $deit:literal)?) => {{
        let published = &[
            $(concat!("hf://timm/", $name, $end),)*
            $(concat!("https://dl.fbaipublicfiles.com/deit/", $name, "-", $deit, ".pth"),)?
        ] as &[_];
        let (patch, image, normalization) = $images;
        sized(($name, Branch::Vit, published), $sizes, (patch, patch, image), normalization)
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
    vit!("vit_tiny_patch16_224", TINY, AUGREG, [".augreg_in21k_ft_in1k"]),
    vit!("vit_tiny_patch16_384", TINY, AUGREG_384, [".augreg_in21k_ft_in1k"]),
    vit!("vit_small_patch16_224", SMALL, AUGREG, [".augreg_in21k_ft_in1k", ".augreg_in1k"]),
    vit!("vit_small_patch16_384", SMALL, AUGREG_384, [".augreg_in21k_ft_in1k", ".augreg_in1k"]),
    vit!(
        "vit_base_patch16_224",
        BASE,
        AUGREG,
        [".augreg2_in21k_ft_in1k", ".augreg_in21k_ft_in1k", ".augreg_in1k"]
    ),
    vit!("vit_base_patch16_384", BASE, AUGREG_384, [".augreg_in21k_ft_in1k", ".augreg_in1k"]),
    vit!("deit_tiny_patch16_224", TINY, DEIT, [".fb_in1k"], "a1311bcf"),
    vit!("deit_small_patch16_224", SMALL, DEIT, [".fb_in1k"], "cd65a155"),
    vit!("deit_base_patch16_224", BASE, DEIT, [".fb_in1k"], "b5f2ef4d"),
    vit!("deit_tiny_distilled_patch16_224", TINY, DEIT, [".fb_in1k"], "b40b3cf7").with(DISTILLED),
    vit!("deit_small_distilled_patch16_224", SMALL, DEIT, [".fb_in1k"], "649709d9").with(DISTILLED),
    vit!("vit_small_patch14_dinov2", SMALL, DINO, [".lvd142m"]).with(DINOV2),
    vit!("vit_base_patch14_dinov2", BASE, DINO, [".lvd142m"]).with(DINOV2),
    vit!("vit_small_patch14_reg4_dinov2", SMALL, DINO, [".lvd142m"]).with(DINOV2_REG4),
    vit!("vit_base_patch14_reg4_dinov2", BASE, DINO, [".lvd142m"]).with(DINOV2_REG4),
    // timm has one repository for both activations.
    vit!("vit_base_patch16_clip_quickgelu_224", BASE, OPENAI, [])
        .published(&["hf://timm/vit_base_patch16_clip_224.openai"])
        .with(CLIP),
    vit!("vit_micro_patch8_64", (96, 4, 3), (8, 64, IMAGENET), []),
    vim(
        "vim_tiny_patch16_224",
        VIM_T,
        (16, 16, 224),
        &["hf://hustvl/Vim-tiny-midclstok/vim_t_midclstok_76p1acc.pth"],
    ),
    vim(
        "vim_small_patch16_224",
        VIM_S,
        (16, 16, 224),
        &["hf://hustvl/Vim-small-midclstok/vim_s_midclstok_80p5acc.pth"],
    ),
    vim(
        "vim_base_patch16_224",
        VIM_B,
        (16, 16, 224),
        &["hf://hustvl/Vim-base-midclstok/vim_b_midclstok_81p9acc.pth"],
    ),
    vim(
        "vim_tiny_patch16_stride8_224",
        VIM_T,
        (16, 8, 224),
        &["hf://hustvl/Vim-tiny-midclstok/vim_t_midclstok_ft_78p3acc.pth"],
    ),
    vim(
        "vim_small_patch16_stride8_224",
        VIM_S,
        (16, 8, 224),
        &["hf://hustvl/Vim-small-midclstok/vim_s_midclstok_ft_81p6acc.pth"],
    ),
    vim("vim_base_patch16_stride8_224", VIM_B, (16, 8, 224), &[]),
    vim("vim_micro_patch8_64", (96, 6, 8), (8, 8, 64), &[]),
    vim(
        "mambar_small_patch16_224",
        VIM_S,
        (16, 16, 224),
        &["hf://Wangf3014/Mamba-Reg/mambar_small_patch16_224.pth"],
    )
    .with(mamba_reg(12, 2)),
    vim(
        "mambar_base_patch16_224",
        VIM_B,
        (16, 16, 224),
        &["hf://Wangf3014/Mamba-Reg/mambar_base_patch16_224.pth"],
    )
    .with(mamba_reg(12, 4)),
    vim(
        "mambar_large_patch16_224",
        VIM_L,
        (16, 16, 224),
        &["hf://Wangf3014/Mamba-Reg/mambar_large_patch16_224.pth"],
    )
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
                let size = preset.name.split('_').nth(1).unwrap();
                let file = file.rsplit('/').next().unwrap();
                let start = match preset.shape.branch {
                    Branch::Vit => preset.name.replace("_quickgelu", ""),
                    Branch::Mamba if preset.name.starts_with("mambar_") => preset.name.into(),
                    Branch::Mamba => format!("vim_{}_", &size[..1]),
                };
                assert!(file.starts_with(&start), "{}: {file}", preset.name);
                assert_eq!(
                    file.contains("_ft_7") || file.contains("_ft_8"),
                    preset.shape.stride == 8
                );
            }
            let ours =
                preset.name.contains("micro") || preset.name == "vim_base_patch16_stride8_224";
            assert_eq!(preset.pretrained().is_none(), ours, "{}", preset.name);
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
