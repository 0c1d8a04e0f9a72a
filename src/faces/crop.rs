//! Crops of one face of each image, aligned as a convention has it.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use image::RgbImage;

use super::align::cut;
use super::convention::{Convention, MOST_MEASURED};
use super::detect::{Detector, Face};
use super::upright::Upright;
use crate::data::read_image;
use crate::ops;

/// By how much a crop is enlarged where the face is said to be small.
const ENLARGED: f64 = 2.0;
/// How far the nose is from the middle between the eyes, in units of their distance, where the face
/// is said to be turned: more than halfway to an eye.
const TURNED: f32 = 0.35;

/// Crops one face of an image. Threads may share it.
#[derive(Debug)]
pub struct Cropper {
    detector: Detector,
    convention: Convention,
}

/// What was cropped.
#[derive(Debug, Clone, PartialEq)]
pub struct Crop {
    /// The aligned face, a square of the convention's size.
    pub image: RgbImage,
    /// Where it was.
    pub found: Found,
}

/// The faces of an image, and which one was cropped.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// How many faces there are.
    pub faces: usize,
    /// The one that was cropped.
    pub face: Face,
    /// What may make the crop unlike those that a model was trained on.
    pub warnings: Vec<CropWarning>,
}

/// What may make a crop unlike others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CropWarning {
    /// There are several faces, of which the largest was taken, of equals the most central.
    Several,
    /// The face is seen from the side.
    Turned,
    /// The face is small, and its crop enlarged by this factor.
    Small(f64),
}

impl fmt::Display for CropWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Several => f.write_str("several faces"),
            Self::Turned => f.write_str("turned to the side"),
            Self::Small(factor) => write!(f, "small: enlarged {factor:.1} times"),
        }
    }
}

impl Cropper {
    /// Creates a cropper for a convention.
    pub fn new(detector: Detector, convention: Convention) -> Self {
        Self { detector, convention }
    }

    /// Creates a cropper whose crops are as these are, of the first of which the convention is
    /// measured. Returns an error if one cannot be read or is no square, or no face is found.
    pub fn like(detector: Detector, crops: &[PathBuf]) -> Result<Self> {
        let detect = |path: &PathBuf| {
            let image = read_image(path)?;
            let faces = detector.detect(&image)?;
            Ok((image, faces))
        };
        let crops = crops.iter().take(MOST_MEASURED).map(detect);
        let convention = Convention::measure(crops)?;
        Ok(Self { detector, convention })
    }

    /// Returns the convention of the crops.
    pub fn convention(&self) -> &Convention {
        &self.convention
    }

    /// Crops the largest face of an image, of equals the most central; `None` if there is none.
    /// From then on, libtorch computes in the calling thread alone: many threads crop at a time.
    pub fn crop(&self, image: &RgbImage) -> Result<Option<Crop>> {
        ops::use_one_thread()?;
        let faces = self.detector.detect(image)?;
        let (width, height) = image.dimensions();
        let Some(&face) = main_face(&faces, [width as f32, height as f32]) else {
            return Ok(None);
        };
        let upright = Upright::find(&self.detector, image, &face)?;
        let Some(part) = upright.and_then(|face| self.convention.cut(&face)) else {
            return Ok(None);
        };
        let several = (faces.len() > 1).then_some(CropWarning::Several);
        let turned = is_turned(&face).then_some(CropWarning::Turned);
        let enlarged = 1.0 / part.to_image.scale();
        let small = (enlarged > ENLARGED).then_some(CropWarning::Small(enlarged));
        let found = Found {
            faces: faces.len(),
            face,
            warnings: [several, turned, small].into_iter().flatten().collect(),
        };
        let image = cut(image, &part)?;
        Ok(Some(Crop { image, found }))
    }
}

/// Returns the largest face; the distance from the image's center, in units of half its diagonal,
/// decides between faces of similar size.
fn main_face(faces: &[Face], size: [f32; 2]) -> Option<&Face> {
    let weight = |face: &Face| {
        let bounds = face.bounds;
        let middle = bounds.center().map(|at| at as f32);
        let [x, y] = [0, 1].map(|axis| middle[axis] - size[axis] / 2.0);
        let distance = x.hypot(y) / (size[0].hypot(size[1]) / 2.0);
        bounds.width() * bounds.height() * (1.0 - distance * distance)
    };
    faces.iter().max_by(|a, b| weight(a).total_cmp(&weight(b)))
}

/// Returns whether a face is seen from the side: its nose is near one eye, along their line.
fn is_turned(face: &Face) -> bool {
    let [left, right, nose, ..] = face.landmarks;
    let eyes = [right[0] - left[0], right[1] - left[1]];
    let from_left = [nose[0] - left[0], nose[1] - left[1]];
    let along =
        (from_left[0] * eyes[0] + from_left[1] * eyes[1]) / (eyes[0].powi(2) + eyes[1].powi(2));
    // Also where the eyes are one point.
    along.is_nan() || (along - 0.5).abs() > TURNED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faces::boxes::FaceBox;

    fn face(left: f32, side: f32) -> Face {
        let bounds = FaceBox { left, top: 0.0, right: left + side, bottom: side };
        let at = |x: f32, y: f32| [left + side * x, side * y];
        let landmarks = [at(0.3, 0.4), at(0.7, 0.4), at(0.5, 0.6), at(0.35, 0.8), at(0.65, 0.8)];
        Face { bounds, probability: 1.0, landmarks }
    }

    #[test]
    fn the_largest_face_is_taken_and_of_equals_the_most_central() {
        let [aside, large, central] = [face(0.0, 30.0), face(60.0, 40.0), face(50.0, 30.0)];
        let main = |faces: &[Face]| *main_face(faces, [130.0, 30.0]).unwrap();
        assert_eq!(main(&[aside, large, central]), large);
        assert_eq!(main(&[aside, central]), central);
        assert_eq!(main_face(&[], [9.0, 9.0]), None);
    }

    #[test]
    fn a_face_is_turned_if_its_nose_is_near_an_eye() {
        let mut turned = face(0.0, 100.0);
        for (nose, expected) in [(50.0, false), (60.0, false), (68.0, true), (20.0, true)] {
            turned.landmarks[2] = [nose, 60.0];
            assert_eq!(is_turned(&turned), expected, "{nose}");
        }
        turned.landmarks = [[5.0, 5.0]; 5];
        assert!(is_turned(&turned));
    }

    #[test]
    fn warnings_say_what_is_unlike() {
        let shown = [CropWarning::Several, CropWarning::Turned, CropWarning::Small(2.34)]
            .map(|warning| warning.to_string());
        assert_eq!(shown, ["several faces", "turned to the side", "small: enlarged 2.3 times"]);
    }
}
