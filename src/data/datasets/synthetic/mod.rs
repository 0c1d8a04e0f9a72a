//! Synthetic faces with a known score: the dataset that needs no file.
//!
//! A face is rendered on demand from the seed of the dataset and the index of the face. The image
//! and the score are the same on every machine.
//!
//! # The score
//!
//! Six proportions determine the score. Each is uniform over a range ([`Geometry::RANGES`]),
//! independent of the others and of everything else in the image. With t the proportion mapped
//! from its range to [-1, 1], the score is
//!
//! ```text
//! score = 3 + 0.50 · t(eye_size) + 0.55 · t(smile)
//!           + 0.37 · (1 - 3 t(asymmetry)²) + 0.33 · (1 - 3 t(face_ratio)²)
//!           + 0.20 · (1 - 3 t(eye_spacing)²) + 0.22 · (1 - 3 t(nose_length)²)
//! ```
//!
//! clamped to 1..5: large eyes and a smile raise it, and so does being near the ideal, the middle
//! of the range, in the other four. Every term has mean zero; the score has mean 3, standard
//! deviation 0.67 and a bell shape. It says nothing about real faces.
//!
//! Skin tone, hair, shape of brows and jaw, beard, glasses, light, background, grain and pose do
//! not enter it and are sampled independently of it. Because four terms are squares, whose sign no
//! single pixel knows, and because tone, hair and background turn light into dark, the gray values
//! of the pixels explain only part of the score linearly.
//!
//! # The rating
//!
//! The target of a model is the mean rating of [`RATERS`] simulated raters, each with an
//! independent normal error ([`rated_score`]). With errors of the mean of 0.2, the default, a model
//! that knew the formula would reach a Pearson correlation of 0.96.

mod backdrop;
mod canvas;
mod face;
mod features;
mod hair;
mod head;
mod layout;
mod nuisance;
mod stream;

use image::RgbImage;

use canvas::{Canvas, Noise};
use face::SCORE_RANGE;
use layout::{Frame, Layout};

pub use face::{Face, Geometry};
pub use layout::Region;
pub use nuisance::{Beard, HairStyle, Look, Pose, Scene};
pub use stream::FaceSeed;
use stream::{Purpose, Stream};

/// The number of raters of each face.
pub const RATERS: usize = 10;

/// Returns the mean rating of a face, in 1..5: its [score](Face::score) plus the mean error of
/// [`RATERS`] raters, clamped. `rater_noise` is the standard deviation of that mean, in score
/// units; a single rater errs by √[`RATERS`] times as much.
pub fn rated_score(seed: FaceSeed, rater_noise: f64) -> f32 {
    let errors: f32 = rater_errors(seed, rater_noise).sum();
    let mean = Face::sample(seed).score() + errors / RATERS as f32;
    mean.clamp(SCORE_RANGE.0, SCORE_RANGE.1)
}

/// Returns the rating of a face by each of the [`RATERS`] simulated raters, each clamped to 1..5;
/// their mean is [`rated_score`], except for the clamping.
pub fn ratings(seed: FaceSeed, rater_noise: f64) -> Vec<f32> {
    let score = Face::sample(seed).score();
    rater_errors(seed, rater_noise)
        .map(|error| (score + error).clamp(SCORE_RANGE.0, SCORE_RANGE.1))
        .collect()
}

fn rater_errors(seed: FaceSeed, rater_noise: f64) -> impl Iterator<Item = f32> {
    let mut stream = Stream::new(seed, Purpose::Raters);
    let one_rater = rater_noise as f32 * (RATERS as f32).sqrt();
    (0..RATERS).map(move |_| one_rater * stream.normal())
}

/// Renders a face, `size` pixels square.
///
/// # Examples
/// ```
/// use vm_beautynet::data::synthetic::{Face, FaceSeed, render};
///
/// let seed = FaceSeed { seed: 1, index: 0 };
/// assert_eq!(render(seed, 64).dimensions(), (64, 64));
/// assert_eq!(render(seed, 64), render(seed, 64), "the same face every time");
/// assert!((1.0..=5.0).contains(&Face::sample(seed).score()));
/// ```
pub fn render(seed: FaceSeed, size: u32) -> RgbImage {
    Face::sample(seed).render(size)
}

