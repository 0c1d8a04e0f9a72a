//! The masks of masked image modeling, sampled for each image from a random stream of its own that
//! depends only on seed, epoch and image.

use anyhow::Result;
use tch::{Device, Tensor};

use crate::config::{BackboneShape, PretrainConfig};
use crate::data::random_stream::RandomStream;

/// The epoch of the masks of validation images, which are the same after each epoch.
pub(super) const VALIDATION_EPOCH: u64 = u64::MAX;

/// A sampler of masks: random cells of a grid whose cells are squares of patches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Masks {
    seed: u64,
    /// Patches along a side of the image.
    grid: usize,
    /// Patches along a side of a square. Squares at the right and lower border are smaller if the
    /// grid is no multiple of it.
    square: usize,
    /// The number of squares that are masked.
    masked: usize,
}

impl Masks {
    /// Creates the sampler with the config's ratio; at least one square is masked, and at least one
    /// is not.
    pub(super) fn new(seed: u64, config: &PretrainConfig, shape: &BackboneShape) -> Self {
        let (grid, square) = (shape.grid() as usize, config.mask_patch as usize);
        let squares = grid.div_ceil(square).pow(2);
        let masked = (config.mask_ratio * squares as f64).round() as usize;
        Self { seed, grid, square, masked: masked.clamp(1, (squares - 1).max(1)) }
    }

    /// Samples the masks (len, patches), true for a masked patch, of the images with these indices
    /// in an epoch, and counts the patches that they mask. Returns libtorch's error if memory runs
    /// out.
    pub(super) fn sample(
        &self,
        epoch: u64,
        indices: &[usize],
        device: Device,
    ) -> Result<(Tensor, usize)> {
        let masks: Vec<bool> =
            indices.iter().flat_map(|&index| self.of_image(epoch, index)).collect();
        let shape = [indices.len() as i64, (self.grid * self.grid) as i64];
        let tensor = Tensor::f_from_slice(&masks)?.f_view(shape)?.f_to_device(device)?;
        Ok((tensor, masks.into_iter().filter(|&masked| masked).count()))
    }

    /// Counts the patches that the masks of these images hide.
    pub(super) fn count(&self, epoch: u64, indices: &[usize]) -> usize {
        let masks = indices.iter().flat_map(|&index| self.of_image(epoch, index));
        masks.filter(|&masked| masked).count()
    }

    /// Samples the mask of one image (patches), in row-major order.
    fn of_image(&self, epoch: u64, index: usize) -> Vec<bool> {
        let side = self.grid.div_ceil(self.square);
        let mut squares: Vec<bool> = (0..side * side).map(|i| i < self.masked).collect();
        RandomStream::new(self.seed, epoch, index as u64, "mask").shuffle(&mut squares);
        let square_of = |at: usize| {
            let (row, column) = (at / self.grid / self.square, at % self.grid / self.square);
            row * side + column
        };
        (0..self.grid * self.grid).map(|at| squares[square_of(at)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Branch, Config};

    fn masks(image_size: i64, ratio: f64, square: i64) -> Masks {
        let set = [
            format!("data.image_size={image_size}"),
            "model.vit.name=vit_micro_patch8_64".to_string(),
            "model.mamba.name=vim_micro_patch8_64".to_string(),
            format!("pretrain={{mask_ratio: {ratio}, mask_patch: {square}}}"),
        ];
        let config = Config::from_yaml("", "a.yaml", &set).unwrap();
        let shape = config.shape(Branch::Vit).unwrap().unwrap();
        Masks::new(5, &config.pretrain, &shape)
    }

    fn count(mask: &[bool]) -> usize {
        mask.iter().filter(|masked| **masked).count()
    }

    #[test]
    fn every_mask_has_the_configured_ratio() {
        for (ratio, expected) in [(0.6, 38), (0.75, 48), (0.5, 32), (0.001, 1), (0.999, 63)] {
            let masks = masks(64, ratio, 1);
            for index in 0..20 {
                assert_eq!(count(&masks.of_image(3, index)), expected, "{ratio}");
            }
        }
    }

    #[test]
    fn all_patches_of_a_square_are_masked_together() {
        let masks = masks(64, 0.5, 2);
        for index in 0..20 {
            let mask = masks.of_image(0, index);
            assert_eq!(count(&mask), 32);
            for at in 0..64 {
                let corner = at / 16 * 16 + at % 8 / 2 * 2;
                assert_eq!(mask[at], mask[corner], "{at}");
            }
        }
    }

    #[test]
    fn squares_at_the_border_are_smaller_if_they_do_not_divide_the_grid() {
        let masks = masks(64, 0.5, 3); // 3 x 3 squares, of which 5 are masked (4.5, rounded)
        let (low, high) = (2 * 2 + 2 * 6 + 2 * 6, 4 * 9 + 6);
        for index in 0..20 {
            assert!((low..=high).contains(&count(&masks.of_image(0, index))));
        }
    }

    #[test]
    fn masks_depend_on_seed_epoch_and_image_and_validation_masks_stay() {
        let masks = masks(64, 0.6, 1);
        let reference = masks.of_image(3, 7);
        assert_eq!(reference, masks.of_image(3, 7));
        assert_ne!(reference, masks.of_image(4, 7));
        assert_ne!(reference, masks.of_image(3, 8));
        assert_ne!(reference, Masks { seed: 6, ..masks }.of_image(3, 7));
        let (batch, masked) = masks.sample(3, &[1, 7], Device::Cpu).unwrap();
        assert_eq!(masked, masks.count(3, &[1, 7]));
        assert_eq!(batch.size(), [2, 64]);
        assert_eq!(Vec::<bool>::try_from(batch.get(1)).unwrap(), reference);
        let [a, b] =
            [[7, 8], [9, 7]].map(|of| masks.sample(VALIDATION_EPOCH, &of, Device::Cpu).unwrap().0);
        assert_eq!(a.get(0), b.get(1));
        assert_ne!(a.get(0), batch.get(1));
    }

    #[test]
    fn every_patch_is_masked_in_about_half_of_the_masks() {
        let masks = masks(32, 0.5, 1);
        let mut times = [0; 16];
        for index in 0..400 {
            for (time, masked) in times.iter_mut().zip(masks.of_image(0, index)) {
                *time += usize::from(masked);
            }
        }
        assert!(times.iter().all(|time| (150..250).contains(time)), "{times:?}");
    }
}
