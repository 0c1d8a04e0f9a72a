//! Input images, and heatmaps over them.

use anyhow::{Context, Result};
use image::{GrayImage, Luma, RgbImage};
use tch::{Device, Kind, Tensor};

use crate::config::BackboneShape;
use crate::data::{Frame, ImageDataset, Workspace};

/// An image to explain: the original, and what the model sees of it.
#[derive(Debug, Clone)]
pub struct InputImage {
    /// The name shown in figures, from which the names of its files are derived.
    pub name: String,
    /// The original image.
    pub image: RgbImage,
    /// The rectangle of the original that the model sees.
    pub frame: Frame,
    /// The model's input (3, s, s); empty if the input is given as a tensor.
    pub pixels: Vec<u8>,
}

impl InputImage {
    /// Reads a sample, transformed as in evaluation. Returns an error if the image cannot be read.
    pub fn read(images: &ImageDataset, index: usize) -> Result<Self> {
        let transform = images.transform().eval();
        let image = images.image(index)?;
        let mut pixels = vec![0; 3 * transform.size() * transform.size()];
        transform.apply(&image, &mut Workspace::default(), &mut pixels)?;
        Ok(Self {
            name: images.samples()[index].id.clone(),
            frame: transform.frame(&image),
            image: RgbImage::clone(&image),
            pixels,
        })
    }

    /// Reverses a branch's normalization of an image (3, h, w) to show it. Returns an error if the
    /// tensor has another shape or no pixels.
    pub fn from_normalized(name: String, x: &Tensor, shape: &BackboneShape) -> Result<Self> {
        let (_, height, width) = x.size3()?;
        let channel = |values: [f32; 3]| Tensor::from_slice(&values).view([3, 1, 1]);
        let pixels = ((x.to_device(Device::Cpu).to_kind(Kind::Float) * channel(shape.std)
            + channel(shape.mean))
            * 255.0)
            .round()
            .clamp(0.0, 255.0);
        let pixels = pixels.permute([1, 2, 0]).contiguous().reshape([-1]).to_kind(Kind::Uint8);
        let image = RgbImage::from_raw(width as u32, height as u32, Vec::<u8>::try_from(&pixels)?);
        Ok(Self {
            name,
            image: image.context("an image of the tensor has no pixels")?,
            frame: Frame { left: 0.0, top: 0.0, width: width as f64, height: height as f64 },
            pixels: Vec::new(),
        })
    }

    /// Stacks the model's inputs of `size` pixels per side: (b, 3, s, s) uint8.
    pub fn stack(inputs: &[Self], size: usize, device: Device) -> Result<Tensor> {
        let pixels: Vec<u8> = inputs.iter().flat_map(|i| i.pixels.iter().copied()).collect();
        let (count, size) = (inputs.len() as i64, size as i64);
        let pixels = Tensor::f_from_data_size(&pixels, &[count, 3, size, size], Kind::Uint8)?;
        Ok(pixels.f_to_device(device)?)
    }

    /// Places a map (s, s), from 0 to 1 over the model's input, on this image.
    pub(super) fn heatmap(&self, map: &Tensor) -> Result<Heatmap> {
        let side = map.size2()?.0 as usize;
        let values = Vec::try_from(&to_cpu(map)?.f_reshape([-1])?)?;
        Ok(Heatmap { values, side, frame: self.frame })
    }
}

/// Copies a tensor to the CPU as contiguous floats.
pub(super) fn to_cpu(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?)
}

/// An attribution map over the model's input, and the position of that input in the original image.
#[derive(Debug, Clone)]
pub struct Heatmap {
    /// The values (side, side), row by row, from 0 to 1.
    pub values: Vec<f32>,
    /// The side in pixels.
    pub side: usize,
    /// The rectangle of the original that the map covers, in the original's pixels.
    pub frame: Frame,
}

impl Heatmap {
    /// Interpolates the map at a point of the original, in pixels; pixel (i, j) covers i..i+1,
    /// j..j+1. `None` outside the model's input.
    pub fn at(&self, x: f64, y: f64) -> Option<f32> {
        let u = (x - self.frame.left) / self.frame.width;
        let v = (y - self.frame.top) / self.frame.height;
        if !(0.0..1.0).contains(&u) || !(0.0..1.0).contains(&v) || self.side == 0 {
            return None;
        }
        let (x0, x1, across) = self.neighbors(u);
        let (y0, y1, down) = self.neighbors(v);
        let value = |x: usize, y: usize| self.values.get(y * self.side + x).copied();
        let upper = value(x0, y0)? * (1.0 - across) + value(x1, y0)? * across;
        let lower = value(x0, y1)? * (1.0 - across) + value(x1, y1)? * across;
        Some(upper * (1.0 - down) + lower * down)
    }

    /// Whether all values are 0: the map was constant, usually because no patch raises the score.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|&value| value == 0.0)
    }

    /// Returns the indices on both sides of a position from 0 to 1, and the weight of the second.
    fn neighbors(&self, position: f64) -> (usize, usize, f32) {
        let last = self.side - 1;
        let at = (position * self.side as f64 - 0.5).clamp(0.0, last as f64);
        let first = at.floor() as usize;
        (first, (first + 1).min(last), (at - first as f64) as f32)
    }

    /// Renders the map as a gray image of the original's size: 0 is black, 1 is white, and pixels
    /// outside the model's input are black.
    pub fn to_gray_image(&self, width: u32, height: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| {
            let value = self.at(f64::from(x) + 0.5, f64::from(y) + 0.5);
            Luma([(value.unwrap_or(0.0).clamp(0.0, 1.0) * 255.0).round() as u8])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a heatmap with 1 in one of 4×4 cells.
    fn spot(column: usize, row: usize, frame: Frame) -> Heatmap {
        let mut values = vec![0.0; 16];
        values[row * 4 + column] = 1.0;
        Heatmap { values, side: 4, frame }
    }

    #[test]
    fn a_heatmap_covers_only_the_crop_that_the_model_sees() {
        let frame = Frame { left: 50.0, top: 0.0, width: 100.0, height: 100.0 };
        let map = spot(0, 3, frame);
        assert_eq!(map.at(62.5, 87.5), Some(1.0));
        assert_eq!(map.at(112.5, 87.5), Some(0.0));
        assert_eq!((map.at(49.9, 50.0), map.at(150.0, 50.0)), (None, None));
    }

    #[test]
    fn a_heatmap_of_zeros_is_empty() {
        let frame = Frame { left: 0.0, top: 0.0, width: 8.0, height: 8.0 };
        let mut map = spot(0, 3, frame);
        assert!(!map.is_empty());
        map.values.fill(0.0);
        assert!(map.is_empty());
    }

    #[test]
    fn the_heatmap_of_a_squashed_image_is_stretched_with_it() {
        let frame = Frame { left: 0.0, top: 0.0, width: 40.0, height: 400.0 };
        let gray = spot(2, 1, frame).to_gray_image(40, 400);
        // The pixel's center is 0.05 and 0.005 of a cell off the cell's: 0.95 · 0.995 · 255.
        assert_eq!(gray.get_pixel(25, 150).0, [241]);
        assert_eq!(gray.get_pixel(5, 150).0, [0]);
        assert_eq!(gray.get_pixel(25, 350).0, [0]);
    }
}
