//! Images on their way to figures: as they are, as the model sees them, and explained.

use anyhow::{Context, Result};
use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::figure::Explained;
use super::gallery::Piece;
use super::maps::Explanation;
use super::place::PlacedMap;
use super::request::{BRANCHES, Request, key, title};
use crate::data::{Frame, ImageDataset, Workspace};
use crate::eval::evaluate::values;
use crate::models::BeautyNet;

/// One image before it is explained.
#[derive(Debug, Clone)]
pub struct Original {
    /// For people, and for the names of its files.
    pub name: String,
    /// As it is stored.
    pub image: RgbImage,
    /// The part of it that the model sees.
    pub frame: Frame,
    /// (3, s, s), what the model sees of it; empty where that is known as a tensor.
    pub pixels: Vec<u8>,
}

impl Original {
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
    pub(super) fn placed(&self, map: &Tensor) -> Result<PlacedMap> {
        Ok(PlacedMap {
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
pub fn pieces(
    net: &BeautyNet,
    request: &Request,
    originals: Vec<Original>,
    explanation: &Explanation,
) -> Result<Vec<Piece>> {
    let method = request.describe(net);
    let scores = values(&explanation.score)?;
    let shares: Vec<f64> = match &explanation.weights {
        Some(weights) => values(&weights.reshape([-1]))?,
        None => Vec::new(),
    };
    let branches = BRANCHES
        .into_iter()
        .filter_map(|branch| Some((branch, explanation.branch(branch)?)))
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
            groups.push((title(*branch).to_string(), group));
            tensors.push((key(*branch).to_string(), image));
            tensors.push((format!("{}_grid", key(*branch)), host(&maps.grid.get(at))?));
        }
        if let Some(fused) = &fused {
            tensors.push(("fused".to_string(), fused.get(at)));
        }
        let Frame { left, top, width, height } = original.frame;
        let frame = Tensor::from_slice(&[left, top, width, height]);
        tensors.push(("frame".to_string(), frame));
        tensors.push(("score".to_string(), Tensor::from(score as f32)));
        let explained = Explained {
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
