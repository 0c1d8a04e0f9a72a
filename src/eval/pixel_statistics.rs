//! Statistics of an image's pixels that tell faces from what is none: a small model's features were
//! not trained to.

use anyhow::Result;
use tch::{Kind, Tensor};

/// The number of [`pixel_statistics`].
pub const STATISTICS: usize = 275;
/// Side of the images that they are computed of.
const SIDE: i64 = 64;
/// Side of the thumbnail.
const THUMBNAIL: i64 = 8;
/// Side of the grid of cells whose contrast is measured.
const GRID: i64 = 4;
/// Contrast, as a fraction of white, that is none.
const FLOOR: f64 = 1e-3;
/// The weight of a contrast's logarithm: its deviations over faces are then about those of levels.
const CONTRAST_WEIGHT: f64 = 0.2;

/// Returns statistics (b, [`STATISTICS`]) of pixels (b, 3, s, s), 0..=255: a thumbnail, by which
/// faces are alike (Turk and Pentland, "Eigenfaces for Recognition", 1991), and the logarithm of
/// the contrast of each color and, at five scales (Burt and Adelson, "The Laplacian Pyramid",
/// 1983), in each cell of a grid.
pub fn pixel_statistics(pixels: &Tensor) -> Result<Tensor> {
    let x = pixels.to_kind(Kind::Float) / 255.0;
    let x = x.f_adaptive_avg_pool2d([SIDE, SIDE])?;
    let contrast = |variance: Tensor| -> Result<Tensor> {
        let contrast = (variance.clamp_min(0.0).sqrt() + FLOOR).log() * CONTRAST_WEIGHT;
        Ok(contrast.f_flatten(1, -1)?)
    };
    let mut statistics = vec![x.f_adaptive_avg_pool2d([THUMBNAIL, THUMBNAIL])?.f_flatten(1, -1)?];
    statistics.push(contrast(x.f_flatten(2, -1)?.f_var_dim([2i64].as_slice(), false, false)?)?);
    let luminance = Tensor::from_slice(&[0.299f32, 0.587, 0.114]).to_device(x.device());
    let mut level =
        (x * luminance.view([1, 3, 1, 1])).sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    let mut side = SIDE;
    while side >= GRID {
        let coarse = level.f_adaptive_avg_pool2d([side / 2, side / 2])?;
        let detail = level.f_sub(&coarse.f_upsample_nearest2d([side, side], None, None)?)?;
        statistics.push(contrast(detail.square().f_adaptive_avg_pool2d([GRID, GRID])?)?);
        (level, side) = (coarse, side / 2);
    }
    Ok(Tensor::f_cat(&statistics, 1)?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_flat_image_has_no_contrast_and_fine_noise_has_it_at_the_finest_scale() {
        for side in [32, 64, 100] {
            let flat = Tensor::full([1, 3, side, side], 100, (Kind::Uint8, Device::Cpu));
            let level = |y: i64| if y / (side / 32) % 2 == 0 { 0u8 } else { 255 };
            let stripes = Tensor::from_slice(&(0..side).map(level).collect::<Vec<u8>>());
            let stripes = stripes.view([1, 1, side, 1]).expand([1, 3, side, side], false);
            let of = pixel_statistics(&Tensor::cat(&[flat, stripes], 0)).unwrap();
            assert_eq!(of.size(), [2, STATISTICS as i64]);
            let least = CONTRAST_WEIGHT * FLOOR.ln();
            let contrasts = of.slice(1, 192, None, 1);
            assert!((contrasts.get(0) - least).abs().max().double_value(&[]) < 1e-5);
            assert!((of.double_value(&[0, 0]) - 100.0 / 255.0).abs() < 1e-5);
            assert!(contrasts.get(1).max().double_value(&[]) > least + 0.8);
        }
    }
}
