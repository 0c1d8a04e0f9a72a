//! Decodes image files of every supported format to 8-bit RGB.
//!
//! The content decides the format, not the file's name. EXIF orientation is applied; gray, palette,
//! 16-bit, float and CMYK images become RGB; transparent pixels are blended over a background,
//! [`NEUTRAL`] by default. Files that are damaged, truncated, too large or not images are errors.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use image::error::{LimitErrorKind, UnsupportedErrorKind};
use image::metadata::Orientation;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageError, ImageReader, Limits, RgbImage,
};

use super::format::{ImageFormat, unsupported};
use super::{directory, jpeg, nested, png};
use crate::files::read_regular;

/// The default background of transparent pixels and padding: the mean color of ImageNet, which
/// normalization maps to about zero.
pub const NEUTRAL: [u8; 3] = [124, 116, 104];

/// The longest accepted side, in pixels.
const MAX_SIDE: u32 = 16_384;
/// The most accepted pixels: enough for any camera's 48-megapixel images.
const MAX_PIXELS: u64 = 64 << 20;
/// The most bytes of an image's pixels as they are in the file: decoding and converting them takes
/// three times as much.
const MAX_DECODED: u64 = 384 << 20;
/// The memory that decoding may take beyond two copies of the pixels and the file, in bytes.
const ROOM: u64 = 1 << 20;
/// The largest accepted file, in bytes.
const MAX_FILE: u64 = 256 << 20;

const CLAIMS_MEMORY: &str =
    "damaged: a part of the image claims more memory than its pixels; remove it";

/// Reads the image in `path`. Returns an error, starting with the path, if the file is missing, not
/// a regular file, empty, not an image of a supported format, truncated, damaged, or larger than
/// the limits above.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    read_file(path)
        .and_then(|bytes| decode_image(&bytes))
        .with_context(|| path.display().to_string())
}

/// Reads the bytes of a regular file of bounded size. Errors do not name the file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    read_regular(path, MAX_FILE).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("no such file"),
        ErrorKind::FileTooLarge => anyhow!("{error}; shrink it"),
        ErrorKind::IsADirectory | ErrorKind::InvalidInput => anyhow!("{error}; name an image file"),
        _ => anyhow!("cannot be read: {error}"),
    })
}

/// Decodes an image from the content of a file. Returns an error as [`read_image`] does, without a
/// path.
pub fn decode_image(bytes: &[u8]) -> Result<RgbImage> {
    decode_image_over(bytes, NEUTRAL)
}

/// Decodes an image as [`decode_image`] does, with transparent pixels over `background`.
pub(crate) fn decode_image_over(bytes: &[u8], background: [u8; 3]) -> Result<RgbImage> {
    decode_caught(|| {
        let format = supported_format(bytes)?;
        if format == image::ImageFormat::Jpeg {
            jpeg::check(bytes, MAX_PIXELS)?;
        }
        decode(bytes, format, background)
    })
}

/// Decodes bytes that [`decode_image_over`] has decoded before, to an equal image: the blocks of a
/// JPEG are not checked again, which takes as long as decoding them.
pub(crate) fn decode_again_over(bytes: &[u8], background: [u8; 3]) -> Result<RgbImage> {
    decode_caught(|| decode(bytes, supported_format(bytes)?, background))
}

/// Runs a decoder. It is third-party code on untrusted input: a panic in it is a damaged file.
fn decode_caught(decode: impl FnOnce() -> Result<RgbImage>) -> Result<RgbImage> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded,
        Err(_) => bail!(
            "damaged, or of a kind that the decoder does not know: save the image again as PNG or \
             remove it"
        ),
    }
}

