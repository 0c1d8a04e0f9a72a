//! Validation pictures as they are, masked, and reconstructed: what a pretraining has learnt, for people.

use std::sync::Arc;

use anyhow::{Context, Result};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use tch::{Device, Tensor};

use super::branch::targets;
use super::masks::Masks;
use super::pictures::TrainAndVal;
use crate::config::Config;
use crate::data::{Loader, LoaderOptions, Pass, Pictures};
use crate::eval::evaluate::pixels;
use crate::models::masked_image::MaskedImageModel;

/// Rows.
const PICTURES: usize = 8;
/// Small pictures are enlarged to this side, or the next above it.
const SIDE: u32 = 96;
const GAP: u32 = 4;

/// Rows of panels that grow with every backbone.
pub struct Panels {
    /// (b, 3, s, s) uint8.
    pictures: Tensor,
    /// Of the pictures, among the validation pictures.
    indices: Vec<usize>,
    /// Columns of pictures.
    columns: Vec<Vec<RgbImage>>,
}

impl Panels {
    /// With one column: validation pictures, evenly spaced in their list.
    ///
    /// # Errors
    /// A picture that cannot be read, by name.
    pub fn new(pictures: &TrainAndVal, config: &Config) -> Result<Self> {
        let samples = pictures.val.samples();
        let rows = PICTURES.min(samples.len());
        let indices: Vec<usize> = (0..rows).map(|row| row * samples.len() / rows).collect();
        let shown = indices.iter().map(|&index| samples[index].clone());
        let shown = Arc::new(Pictures::new(shown.collect(), &config.data)?);
        let batch = Loader::new(shown, LoaderOptions::new(Pass::Evaluate, rows, 0))?
            .next()
            .context("there is no validation picture")??;
        let pictures = pixels(&batch, Device::Cpu)?;
        Ok(Self {
            columns: vec![images(&pictures)?],
            pictures,
            indices,
        })
    }

    /// Adds the pictures as a backbone has seen them in validation, and what it made of them.
    ///
    /// # Errors
    /// An operator's message.
    pub fn add(&mut self, model: &MaskedImageModel, config: &Config) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let device = model.device();
        let masks = Masks::new(config.seed, &config.pretrain, model.shape());
        let mask = masks.of_validation(&self.indices, device)?;
        let x = model.normalise(&self.pictures.f_to_device(device)?)?;
        let prediction = model.predict(&x, &mask, false)?;
        let reconstructed = model.reconstruct(&prediction, &x, &mask, targets(&config.pretrain));
        for x in [model.hide(&x, &mask), reconstructed] {
            self.columns.push(images(&model.pixels(&x))?);
        }
        Ok(())
    }

    /// All of it.
    pub fn picture(&self) -> RgbImage {
        let side = self.pictures.size()[2] as u32;
        let side = side * SIDE.div_ceil(side);
        let place = |at: usize| i64::from(GAP + at as u32 * (side + GAP));
        let extent = |count: usize| place(count) as u32;
        let mut sheet = RgbImage::from_pixel(
            extent(self.columns.len()),
            extent(self.indices.len()),
            Rgb([255; 3]),
        );
        for (column, pictures) in self.columns.iter().enumerate() {
            for (row, picture) in pictures.iter().enumerate() {
                let panel = imageops::resize(picture, side, side, FilterType::Nearest);
                imageops::replace(&mut sheet, &panel, place(column), place(row));
            }
        }
        sheet
    }
}

/// (b, 3, s, s) uint8, each as a picture.
fn images(pictures: &Tensor) -> Result<Vec<RgbImage>> {
    let (b, _, height, width) = pictures.size4()?;
    let pixels = pictures.permute([0, 2, 3, 1]).contiguous().flatten(1, -1);
    (0..b)
        .map(|i| {
            let bytes = Vec::<u8>::try_from(pixels.get(i).to_device(tch::Device::Cpu))?;
            RgbImage::from_raw(width as u32, height as u32, bytes)
                .context("a picture has too few pixels")
        })
        .collect()
}
