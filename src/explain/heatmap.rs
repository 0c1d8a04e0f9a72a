//! Images on their way to figures: as they are, as the model sees them, and explained.

use anyhow::{Context, Result};
use image::{GrayImage, Luma, RgbImage};
use tch::{Device, Kind, Tensor};

use super::figure::ExplainedImage;
use super::figure_writer::Piece;
use super::maps::Explanation;
use super::options::ExplainOptions;
use crate::data::{Frame, ImageDataset, Workspace};
use crate::eval::evaluate::values;
use crate::models::BeautyNet;

/// One image before it is explained.
#[derive(Debug, Clone)]
pub struct InputImage {
    /// For people, and for the names of its files.
    pub name: String,
    /// As it is stored.
    pub image: RgbImage,
    /// The part of it that the model sees.
    pub frame: Frame,
    /// (3, s, s), what the model sees of it; empty where that is known as a tensor.
    pub pixels: Vec<u8>,
}

impl InputImage {
    /// The sample of this index, as evaluation sees it.
    ///
    /// # Errors
    /// An image that cannot be read.
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

    /// What the model sees of images of `size` pixels a side: (b, 3, s, s) uint8.
    ///
    /// # Errors
    /// libtorch's message where memory runs out.
    pub fn batch(originals: &[Self], size: usize, device: Device) -> Result<Tensor> {
        let pixels = originals.iter().flat_map(|o| o.pixels.iter().copied());
        let (count, size) = (originals.len() as i64, size as i64);
        let pixels: Vec<u8> = pixels.collect();
        let pixels = Tensor::f_from_data_size(&pixels, &[count, 3, size, size], Kind::Uint8)?;
        Ok(pixels.f_to_device(device)?)
    }

    /// A map (s, s) from 0 to 1 of what the model saw, on this image.
    pub(super) fn placed(&self, map: &Tensor) -> Result<Heatmap> {
        Ok(Heatmap {
            side: map.size2()?.0 as usize,
            values: Vec::try_from(&host(map)?.f_reshape([-1])?)?,
            frame: self.frame,
        })
    }
}

/// Each image of a batch with its part of the explanation: what figures show, and the maps as
/// tensors by name: `vit`, `mamba` and `fused` from 0 to 1 over the square that the model saw,
/// `vit_grid` and `mamba_grid` as computed, `frame`, `score`.
///
/// # Errors
/// The explanation is of fewer images.
pub fn explained_images(
    net: &BeautyNet,
    request: &ExplainOptions,
    originals: Vec<InputImage>,
    explanation: &Explanation,
) -> Result<Vec<Piece>> {
    let method = request.describe(net);
    let scores = values(&explanation.score)?;
    let shares: Vec<f64> = match &explanation.weights {
        Some(weights) => values(&weights.reshape([-1]))?,
        None => Vec::new(),
    };
    let branches = explanation
        .branches()
        .map(|(branch, maps)| Ok((branch, maps, host(&maps.image()?)?)))
        .collect::<Result<Vec<_>>>()?;
    let fused = explanation.fused()?.map(|fused| host(&fused)).transpose()?;
    let mut pieces = Vec::new();
    for (row, original) in originals.into_iter().enumerate() {
        let at = row as i64;
        let score = *scores.get(row).context("an image got no explanation")?;
        let mut tensors = Vec::new();
        let mut groups = Vec::new();
        for (branch, maps, image) in &branches {
            let image = image.get(at);
            let mut group = Vec::new();
            for map in 0..image.size()[0] {
                let layer = maps.layers.get(map as usize);
                let label = layer.map_or(String::new(), usize::to_string);
                group.push((label, original.placed(&image.get(map))?));
            }
            groups.push((branch.title().to_string(), group));
            tensors.push((branch.name().to_string(), image));
            tensors.push((format!("{}_grid", branch.name()), host(&maps.grid.get(at))?));
        }
        if let Some(fused) = &fused {
            tensors.push(("fused".to_string(), fused.get(at)));
        }
        let Frame { left, top, width, height } = original.frame;
        let frame = Tensor::from_slice(&[left, top, width, height]);
        tensors.push(("frame".to_string(), frame));
        tensors.push(("score".to_string(), Tensor::from(score as f32)));
        let explained = ExplainedImage {
            score,
            weights: shares.chunks_exact(2).nth(row).map(|w| [w[0], w[1]]),
            method: method.clone(),
            maps: groups,
            fused: fused.as_ref().map(|fused| original.placed(&fused.get(at))).transpose()?,
            name: original.name,
            image: original.image,
        };
        pieces.push((explained, tensors));
    }
    Ok(pieces)
}

fn host(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?)
}

/// A map over the square that the model saw, and where that square lies in the original.
#[derive(Debug, Clone)]
pub struct Heatmap {
    /// (side, side), row by row, from 0 to 1.
    pub values: Vec<f32>,
    /// Pixels a side.
    pub side: usize,
    /// The square, in the original's pixels.
    pub frame: Frame,
}

impl Heatmap {
    /// The value at a point of the original, in its pixels; pixel (i, j) covers i..i+1, j..j+1.
    /// `None` where the model saw nothing.
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

    /// Whether nothing is on it: the map was the same everywhere, most often because no patch
    /// raises the score.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|&value| value == 0.0)
    }

    /// The values on both sides of a place from 0 to 1, and how far it is from the first to the
    /// second.
    fn neighbors(&self, part: f64) -> (usize, usize, f32) {
        let last = self.side - 1;
        let place = (part * self.side as f64 - 0.5).clamp(0.0, last as f64);
        let first = place.floor() as usize;
        (first, (first + 1).min(last), (place - first as f64) as f32)
    }

    /// The map as a gray image of the original's size: 0 is black, 1 white, and black is also what
    /// the model did not see.
    pub fn gray(&self, width: u32, height: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| {
            let value = self.at(f64::from(x) + 0.5, f64::from(y) + 0.5);
            Luma([(value.unwrap_or(0.0).clamp(0.0, 1.0) * 255.0).round() as u8])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 in one of 4×4 cells.
    fn spot(column: usize, row: usize, frame: Frame) -> Heatmap {
        let mut values = vec![0.0; 16];
        values[row * 4 + column] = 1.0;
        Heatmap { values, side: 4, frame }
    }

    #[test]
    fn a_crops_map_lies_in_the_middle_and_nowhere_else() {
        let frame = Frame { left: 50.0, top: 0.0, width: 100.0, height: 100.0 };
        let map = spot(0, 3, frame);
        assert_eq!(map.at(62.5, 87.5), Some(1.0));
        assert_eq!(map.at(112.5, 87.5), Some(0.0));
        assert_eq!((map.at(49.9, 50.0), map.at(150.0, 50.0)), (None, None));
    }

    #[test]
    fn a_map_of_zeros_is_empty() {
        let frame = Frame { left: 0.0, top: 0.0, width: 8.0, height: 8.0 };
        let mut map = spot(0, 3, frame);
        assert!(!map.is_empty());
        map.values.fill(0.0);
        assert!(map.is_empty());
    }

    #[test]
    fn a_squashed_map_is_stretched_with_its_image() {
        let frame = Frame { left: 0.0, top: 0.0, width: 40.0, height: 400.0 };
        let gray = spot(2, 1, frame).gray(40, 400);
        // The pixel's center is 0.05 and 0.005 of a cell off the cell's: 0.95 · 0.995 · 255.
        assert_eq!(gray.get_pixel(25, 150).0, [241]);
        assert_eq!(gray.get_pixel(5, 150).0, [0]);
        assert_eq!(gray.get_pixel(25, 350).0, [0]);
    }
}
