//! Decodes image files of every supported format to 8-bit RGB.
//!
//! The content decides the format, not the file's name. EXIF orientation is applied; gray, palette,
//! 16-bit, float and CMYK images become RGB; transparent pixels are blended over a background,
//! [`NEUTRAL`] by default. Files that are damaged, truncated, too large or not images are errors.

use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};

use super::format::{ImageFormat, unsupported};
use crate::files::read_regular;

/// The default background of transparent pixels and padding: the mean color of ImageNet, which
/// normalization maps to about zero.
pub const NEUTRAL: [u8; 3] = [124, 116, 104];

/// The longest accepted side, in pixels.
const MAX_SIDE: u32 = 16_384;
/// The most accepted pixels: enough for any camera's 48-megapixel images.
const MAX_PIXELS: u64 = 64 << 20;
/// The memory limit of decoding one image, in bytes.
const MAX_DECODED: u64 = 512 << 20;
/// The largest accepted file, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Reads the image in `path`. Returns an error, starting with the path, if the file is missing, not
/// a regular file, empty, not an image of a supported format, truncated, damaged, or larger than
/// the limits above.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    read_image_over(path, NEUTRAL)
}

/// Reads the image in `path` as [`read_image`] does, with transparent pixels over `background`.
pub(crate) fn read_image_over(path: &Path, background: [u8; 3]) -> Result<RgbImage> {
    read_file(path)
        .and_then(|bytes| decode_image_over(&bytes, background))
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
    // The decoders are third-party code on untrusted input: a panic in one is a damaged file.
    match catch_unwind(AssertUnwindSafe(|| decode(bytes, background))) {
        Ok(decoded) => decoded,
        Err(_) => bail!("damaged: the decoder panicked; save the image again or remove it"),
    }
}

fn decode(bytes: &[u8], background: [u8; 3]) -> Result<RgbImage> {
    ensure!(!bytes.is_empty(), "the file is empty; download it again or remove it");
    if bytes.starts_with(&[0xff, 0xd8]) && !jpeg_is_complete(bytes) {
        bail!("truncated: the JPEG's end is missing; download it again or remove it");
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), decoder_of(bytes)?);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(explain)?;
    let (width, height) = decoder.dimensions();
    ensure!(width > 0 && height > 0, "damaged: the image has no pixels; remove it");
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_DECODED {
        bail!(
            "the image has {width}x{height} pixels, more than the limit of {} million; shrink it",
            MAX_PIXELS >> 20
        );
    }
    // Unparsable metadata does not make the pixels unusable.
    let orientation = decoder.orientation();
    let mut image = DynamicImage::from_decoder(decoder).map_err(explain)?;
    if let Ok(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(if image.color().has_alpha() { over(&image, background) } else { image.into_rgb8() })
}

fn over(image: &DynamicImage, background: [u8; 3]) -> RgbImage {
    let rgba = image.to_rgba8();
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

/// Returns whether a JPEG reaches its end-of-image marker. The decoder fills the missing rows
/// of a truncated file with gray and reports success, which would train on half a face.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Entropy-coded data, or nothing, precedes each marker.
        let Some(skipped) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff))
        else {
            return false;
        };
        at += skipped;
        match bytes.get(at + 1) {
            None => return false,
            Some(0xd9) => return true, // end of image
            Some(0xff) => at += 1,     // a fill byte
            // A stuffed zero or a marker that has no length: TEM, restart, start of image.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            // A segment; its content is skipped, since an embedded thumbnail ends with a marker
            // too.
            Some(_) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2),
                _ => return false,
            },
        }
    }
}

fn explain(error: ImageError) -> anyhow::Error {
    match error {
        ImageError::Limits(_) => anyhow!(
            "the image exceeds the limit of {MAX_SIDE} pixels a side or {} million; shrink it",
            MAX_PIXELS >> 20
        ),
        ImageError::Unsupported(error) => anyhow!("{error}; convert it to JPEG or PNG"),
        error => anyhow!("damaged: {error}; download it again or remove it"),
    }
}

