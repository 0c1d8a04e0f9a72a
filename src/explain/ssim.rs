//! The structural similarity of two maps.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// Pixels a side of the window, and its standard deviation.
const WINDOW: i64 = 11;
const DEVIATION: f64 = 1.5;
/// (K₁L)² and (K₂L)² of the paper, for values that span L = 1.
const STABLE: [f64; 2] = [1e-4, 9e-4];

/// The mean structural similarity (Wang et al., IEEE TIP 13, 2004) of two maps each, (b, h, w) with
/// values from 0 to 1: (b), at most
/// 1. The window is a Gaussian of 11 pixels a side, smaller where the maps are; only places where
///    it lies inside count.
///
/// # Errors
/// Maps of different shapes, or without pixels.
pub fn ssim(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (_, height, width) = a.size3()?;
    let least = height.min(width);
    ensure!(
        a.size() == b.size() && least > 0,
        "maps of the shapes {:?} and {:?} are not compared",
        a.size(),
        b.size()
    );
    let side = WINDOW.min(least - (least + 1) % 2); // odd
    let window = window(side).to_device(a.device());
    let [a, b] = [a, b].map(|maps| maps.to_kind(Kind::Float).unsqueeze(1));
    let mean = |x: &Tensor| x.f_conv2d(&window, None::<Tensor>, 1, 0, 1, 1);
    let (mean_a, mean_b) = (mean(&a)?, mean(&b)?);
    let square = |x: &Tensor| x * x;
    let variance_a = mean(&square(&a))? - square(&mean_a);
    let variance_b = mean(&square(&b))? - square(&mean_b);
    let covariance = mean(&(&a * &b))? - &mean_a * &mean_b;
    let [light, contrast] = STABLE;
    let above = (&mean_a * &mean_b * 2.0 + light) * (covariance * 2.0 + contrast);
    let below = (square(&mean_a) + square(&mean_b) + light) * (variance_a + variance_b + contrast);
    Ok((above / below).f_mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)?)
}

/// (1, 1, side, side), with the sum of 1.
fn window(side: i64) -> Tensor {
    let weight = |at: i64| (-0.5 * ((at - side / 2) as f64 / DEVIATION).powi(2)).exp();
    let line: Vec<f64> = (0..side).map(weight).collect();
    let line = Tensor::from_slice(&line);
    let window = line.outer(&line);
    (&window / window.sum(Kind::Double)).to_kind(Kind::Float).view([1, 1, side, side])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    /// data_range=1)` of scikit-image 0.26.0.
    const SCIKIT: f64 = 0.66152108;

    /// Two maps of a formula each.
    fn maps(height: i64, width: i64) -> [Tensor; 2] {
        let map = |value: &dyn Fn(f64, f64) -> f64| {
            let values: Vec<f32> = (0..height * width)
                .map(|at| value((at / width) as f64, (at % width) as f64) as f32)
                .collect();
            Tensor::from_slice(&values).view([1, height, width])
        };
        [
            map(&|y, x| 0.5 + 0.5 * (0.3 * x + 0.1 * y).sin()),
            map(&|y, x| 0.5 + 0.4 * (0.3 * x + 0.13 * y).sin()),
        ]
    }

    #[test]
    fn values_are_those_of_scikit_image() {
        let [a, b] = maps(32, 24);
        let both = Tensor::cat(&[&a, &a], 0);
        let with = Tensor::cat(&[&b, &a], 0);
        let found = Vec::<f64>::try_from(ssim(&both, &with).unwrap().to_kind(Kind::Double));
        let found = found.unwrap();
        assert!((found[0] - SCIKIT).abs() < 1e-5, "{found:?}");
        assert!((found[1] - 1.0).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn small_maps_have_a_small_window_and_different_shapes_are_refused() {
        let [a, b] = maps(4, 6);
        assert!(ssim(&a, &b).unwrap().double_value(&[0]) < 1.0);
        assert!(ssim(&a, &maps(4, 5)[0]).is_err());
    }
}
