//! Resamples a published model's embeddings for another image or patch size.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::config::Branch;
use crate::models::patch_embed::class_index;

/// Largest side of a patch that is resampled, in pixels: the pseudo-inverse below takes the sixth
/// power of it.
const MAX_PATCH: i64 = 64;
/// Largest side of a grid that is resampled, in patches: an image of 4096 pixels in patches of 16.
/// The file decides this size, and may repeat one value over it.
const MAX_SIDE: i64 = 256;

/// Two square grids of patches, and the branch, which decides the class token's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grids {
    pub from: i64,
    pub to: i64,
    branch: Branch,
}

impl Grids {
    pub(super) fn new(branch: Branch, from: i64, to: i64) -> Option<Self> {
        let side = |patches: i64| {
            let side = patches.max(0).isqrt();
            ((1..=MAX_SIDE).contains(&side) && side * side == patches).then_some(side)
        };
        Some(Self { from: side(from)?, to: side(to)?, branch })
    }
}

/// Returns whether the kernels of one patch size can be resampled for another.
pub(super) fn are_patches(from: i64, to: i64) -> bool {
    from > 0 && from.max(to) <= MAX_PATCH
}

/// Resamples a position embedding (1, 1 + from², d) for another grid, (1, 1 + to², d): bicubic with
/// antialias, as timm's `resample_abs_pos_embed`. The class token's row is kept as it is, and moves
/// to its index in the new grid: first for a ViT, in the middle for a Vision Mamba.
pub(super) fn position_embedding(embedding: &Tensor, grids: Grids) -> Result<Tensor> {
    let Grids { from, to, branch } = grids;
    let width = embedding.size()[2];
    let [before, after] = [from, to].map(|side| class_index(branch, side * side));
    let class = embedding.f_narrow(1, before, 1)?;
    let patches = Tensor::f_cat(
        &[
            embedding.f_narrow(1, 0, before)?,
            embedding.f_narrow(1, before + 1, from * from - before)?,
        ],
        1,
    )?;
    let plane = patches.f_reshape([1, from, from, width])?.f_permute([0, 3, 1, 2])?;
    let patches = bicubic(&plane, to)?.f_permute([0, 2, 3, 1])?.f_reshape([1, to * to, width])?;
    Ok(Tensor::f_cat(
        &[patches.f_narrow(1, 0, after)?, class, patches.f_narrow(1, after, to * to - after)?],
        1,
    )?)
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
    use tch::Device;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_vision_mambas_class_token_is_unchanged_in_the_middle_of_the_new_grid() {
        let embedding = Tensor::randn([1, 1 + 14 * 14, 6], CPU);
        let grids = Grids::new(Branch::Mamba, 14 * 14, 27 * 27).unwrap();
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
        let vit = Grids::new(Branch::Vit, 14 * 14, 27 * 27).unwrap();
        let expected = position_embedding(&front(&embedding, 98), vit).unwrap();
        assert!(front(&resampled, 364).equal(&expected));
    }

    #[test]
    fn grids_are_squares() {
        assert!(Grids::new(Branch::Vit, 196, 576).is_some());
        assert_eq!(Grids::new(Branch::Vit, 197, 576), None);
        assert_eq!(Grids::new(Branch::Vit, 196, 0), None);
        assert_eq!(Grids::new(Branch::Vit, -1, 4), None);
        assert_eq!(Grids::new(Branch::Vit, 4096 * 4096, 4), None);
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
