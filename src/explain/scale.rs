//! From a map on the patch grid to one on the image.

use anyhow::Result;
use tch::{Kind, Tensor};

/// Keeps a map from being divided by nothing; pytorch-grad-cam's value.
const EPS: f64 = 1e-7;

/// Maps (b, g, g) to (b, side, side) with values from 0 to 1, as pytorch-grad-cam does it: each map
/// from its least to its largest value, resized bilinearly, and once more from least to largest.
///
/// # Errors
/// libtorch's message on maps of another shape.
pub fn scaled(maps: &Tensor, side: i64) -> Result<Tensor> {
    let resized = to_unit(maps)?
        .f_unsqueeze(1)?
        .f_upsample_bilinear2d([side, side], false, None, None)?
        .f_squeeze_dim(1)?;
    to_unit(&resized)
}

/// Each map (b, h, w) by itself from its least value, to 0, to its largest, to 1. A map that is the
/// same everywhere becomes 0.
pub(super) fn to_unit(maps: &Tensor) -> Result<Tensor> {
    let maps = maps.f_to_kind(Kind::Float)?;
    let shifted = &maps - maps.f_amin([1, 2], true)?;
    Ok(&shifted / (shifted.f_amax([1, 2], true)? + EPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_is_the_same_everywhere_becomes_zero() {
        let flat = Tensor::full([2, 3, 3], 0.7, (Kind::Float, tch::Device::Cpu));
        let out = scaled(&flat, 12).unwrap();
        assert_eq!(out.size(), [2, 12, 12]);
        assert_eq!(out.abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn each_map_is_scaled_by_itself_and_keeps_its_place() {
        let maps = Tensor::zeros([2, 4, 4], (Kind::Float, tch::Device::Cpu));
        let _ = maps.get(0).get(1).get(2).fill_(5.0);
        let _ = maps.get(1).get(3).get(0).fill_(0.1);
        let out = scaled(&maps, 16).unwrap();
        for (map, row, column) in [(0, 5, 9), (1, 14, 1)] {
            let value = out.double_value(&[map, row, column]);
            assert!(value > 0.7, "map {map}: {value}");
            assert!((out.get(map).max().double_value(&[]) - 1.0).abs() < 1e-5);
        }
    }
}
