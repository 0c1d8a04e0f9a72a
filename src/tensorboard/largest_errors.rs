//! The validation images with the largest errors, as an image.

use std::path::Path;

use anyhow::Result;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::explain::canvas::{self, FAINT, INK, Letters, PAPER, write};
use crate::train::Validated;

/// Number of images, and their number in a row.
const SHOWN: usize = 12;
const COLUMNS: usize = 4;
/// Longer side of an image in pixels, and the gap around each.
const SIDE: u32 = 160;
const GAP: u32 = 8;

/// Renders the images with the largest errors, the largest first, each with its true and its
/// predicted score and the name of its file, without folders. Returns an error if an image cannot
/// be read.
pub(super) fn largest_errors(validated: &Validated) -> Result<RgbImage> {
    let predictions = validated.predictions;
    let rows = worst(&predictions.targets, &predictions.predictions);
    let letters = Letters::Small;
    let cell = (SIDE + GAP, SIDE + GAP + 2 * letters.height());
    let lines = rows.len().div_ceil(COLUMNS).max(1) as u32;
    let size = (COLUMNS as u32 * cell.0 + GAP, lines * cell.1 + GAP);
    let mut canvas = RgbImage::from_pixel(size.0, size.1, PAPER);
    for (at, row) in rows.into_iter().enumerate() {
        let (column, line) = ((at % COLUMNS) as u32, (at / COLUMNS) as u32);
        let (left, top) = (GAP + column * cell.0, GAP + line * cell.1);
        let image = validated.images.image(row)?;
        let image = fitted(&image);
        imageops::replace(&mut canvas, &image, left.into(), top.into());
        let (target, predicted) = (predictions.targets[row], predictions.predictions[row]);
        let scores = format!("{target:.2} -> {predicted:.2}");
        let text: [(&str, Rgb<u8>); 2] = [(&scores, INK), (stem(&predictions.images[row]), FAINT)];
        for (line, (text, ink)) in text.into_iter().enumerate() {
            let below = top + SIDE + line as u32 * letters.height();
            write(&mut canvas, (left, below), &letters.fit(text, SIDE), letters, ink);
        }
    }
    Ok(canvas)
}

/// Returns the indices of the largest absolute errors, the largest first; errors that are not
/// finite are skipped.
fn worst(targets: &[f64], predictions: &[f64]) -> Vec<usize> {
    let error = |&row: &usize| (predictions[row] - targets[row]).abs();
    let mut rows: Vec<usize> = (0..targets.len()).filter(|row| error(row).is_finite()).collect();
    rows.sort_by(|a, b| error(b).total_cmp(&error(a)));
    rows.truncate(SHOWN);
    rows
}

/// Returns the name of an image's file without folders and ending: folders may be named after
/// persons.
fn stem(image: &str) -> &str {
    Path::new(image).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// Resizes an image so that its longer side is [`SIDE`].
fn fitted(image: &RgbImage) -> RgbImage {
    let (width, height) = canvas::fitted(image, SIDE);
    imageops::resize(image, width, height, FilterType::Triangle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_finite_errors_come_first_and_are_bounded_in_number() {
        assert_eq!(worst(&[1.0, 2.0, 3.0, 4.0], &[1.5, f64::NAN, 1.0, 4.0]), [2, 0, 3]);
        assert_eq!(worst(&[0.0; 100], &[1.0; 100]).len(), SHOWN);
    }

    #[test]
    fn an_image_is_named_by_its_file_alone() {
        assert_eq!(stem("jane doe/portraits/0042.jpg"), "0042");
        assert_eq!(stem("0042"), "0042");
    }

    #[test]
    fn images_of_any_shape_fit_into_their_cell() {
        for (size, expected) in
            [((16, 16), (160, 160)), ((640, 2), (160, 1)), ((80, 320), (40, 160))]
        {
            assert_eq!(fitted(&RgbImage::new(size.0, size.1)).dimensions(), expected);
        }
    }
}
