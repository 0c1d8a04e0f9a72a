//! Random erasing (Zhong et al., 2020, arXiv 1708.04896), sampled as in torchvision.

use std::ops::Range;

use crate::config::{EraseFill, ErasingConfig};
use crate::data::image::NEUTRAL;
use crate::data::random_stream::RandomStream;

/// Attempts to sample a rectangle that fits before nothing is erased, as in torchvision.
const ATTEMPTS: usize = 10;
/// The standard deviation of ImageNet's pixels, in levels.
const SPREAD: [f64; 3] = [58.4, 57.1, 57.4];

/// Erases a random rectangle of an image (3, size, size) with `config.probability`.
pub(super) fn erase(config: &ErasingConfig, image: &mut [u8], size: usize, rng: &mut RandomStream) {
    if rng.unit() >= config.probability {
        return;
    }
    let Some((rows, columns)) = sample_rectangle(config, size, rng) else {
        return;
    };
    for (channel, plane) in image.chunks_exact_mut(size * size).enumerate() {
        for row in plane.chunks_exact_mut(size).skip(rows.start).take(rows.len()) {
            let erased = &mut row[columns.clone()];
            match config.fill {
                EraseFill::Mean => erased.fill(NEUTRAL[channel]),
                EraseFill::Noise => {
                    for level in erased {
                        let value = f64::from(NEUTRAL[channel]) + SPREAD[channel] * rng.normal();
                        *level = value.round().clamp(0.0, 255.0) as u8;
                    }
                }
            }
        }
    }
}

/// Samples the rows and columns of a rectangle.
fn sample_rectangle(
    config: &ErasingConfig,
    size: usize,
    rng: &mut RandomStream,
) -> Option<(Range<usize>, Range<usize>)> {
    let side = size as f64;
    (0..ATTEMPTS).find_map(|_| {
        let area = side * side * rng.uniform(config.scale[0], config.scale[1]);
        let ratio = libm::exp(rng.uniform(libm::log(config.ratio[0]), libm::log(config.ratio[1])));
        let height = (area * ratio).sqrt().round_ties_even() as usize;
        let width = (area / ratio).sqrt().round_ties_even() as usize;
        (height < size && width < size).then(|| {
            let (top, left) = (rng.below(size - height + 1), rng.below(size - width + 1));
            (top..top + height, left..left + width)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rectangle_of_the_configured_area_and_ratio_is_painted() {
        let config = ErasingConfig { probability: 1.0, ..ErasingConfig::default() };
        for index in 0..300 {
            let mut image = vec![0; 3 * 64 * 64];
            erase(&config, &mut image, 64, &mut RandomStream::new(1, 0, index, "erase"));
            let painted = image.iter().filter(|&&level| level != 0).count() as f64;
            let fraction = painted / image.len() as f64;
            assert!((0.015..=0.35).contains(&fraction), "{fraction}");
            let row = |y: usize| image[y * 64..(y + 1) * 64].iter().filter(|&&p| p != 0).count();
            let (width, height) = (
                (0..64).map(row).max().unwrap() as f64,
                (0..64).filter(|&y| row(y) > 0).count() as f64,
            );
            assert_eq!(width * height * 3.0, painted);
            assert!((0.25..=3.8).contains(&(height / width)), "{height} {width}");
        }
    }

    #[test]
    fn noise_has_the_mean_and_spread_of_natural_images() {
        let config = ErasingConfig {
            probability: 1.0,
            scale: [0.5, 0.5],
            ratio: [1.0, 1.0],
            fill: EraseFill::Noise,
        };
        let mut image = vec![0; 3 * 64 * 64];
        erase(&config, &mut image, 64, &mut RandomStream::new(1, 0, 3, "erase"));
        let painted: Vec<f64> = image[..4096]
            .iter()
            .filter(|&&level| level != 0)
            .map(|&level| f64::from(level))
            .collect();
        let mean = painted.iter().sum::<f64>() / painted.len() as f64;
        assert!((mean - 126.0).abs() < 8.0, "{mean}");
        assert!((1800..=2100).contains(&painted.len()), "{}", painted.len());
    }
}
