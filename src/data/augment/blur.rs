//! Gaussian blur, as in torchvision: a kernel of fixed size; the image is reflected about its
//! outermost pixels.

use super::warp::reflect;
use crate::config::BlurConfig;
use crate::data::random_stream::RandomStream;

/// One half of a symmetric kernel, the middle first; empty if the image is not blurred.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Blur {
    weights: Vec<f32>,
}

impl Blur {
    /// Samples whether to blur, and how wide.
    pub(super) fn sample(config: &BlurConfig, rng: &mut RandomStream) -> Self {
        if rng.unit() >= config.probability {
            return Self::default();
        }
        Self::new(config.kernel_size, rng.uniform(config.sigma[0], config.sigma[1]))
    }

    fn new(kernel_size: usize, sigma: f64) -> Self {
        let raw: Vec<f64> = (0..=kernel_size / 2)
            .map(|offset| (-0.5 * (offset as f64 / sigma).powi(2)).exp())
            .collect();
        let sum = raw[0] + 2.0 * raw[1..].iter().sum::<f64>();
        Self { weights: raw.iter().map(|weight| (weight / sum) as f32).collect() }
    }

    /// Blurs the planes of an image (3, size, size) in place.
    pub(super) fn apply(&self, image: &mut [u8], size: usize, levels: &mut Vec<f32>) {
        if self.weights.len() < 2 || size == 0 {
            return;
        }
        let reach = self.weights.len() - 1;
        levels.resize(size * size, 0.0);
        let mut padded = vec![0.0; size + 2 * reach];
        let mut sums = vec![0.0; size];
        for plane in image.chunks_exact_mut(size * size) {
            for (row, out) in plane.chunks_exact(size).zip(levels.chunks_exact_mut(size)) {
                for (at, value) in padded.iter_mut().enumerate() {
                    *value = f32::from(row[reflect(at as i64 - reach as i64, size)]);
                }
                weighted_sum(&self.weights, out, |offset| {
                    &padded[(reach as i64 + offset) as usize..][..size]
                });
            }
            for (y, row) in plane.chunks_exact_mut(size).enumerate() {
                weighted_sum(&self.weights, &mut sums, |offset| {
                    &levels[reflect(y as i64 + offset, size) * size..][..size]
                });
                for (level, sum) in row.iter_mut().zip(&sums) {
                    *level = (sum + 0.5) as u8;
                }
            }
        }
    }
}

/// Computes the weighted sum of the lines at each offset from the kernel's middle.
fn weighted_sum<'a>(weights: &[f32], out: &mut [f32], line: impl Fn(i64) -> &'a [f32]) {
    for (out, &value) in out.iter_mut().zip(line(0)) {
        *out = weights[0] * value;
    }
    for (offset, &weight) in weights.iter().enumerate().skip(1) {
        let (before, after) = (line(-(offset as i64)), line(offset as i64));
        for ((out, before), after) in out.iter_mut().zip(before).zip(after) {
            *out += weight * (before + after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(blur: &Blur, image: &[u8], size: usize) -> Vec<u8> {
        let mut out = image.to_vec();
        blur.apply(&mut out, size, &mut Vec::new());
        out
    }

    #[test]
    fn a_point_spreads_as_the_kernel_says() {
        let mut image = vec![0; 3 * 9 * 9];
        image[4 * 9 + 4] = 255;
        let out = run(&Blur::new(3, 1.0), &image, 9);
        // exp(-1/2) = 0.6065: weights 0.4519 and 0.2741.
        let (middle, side) = (0.451_863, 0.274_069);
        for (at, expected) in [(40, middle * middle), (41, middle * side), (50, side * side)] {
            assert!((f64::from(out[at]) - 255.0 * expected).abs() <= 0.5);
        }
        assert_eq!(out[42], 0);
        assert_eq!(out[81..], vec![0; 162]);
    }

    #[test]
    fn a_uniform_image_stays_uniform_up_to_its_border() {
        for (kernel, sigma, size) in [(9, 2.0, 16), (31, 8.0, 7), (5, 0.1, 1)] {
            let image = vec![137; 3 * size * size];
            assert_eq!(run(&Blur::new(kernel, sigma), &image, size), image);
        }
    }
}
