//! Predicted against true scores, as an image.

use image::{Rgb, RgbImage};

use crate::eval::predictions::Predictions;
use crate::explain::canvas::{FAINT, INK, Letters, PAPER, write};
use crate::report::axis::{Axis, short};

/// Side of the square with the points, in pixels, and the margins around it.
const SIDE: u32 = 420;
const LEFT: u32 = 62;
const TOP: u32 = 34;
const RIGHT: u32 = 18;
const BOTTOM: u32 = 54;
/// Approximate number of ticks of an axis.
const TICKS: usize = 5;
const LINE: Rgb<u8> = Rgb([226, 226, 226]);
const POINT: Rgb<u8> = Rgb([31, 104, 173]);
/// Opacity of a point: overlapping points are darker.
const OPACITY: f32 = 0.45;

/// Renders a scatter plot of predicted (y) against true (x) scores on the same scale, with the line
/// on which they are equal. Pairs with a value that is not finite are skipped.
pub(super) fn scatter(predictions: &Predictions) -> RgbImage {
    let pairs: Vec<(f64, f64)> = (predictions.targets.iter().copied())
        .zip(predictions.predictions.iter().copied())
        .filter(|(target, predicted)| target.is_finite() && predicted.is_finite())
        .collect();
    let axis = Axis::around(pairs.iter().flat_map(|&(a, b)| [a, b]));
    let mut canvas = RgbImage::from_pixel(LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM, PAPER);
    draw_axes(&mut canvas, axis);
    let radius = if pairs.len() > 500 { 2 } else { 3 };
    for &(target, predicted) in &pairs {
        draw_point(&mut canvas, x(axis, target), y(axis, predicted), radius);
    }
    let note = match predictions.targets.len() - pairs.len() {
        0 => String::new(),
        skipped => format!("; {skipped} not finite"),
    };
    let letters = Letters::Small;
    let title = format!("predicted vs. true score, n {}{note}", pairs.len());
    write(&mut canvas, (LEFT, 9), &title, letters, INK);
    let label = "true score";
    let place = (LEFT + (SIDE - letters.width(label)) / 2, TOP + SIDE + 30);
    write(&mut canvas, place, label, letters, INK);
    canvas
}

fn x(axis: Axis, value: f64) -> u32 {
    LEFT + (axis.position(value) * f64::from(SIDE)).round() as u32
}

fn y(axis: Axis, value: f64) -> u32 {
    TOP + ((1.0 - axis.position(value)) * f64::from(SIDE)).round() as u32
}

fn draw_axes(canvas: &mut RgbImage, axis: Axis) {
    let letters = Letters::Small;
    for tick in axis.ticks(TICKS) {
        let (x, y) = (x(axis, tick), y(axis, tick));
        for i in 0..=SIDE {
            set(canvas, x, TOP + i, LINE);
            set(canvas, LEFT + i, y, LINE);
        }
        let label = short(tick);
        let width = letters.width(&label);
        let below = (x.saturating_sub(width / 2), TOP + SIDE + 8);
        write(canvas, below, &label, letters, FAINT);
        let left = (LEFT.saturating_sub(width + 6), y.saturating_sub(letters.height() / 2));
        write(canvas, left, &label, letters, FAINT);
    }
    for i in 0..=SIDE {
        for (x, y) in [(i, 0), (i, SIDE), (0, i), (SIDE, i), (i, SIDE - i)] {
            set(canvas, LEFT + x, TOP + y, FAINT);
        }
    }
}

fn draw_point(canvas: &mut RgbImage, x: u32, y: u32, radius: i32) {
    for dy in -radius..=radius {
        for dx in -radius..=radius {
            if dx * dx + dy * dy > radius * radius + 1 {
                continue;
            }
            if let Some(pixel) = x.checked_add_signed(dx).zip(y.checked_add_signed(dy))
                && let Some(pixel) = canvas.get_pixel_mut_checked(pixel.0, pixel.1)
            {
                for (value, ink) in pixel.0.iter_mut().zip(POINT.0) {
                    let (from, to) = (f32::from(*value), f32::from(ink));
                    *value = (from * (1.0 - OPACITY) + to * OPACITY).round() as u8;
                }
            }
        }
    }
}

fn set(canvas: &mut RgbImage, x: u32, y: u32, color: Rgb<u8>) {
    if let Some(pixel) = canvas.get_pixel_mut_checked(x, y) {
        *pixel = color;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(targets: &[f64], predicted: &[f64]) -> RgbImage {
        scatter(&Predictions {
            images: vec![String::new(); targets.len()],
            targets: targets.to_vec(),
            predictions: predicted.to_vec(),
            ..Predictions::default()
        })
    }

    fn blue(image: &RgbImage) -> Vec<(u32, u32)> {
        let pixels = image.enumerate_pixels();
        pixels
            .filter(|(.., pixel)| pixel.0[2] > pixel.0[0].saturating_add(20))
            .map(|(x, y, _)| (x, y))
            .collect()
    }

    #[test]
    fn a_point_is_where_its_scores_are() {
        // The range is 1 to 5, with 4 % of it at either end.
        let image = of(&[1.0, 5.0, 2.0], &[1.0, 5.0, 4.0]);
        let at = |value: f64| (SIDE as f64 * (value - 0.84) / 4.32).round() as u32;
        for (target, predicted) in [(1.0, 1.0), (5.0, 5.0), (2.0, 4.0)] {
            let center = (LEFT + at(target), TOP + SIDE - at(predicted));
            assert!(blue(&image).contains(&center), "{center:?}");
        }
        assert!(!blue(&image).contains(&(LEFT + at(4.0), TOP + SIDE - at(2.0))));
    }

    #[test]
    fn any_values_can_be_drawn() {
        let images = [
            of(&[], &[]),
            of(&[3.0], &[3.0]),
            of(&[0.0], &[0.0]),
            of(&[1.0, 2.0], &[f64::NAN, f64::INFINITY]),
            of(&[f64::MAX], &[f64::MIN]),
            of(&[1e300, 1e-300], &[f64::MAX, f64::MAX]),
            of(&[1.0, 1.0 + 1e-15], &[1.0, 1.0]),
        ];
        for image in &images {
            assert_eq!(image.dimensions(), images[0].dimensions());
        }
        let points = images.map(|image| !blue(&image).is_empty());
        assert_eq!(points, [false, true, true, false, true, true, true]);
    }
}
