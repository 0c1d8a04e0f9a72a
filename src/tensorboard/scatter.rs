//! Predicted against true scores, as an image.

use image::{Rgb, RgbImage};

use crate::eval::predictions::Predictions;
use crate::explain::canvas::{FAINT, INK, Letters, PAPER, write};

/// The square that the points lie in, in pixels, and what surrounds it.
const SIDE: u32 = 420;
const LEFT: u32 = 62;
const TOP: u32 = 34;
const RIGHT: u32 = 18;
const BOTTOM: u32 = 54;
/// Share of the range that is added at either end.
const MARGIN: f64 = 0.04;
/// Between how many lines the axes are divided, about.
const TICKS: f64 = 5.0;
const LINE: Rgb<u8> = Rgb([226, 226, 226]);
const POINT: Rgb<u8> = Rgb([31, 104, 173]);
/// How much of a pixel a point covers: where points lie over each other it is darker.
const COVER: f32 = 0.45;

/// True scores to the right, predicted ones upwards, both on one scale, with the line on which they
/// are equal. Pairs with a number that is not finite are left out.
pub fn scatter(predictions: &Predictions) -> RgbImage {
    let pairs: Vec<(f64, f64)> = (predictions.targets.iter().copied())
        .zip(predictions.predictions.iter().copied())
        .filter(|(target, predicted)| target.is_finite() && predicted.is_finite())
        .collect();
    let axis = Axis::around(pairs.iter().flat_map(|&(a, b)| [a, b]));
    let mut canvas = RgbImage::from_pixel(LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM, PAPER);
    draw_axes(&mut canvas, &axis);
    let radius = if pairs.len() > 500 { 2 } else { 3 };
    for &(target, predicted) in &pairs {
        draw_point(&mut canvas, axis.across(target), axis.down(predicted), radius);
    }
    let left_out = predictions.targets.len() - pairs.len();
    let note = match left_out {
        0 => String::new(),
        n => format!("; {n} not finite"),
    };
    let letters = Letters::Small;
    let title = format!("predicted against true, n {}{note}", pairs.len());
    write(&mut canvas, (LEFT, 9), &title, letters, INK);
    let label = "true score";
    let place = (LEFT + (SIDE - letters.width(label)) / 2, TOP + SIDE + 30);
    write(&mut canvas, place, label, letters, INK);
    canvas
}

/// A range of scores along a side.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    /// With all of the values in it; from 0 to 1 where there is none.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (from, to) = (from.min(value), to.max(value));
        }
        if from > to {
            (from, to) = (0.0, 1.0);
        }
        // Halves, so that no range overflows.
        let half = (to / 2.0 - from / 2.0) * (1.0 + 2.0 * MARGIN);
        let middle = from / 2.0 + to / 2.0;
        // Equal values, or so large ones that nothing between them can be told apart.
        let half = if middle + half > middle { half } else { (middle.abs() * 0.01).max(0.5) };
        Self { from: (middle - half).max(f64::MIN), to: (middle + half).min(f64::MAX) }
    }

    /// From 0 to 1 within the axis.
    fn place(&self, value: f64) -> f64 {
        (value / 2.0 - self.from / 2.0) / (self.to / 2.0 - self.from / 2.0)
    }

    fn across(&self, value: f64) -> u32 {
        LEFT + (self.place(value) * f64::from(SIDE)).round() as u32
    }

    fn down(&self, value: f64) -> u32 {
        TOP + ((1.0 - self.place(value)) * f64::from(SIDE)).round() as u32
    }

    /// Round numbers in the range, about five, and how many digits after the point tell them apart.
    fn ticks(&self) -> (Vec<f64>, usize) {
        let rough = self.to / TICKS - self.from / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.from / step).ceil();
        let ticks =
            (0..=10).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick <= self.to);
        let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
        (ticks.collect(), digits)
    }
}

fn draw_axes(canvas: &mut RgbImage, axis: &Axis) {
    let letters = Letters::Small;
    let (ticks, digits) = axis.ticks();
    for tick in ticks {
        let (x, y) = (axis.across(tick), axis.down(tick));
        for i in 0..=SIDE {
            set(canvas, x, TOP + i, LINE);
            set(canvas, LEFT + i, y, LINE);
        }
        let label =
            if tick.abs() < 1e5 { format!("{tick:.digits$}") } else { format!("{tick:.0e}") };
        let width = letters.width(&label);
        let under = (x.saturating_sub(width / 2), TOP + SIDE + 8);
        write(canvas, under, &label, letters, FAINT);
        let beside = (LEFT.saturating_sub(width + 6), y.saturating_sub(letters.height() / 2));
        write(canvas, beside, &label, letters, FAINT);
    }
    for i in 0..=SIDE {
        for (x, y) in [(i, 0), (i, SIDE), (0, i), (SIDE, i), (i, SIDE - i)] {
            set(canvas, LEFT + x, TOP + y, FAINT);
        }
    }
}

fn draw_point(canvas: &mut RgbImage, x: u32, y: u32, radius: i64) {
    for dy in -radius..=radius {
        for dx in -radius..=radius {
            if dx * dx + dy * dy > radius * radius + 1 {
                continue;
            }
            let (Ok(x), Ok(y)) =
                (u32::try_from(i64::from(x) + dx), u32::try_from(i64::from(y) + dy))
            else {
                continue;
            };
            if let Some(pixel) = canvas.get_pixel_mut_checked(x, y) {
                for (value, ink) in pixel.0.iter_mut().zip(POINT.0) {
                    let (from, to) = (f32::from(*value), f32::from(ink));
                    *value = (from * (1.0 - COVER) + to * COVER).round() as u8;
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
    fn any_numbers_make_a_image() {
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

    #[test]
    fn ticks_are_round_numbers_in_the_range() {
        let ticks = |from, to| Axis { from, to }.ticks();
        assert_eq!(ticks(0.84, 5.16), (vec![1.0, 2.0, 3.0, 4.0, 5.0], 0));
        let (small, digits) = ticks(0.0, 0.5);
        assert_eq!((small.len(), digits), (6, 1));
    }
}
