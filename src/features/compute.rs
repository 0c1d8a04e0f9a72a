//! Computes rows: images are decoded and transformed in threads ahead of the encoder.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::shard::Key;
use super::view::ViewedImage;
use crate::models::images::upload_pixels;
use crate::models::{Slicer, weights};

/// Images of a pass through the encoder.
const CHUNK: usize = 32;
/// Chunks of pixels that may be ready ahead of the encoder.
const AHEAD: usize = 2;

/// Encodes pixels.
pub(super) type Encode<'a> = dyn Fn(&Tensor) -> Result<Tensor> + Sync + 'a;
/// Gets rows with their keys.
pub(super) type Done<'a> = dyn FnMut(&[Key], &[u8]) -> Result<()> + 'a;

/// The rows of an encoder.
pub(super) struct RowKind {
    /// What they depend on, but for the image and the device.
    pub identity: String,
    /// Values of a row.
    pub width: usize,
}

/// What turns images into rows of numbers.
pub(super) struct Encoder<'a> {
    /// Its name in messages.
    pub name: String,
    pub rows: RowKind,
    /// Those of an encoder whose rows begin with this one's.
    pub longer: Option<RowKind>,
    pub device: Device,
    /// Encodes pixels, uint8 (b, 3, s, s): float (b, values of a row).
    pub encode: Box<Encode<'a>>,
}

impl Encoder<'_> {
    /// Encodes images, and hands the rows of each chunk to `done` with their keys.
    pub(super) fn compute(
        &self,
        images: &[(ViewedImage, Key)],
        slicer: &Slicer,
        done: &mut Done,
    ) -> Result<()> {
        let (sender, receiver) = sync_channel(AHEAD);
        thread::scope(|scope| {
            scope.spawn(move || {
                for chunk in images.chunks(CHUNK) {
                    // The receiver is gone after an error.
                    if sender.send((chunk, pixels(chunk))).is_err() {
                        return;
                    }
                }
            });
            for (chunk, pixels) in receiver {
                let keys: Vec<Key> = chunk.iter().map(|(_, key)| *key).collect();
                done(&keys, &self.rows(&pixels?, chunk, slicer)?)?;
            }
            Ok(())
        })
    }

    /// Encodes the pixels of a chunk of images: their rows.
    fn rows(
        &self,
        pixels: &[u8],
        chunk: &[(ViewedImage, Key)],
        slicer: &Slicer,
    ) -> Result<Vec<u8>> {
        let size = chunk.first().map_or(0, |(image, _)| image.images.size());
        let bytes = 3 * size * size;
        let encode = |rows: &Range<usize>| {
            let _guard = tch::no_grad_guard();
            let pixels = &pixels[rows.start * bytes..rows.end * bytes];
            let pixels = upload_pixels(pixels, rows.len(), size, self.device)?;
            let encoded = (self.encode)(&pixels)?;
            weights::bytes(&encoded.to_kind(Kind::Float))
        };
        let slices = slicer.slices(chunk.len());
        let rows = slicer.map(slices.len(), |slice| encode(&slices[slice]));
        let rows = rows.with_context(|| format!("computing the features of {}", self.name))?;
        Ok(rows.concat())
    }
}

/// Returns the pixels of a chunk of images. Returns an error that names an image that cannot be
/// read.
fn pixels(chunk: &[(ViewedImage, Key)]) -> Result<Vec<u8>> {
    let of_one = |(image, _): &(ViewedImage, Key)| image.pixels();
    let pixels: Result<Vec<Vec<u8>>> = chunk.par_iter().map(of_one).collect();
    pixels.map(|pixels| pixels.concat()).map_err(|error| anyhow!("{error:#}"))
}
