//! Color jitter with torchvision's conventions, in one or two passes over the image.
//!
//! Factors as in `torchvision.transforms.v2.ColorJitter`: brightness scales; contrast mixes with
//! the image's mean gray; saturation mixes with each pixel's gray; hue turns the color circle. Each
//! step clamps to 0..255 as torchvision's do. Between steps values stay fractional, where
//! torchvision truncates to integer levels each time.

use anyhow::Result;

use crate::data::image::planes::{planes, split_planes};
use crate::data::random_stream::RandomStream;

/// Pixels processed together: few enough for the cache, enough for vector instructions.
const CHUNK: usize = 64;

/// One step of color jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// Scales by this factor.
    Brightness(f32),
    /// Scales each pixel's distance from the mean gray.
    Contrast(f32),
    /// Scales each pixel's distance from its own gray.
    Saturation(f32),
    /// Rotates the color circle by this fraction of a full turn, in -0.5..=0.5.
    Hue(f32),
}

/// The steps sampled for one image, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ColorJitter {
    pub(super) steps: Vec<Step>,
}

impl ColorJitter {
    /// Samples factors from 1 - s to 1 + s for the strengths of brightness, contrast and
    /// saturation, a turn from -s to s for hue, and the order. Steps of strength 0 are skipped.
    pub(super) fn sample(strengths: [f64; 4], rng: &mut RandomStream) -> Self {
        let [brightness, contrast, saturation, _] =
            strengths.map(|s| rng.uniform((1.0 - s).max(0.0), 1.0 + s) as f32);
        let hue = rng.uniform(-strengths[3], strengths[3]) as f32;
        let mut order = [
            (strengths[0], Step::Brightness(brightness)),
            (strengths[1], Step::Contrast(contrast)),
            (strengths[2], Step::Saturation(saturation)),
            (strengths[3], Step::Hue(hue)),
        ];
        rng.shuffle(&mut order);
        let steps = order.into_iter().filter(|(strength, _)| *strength > 0.0).map(|(_, step)| step);
        Self { steps: steps.collect() }
    }

    /// Applies the steps to an image (pixels, 3), and writes it as planes (3, pixels). Returns an
    /// error if `out` has another length.
    pub(super) fn apply(&self, interleaved: &[u8], out: &mut [u8]) -> Result<()> {
        if self.steps.is_empty() {
            return split_planes(interleaved, out);
        }
        let steps = self.with_means(interleaved);
        let mut planes = planes(interleaved.len(), out)?.map(|plane| plane.chunks_mut(CHUNK));
        for pixels in interleaved.chunks(CHUNK * 3) {
            let mut chunk = Chunk::load(pixels);
            for &(step, mean) in &steps {
                chunk.apply(step, mean);
            }
            for (from, plane) in chunk.0.iter().zip(&mut planes) {
                plane.next().into_iter().for_each(|to| store(from, to));
            }
        }
        Ok(())
    }

    /// Pairs each step with the mean gray that a contrast step needs: that of the image after the
    /// steps before it.
    fn with_means(&self, interleaved: &[u8]) -> Vec<(Step, f32)> {
        let mut resolved = Vec::with_capacity(self.steps.len());
        for &step in &self.steps {
            let mean = match step {
                Step::Contrast(_) => mean_gray(interleaved, &resolved),
                _ => 0.0,
            };
            resolved.push((step, mean));
        }
        resolved
    }
}

/// Computes the mean gray of an image (pixels, 3) after some steps.
fn mean_gray(interleaved: &[u8], steps: &[(Step, f32)]) -> f32 {
    let mut sum = 0.0;
    for pixels in interleaved.chunks(CHUNK * 3) {
        let mut chunk = Chunk::load(pixels);
        for &(step, mean) in steps {
            chunk.apply(step, mean);
        }
        sum += f64::from(chunk.gray()[..pixels.len() / 3].iter().sum::<f32>());
    }
    (sum / (interleaved.len() / 3).max(1) as f64) as f32
}

/// [`CHUNK`] pixels as planes of red, green and blue, 0..=255.
struct Chunk([[f32; CHUNK]; 3]);

impl Chunk {
    fn load(pixels: &[u8]) -> Self {
        let [mut red, mut green, mut blue] = [[0.0; CHUNK]; 3];
        for (i, pixel) in pixels.chunks_exact(3).take(CHUNK).enumerate() {
            (red[i], green[i], blue[i]) = (pixel[0].into(), pixel[1].into(), pixel[2].into());
        }
        Self([red, green, blue])
    }

    /// Computes the luma of ITU-R 601 with the digits that torchvision uses.
    fn gray(&self) -> [f32; CHUNK] {
        let [red, green, blue] = &self.0;
        std::array::from_fn(|i| 0.2989 * red[i] + 0.587 * green[i] + 0.114 * blue[i])
    }

    fn apply(&mut self, step: Step, mean: f32) {
        match step {
            Step::Brightness(factor) => self.mix(factor, &[0.0; CHUNK]),
            Step::Contrast(factor) => self.mix(factor, &[mean; CHUNK]),
            Step::Saturation(factor) => self.mix(factor, &self.gray()),
            Step::Hue(turn) => self.rotate_hue(turn),
        }
    }

    /// Blends `factor` of each color with `1 - factor` of `other`.
    fn mix(&mut self, factor: f32, other: &[f32; CHUNK]) {
        for plane in &mut self.0 {
            for (value, other) in plane.iter_mut().zip(other) {
                *value = (factor * *value + (1.0 - factor) * other).clamp(0.0, 255.0);
            }
        }
    }

