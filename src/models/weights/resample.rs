//! Resamples a published model's embeddings for another image or patch size.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::models::tokens::TokenLayout;

/// Largest side of a patch that is resampled, in pixels: the pseudo-inverse below takes the sixth
/// power of it.
const MAX_PATCH: i64 = 64;
/// Largest side of a grid that is resampled, in patches: an image of 4096 pixels in patches of 16.
/// The file decides this size, and may repeat one value over it.
const MAX_SIDE: i64 = 256;

/// Two square grids of patches, and the layout of the rows of a position embedding over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grids {
    pub from: i64,
    pub to: i64,
    layout: TokenLayout,
}

impl Grids {
    /// Returns the grids of two position embeddings with these numbers of rows; `None` if one has
    /// no square grid of patches, or a grid that is too large.
    pub(super) fn new(layout: TokenLayout, from: i64, to: i64) -> Option<Self> {
        let side = |rows: i64| {
            let patches = rows.saturating_sub(layout.with_patches(0).count()).max(0);
            let side = patches.isqrt();
            ((1..=MAX_SIDE).contains(&side) && side * side == patches).then_some(side)
        };
        Some(Self { from: side(from)?, to: side(to)?, layout })
    }
}

/// Returns whether the kernels of one patch size can be resampled for another.
pub(super) fn are_patches(from: i64, to: i64) -> bool {
    from > 0 && from.max(to) <= MAX_PATCH
}

/// Resamples a position embedding (1, rows, d) for another grid: bicubic with antialias, as timm's
/// `resample_abs_pos_embed`. The rows of special tokens are kept as they are, and move to their
/// indices in the new grid: first for a ViT, in the middle for a Vision Mamba.
pub(super) fn position_embedding(embedding: &Tensor, grids: Grids) -> Result<Tensor> {
    let Grids { from, to, layout } = grids;
    let width = embedding.size()[2];
    let [before, after] = [from, to].map(|side| layout.with_patches(side * side));
    let patches = before.patches_of(embedding)?;
    let plane = patches.f_reshape([1, from, from, width])?.f_permute([0, 3, 1, 2])?;
    let patches = bicubic(&plane, to)?.f_permute([0, 2, 3, 1])?.f_reshape([1, to * to, width])?;
    after.join(&before.special_of(embedding)?, &patches)
}

/// Resamples a patch embedding's kernels (d, 3, p, p) for patches of `side`²: the kernels whose
/// products with resized patches are closest to the old products with the original patches
/// (FlexiViT, arXiv 2212.08013, section 3.4), as timm's `resample_patch_embed`. With B the matrix
/// that resizes a flattened patch, they are pinv(Bᵀ) w.
pub(super) fn patch_embedding(kernels: &Tensor, side: i64) -> Result<Tensor> {
    let (d, channels, old, _) = kernels.size4()?;
    let units = Tensor::f_eye(old * old, (Kind::Float, kernels.device()))?;
    // Row i is the resized patch whose only nonzero pixel is i: that is Bᵀ.
    let resized = bicubic(&units.f_view([old * old, 1, old, old])?, side)?
        .f_reshape([old * old, side * side])?;
    let inverse = resized.f_to_kind(Kind::Double)?.f_linalg_pinv(1e-15, false)?; // (side², old²)
    let flat = kernels.f_to_kind(Kind::Double)?.f_reshape([d * channels, old * old])?;
    Ok(flat
        .f_matmul(&inverse.f_transpose(0, 1)?)?
        .f_reshape([d, channels, side, side])?
        .f_to_kind(Kind::Float)?)
}

