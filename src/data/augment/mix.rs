//! Mixup (Zhang et al., 2018, arXiv 1710.09412) and CutMix (Yun et al., 2019, arXiv 1905.04899) for
//! regression: the scores are mixed as the images are.

use crate::config::AugmentConfig;
use crate::data::batch::{HostBatch, Vote};
use crate::data::random_stream::RandomStream;

/// Mixes each image of a batch with the one before it, as torchvision's `MixUp` and `CutMix` do:
/// scores, weights and votes in the proportion of the images. If both are configured, the batch
/// gets one of them at random. `rng` is the batch's own stream.
pub(crate) fn mix(config: &AugmentConfig, batch: &mut HostBatch, rng: &mut RandomStream) {
    if batch.len < 2 || !config.mixes() {
        return;
    }
    let blends = match (config.mixup > 0.0, config.cutmix > 0.0) {
        (true, true) => rng.unit() < 0.5,
        (blends, _) => blends,
    };
    let kept = if blends {
        blend_images(batch, rng.beta(config.mixup) as f32)
    } else {
        paste_images(batch, rng.beta(config.cutmix), rng)
    };
    mix_labels(batch, kept);
}

/// Blends `kept` of each image with `1 - kept` of the one before it. Returns `kept`.
fn blend_images(batch: &mut HostBatch, kept: f32) -> f32 {
    let before = rolled(batch);
    // Fixed point: 2^16 is 1.
    let kept_fixed = (kept * 65536.0).round() as u32;
    for (pixel, other) in batch.pixels.iter_mut().zip(before) {
        let sum = u32::from(*pixel) * kept_fixed + u32::from(other) * (65536 - kept_fixed);
        *pixel = ((sum + 32768) >> 16) as u8;
    }
    kept
}

/// Pastes one rectangle of the image before, about 1 - `kept` of the area, less what lies outside.
/// Returns the fraction that is kept after clipping.
fn paste_images(batch: &mut HostBatch, kept: f64, rng: &mut RandomStream) -> f32 {
    let size = batch.size;
    let (x, y) = (rng.below(size), rng.below(size));
    let half = (0.5 * (1.0 - kept).sqrt() * size as f64) as usize;
    let (left, right) = (x.saturating_sub(half), (x + half).min(size));
    let (top, bottom) = (y.saturating_sub(half), (y + half).min(size));
    let before = rolled(batch);
    let planes = batch.pixels.chunks_exact_mut(size * size);
    for (plane, other) in planes.zip(before.chunks_exact(size * size)) {
        for row in top..bottom {
            let (start, end) = (row * size + left, row * size + right);
            plane[start..end].copy_from_slice(&other[start..end]);
        }
    }
    let pasted = (right - left) * (bottom - top);
    (1.0 - pasted as f64 / (size * size) as f64) as f32
}

/// Returns the pixels with each image replaced by the one before it, the first one by the last.
fn rolled(batch: &HostBatch) -> Vec<u8> {
    let mut pixels = batch.pixels.clone();
    pixels.rotate_right(3 * batch.size * batch.size);
    pixels
}

fn mix_labels(batch: &mut HostBatch, kept: f32) {
    let blend = |values: &mut Vec<f32>| {
        let mut before = values.clone();
        before.rotate_right(1);
        for (value, before) in values.iter_mut().zip(before) {
            *value = kept * *value + (1.0 - kept) * before;
        }
    };
    blend(&mut batch.targets);
    blend(&mut batch.weights);
    let scaled = |votes: &[Vote], factor: f32| -> Vec<Vote> {
        let scale = |vote: &Vote| Vote { probability: vote.probability * factor, ..*vote };
        votes.iter().map(scale).collect()
    };
    let mut before = batch.votes.clone();
    before.rotate_right(1);
    for (votes, before) in batch.votes.iter_mut().zip(before) {
        // If one of the two has no votes, the mixture has none either.
        *votes = if votes.is_empty() || before.is_empty() {
            Vec::new()
        } else {
            [scaled(votes, kept), scaled(&before, 1.0 - kept)].concat()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three images of 20 pixels square whose levels are ten times their scores.
    fn batch() -> HostBatch {
        let scores = [1.0f32, 5.0, 9.0];
        HostBatch {
            pixels: scores.iter().flat_map(|&score| vec![score as u8 * 10; 1200]).collect(),
            len: 3,
            size: 20,
            targets: scores.to_vec(),
            indices: vec![0, 1, 2],
            global_len: 3,
            weights: vec![1.0, 1.0, 0.0],
            votes: scores.map(|rating| vec![Vote { rating, probability: 1.0 }]).to_vec(),
        }
    }

    fn mixed(mixup: f64, cutmix: f64, index: u64) -> HostBatch {
        let config = AugmentConfig { mixup, cutmix, ..AugmentConfig::off() };
        let mut batch = batch();
        mix(&config, &mut batch, &mut RandomStream::new(1, 0, index, "mix"));
        batch
    }

    #[test]
    fn scores_weights_and_votes_follow_the_pixels() {
        for (mixup, cutmix) in [(0.4, 0.0), (0.0, 1.0), (1.0, 1.0)] {
            for index in 0..50 {
                let batch = mixed(mixup, cutmix, index);
                for (image, pixels) in batch.pixels.chunks_exact(1200).enumerate() {
                    let mean = pixels.iter().map(|&p| f32::from(p)).sum::<f32>() / 1200.0;
                    assert!((mean / 10.0 - batch.targets[image]).abs() < 0.051);
                    let votes = &batch.votes[image];
                    let shares: f32 = votes.iter().map(|vote| vote.probability).sum();
                    let rating: f32 = votes.iter().map(|vote| vote.rating * vote.probability).sum();
                    assert!((shares - 1.0).abs() < 1e-5);
                    assert!((rating - batch.targets[image]).abs() < 1e-4);
                }
                // Only the last image has the weight 0, and it is mixed into the first.
                assert!((batch.weights[0] + batch.weights[2] - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn cutmix_pastes_one_rectangle_and_mixup_blends_everywhere() {
        let shades = |batch: &HostBatch| {
            let mut shades = batch.pixels[1200..1600].to_vec();
            shades.sort_unstable();
            shades.dedup();
            shades.len()
        };
        assert!((0..50).all(|index| shades(&mixed(0.4, 0.0, index)) == 1));
        assert!((0..50).any(|index| shades(&mixed(0.0, 1.0, index)) == 2));
        assert_eq!(mixed(0.0, 0.0, 1), batch());
    }
}
