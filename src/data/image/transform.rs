//! The deterministic transform from a decoded image to the square that the model sees.
//!
//! Resize and crop are one resampling, which agrees with torchvision's v2 transforms on PIL
//! images to within rounding.

use anyhow::{Context, Result};
use image::RgbImage;

use super::planes::split_planes;
use super::resample::{Frame, Workspace, resample};
use crate::config::{DataConfig, Interpolation, Resize};

/// Resizes an image to a square of `data.image_size`, as `data.resize` says: `squash` ignores the
/// aspect ratio, `crop` resizes the short side to the size and takes the center, `pad` resizes the
/// long side to the size and fills the rest with `data.background`.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalTransform {
    size: u32,
    resize: Resize,
    interpolation: Interpolation,
    /// The length that `crop` resizes the short side to, in pixels.
    short_side: u32,
    background: [u8; 3],
}

impl EvalTransform {
    /// Creates the configured transform. Returns an error if the image size is not positive.
    pub fn new(config: &DataConfig) -> Result<Self> {
        let size = u32::try_from(config.image_size).ok().filter(|&size| size > 0);
        let side = config.image_size;
        let wrong =
            || format!("data.image_size: {side} is not a valid size; set the side in pixels");
        let size = size.with_context(wrong)?;
        Ok(Self {
            size,
            resize: config.resize,
            interpolation: config.interpolation,
            short_side: config.short_side.unwrap_or(size).max(size),
            background: config.background,
        })
    }

    /// Returns the side of the square, in pixels.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Returns the color behind transparent pixels and around padded images.
    pub fn background(&self) -> [u8; 3] {
        self.background
    }

    /// Writes the transformed image to `out`: (3, size, size), one plane per color. Returns an
    /// error if the image has no pixels or `out` has another length.
    pub fn apply(&self, image: &RgbImage, workspace: &mut Workspace, out: &mut [u8]) -> Result<()> {
        self.resample(image, self.frame(image), workspace)?;
        split_planes(&workspace.framed, out)
    }

    /// Returns the rectangle of the image that the output shows.
    pub fn frame(&self, image: &RgbImage) -> Frame {
        let (width, height) = (f64::from(image.width()), f64::from(image.height()));
        match self.resize {
            Resize::Squash => Frame { left: 0.0, top: 0.0, width, height },
            Resize::Crop => {
                // torchvision's Resize then CenterCrop, with their rounding, in the image's own
                // pixels.
                let (short, size) = (f64::from(self.short_side), f64::from(self.size));
                let scale = short / width.min(height);
                let resized = |side: f64| {
                    if side == width.min(height) { short } else { (side * scale).floor() }
                };
                let place = |side: f64| {
                    let pixel = side / resized(side).max(1.0);
                    (((resized(side) - size) / 2.0).round_ties_even() * pixel, size * pixel)
                };
                let ((left, width), (top, height)) = (place(width), place(height));
                Frame { left, top, width, height }
            }
            Resize::Pad => {
                let side = width.max(height);
                let (left, top) = ((width - side) / 2.0, (height - side) / 2.0);
                Frame { left, top, width: side, height: side }
            }
        }
    }

    pub(in crate::data) fn resample(
        &self,
        image: &RgbImage,
        frame: Frame,
        workspace: &mut Workspace,
    ) -> Result<()> {
        resample(image, frame, self.size, self.interpolation, self.background, workspace)
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::data::NEUTRAL;

    fn transform(size: u32, resize: Resize, interpolation: Interpolation) -> EvalTransform {
        let config =
            DataConfig { image_size: size.into(), resize, interpolation, ..DataConfig::default() };
        EvalTransform::new(&config).unwrap()
    }

    fn run(transform: &EvalTransform, image: &RgbImage) -> Vec<u8> {
        let mut out = vec![0; 3 * transform.size().pow(2)];
        transform.apply(image, &mut Workspace::default(), &mut out).unwrap();
        out
    }

    #[test]
    fn an_image_of_the_right_size_is_unchanged() {
        let image = RgbImage::from_fn(8, 8, |x, y| Rgb([x as u8 * 30, y as u8 * 30, 7]));
        for resize in [Resize::Squash, Resize::Crop, Resize::Pad] {
            let out = run(&transform(8, resize, Interpolation::Bicubic), &image);
            assert_eq!(&out[..64], image.pixels().map(|p| p.0[0]).collect::<Vec<_>>());
            assert_eq!(&out[128..], &[7; 64]);
        }
    }

    #[test]
    fn padding_surrounds_a_wide_or_tall_image() {
        let wide = RgbImage::from_pixel(40, 20, Rgb([255, 0, 0]));
        let out = run(&transform(16, Resize::Pad, Interpolation::Bilinear), &wide);
        let red = |x: usize, y: usize| out[y * 16 + x];
        assert_eq!(
            (red(8, 3), red(8, 4), red(8, 11), red(8, 12)),
            (NEUTRAL[0], 255, 255, NEUTRAL[0])
        );
        let tall = RgbImage::from_pixel(20, 40, Rgb([255, 0, 0]));
        let turned = run(&transform(16, Resize::Pad, Interpolation::Bilinear), &tall);
        assert_eq!((turned[8 * 16 + 3], turned[8 * 16 + 4]), (NEUTRAL[0], 255));
    }

    #[test]
    fn a_crop_shows_the_center() {
        let thirds = RgbImage::from_fn(30, 10, |x, _| Rgb([x as u8 / 10 * 100; 3]));
        let out = run(&transform(10, Resize::Crop, Interpolation::Bilinear), &thirds);
        assert!(out.iter().all(|&value| value == 100), "{out:?}");
    }

    #[test]
    fn odd_shapes_and_tiny_images_work() {
        for (width, height) in [(1, 1), (1, 500), (500, 1), (3, 7), (1000, 2)] {
            let image = RgbImage::from_pixel(width, height, Rgb([90; 3]));
            for resize in [Resize::Squash, Resize::Crop, Resize::Pad] {
                let out = run(&transform(12, resize, Interpolation::Bicubic), &image);
                assert!(out.contains(&90), "{width}x{height} {resize:?}");
            }
        }
    }
}