    /// Rotates the hue, keeping the largest and smallest of the three colors.
    fn rotate_hue(&mut self, turn: f32) {
        let turn = 6.0 * turn;
        let [red, green, blue] = &mut self.0;
        for i in 0..CHUNK {
            let (r, g, b) = (red[i], green[i], blue[i]);
            let (max, min) = (r.max(g).max(b), r.min(g).min(b));
            let span = max - min;
            // Gray has no hue; the divisor then does not matter, as `span` is 0.
            let scale = 1.0 / span.max(1e-6);
            let (from_red, from_green, from_blue) =
                ((g - b) * scale, (b - r) * scale + 2.0, (r - g) * scale + 4.0);
            let hue = if max == r {
                from_red
            } else if max == g {
                from_green
            } else {
                from_blue
            };
            let hue = hue + turn; // in -4..=8
            let hue = if hue < 0.0 { hue + 6.0 } else { hue };
            let hue = if hue >= 6.0 { hue - 6.0 } else { hue };
            let color = |offset: f32| {
                let k = offset + hue;
                let k = if k >= 6.0 { k - 6.0 } else { k };
                max - span * k.min(4.0 - k).clamp(0.0, 1.0)
            };
            (red[i], green[i], blue[i]) = (color(5.0), color(3.0), color(1.0));
        }
    }
}

/// Rounds to integer levels.
fn store(from: &[f32; CHUNK], to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        // Adding 2^23 leaves the rounded value in the last bits of the sum; unlike a cast, this
        // turns into vector instructions.
        *to = (from + 8_388_608.0).to_bits() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: &[Step], pixels: &[[u8; 3]]) -> Vec<[u8; 3]> {
        let interleaved = pixels.concat();
        let mut out = vec![0; interleaved.len()];
        ColorJitter { steps: steps.to_vec() }.apply(&interleaved, &mut out).unwrap();
        let n = pixels.len();
        (0..n).map(|i| [out[i], out[n + i], out[2 * n + i]]).collect()
    }

    fn colors() -> Vec<[u8; 3]> {
        (0..5000u32)
            .map(|i| [(i * 7 % 256) as u8, (i * 31 % 256) as u8, (i * 101 % 256) as u8])
            .collect()
    }

    #[test]
    fn neutral_factors_change_nothing() {
        let steps =
            [Step::Brightness(1.0), Step::Contrast(1.0), Step::Saturation(1.0), Step::Hue(0.0)];
        for (before, after) in colors().iter().zip(run(&steps, &colors())) {
            assert!(
                before.iter().zip(after).all(|(a, b)| a.abs_diff(b) <= 1),
                "{before:?} {after:?}"
            );
        }
    }

    #[test]
    fn each_step_follows_its_formula() {
        let pixels = [[100, 150, 200], [10, 20, 30]];
        assert_eq!(run(&[Step::Brightness(1.5)], &pixels), [[150, 225, 255], [15, 30, 45]]);
        // Gray: 140.7 and 18.2 (mean 79.4).
        assert_eq!(run(&[Step::Saturation(0.5)], &pixels), [[120, 145, 170], [14, 19, 24]]);
        assert_eq!(run(&[Step::Saturation(0.0)], &pixels)[0], [141, 141, 141]);
        assert_eq!(run(&[Step::Contrast(0.5)], &pixels), [[90, 115, 140], [45, 50, 55]]);
        // A third of a turn moves red to green to blue.
        assert_eq!(
            run(&[Step::Hue(1.0 / 3.0)], &[[250, 10, 10], [10, 250, 10]]),
            [[10, 250, 10], [10, 10, 250]]
        );
        assert_eq!(run(&[Step::Hue(-0.5)], &[[200, 100, 50]]), [[50, 150, 200]]);
    }

    #[test]
    fn contrast_uses_the_mean_after_the_steps_before_it() {
        let pixels = [[200, 200, 200], [100, 100, 100]];
        // Brightness 2 clamps to 255 and 200, with the mean 227.5; the digits sum to 0.9999.
        let out = run(&[Step::Brightness(2.0), Step::Contrast(0.0)], &pixels);
        assert_eq!(out, [[227; 3]; 2]);
        assert_eq!(run(&[Step::Contrast(0.0), Step::Brightness(2.0)], &pixels), [[255; 3]; 2]);
    }

    #[test]
    fn hue_rotations_of_a_full_turn_restore_the_image() {
        let steps = [Step::Hue(0.3), Step::Hue(0.3), Step::Hue(0.4)];
        for (before, after) in colors().iter().zip(run(&steps, &colors())) {
            assert!(
                before.iter().zip(after).all(|(a, b)| a.abs_diff(b) <= 1),
                "{before:?} {after:?}"
            );
        }
    }

    #[test]
    fn sampled_factors_stay_within_their_strengths() {
        for index in 0..300 {
            let jitter = ColorJitter::sample(
                [0.2, 0.0, 1.5, 0.1],
                &mut RandomStream::new(1, 0, index, "color"),
            );
            assert_eq!(jitter.steps.len(), 3);
            for step in jitter.steps {
                match step {
                    Step::Brightness(factor) => assert!((0.8..=1.2).contains(&factor)),
                    Step::Saturation(factor) => assert!((0.0..=2.5).contains(&factor)),
                    Step::Hue(turn) => assert!((-0.1..=0.1).contains(&turn)),
                    Step::Contrast(_) => panic!("contrast has the strength 0"),
                }
            }
        }
    }
}