impl Face {
    /// Renders the face, `size` pixels square. Another size shows the same image, finer or
    /// coarser.
    pub fn render(&self, size: u32) -> RgbImage {
        let layout = Layout::new(self);
        let skin = head::Skin::new(self);
        let look = &self.look;
        let mut canvas = Canvas::new(size, Frame::new(&self.pose));
        backdrop::paint_background(&mut canvas, self);
        hair::paint_back_hair(&mut canvas, look, &layout, &skin.light);
        backdrop::paint_body(&mut canvas, look, &layout, &skin);
        head::paint_ears(&mut canvas, look, &layout, &skin);
        head::paint_head(&mut canvas, look, &layout, &skin);
        features::paint_nose(&mut canvas, &layout, &skin);
        head::paint_beard(&mut canvas, look, &layout, &skin);
        features::paint_mouth(&mut canvas, look, &layout, &skin);
        for eye in &layout.eyes {
            features::paint_eye(&mut canvas, look, eye, &skin);
        }
        hair::paint_front_hair(&mut canvas, look, &layout, &skin.light);
        for eye in &layout.eyes {
            features::paint_brow(&mut canvas, look, eye);
        }
        features::paint_glasses(&mut canvas, look, &layout);
        let (tint, grain) = (self.scene.tint, self.scene.grain);
        let specks = Noise::new(look.grain_seed ^ 0x9a1);
        canvas.paint_all(|[x, y], pixel| {
            let speck = grain * specks.at([40.0 * x, 40.0 * y]);
            for (channel, factor) in pixel.iter_mut().zip(tint) {
                *channel = *channel * factor + speck;
            }
        });
        canvas.into_image()
    }

