//! TrivialAugment (Müller and Hutter, 2021, arXiv 2103.10158): one change, of a random kind and
//! strength.

use super::color::Step;
use super::tone::Tone;
use super::warp::Warp;
use crate::config::TrivialAugmentConfig;
use crate::data::random_stream::RandomStream;

/// The number of strengths to sample from, as in torchvision's `TrivialAugmentWide`.
const BINS: usize = 31;
/// Largest shear as the tangent of its angle; largest shift of an image of 224 pixels, in pixels;
/// largest rotation, in degrees.
const SHEAR: f64 = 0.99;
const SHIFT: f64 = 32.0 / 224.0;
const ROTATION: f64 = 135.0;
/// Largest change of the factors of brightness, color, contrast and sharpness.
const FACTOR: f64 = 0.99;

/// The sampled change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TrivialAugment {
    Nothing,
    Warp(Warp),
    Color(Step),
    Tone(Tone),
}

impl TrivialAugment {
    /// Samples one of torchvision's wide space for an image of `size` pixels. Two things
    /// differ for the sake of faces: a shear is about the middle, and what comes into view is the
    /// image's reflection instead of black.
    pub(super) fn sample(
        config: &TrivialAugmentConfig,
        size: usize,
        rng: &mut RandomStream,
    ) -> Self {
        if rng.unit() >= config.probability {
            return Self::Nothing;
        }
        let kind = rng.below(14);
        let bin = rng.below(BINS);
        let sign = if rng.unit() < 0.5 { -1.0 } else { 1.0 };
        let strength = bin as f64 / (BINS - 1) as f64;
        let shear = (sign * strength * SHEAR * config.geometry).atan().to_degrees();
        // Integer pixels, as in torchvision.
        let shift = (sign * strength * SHIFT * config.geometry * size as f64).trunc();
        let factor = (1.0 + sign * strength * FACTOR) as f32;
        match kind {
            0 => Self::Nothing,
            1 => Self::Warp(Warp::affine([0.0; 2], 1.0, [shear, 0.0])),
            2 => Self::Warp(Warp::affine([0.0; 2], 1.0, [0.0, shear])),
            3 => Self::Warp(Warp::affine([shift, 0.0], 1.0, [0.0; 2])),
            4 => Self::Warp(Warp::affine([0.0, shift], 1.0, [0.0; 2])),
            5 => Self::Warp(Warp::rotation(sign * strength * ROTATION * config.geometry)),
            6 => Self::Color(Step::Brightness(factor)),
            7 => Self::Color(Step::Saturation(factor)),
            8 => Self::Color(Step::Contrast(factor)),
            9 => Self::Tone(Tone::Sharpness(factor)),
            // From 8 bits to 2.
            10 => Self::Tone(Tone::Posterize(8 - (6.0 * strength).round_ties_even() as u32)),
            11 => Self::Tone(Tone::Solarize((255.0 * (1.0 - strength)).ceil() as u16)),
            12 => Self::Tone(Tone::AutoContrast),
            _ => Self::Tone(Tone::Equalize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_sampled_within_its_range() {
        let config = TrivialAugmentConfig { probability: 1.0, geometry: 1.0 };
        let mut kinds = [0i32; 4];
        let mut bits = std::collections::BTreeSet::new();
        for index in 0..4000 {
            let sampled = TrivialAugment::sample(
                &config,
                224,
                &mut RandomStream::new(1, 0, index, "trivial"),
            );
            match sampled {
                TrivialAugment::Nothing => kinds[0] += 1,
                TrivialAugment::Warp(_) => kinds[1] += 1,
                TrivialAugment::Color(step) => {
                    kinds[2] += 1;
                    let (Step::Brightness(f) | Step::Contrast(f) | Step::Saturation(f)) = step
                    else {
                        panic!("TrivialAugment has no hue")
                    };
                    assert!((0.01 - 1e-6..=1.99 + 1e-6).contains(&f));
                }
                TrivialAugment::Tone(tone) => {
                    kinds[3] += 1;
                    if let Tone::Posterize(kept) = tone {
                        bits.insert(kept);
                    }
                }
            }
        }
        // 1, 5, 3 and 5 kinds of 14.
        for (count, parts) in kinds.iter().zip([1, 5, 3, 5]) {
            let expected = 4000 * parts / 14;
            assert!((count - expected).abs() < 130, "{kinds:?}");
        }
        assert_eq!(bits.into_iter().collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn without_geometry_no_warp_is_sampled() {
        let config = TrivialAugmentConfig { probability: 1.0, geometry: 0.0 };
        for index in 0..500 {
            if let TrivialAugment::Warp(warp) =
                TrivialAugment::sample(&config, 64, &mut RandomStream::new(1, 0, index, "trivial"))
            {
                assert_eq!(warp, Warp::IDENTITY);
            }
        }
    }
}
