//! Alignment: the similarity transform that takes a face's landmarks to where a convention has
//! them, and the crop that it cuts out of the image.

use anyhow::Result;
use image::{Rgb, RgbImage};

use super::detect::shrink;

/// A rotation, a scaling and a translation of the plane: `x' = a x - b y + tx`, `y' = b x + a y +
/// ty`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Similarity {
    a: f64,
    b: f64,
    shift: [f64; 2],
}

impl Similarity {
    /// Returns the similarity that takes points to others with the least sum of squares (Umeyama
    /// 1991; in the plane, without a mirror image, it has this closed form). `None` if the points
    /// are one.
    pub(super) fn fit(from: &[[f64; 2]], to: &[[f64; 2]]) -> Option<Self> {
        let count = from.len().min(to.len()) as f64;
        let mean = |points: &[[f64; 2]]| {
            [0, 1].map(|axis| points.iter().map(|point| point[axis]).sum::<f64>() / count)
        };
        let (from_mean, to_mean) = (mean(from), mean(to));
        let (mut dot, mut cross, mut spread) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let [px, py] = [p[0] - from_mean[0], p[1] - from_mean[1]];
            let [qx, qy] = [q[0] - to_mean[0], q[1] - to_mean[1]];
            dot += px * qx + py * qy;
            cross += px * qy - py * qx;
            spread += px * px + py * py;
        }
        Self::taking(from_mean, to_mean, dot / spread, cross / spread)
    }

    /// Returns the similarity that takes the point `from` to `to`, multiplies lengths by `scale`,
    /// and turns by `angle` radians from x to y; `None` if all points become one.
    pub(super) fn about(from: [f64; 2], to: [f64; 2], scale: f64, angle: f64) -> Option<Self> {
        let (sin, cos) = angle.sin_cos();
        Self::taking(from, to, scale * cos, scale * sin)
    }

    fn taking(from: [f64; 2], to: [f64; 2], a: f64, b: f64) -> Option<Self> {
        let moved = Self { a, b, shift: [0.0; 2] }.apply(from);
        let shift = [to[0] - moved[0], to[1] - moved[1]];
        let found = Self { a, b, shift };
        let fits = [a, b, shift[0], shift[1]].iter().all(|value| value.is_finite());
        (fits && found.scale() > 0.0).then_some(found)
    }

    /// Returns the similarity that does what `first` does and then what this one does.
    pub(super) fn after(&self, first: &Self) -> Self {
        let [a, b] = [self.a * first.a - self.b * first.b, self.b * first.a + self.a * first.b];
        Self { a, b, shift: self.apply(first.shift) }
    }

    pub(super) fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.a * x - self.b * y + self.shift[0], self.b * x + self.a * y + self.shift[1]]
    }

    /// Returns by what lengths are multiplied.
    pub(super) fn scale(&self) -> f64 {
        self.a.hypot(self.b)
    }
}

/// Which part of an image a crop shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    /// Takes points of the crop to those of the image.
    pub(super) to_image: Similarity,
    pub(super) size: u32,
    /// Half of the width and of the height, in pixels of the crop, beyond which it is black.
    pub(super) half: Option<[f64; 2]>,
}

/// Pixels around a sampled point that the filter weighs.
const REACH: f64 = 2.0;

