//! A sheet of validation images: original, masked, and reconstructed by each backbone.

use std::sync::Arc;

use anyhow::{Context, Result};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use tch::{Device, Tensor};

use super::images::TrainAndVal;
use super::masks::{Masks, VALIDATION_EPOCH};
use crate::config::Config;
use crate::data::{ImageDataset, Loader, LoaderOptions, Mode};
use crate::models::ForwardContext;
use crate::models::images::upload;
use crate::models::masked_image::MaskedImageModel;

/// The number of rows.
const ROWS: usize = 8;
/// Images are enlarged by a whole number to at least this side.
const SIDE: u32 = 96;
const GAP: u32 = 4;

/// Rows of panels that grow with every backbone.
pub(super) struct Panels {
    /// (b, 3, s, s) uint8.
    images: Tensor,
    /// The images' indices among the validation images.
    indices: Vec<usize>,
    /// The columns, each with one image per row.
    columns: Vec<Vec<RgbImage>>,
}

impl Panels {
    /// Creates the sheet with one column: validation images, evenly spaced in their list. Returns
    /// an error that names an image that cannot be read.
    pub(super) fn new(images: &TrainAndVal, config: &Config) -> Result<Self> {
        let samples = images.val.samples();
        let rows = ROWS.min(samples.len());
        let indices: Vec<usize> = (0..rows).map(|row| row * samples.len() / rows).collect();
        let shown = indices.iter().map(|&index| samples[index].clone());
        let shown = Arc::new(ImageDataset::new(shown.collect(), &config.data)?);
        let batch = Loader::new(shown, LoaderOptions::new(Mode::Eval, rows, 0))?
            .next()
            .context("there is no validation image")??;
        let images = upload(&batch, Device::Cpu)?;
        Ok(Self { columns: vec![to_images(&images)?], images, indices })
    }

    /// Adds two columns: the images masked as in validation, and the backbone's reconstructions.
    /// Returns an operator's error.
    pub(super) fn add(&mut self, model: &MaskedImageModel, config: &Config) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let device = model.device();
        let masks = Masks::new(config.seed, &config.pretrain, model.shape());
        let (mask, _) = masks.sample(VALIDATION_EPOCH, &self.indices, device)?;
        let x = model.normalize(&self.images.f_to_device(device)?)?;
        let prediction = model.predict(&x, &mask, ForwardContext::eval())?;
        let reconstructed =
            model.reconstruct(&prediction, &x, &mask, config.pretrain.normalized_pixels);
        for x in [model.gray_out(&x, &mask), reconstructed] {
            self.columns.push(to_images(&model.denormalize(&x))?);
        }
        Ok(())
    }

    /// Renders the sheet.
    pub(super) fn image(&self) -> RgbImage {
        let side = self.images.size()[2] as u32;
        let side = side * SIDE.div_ceil(side);
        let offset = |at: usize| i64::from(GAP + at as u32 * (side + GAP));
        let extent = |count: usize| offset(count) as u32;
        let mut sheet = RgbImage::from_pixel(
            extent(self.columns.len()),
            extent(self.indices.len()),
            Rgb([255; 3]),
        );
        for (column, images) in self.columns.iter().enumerate() {
            for (row, image) in images.iter().enumerate() {
                let panel = imageops::resize(image, side, side, FilterType::Nearest);
                imageops::replace(&mut sheet, &panel, offset(column), offset(row));
            }
        }
        sheet
    }
}

/// Converts a batch (b, 3, height, width) of uint8 to images.
fn to_images(images: &Tensor) -> Result<Vec<RgbImage>> {
    let (b, _, height, width) = images.size4()?;
    let pixels = images.permute([0, 2, 3, 1]).contiguous().flatten(1, -1);
    (0..b)
        .map(|i| {
            let bytes = Vec::<u8>::try_from(pixels.get(i).to_device(Device::Cpu))?;
            RgbImage::from_raw(width as u32, height as u32, bytes)
                .context("an image has too few pixels")
        })
        .collect()
}