/// (b, c, h, w) to (b, c, side, side).
fn bicubic(planes: &Tensor, side: i64) -> Result<Tensor> {
    Ok(planes.f_internal_upsample_bicubic2d_aa([side, side], false, None, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;
    use tch::Device;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn layout(name: &str) -> TokenLayout {
        TokenLayout::of_positions(&preset(name).unwrap().shape)
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_vision_mambas_class_token_is_unchanged_in_the_middle_of_the_new_grid() {
        let embedding = Tensor::randn([1, 1 + 14 * 14, 6], CPU);
        let grids = Grids::new(layout("vim_tiny_patch16_224"), 197, 730).unwrap();
        let resampled = position_embedding(&embedding, grids).unwrap();
        assert_eq!(resampled.size(), [1, 730, 6]);
        assert!(resampled.select(1, 364).equal(&embedding.select(1, 98)));
        // The patches are those of a ViT's embedding that has the token in front.
        let front = |tensor: &Tensor, at: i64| {
            let count = tensor.size()[1];
            Tensor::cat(
                &[
                    tensor.narrow(1, at, 1),
                    tensor.narrow(1, 0, at),
                    tensor.narrow(1, at + 1, count - 1 - at),
                ],
                1,
            )
        };
        let vit = Grids::new(layout("vit_tiny_patch16_224"), 197, 730).unwrap();
        let expected = position_embedding(&front(&embedding, 98), vit).unwrap();
        assert!(front(&resampled, 364).equal(&expected));
    }

    #[test]
    fn grids_are_squares() {
        let grids = |from, to| Grids::new(layout("vit_tiny_patch16_224"), from, to);
        assert!(grids(197, 577).is_some());
        for (from, to) in [(198, 577), (197, 1), (0, 5), (i64::MIN, 5), (1 + 4096 * 4096, 5)] {
            assert_eq!(grids(from, to), None);
        }
    }

    #[test]
    fn every_special_token_keeps_its_row_and_registers_may_have_none() {
        for (name, special) in
            [("deit_tiny_distilled_patch16_224", 2), ("vit_small_patch14_reg4_dinov2", 0)]
        {
            let embedding = Tensor::randn([1, special + 37 * 37, 3], CPU);
            let grids = Grids::new(layout(name), special + 37 * 37, special + 16 * 16).unwrap();
            let resampled = position_embedding(&embedding, grids).unwrap();
            assert_eq!(resampled.size(), [1, special + 256, 3], "{name}");
            let rows = |tensor: &Tensor| tensor.narrow(1, 0, special);
            assert!(rows(&resampled).equal(&rows(&embedding)), "{name}");
            // The patches do not depend on the rows before them.
            let plain = Tensor::cat(
                &[Tensor::zeros([1, 1, 3], CPU), embedding.narrow(1, special, 37 * 37)],
                1,
            );
            let grids = Grids::new(layout("vit_tiny_patch16_224"), 1370, 257).unwrap();
            let expected = position_embedding(&plain, grids).unwrap().narrow(1, 1, 256);
            assert!(resampled.narrow(1, special, 256).equal(&expected), "{name}");
        }
    }

    #[test]
    fn larger_patches_give_the_same_tokens_for_enlarged_images() {
        // If resizing a patch loses nothing, FlexiViT's kernels reproduce the products
        // exactly.
        let kernels = Tensor::randn([5, 3, 8, 8], CPU);
        let patches = Tensor::randn([7, 3, 8, 8], CPU);
        let resampled = patch_embedding(&kernels, 12).unwrap();
        let tokens = |patches: &Tensor, kernels: &Tensor| {
            patches.flatten(1, -1).matmul(&kernels.flatten(1, -1).transpose(0, 1))
        };
        let enlarged = bicubic(&patches, 12).unwrap();
        let error = difference(&tokens(&enlarged, &resampled), &tokens(&patches, &kernels));
        assert!(error < 1e-3, "{error}");
    }

    #[test]
    fn smaller_patches_give_the_closest_tokens() {
        let kernels = Tensor::randn([2, 3, 8, 8], CPU);
        let resampled = patch_embedding(&kernels, 4).unwrap();
        // The least squares solution: the residual of Bᵀ w' = w is orthogonal to what Bᵀ can reach.
        let units = Tensor::eye(64, CPU).view([64, 1, 8, 8]);
        let resized = bicubic(&units, 4).unwrap().view([64, 16]);
        let flat = |kernels: &Tensor| kernels.view([6, -1]).transpose(0, 1);
        let residual = resized.matmul(&flat(&resampled)) - flat(&kernels);
        let error = resized.transpose(0, 1).matmul(&residual).abs().max().double_value(&[]);
        assert!(error < 1e-4, "{error}");
    }

    #[test]
    fn a_patch_too_large_to_resample_is_refused() {
        assert!(are_patches(8, 64) && are_patches(64, 8));
        assert!(!are_patches(8, 65) && !are_patches(60_000, 8) && !are_patches(0, 8));
    }
}