    /// Returns the scored regions of the image of `size` pixels square: both eyes, nose, mouth and
    /// the head, in this order. Regions may overlap.
    pub fn scored_regions(&self, size: u32) -> Vec<Region> {
        layout::regions(self, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(index: u64) -> FaceSeed {
        FaceSeed { seed: 7, index }
    }

    /// FNV-1a, 64 bits.
    fn checksum(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    fn correlation(pairs: &[(f32, f32)]) -> f32 {
        let n = pairs.len() as f32;
        let mean = |pick: fn(&(f32, f32)) -> f32| pairs.iter().map(pick).sum::<f32>() / n;
        let (a, b) = (mean(|p| p.0), mean(|p| p.1));
        let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
        for (x, y) in pairs {
            ab += (x - a) * (y - b);
            aa += (x - a) * (x - a);
            bb += (y - b) * (y - b);
        }
        ab / (aa * bb).sqrt()
    }

    /// The face of average proportions and no asymmetry, with the looks of face 3.
    fn ideal() -> Face {
        let mut face = Face::sample(seed(3));
        let [asymmetry, face_ratio, eye_spacing, eye_size, nose_length, smile] =
            Geometry::RANGES.map(|(low, high)| 0.5 * (low + high));
        face.geometry =
            Geometry { asymmetry, face_ratio, eye_spacing, eye_size, nose_length, smile };
        face
    }

    #[test]
    fn a_seed_gives_the_pinned_image_and_score() {
        let face = Face::sample(seed(12));
        assert_eq!(checksum(render(seed(12), 48).as_raw()), 0xebcd_07c4_82e3_ab7f);
        assert_eq!(face.score(), 2.182_780_3);
        assert_eq!(rated_score(seed(12), 0.2), 2.069_390_5);
    }

    #[test]
    fn faces_differ_by_index_and_by_seed() {
        let first = render(seed(0), 32);
        assert_ne!(first, render(seed(1), 32));
        assert_ne!(first, render(FaceSeed { seed: 8, index: 0 }, 32));
        assert_eq!(first, render(seed(0), 32));
    }

    #[test]
    fn scores_and_ratings_stay_in_range_and_are_bell_shaped() {
        let scores: Vec<f32> = (0..2000).map(|i| rated_score(seed(i), 0.2)).collect();
        assert!(scores.iter().all(|s| (1.0..=5.0).contains(s)));
        let mean = scores.iter().sum::<f32>() / 2000.0;
        let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f32>() / 2000.0;
        assert!((mean - 3.0).abs() < 0.06, "mean {mean}");
        assert!((variance.sqrt() - 0.70).abs() < 0.06, "sd {}", variance.sqrt());
        let middle = scores.iter().filter(|s| (**s - 3.0).abs() < 0.7).count();
        assert!((1200..1500).contains(&middle), "{middle} within one sd");
        assert!((1.0..=5.0).contains(&rated_score(seed(0), 50.0)));
    }

    #[test]
    fn raters_err_by_the_stated_deviation() {
        let squares = (0..1000).map(|i| {
            let error = rated_score(seed(i), 0.2) - Face::sample(seed(i)).score();
            error * error
        });
        let deviation = (squares.sum::<f32>() / 1000.0).sqrt();
        assert!((deviation - 0.2).abs() < 0.015, "{deviation}");
        assert_eq!(rated_score(seed(5), 0.0), Face::sample(seed(5)).score());
    }

    #[test]
    fn knowing_the_formula_reaches_a_correlation_of_95_percent() {
        let pairs: Vec<_> =
            (0..2000).map(|i| (Face::sample(seed(i)).score(), rated_score(seed(i), 0.2))).collect();
        let best = correlation(&pairs);
        assert!((0.945..0.975).contains(&best), "{best}");
    }

    #[test]
    fn the_score_does_not_depend_on_looks_pose_or_scene() {
        let (face, other) = (Face::sample(seed(1)), Face::sample(seed(2)));
        let mixed = Face { geometry: face.geometry, ..other.clone() };
        assert_eq!(mixed.score(), face.score());
        assert_ne!(mixed.render(32), face.render(32));
        let nuisances: [fn(&Face) -> f32; 5] = [
            |f| f.look.tone,
            |f| f.look.hair_color[0],
            |f| f.scene.light[0],
            |f| f.scene.tint[1],
            |f| f.pose.scale,
        ];
        for nuisance in nuisances {
            let pairs: Vec<_> = (0..2000)
                .map(|i| Face::sample(seed(i)))
                .map(|f| (nuisance(&f), f.score()))
                .collect();
            assert!(correlation(&pairs).abs() < 0.08);
        }
    }

    #[test]
    fn the_terms_prefer_the_ideal_big_eyes_and_a_smile() {
        let best = ideal().score();
        let changed = |change: fn(&mut Geometry)| {
            let mut face = ideal();
            change(&mut face.geometry);
            face.score()
        };
        assert!(changed(|g| g.asymmetry = 0.5) < best);
        assert_eq!(changed(|g| g.asymmetry = 0.5), changed(|g| g.asymmetry = -0.5));
        assert!(changed(|g| g.face_ratio = 1.2) < best);
        assert!(changed(|g| g.eye_spacing = 0.57) < best);
        assert!(changed(|g| g.nose_length = 0.11) < best);
        assert!(changed(|g| g.eye_size += 0.05) > best);
        assert!(changed(|g| g.smile = 0.5) > best);
        let sum: f32 = ideal().terms().iter().sum();
        assert!((best - (3.0 + sum).clamp(1.0, 5.0)).abs() < 1e-6);
    }

    #[test]
    fn opposite_asymmetries_are_mirror_images() {
        let lean = |asymmetry: f32| {
            let mut face = ideal();
            face.geometry.asymmetry = asymmetry;
            (face.pose.shift[0], face.pose.roll) = (0.0, 0.0);
            face.scored_regions(64)
        };
        let (left, right) = (lean(-0.8), lean(0.8));
        for (a, b) in [(0, 1), (1, 0), (2, 2), (3, 3), (4, 4)] {
            let ([ax, ay], [bx, by]) = (left[a].center, right[b].center);
            assert!((ax - (64.0 - bx)).abs() < 1e-3 && (ay - by).abs() < 1e-3);
        }
    }

    #[test]
    fn a_larger_image_shows_the_same_face() {
        for index in 0..6 {
            let small = render(seed(index), 64);
            let large = render(seed(index), 192);
            let mut total = 0.0;
            for (x, y, pixel) in small.enumerate_pixels() {
                for channel in 0..3 {
                    let block = (0..9)
                        .map(|k| f32::from(large.get_pixel(3 * x + k % 3, 3 * y + k / 3)[channel]));
                    total += (block.sum::<f32>() / 9.0 - f32::from(pixel[channel])).abs();
                }
            }
            let difference = total / (64.0 * 64.0 * 3.0);
            assert!(difference < 4.0, "face {index}: {difference} of 255");
        }
    }

    #[test]
    fn scored_regions_hold_their_features_and_lie_in_the_image() {
        let size = 64;
        for index in 0..300 {
            for region in Face::sample(seed(index)).scored_regions(size) {
                let inside = |v: f32| (0.0..size as f32).contains(&v);
                assert!(region.center.into_iter().all(inside), "{index} {region:?}");
                assert!(region.radii.iter().all(|r| *r > 1.0 && *r < 40.0));
                if region.name != "head" {
                    let [rx, ry] = region.radii;
                    let [x, y] = region.center;
                    assert!(x > rx && x + rx < 64.0 && y > ry && y + ry < 64.0);
                }
            }
        }
    }

    #[test]
    fn other_lips_or_eyes_change_the_image_in_their_regions_only() {
        let size = 96;
        let base = ideal();
        let mut lips = base.clone();
        lips.look.lips = (base.look.lips + 0.5) % 1.0;
        let mut iris = base.clone();
        iris.look.iris_color = [0.9, 0.1, 0.1];
        let image = base.render(size);
        let regions = base.scored_regions(size);
        for (face, names) in [(lips, vec!["mouth"]), (iris, vec!["left_eye", "right_eye"])] {
            let other = face.render(size);
            let (mut changed, mut covered) = (0, 0);
            for (x, y, pixel) in image.enumerate_pixels() {
                let moved = (0..3).any(|c| pixel[c].abs_diff(other.get_pixel(x, y)[c]) > 12);
                let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
                let within = |r: &Region| names.contains(&r.name) && r.contains(px, py);
                changed += usize::from(moved);
                covered += usize::from(moved && regions.iter().any(within));
            }
            assert!(changed > 10, "{names:?}: {changed} pixels");
            assert!(covered * 100 >= changed * 95, "{names:?}: {covered} of {changed}");
        }
    }

    #[test]
    fn any_size_is_rendered() {
        for size in [0, 1, 2, 17] {
            let image = render(seed(4), size);
            assert_eq!((image.width(), image.height()), (size, size));
        }
    }
}