/// Returns the decoder for the format of a file.
fn decoder_of(bytes: &[u8]) -> Result<image::ImageFormat> {
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
mod tests {
    use std::fs;
    use std::io::Write;

    use image::codecs::jpeg::JpegEncoder;
    use image::{ImageBuffer, Luma, Rgb, Rgba};

    use super::*;

    /// An image whose four quarters differ, so that a turn or a flip shows.
    fn quarters(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| match (x < width / 2, y < height / 2) {
            (true, true) => Rgb([220, 30, 30]),
            (false, true) => Rgb([30, 220, 30]),
            (true, false) => Rgb([30, 30, 220]),
            (false, false) => Rgb([200, 200, 40]),
        })
    }

    fn encode(image: &DynamicImage, format: image::ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn jpeg(image: &RgbImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
        bytes
    }

    /// Puts an EXIF segment that holds only an orientation behind a JPEG's first marker.
    fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let tiff = [
            b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
            &[orientation, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let length = (tiff.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, &tiff, &jpeg[2..]].concat()
    }

    fn message(bytes: &[u8]) -> String {
        format!("{:#}", decode_image(bytes).unwrap_err())
    }

    #[test]
    fn every_format_decodes_whatever_the_file_name() {
        let image = quarters(24, 16);
        let folder = tempfile::tempdir().unwrap();
        for format in [
            image::ImageFormat::Jpeg,
            image::ImageFormat::Png,
            image::ImageFormat::WebP,
            image::ImageFormat::Bmp,
            image::ImageFormat::Gif,
            image::ImageFormat::Tiff,
        ] {
            let path = folder.path().join("image.jpg");
            fs::write(&path, encode(&image.clone().into(), format)).unwrap();
            let decoded = read_image(&path).unwrap();
            assert_eq!(decoded.dimensions(), (24, 16));
            for (x, y) in [(4, 4), (20, 4), (4, 12), (20, 12)] {
                for (a, b) in decoded.get_pixel(x, y).0.iter().zip(image.get_pixel(x, y).0) {
                    assert!(a.abs_diff(b) < 12, "{format:?} at {x},{y}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn exif_orientation_is_applied() {
        let stored = jpeg(&quarters(32, 16));
        let upright = decode_image(&stored).unwrap();
        // 6: the camera was turned, the image has to be turned clockwise by 90 degrees.
        let turned = decode_image(&with_orientation(&stored, 6)).unwrap();
        assert_eq!(turned, image::imageops::rotate90(&upright));
        let mirrored = decode_image(&with_orientation(&stored, 2)).unwrap();
        assert_eq!(mirrored, image::imageops::flip_horizontal(&upright));
    }

    #[test]
    fn gray_and_deep_images_become_rgb() {
        let gray: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(3, 2, Luma([40_000u16]));
        let decoded = decode_image(&encode(&gray.into(), image::ImageFormat::Png)).unwrap();
        assert!(decoded.pixels().all(|pixel| pixel.0 == [156; 3]), "{decoded:?}");
    }

    #[test]
    fn transparent_pixels_are_blended_over_the_neutral_color() {
        let clear = ImageBuffer::from_fn(2, 1, |x, _| Rgba([255u8, 0, 0, x as u8 * 255]));
        let decoded = decode_image(&encode(&clear.into(), image::ImageFormat::Png)).unwrap();
        assert_eq!(decoded.get_pixel(0, 0).0, NEUTRAL);
        assert_eq!(decoded.get_pixel(1, 0).0, [255, 0, 0]);
    }

    #[test]
    fn a_file_truncated_anywhere_is_an_error() {
        let image = quarters(40, 40);
        for format in [
            image::ImageFormat::Jpeg,
            image::ImageFormat::Png,
            image::ImageFormat::WebP,
            image::ImageFormat::Bmp,
        ] {
            let complete = encode(&image.clone().into(), format);
            for kept in [0, 1, 2, 3, 10, complete.len() / 2, complete.len() * 3 / 4] {
                assert!(decode_image(&complete[..kept]).is_err(), "{format:?} of {kept} bytes");
            }
        }
        let complete = jpeg(&image);
        assert!(message(&complete[..complete.len() - 2]).contains("truncated"));
        assert!(message(&[]).contains("empty"));
    }

    #[test]
    fn a_thumbnail_does_not_hide_a_truncation() {
        let complete = jpeg(&quarters(40, 40));
        let length = (complete.len() as u16 + 2).to_be_bytes();
        let with_thumbnail =
            [&complete[..2], &[0xff, 0xe2], &length, &complete, &complete[2..]].concat();
        assert!(decode_image(&with_thumbnail).is_ok());
        assert!(message(&with_thumbnail[..with_thumbnail.len() - 100]).contains("truncated"));
    }

    #[test]
    fn trailing_data_after_a_jpeg_is_ignored() {
        let mut bytes = jpeg(&quarters(16, 16));
        bytes.extend_from_slice(b"something that a camera appended");
        assert!(decode_image(&bytes).is_ok());
    }

    #[test]
    fn a_text_and_a_heic_file_are_named_as_such() {
        assert!(message(b"image,score\na.jpg,3\n").contains("not an image"));
        assert!(message(b"\0\0\0\x18ftypheic\0\0\0\0").contains("HEIC"));
    }

    #[test]
    fn an_oversized_image_is_rejected_before_it_is_decoded() {
        // A PNG that claims 30,000 pixels a side.
        let mut bomb = encode(&quarters(8, 8).into(), image::ImageFormat::Png);
        bomb[16..20].copy_from_slice(&30_000u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&30_000u32.to_be_bytes());
        let checksum = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
        assert!(message(&bomb).contains("shrink it"), "{}", message(&bomb));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let image = DynamicImage::from(quarters(24, 24));
        for format in [
            image::ImageFormat::Jpeg,
            image::ImageFormat::Png,
            image::ImageFormat::WebP,
            image::ImageFormat::Gif,
            image::ImageFormat::Tiff,
        ] {
            let complete = encode(&image, format);
            let mut rng = crate::data::random_stream::RandomStream::new(5, 0, 0, "damage");
            for _ in 0..60 {
                let mut damaged = complete.clone();
                for _ in 0..4 {
                    let at = rng.below(damaged.len());
                    damaged[at] = rng.below(256) as u8;
                }
                let _ = decode_image(&damaged);
            }
        }
    }

    #[test]
    fn errors_start_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("face.jpg");
        assert!(
            format!("{:#}", read_image(&path).unwrap_err()).ends_with("face.jpg: no such file")
        );
        fs::File::create(&path).unwrap().write_all(b"").unwrap();
        assert!(
            format!("{:#}", read_image(&path).unwrap_err()).contains("face.jpg: the file is empty")
        );
        assert!(
            format!("{:#}", read_image(folder.path()).unwrap_err()).contains("not a regular file")
        );
    }
}