fn decode(bytes: &[u8], format: image::ImageFormat, background: [u8; 3]) -> Result<RgbImage> {
    ensure!(
        format != image::ImageFormat::Tiff || !directory::is_camera_raw(bytes),
        "a camera's raw file, of which only a preview can be read; export it as JPEG or PNG"
    );
    let bytes = match format {
        image::ImageFormat::Png => png::without_texts(bytes),
        _ => Cow::Borrowed(bytes),
    };
    let mut reader = ImageReader::with_format(Cursor::new(&*bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(explain)?;
    let (width, height) = decoder.dimensions();
    ensure!(width > 0 && height > 0, "damaged: the image has no pixels; remove it");
    let pixels = u64::from(width) * u64::from(height);
    ensure!(
        pixels <= MAX_PIXELS,
        "the image has {width}x{height} pixels, more than the limit of {} million; shrink it",
        MAX_PIXELS >> 20
    );
    ensure!(
        decoder.total_bytes() <= MAX_DECODED,
        "the image has {width}x{height} pixels of {} bytes each, more than the limit of {} MiB; \
         shrink it, or save it with 8 bits per color",
        decoder.total_bytes() / pixels,
        MAX_DECODED >> 20
    );
    if matches!(format, image::ImageFormat::Tiff | image::ImageFormat::WebP) {
        let most = 4 * decoder.total_bytes() + (1 << 26);
        ensure!(!nested::claims_more_than(pixels, &bytes), CLAIMS_MEMORY);
        ensure!(directory::row_bytes(&bytes, width) <= most, CLAIMS_MEMORY);
    }
    // What the file claims about its parts may need more memory than its pixels and itself.
    limits.max_alloc = Some(2 * decoder.total_bytes() + bytes.len() as u64 + ROOM);
    decoder.set_limits(limits).map_err(explain)?;
    let orientation = orientation(&mut decoder);
    let mut image = DynamicImage::from_decoder(decoder).map_err(explain)?;
    ensure_levels(&image)?;
    image.apply_orientation(orientation);
    Ok(if image.color().has_alpha() { over(image, background) } else { image.into_rgb8() })
}

/// Returns the orientation that the metadata state. Unparsable metadata do not make the pixels
/// unusable.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    match decoder.exif_metadata() {
        Ok(Some(exif)) => directory::orientation(&exif),
        _ => decoder.orientation().ok(),
    }
    .unwrap_or(Orientation::NoTransforms)
}

/// Returns an error if an image of floats has others than levels from 0 to 1. What they mean, the
/// file does not say; they would become black and white.
fn ensure_levels(image: &DynamicImage) -> Result<()> {
    let levels: &[f32] = match image {
        DynamicImage::ImageRgb32F(image) => image,
        DynamicImage::ImageRgba32F(image) => image,
        _ => return Ok(()),
    };
    ensure!(
        levels.iter().all(|level| (0.0..=1.0).contains(level)),
        "the image has float values beyond 0 to 1; save it with 8 bits per color"
    );
    Ok(())
}

fn over(image: DynamicImage, background: [u8; 3]) -> RgbImage {
    let rgba = image.into_rgba8();
    let mut out = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in out.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from[3]);
        let blend = |color: u8, under: u8| {
            ((u32::from(color) * alpha + u32::from(under) * (255 - alpha) + 127) / 255) as u8
        };
        to.0 = std::array::from_fn(|channel| blend(from[channel], background[channel]));
    }
    out
}

fn explain(error: ImageError) -> anyhow::Error {
    match error {
        ImageError::Limits(error) if error.kind() != LimitErrorKind::DimensionError => {
            anyhow!(CLAIMS_MEMORY)
        }
        ImageError::Limits(_) => anyhow!(
            "the image exceeds the limit of {MAX_SIDE} pixels a side or {} million; shrink it",
            MAX_PIXELS >> 20
        ),
        ImageError::Unsupported(error) => {
            let format = error.format_hint().to_string().to_uppercase();
            let kind = match error.kind() {
                UnsupportedErrorKind::Color(ExtendedColorType::Unknown(bits)) => {
                    format!("a {format} with such colors ({bits} bits per pixel)")
                }
                UnsupportedErrorKind::GenericFeature(reason) => {
                    format!("a {format} of this kind ({reason})")
                }
                _ => error.to_string(),
            };
            anyhow!(unsupported(&kind))
        }
        error => anyhow!("damaged: {error}; download it again or remove it"),
    }
}

/// Returns the format of a file that can be decoded.
fn supported_format(bytes: &[u8]) -> Result<image::ImageFormat> {
    ensure!(!bytes.is_empty(), "the file is empty; download it again or remove it");
    Ok(match ImageFormat::of(bytes) {
        Some(ImageFormat::Jpeg) => image::ImageFormat::Jpeg,
        Some(ImageFormat::Png) => image::ImageFormat::Png,
        Some(ImageFormat::WebP) => image::ImageFormat::WebP,
        Some(ImageFormat::Bmp) => image::ImageFormat::Bmp,
        Some(ImageFormat::Gif) => image::ImageFormat::Gif,
        Some(ImageFormat::Tiff) => image::ImageFormat::Tiff,
        Some(ImageFormat::Unsupported(name)) => bail!(unsupported(name)),
        None => bail!("not an image; {} are read: convert it or remove it", ImageFormat::SUPPORTED),
    })
}

#[cfg(test)]
mod tests;
