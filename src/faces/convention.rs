//! Conventions: where the face is in a crop.

use anyhow::{Result, bail, ensure};
use image::RgbImage;

use super::align::{Cut, Similarity};
use super::detect::Face;
use super::upright::{Upright, median};
use crate::config::FaceAlignment;

/// How the crops of a dataset show a face.
#[derive(Debug, Clone, PartialEq)]
pub struct Convention {
    /// The side of a crop, in pixels.
    pub size: u32,
    /// Where the face is.
    pub placement: Placement,
}

/// Where the face is in a crop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Placement {
    /// The eyes are level, the box of the face fills the longer side, and beside it the crop is
    /// black.
    Box,
    /// The landmarks come as near as a similarity allows to these: left eye, right eye, nose, left
    /// and right corner of the mouth, as fractions of the side. Around the face is what the image
    /// has there.
    Landmarks([[f64; 2]; 5]),
}

/// The most crops in which a convention is measured.
pub(super) const MOST_MEASURED: usize = 500;

impl Convention {
    /// Returns the convention of this name. That of MEBeauty was seen on its crops: 224x224 pixels,
    /// the eyes level within 1.5 degrees, black beside a box that fills the height. Of
    /// SCUT-FBP5500 only the size is published: that the eyes are level, with hair and chin in
    /// sight, is an assumption. That of tight crops is this project's own.
    pub fn named(name: FaceAlignment) -> Self {
        let (size, landmarks) = match name {
            FaceAlignment::Mebeauty => return Self { size: 224, placement: Placement::Box },
            FaceAlignment::Scut => {
                (350, [[0.36, 0.44], [0.64, 0.44], [0.5, 0.59], [0.385, 0.72], [0.615, 0.72]])
            }
            FaceAlignment::Tight => {
                (224, [[0.235, 0.3], [0.765, 0.3], [0.5, 0.6], [0.27, 0.855], [0.73, 0.855]])
            }
        };
        Self { size, placement: Placement::Landmarks(landmarks) }
    }

    /// Measures the convention of square crops of one face each: the size of the first, and the
    /// median of each landmark. Returns an error if one is no square, or none shows one face.
    pub(super) fn measure(
        crops: impl IntoIterator<Item = Result<(RgbImage, Vec<Face>)>>,
    ) -> Result<Self> {
        let mut size = None;
        let mut found: [[Vec<f64>; 2]; 5] = Default::default();
        for crop in crops {
            let (image, faces) = crop?;
            let (width, height) = image.dimensions();
            if width != height {
                bail!("an image has {width}x{height} pixels: name a folder of square crops");
            }
            size.get_or_insert(width);
            let [face] = faces[..] else { continue };
            for (found, at) in found.iter_mut().flatten().zip(face.landmarks.as_flattened()) {
                found.push(f64::from(*at) / f64::from(width));
            }
        }
        let measured = !found[0][0].is_empty();
        ensure!(measured, "no image shows one face: name a folder of cropped faces");
        let landmarks = found.map(|axes| axes.map(|values| median(values.into_iter())));
        Ok(Self { size: size.unwrap_or(1), placement: Placement::Landmarks(landmarks) })
    }

    /// Returns the part of the image that the crop of a face shows; `None` if its landmarks or its
    /// box are one point.
    pub(super) fn cut(&self, face: &Upright) -> Option<Cut> {
        let side = f64::from(self.size);
        let (to_face, half) = match &self.placement {
            Placement::Landmarks(places) => {
                let places = places.map(|place| place.map(|at| at * side));
                (Similarity::fit(&places, &face.landmarks)?, None)
            }
            Placement::Box => {
                let center = face.bounds.center();
                let lengths = [face.bounds.width(), face.bounds.height()].map(f64::from);
                let [left, right, ..] = face.landmarks;
                let eyes = (right[1] - left[1]).atan2(right[0] - left[0]);
                let scale = lengths[0].max(lengths[1]) / side;
                let about = [side / 2.0, side / 2.0];
                let half = lengths.map(|length| length / scale / 2.0);
                (Similarity::about(about, center, scale, eyes)?, Some(half))
            }
        };
        Some(Cut { to_image: face.to_image.after(&to_face), size: self.size, half })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faces::FaceBox;

    fn face(left: f32, top: f32, side: f32) -> Face {
        let bounds = FaceBox { left, top, right: left + 0.8 * side, bottom: top + side };
        let at = |x: f32, y: f32| [left + side * x, top + side * y];
        let landmarks = [at(0.2, 0.4), at(0.6, 0.4), at(0.4, 0.6), at(0.25, 0.8), at(0.55, 0.8)];
        Face { bounds, probability: 1.0, landmarks }
    }

    fn close(a: [f64; 2], b: [f64; 2]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3)
    }

    /// A face that is `degrees` from upright in an image, with its center at (500, 300).
    fn upright(degrees: f64, side: f32) -> Upright {
        let face = face(-0.4 * side, -0.5 * side, side);
        let landmarks = face.landmarks.map(|point| point.map(f64::from));
        let to_image = Similarity::about([0.0; 2], [500.0, 300.0], 1.0, degrees.to_radians());
        Upright { to_image: to_image.unwrap(), bounds: face.bounds, landmarks }
    }

    #[test]
    fn the_box_of_a_face_fills_the_height_of_a_crop_and_its_eyes_are_level() {
        let convention = Convention::named(FaceAlignment::Mebeauty);
        let cut = convention.cut(&upright(0.0, 56.0)).unwrap();
        assert!(close(cut.to_image.apply([112.0, 112.0]), [500.0, 300.0]));
        assert!((cut.to_image.scale() - 0.25).abs() < 1e-6);
        assert!(close(cut.to_image.apply([112.0, 0.0]), [500.0, 272.0]));
        assert!(close(cut.half.unwrap(), [0.4 * 224.0, 112.0]));
        // In an image in which the right eye is lower, the crop's rows fall to the right.
        let cut = convention.cut(&upright(30.0, 56.0)).unwrap();
        let right = cut.to_image.apply([112.0 + 40.0, 112.0]);
        assert!(close(right, [500.0 + 10.0 * 0.75_f64.sqrt(), 305.0]));
    }

    #[test]
    fn crops_are_like_those_that_a_convention_is_measured_on() {
        let crop = |left, top| Ok((RgbImage::new(100, 100), vec![face(left, top, 80.0)]));
        let none = Ok((RgbImage::new(100, 100), Vec::new()));
        let crops = [crop(10.0, 5.0), crop(14.0, 9.0), none, crop(90.0, 6.0)];
        let measured = Convention::measure(crops).unwrap();
        assert_eq!(measured.size, 100);
        let cut = measured.cut(&upright(0.0, 160.0)).unwrap();
        assert!((cut.to_image.scale() - 2.0).abs() < 1e-6 && cut.half.is_none());
        // The median left eye is at 30 and 38 pixels of the crop.
        assert!(close(cut.to_image.apply([30.0, 38.0]), [500.0 - 32.0, 300.0 - 16.0]));
        for (crops, words) in [
            (vec![Ok((RgbImage::new(9, 8), Vec::new()))], "9x8 pixels"),
            (vec![Ok((RgbImage::new(9, 9), Vec::new()))], "no image shows one face"),
        ] {
            let error = Convention::measure(crops).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_face_without_an_extent_has_no_crop() {
        for &name in FaceAlignment::ALL {
            let convention = Convention::named(name);
            assert_eq!(convention.cut(&upright(5.0, 0.0)), None, "{name}");
        }
    }
}
