//! Conversion of interleaved pixels, as decoders return them, to the planes of the model.

use anyhow::{Result, ensure};

/// Converts (pixels, 3) to (3, pixels).
pub(in crate::data) fn split_planes(interleaved: &[u8], out: &mut [u8]) -> Result<()> {
    let [red, green, blue] = planes(interleaved.len(), out)?;
    let planes = red.iter_mut().zip(green).zip(blue);
    for (pixel, ((red, green), blue)) in interleaved.chunks_exact(3).zip(planes) {
        (*red, *green, *blue) = (pixel[0], pixel[1], pixel[2]);
    }
    Ok(())
}

/// Splits off the three color planes of an output of `length` bytes.
pub(in crate::data) fn planes(length: usize, out: &mut [u8]) -> Result<[&mut [u8]; 3]> {
    ensure!(out.len() == length, "the output has {} bytes, the image {length}", out.len());
    let (red, rest) = out.split_at_mut(length / 3);
    let (green, blue) = rest.split_at_mut(length / 3);
    Ok([red, green, blue])
}
