//! Resampling of a rectangle of an image to a square, as PIL does.
//!
//! The filters are PIL's, bicubic with a = -0.5 or bilinear, widened when the image shrinks
//! (antialiased), and rows are resampled before columns with rounding and clamping to 8 bits
//! between.

use anyhow::Result;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::config::Interpolation;

/// Buffers that one thread reuses for each image.
#[derive(Default)]
pub struct Workspace {
    /// The image as framed, (size, size, 3).
    pub(in crate::data) framed: Vec<u8>,
    /// A second image of that size, for transforms that cannot work in place.
    pub(in crate::data) warped: Vec<u8>,
    /// A pixel per word, for affine changes.
    pub(in crate::data) packed: Vec<u64>,
    /// One plane of fractional levels, for the blur.
    pub(in crate::data) levels: Vec<f32>,
    resizer: Resizer,
    /// An image whose rows are resampled and whose columns are not yet.
    narrowed: Vec<u8>,
    /// A padded image without its border.
    inner: Vec<u8>,
}

/// A rectangle of an image, in its pixels, that becomes the output. It may reach beyond the
/// image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Its left edge.
    pub left: f64,
    /// Its upper edge.
    pub top: f64,
    /// From its left edge to its right one.
    pub width: f64,
    /// From its upper edge to its lower one.
    pub height: f64,
}

impl Frame {
    /// Returns the crop of this frame, given in fractions of its sides.
    pub(in crate::data) fn crop(&self, crop: Frame) -> Frame {
        Frame {
            left: self.left + crop.left * self.width,
            top: self.top + crop.top * self.height,
            width: crop.width * self.width,
            height: crop.height * self.height,
        }
    }
}

/// Resamples `frame` of the image into `workspace.framed`, (size, size, 3). Pixels beyond the
/// image become `background`.
pub(in crate::data) fn resample(
    image: &RgbImage,
    frame: Frame,
    size: u32,
    interpolation: Interpolation,
    background: [u8; 3],
    workspace: &mut Workspace,
) -> Result<()> {
    let (left, width) = clip(frame.left, frame.width, f64::from(image.width()));
    let (top, height) = clip(frame.top, frame.height, f64::from(image.height()));
    let (x, across) = place(left - frame.left, width, frame.width, size);
    let (y, down) = place(top - frame.top, height, frame.height, size);
    let visible = Frame { left, top, width, height };
    let Workspace { resizer, narrowed, framed, inner, .. } = workspace;
    let row = size as usize * 3;
    framed.resize(row * size as usize, 0);
    // Nothing is padded where the frame lies within the image.
    if (across, down) == (size, size) {
        return resize(image, visible, (size, size), interpolation, resizer, narrowed, framed);
    }
    let inner_row = across as usize * 3;
    inner.resize(inner_row * down as usize, 0);
    resize(image, visible, (across, down), interpolation, resizer, narrowed, inner)?;
    for pixel in framed.chunks_exact_mut(3) {
        pixel.copy_from_slice(&background);
    }
    let lines = framed.chunks_exact_mut(row).skip(y as usize);
    for (line, inner) in lines.zip(inner.chunks_exact(inner_row)) {
        let start = x as usize * 3;
        line[start..start + inner_row].copy_from_slice(inner);
    }
    Ok(())
}

/// Resamples a rectangle within the image to `target`, (height, width, 3).
fn resize(
    image: &RgbImage,
    source: Frame,
    (width, height): (u32, u32),
    interpolation: Interpolation,
    resizer: &mut Resizer,
    narrowed: &mut Vec<u8>,
    target: &mut [u8],
) -> Result<()> {
    let (filter, support) = match interpolation {
        Interpolation::Bicubic => (FilterType::CatmullRom, 2.0),
        Interpolation::Bilinear => (FilterType::Bilinear, 1.0),
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let pixels = ImageRef::new(image.width(), image.height(), image, PixelType::U8x3)?;
    let mut target = Image::from_slice_u8(width, height, target, PixelType::U8x3)?;
    let Frame { left, top, width: source_width, height: source_height } = source;
    // The resizer would resample columns first. Where the cubic filter overshoots, clamping between
    // the passes makes that a visible difference, so each pass is a call of its own.
    if needs_pass(left, source_width, width) && needs_pass(top, source_height, height) {
        let reach = support * (source_height / f64::from(height)).max(1.0) + 1.0;
        let first = (top - reach).floor().max(0.0);
        let last = (top + source_height + reach).ceil().min(f64::from(image.height()));
        let rows = (last - first) as u32;
        narrowed.resize(width as usize * rows as usize * 3, 0);
        let mut between = Image::from_slice_u8(width, rows, narrowed, PixelType::U8x3)?;
        let rows_options = options.crop(left, first, source_width, last - first);
        resizer.resize(&pixels, &mut between, &rows_options)?;
        let source_height = within(top - first, source_height, f64::from(rows));
        let options = options.crop(0.0, top - first, f64::from(width), source_height);
        resizer.resize(&between, &mut target, &options)?;
    } else {
        let options = options.crop(left, top, source_width, source_height);
        resizer.resize(&pixels, &mut target, &options)?;
    }
    Ok(())
}

/// Returns whether an interval of the image has to be resampled, and not only copied, to `pixels`.
fn needs_pass(start: f64, length: f64, pixels: u32) -> bool {
    length != f64::from(pixels) || start.fract() != 0.0
}

/// Clips `start..start + length` to 0..`limit`, as start and length; at least one pixel.
fn clip(start: f64, length: f64, limit: f64) -> (f64, f64) {
    let from = start.clamp(0.0, (limit - 1.0).max(0.0));
    let to = (start + length).clamp((from + 1.0).min(limit), limit);
    (from, within(from, to - from, limit))
}

/// Returns a length that, added to `start`, does not round to just beyond `limit`, which the
/// resizer refuses.
fn within(start: f64, length: f64, limit: f64) -> f64 {
    if start + length > limit { length.next_down() } else { length }
}

/// Maps a visible interval to `size` output pixels, as first pixel and count; at least one.
fn place(offset: f64, visible: f64, frame: f64, size: u32) -> (u32, u32) {
    let size = f64::from(size);
    let first = (offset / frame * size).round().clamp(0.0, size - 1.0);
    let last = ((offset + visible) / frame * size).round().clamp(first + 1.0, size);
    (first as u32, (last - first) as u32)
}
