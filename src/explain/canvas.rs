//! Drawing primitives: colors, scaled text, thumbnails and heatmap overlays.

use image::imageops::{self, FilterType};
use image::{GenericImage, Rgb, RgbImage};

use super::input_image::Heatmap;
use crate::data::lettering::mix;

pub(crate) use crate::data::lettering::{FAINT, INK, Letters, PAPER, write};

/// Matplotlib's colormap `inferno` (N. Smith and S. van der Walt, CC0), perceptually uniform: 33 of
/// its 256 colors at equal distances. Interpolated colors are off by at most 2 levels.
#[rustfmt::skip]
const INFERNO: [[u8; 3]; 33] = [
    [0, 0, 4], [4, 3, 18], [11, 7, 36], [21, 11, 55], [33, 12, 74], [47, 10, 91],
    [61, 9, 101], [74, 12, 107], [87, 16, 110], [100, 21, 110], [113, 25, 110], [125, 30, 109],
    [138, 34, 106], [151, 39, 102], [163, 44, 97], [176, 49, 91], [188, 55, 84], [198, 61, 77],
    [208, 69, 69], [218, 78, 60], [227, 89, 51], [235, 100, 41], [241, 113, 31], [246, 126, 20],
    [249, 140, 10], [251, 155, 6], [252, 170, 15], [251, 186, 31], [249, 201, 50], [245, 217, 73],
    [242, 232, 101], [243, 245, 134], [252, 255, 164],
];

/// The opacity of a heatmap over the gray image.
const OPACITY: f32 = 0.6;
/// The brightness of the image outside the model's input.
const OUTSIDE: f32 = 0.45;

/// Writes one line as [`write`] does, on paper, its letters enlarged or reduced.
pub(super) fn write_scaled(
    canvas: &mut RgbImage,
    at: (u32, u32),
    text: &str,
    letters: Letters,
    scale: f64,
    ink: Rgb<u8>,
) {
    if scale == 1.0 || text.is_empty() {
        return write(canvas, at, text, letters, ink);
    }
    let drawn = Letters::Largest;
    let mut line = RgbImage::from_pixel(drawn.width(text), drawn.height(), PAPER);
    write(&mut line, (0, 0), text, drawn, ink);
    // Letters of another size have about the same proportions; widths are those of the layout.
    let [width, height] = [letters.width(text), letters.height()]
        .map(|length| (f64::from(length) * scale).round().max(1.0) as u32);
    paste(canvas, &imageops::resize(&line, width, height, FilterType::Triangle), at.0, at.1);
}

pub(super) fn paste(canvas: &mut RgbImage, image: &RgbImage, left: u32, top: u32) {
    // `copy_from` fails for an image that crosses the edge, by a pixel after rounding.
    let width = image.width().min(canvas.width().saturating_sub(left));
    let height = image.height().min(canvas.height().saturating_sub(top));
    let inside = imageops::crop_imm(image, 0, 0, width, height);
    let _ = canvas.copy_from(&*inside, left, top);
}

/// Returns the color of a value from 0 to 1.
pub(super) fn color(value: f32) -> [u8; 3] {
    let position = value.clamp(0.0, 1.0) * (INFERNO.len() - 1) as f32;
    let first = (position as usize).min(INFERNO.len() - 2);
    let (from, to) = (INFERNO[first], INFERNO[first + 1]);
    std::array::from_fn(|i| mix(from[i], to[i], position - first as f32))
}

/// Returns the size of an image after its long side is resized to `side`.
pub(crate) fn fitted(image: &RgbImage, side: u32) -> (u32, u32) {
    let (width, height) = image.dimensions();
    let scale = f64::from(side) / f64::from(width.max(height).max(1));
    let scaled = |length: u32| ((f64::from(length) * scale).round() as u32).clamp(1, side);
    (scaled(width), scaled(height))
}

/// Resizes an image so that its long side is `side`.
pub(super) fn thumbnail(image: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = fitted(image, side);
    if image.width() > width {
        imageops::thumbnail(image, width, height)
    } else {
        imageops::resize(image, width, height, FilterType::CatmullRom)
    }
}

/// Renders a heatmap over a thumbnail of its image, whose original size is `original`.
pub(super) fn overlay(thumbnail: &RgbImage, original: (u32, u32), heatmap: &Heatmap) -> RgbImage {
    let (width, height) = thumbnail.dimensions();
    let (across, down) =
        (f64::from(original.0) / f64::from(width), f64::from(original.1) / f64::from(height));
    RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b] = thumbnail.get_pixel(x, y).0.map(f32::from);
        // Luma of ITU-R BT.601.
        let gray = 0.299 * r + 0.587 * g + 0.114 * b;
        Rgb(match heatmap.at((f64::from(x) + 0.5) * across, (f64::from(y) + 0.5) * down) {
            Some(value) => color(value).map(|c| mix(gray as u8, c, OPACITY)),
            None => [(gray * OUTSIDE) as u8; 3],
        })
    })
}

/// Renders the color bar, with 1 at the top.
pub(super) fn color_bar(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |_, y| {
        let value = 1.0 - (y as f32 + 0.5) / height.max(1) as f32;
        Rgb(color(value).map(|c| mix(128, c, 0.5 + OPACITY / 2.0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luminance_of_the_colormap_increases_from_black_to_light_yellow() {
        assert_eq!((color(0.0), color(1.0)), ([0, 0, 4], [252, 255, 164]));
        let luminance = |value: f32| {
            let [r, g, b] = color(value).map(|c| (f64::from(c) / 255.0).powf(2.2));
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let steps: Vec<f64> = (0..=20).map(|i| luminance(i as f32 / 20.0)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
    }
}