/// Cuts a crop out of an image. Bicubic, and antialiased where the face is larger in the image.
/// Beyond the image, its outermost pixels continue.
pub(super) fn cut(image: &RgbImage, cut: &Cut) -> Result<RgbImage> {
    let Cut { to_image, size, .. } = *cut;
    let scale = to_image.scale();
    // What lies within a pixel of the crop is averaged first; the filter does the rest.
    let shrunk;
    let (image, ratio) = if scale >= 2.0 {
        let side = |side: u32| ((f64::from(side) / scale.floor()).round() as u32).max(1);
        shrunk = shrink(image, side(image.width()), side(image.height()))?;
        let ratio = [
            f64::from(shrunk.width()) / f64::from(image.width()),
            f64::from(shrunk.height()) / f64::from(image.height()),
        ];
        (&shrunk, ratio)
    } else {
        (image, [1.0; 2])
    };
    let (cos, sin) = (to_image.a / scale, to_image.b / scale);
    // Source pixels in a pixel of the filter; it is not narrower than the source's.
    let width = (scale * ratio[0]).max(1.0);
    let last = [i64::from(image.width()) - 1, i64::from(image.height()) - 1];
    let sample = |x: u32, y: u32| {
        let in_crop = [x, y].map(|at| f64::from(at) + 0.5);
        if !cut.shows(in_crop) {
            return Rgb([0; 3]);
        }
        let [x, y] = to_image.apply(in_crop);
        // Of the pixels' centers.
        let center = [x * ratio[0] - 0.5, y * ratio[1] - 0.5];
        // The filter is turned with the crop: its corners reach farther.
        let reach = REACH * width * (cos.abs() + sin.abs());
        let range = |at: f64| (at - reach).ceil() as i64..=(at + reach).floor() as i64;
        let (mut sums, mut total) = ([0.0; 3], 0.0);
        for row in range(center[1]) {
            let dy = row as f64 - center[1];
            for column in range(center[0]) {
                let dx = column as f64 - center[0];
                let weight =
                    cubic((cos * dx + sin * dy) / width) * cubic((cos * dy - sin * dx) / width);
                if weight == 0.0 {
                    continue;
                }
                let (x, y) = (column.clamp(0, last[0]), row.clamp(0, last[1]));
                let Rgb(pixel) = image.get_pixel(x as u32, y as u32);
                for (sum, &color) in sums.iter_mut().zip(pixel) {
                    *sum += weight * f64::from(color);
                }
                total += weight;
            }
        }
        Rgb(sums.map(|sum| (sum / total).round().clamp(0.0, 255.0) as u8))
    };
    Ok(RgbImage::from_fn(size, size, sample))
}

impl Cut {
    /// Returns whether a point of the crop is not black.
    fn shows(&self, at: [f64; 2]) -> bool {
        let middle = f64::from(self.size) / 2.0;
        self.half.is_none_or(|half| (0..2).all(|axis| (at[axis] - middle).abs() <= half[axis]))
    }
}

