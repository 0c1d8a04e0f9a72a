//! Images on their way into the network: upload and normalization.

use std::ops::Range;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::onnx::{Graph, Value};
use crate::data::HostBatch;
use crate::ops::SharedTensor;

/// Images as the network takes them.
#[derive(Debug, Clone, Copy)]
pub enum Images<'a> {
    /// (b, 3, s, s) uint8 RGB; each branch normalizes them with the mean and std of its preset.
    Pixels(&'a Tensor),
    /// (b, 3, s, s) float, normalized already; both branches get the same values.
    Normalized(&'a Tensor),
}

/// Uploads a host batch to the device: uint8 (b, 3, s, s).
pub fn upload(batch: &HostBatch, device: Device) -> Result<Tensor> {
    upload_rows(batch, &(0..batch.len), device)
}

/// Uploads these images of a host batch to the device: uint8 (b, 3, s, s).
pub fn upload_rows(batch: &HostBatch, rows: &Range<usize>, device: Device) -> Result<Tensor> {
    let bytes = 3 * batch.size * batch.size;
    let pixels = batch.pixels.get(rows.start * bytes..rows.end * bytes);
    let pixels = pixels.context("internal: the batch has no such images")?;
    upload_pixels(pixels, rows.len(), batch.size, device)
}

/// Uploads the pixels of `len` images of side `size` to the device: uint8 (b, 3, s, s). Returns an
/// error if there are fewer or more.
pub fn upload_pixels(pixels: &[u8], len: usize, size: usize, device: Device) -> Result<Tensor> {
    let shape = [len as i64, 3, size as i64, size as i64];
    Ok(Tensor::f_from_data_size(pixels, &shape, Kind::Uint8)?.f_to_device(device)?)
}

/// Normalization by channel, for pixels from 0 to 1.
#[derive(Debug)]
pub(super) struct Normalization {
    /// (1, 3, 1, 1).
    mean: SharedTensor,
    /// (1, 3, 1, 1).
    std: SharedTensor,
}

impl Normalization {
    pub(super) fn new(mean: [f32; 3], std: [f32; 3], device: Device) -> Self {
        let [mean, std] = [mean, std]
            .map(|values| Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(device).into());
        Self { mean, std }
    }

    /// Uint8 (b, 3, h, w) to normalized floats.
    pub(super) fn normalize(&self, pixels: &Tensor) -> Tensor {
        (pixels.to_kind(Kind::Float) / 255.0 - &*self.mean) / &*self.std
    }

    /// Adds the normalization of pixels from 0 to 1 (b, 3, h, w) to a graph.
    pub(super) fn onnx(&self, graph: &mut Graph, pixels: &Value) -> Value {
        let (mean, std) = (graph.constant("mean", &self.mean), graph.constant("std", &self.std));
        let centered = graph.op("Sub", &[pixels, &mean]);
        graph.op("Div", &[&centered, &std])
    }

    /// Normalized floats (b, 3, h, w) to uint8.
    pub(super) fn denormalize(&self, x: &Tensor) -> Tensor {
        let levels = (x * &*self.std + &*self.mean) * 255.0;
        levels.round().clamp(0.0, 255.0).to_kind(Kind::Uint8)
    }
}