/// The cubic filter of PIL, with a = -0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < REACH {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: [[f64; 2]; 5] =
        [[70.0, 80.0], [150.0, 82.0], [110.0, 130.0], [80.0, 170.0], [140.0, 171.0]];

    fn similarity(scale: f64, degrees: f64, shift: [f64; 2]) -> Similarity {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Similarity { a: scale * cos, b: scale * sin, shift }
    }

    #[test]
    fn a_similarity_is_found_from_points_that_it_moved() {
        for (scale, degrees) in [(1.0, 0.0), (0.3, 20.0), (7.0, -20.0), (2.0, 179.0)] {
            let truth = similarity(scale, degrees, [30.0, -400.0]);
            let found = Similarity::fit(&POINTS, &POINTS.map(|point| truth.apply(point))).unwrap();
            assert!((found.scale() - scale).abs() < 1e-9, "{found:?}");
            assert!((found.b.atan2(found.a).to_degrees() - degrees).abs() < 1e-9, "{found:?}");
            assert!((found.shift[1] + 400.0).abs() < 1e-7, "{found:?}");
        }
    }

    #[test]
    fn no_similarity_has_a_smaller_sum_of_squares() {
        let mut to = POINTS.map(|point| similarity(1.4, 9.0, [3.0, 5.0]).apply(point));
        for (index, point) in to.iter_mut().enumerate() {
            point[0] += [3.0, -2.0, 5.0, 1.0, -4.0][index];
            point[1] += [-1.0, 4.0, 0.0, -6.0, 2.0][index];
        }
        let error = |of: &Similarity| {
            let squared = |(&from, to): (&[f64; 2], &[f64; 2])| {
                let at = of.apply(from);
                (at[0] - to[0]).powi(2) + (at[1] - to[1]).powi(2)
            };
            POINTS.iter().zip(&to).map(squared).sum::<f64>()
        };
        let best = Similarity::fit(&POINTS, &to).unwrap();
        for (index, step) in [(0, 1e-3), (1, 1e-3), (2, 0.1), (3, 0.1)] {
            for step in [step, -step] {
                let mut other = best;
                match index {
                    0 => other.a += step,
                    1 => other.b += step,
                    axis => other.shift[axis - 2] += step,
                }
                assert!(error(&other) > error(&best));
            }
        }
    }

    #[test]
    fn a_similarity_after_another_takes_points_through_both() {
        let (first, second) =
            (similarity(2.0, 30.0, [5.0, -7.0]), similarity(0.3, -80.0, [1.0, 2.0]));
        for point in POINTS {
            let (both, steps) =
                (second.after(&first).apply(point), second.apply(first.apply(point)));
            assert!((both[0] - steps[0]).abs() < 1e-9 && (both[1] - steps[1]).abs() < 1e-9);
        }
    }

    #[test]
    fn points_that_are_one_have_no_similarity() {
        assert_eq!(Similarity::fit(&[[3.0, 4.0]; 5], &POINTS), None);
        assert_eq!(Similarity::fit(&POINTS, &[[3.0, 4.0]; 5]), None);
        assert_eq!(Similarity::fit(&[[f64::NAN; 2]; 5], &POINTS), None);
    }

    /// A smooth pattern over the plane.
    fn pattern([x, y]: [f64; 2]) -> [f64; 3] {
        let wave = |x: f64, y: f64| 128.0 + 60.0 * (x / 19.0).sin() + 60.0 * (y / 23.0).cos();
        [wave(x, y), wave(y, x), wave(x + y, x - y)]
    }

    fn painted(width: u32, height: u32, to_pattern: &Similarity) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let at = to_pattern.apply([f64::from(x) + 0.5, f64::from(y) + 0.5]);
            Rgb(pattern(at).map(|level| level.round() as u8))
        })
    }

    #[test]
    fn a_crop_shows_the_image_where_the_similarity_says_at_any_scale_and_angle() {
        for (scale, degrees) in [(1.0, 0.0), (0.4, 12.0), (1.7, -20.0), (3.3, 20.0)] {
            let to_image = similarity(scale, degrees, [200.0 * scale, 150.0 * scale]);
            // The crop has the pattern as it is.
            let back = similarity(1.0 / scale, -degrees, [0.0; 2]);
            let moved = back.apply(to_image.shift);
            let to_crop = Similarity { shift: [-moved[0], -moved[1]], ..back };
            let side = (300.0 * scale) as u32;
            let part = Cut { to_image, size: 64, half: None };
            let crop = cut(&painted(side, side, &to_crop), &part).unwrap();
            let expected = painted(64, 64, &similarity(1.0, 0.0, [0.0; 2]));
            let worst = crop.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst <= Some(3), "{scale} {degrees}: {worst:?}");
        }
    }

    #[test]
    fn an_upright_crop_of_the_same_size_has_the_pixels_themselves() {
        let image =
            RgbImage::from_fn(40, 40, |x, y| Rgb([x as u8 * 6, y as u8 * 6, (x * y) as u8]));
        let to_image = similarity(1.0, 0.0, [7.0, 9.0]);
        let crop = cut(&image, &Cut { to_image, size: 20, half: None }).unwrap();
        assert_eq!(crop, image::imageops::crop_imm(&image, 7, 9, 20, 20).to_image());
    }

    #[test]
    fn beyond_the_image_its_outermost_pixels_continue() {
        let image = RgbImage::from_fn(30, 30, |x, _| Rgb([if x == 0 { 9 } else { 200 }; 3]));
        let to_image = similarity(1.0, 0.0, [-10.0, -10.0]);
        let crop = cut(&image, &Cut { to_image, size: 16, half: None }).unwrap();
        assert_eq!((crop.get_pixel(0, 0), crop.get_pixel(8, 15)), (&Rgb([9; 3]), &Rgb([9; 3])));
        assert_eq!(crop.get_pixel(14, 3), &Rgb([200; 3]));
    }

    #[test]
    fn beyond_its_half_width_and_height_a_crop_is_black() {
        let image = RgbImage::from_pixel(100, 100, Rgb([200; 3]));
        let to_image = Similarity::about([20.0, 20.0], [50.0, 50.0], 1.0, 0.3).unwrap();
        let part = Cut { to_image, size: 40, half: Some([15.0, 20.0]) };
        for (x, y, pixel) in cut(&image, &part).unwrap().enumerate_pixels() {
            let expected = if (5..35).contains(&x) { 200 } else { 0 };
            assert_eq!(pixel.0, [expected; 3], "{x} {y}");
        }
    }
}
