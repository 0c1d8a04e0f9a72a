//! The format of an image file, from its first bytes.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use crate::files::open_regular;

/// The format of an image file. Its content decides, not its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP.
    WebP,
    /// BMP.
    Bmp,
    /// GIF.
    Gif,
    /// TIFF, also BigTIFF.
    Tiff,
    /// A format that is recognized and not read, by its name.
    Unsupported(&'static str),
}

impl ImageFormat {
    /// The number of first bytes that [`of`](Self::of) inspects at most.
    pub const HEADER: usize = 512;
    /// What is read, for messages.
    pub const SUPPORTED: &'static str = "JPEG, PNG, WebP, BMP, GIF and TIFF";

    /// Returns the format of a file that begins with these bytes; `None` if it is no image.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| bytes.starts_with(magic);
        let at = |start: usize, length: usize| bytes.get(start..start + length);
        Some(match bytes {
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            _ if starts(b"\x89PNG\r\n\x1a\n") => Self::Png,
            _ if starts(b"RIFF") && at(8, 4) == Some(b"WEBP") => Self::WebP,
            _ if starts(b"GIF87a") || starts(b"GIF89a") => Self::Gif,
            _ if starts(b"II*\0") || starts(b"MM\0*") => Self::Tiff,
            _ if starts(b"II+\0") || starts(b"MM\0+") => Self::Tiff,
            // A text may begin with BM too, so the length of the second header has to be a valid
            // one.
            _ if starts(b"BM") && matches!(at(14, 4), Some([12..=124, 0, 0, 0])) => Self::Bmp,
            _ if at(4, 4) == Some(b"ftyp") => Self::Unsupported(media_brand(bytes)?),
            _ if starts(b"\0\0\0\x0cJXL \r\n\x87\n") || starts(b"\xff\x0a") => {
                Self::Unsupported("JPEG XL")
            }
            _ if starts(b"\0\0\0\x0cjP  \r\n\x87\n") || starts(b"\xff\x4f\xff\x51") => {
                Self::Unsupported("JPEG 2000")
            }
            _ if starts(b"8BPS\0") => Self::Unsupported("Photoshop"),
            _ if is_svg(bytes) => Self::Unsupported("SVG"),
            _ => return None,
        })
    }

    /// Returns the format of a regular file, of which only the first bytes are read. Returns an
    /// error, which does not name the file, if it cannot be opened or read or is not regular.
    pub fn of_file(path: &Path) -> io::Result<Option<Self>> {
        let mut start = Vec::with_capacity(Self::HEADER);
        open_regular(path)?.take(Self::HEADER as u64).read_to_end(&mut start)?;
        Ok(Self::of(&start))
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
            Self::Tiff => "TIFF",
            Self::Unsupported(name) => name,
        })
    }
}

/// Returns why files of a recognized format, by its name, are not read, and what to do.
pub(in crate::data) fn unsupported(name: &str) -> String {
    format!(
        "{name} is not supported; convert it, for example with `mogrify -format png FILE`, or \
         remove it"
    )
}

/// Returns the format of an ISO base media file by its brands, the major one first; `None` for a
/// video.
fn media_brand(bytes: &[u8]) -> Option<&'static str> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let brands = bytes.get(8..length.min(bytes.len()))?.chunks_exact(4);
    let mut named = brands.filter_map(|brand| match brand {
        b"avif" | b"avis" => Some("AVIF"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some("HEIC"),
        b"crx " => Some("Canon raw"),
        _ => None,
    });
    // Only the general brand of such files: HEIC is the common one.
    let general = || matches!(bytes.get(8..12), Some(b"mif1" | b"msf1")).then_some("HEIC");
    named.next().or_else(general)
}

/// Returns whether a text has an SVG element near its start.
fn is_svg(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let text = &text[..text.len().min(ImageFormat::HEADER)];
    let starts = [b"<svg".as_slice(), b"<?xml", b"<!--", b"<!DOCTYPE svg"];
    starts.iter().any(|start| text.starts_with(start))
        && text.windows(4).any(|window| window == b"<svg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide_the_format() {
        for (bytes, expected) in [
            (b"\xff\xd8\xff\xe0\0\x10JFIF".as_slice(), ImageFormat::Jpeg),
            (b"\x89PNG\r\n\x1a\n\0\0", ImageFormat::Png),
            (b"RIFF\x20\0\0\0WEBPVP8 ", ImageFormat::WebP),
            (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", ImageFormat::Bmp),
            (b"GIF89a\x01\0", ImageFormat::Gif),
            (b"MM\0*\0\0\0\x08", ImageFormat::Tiff),
            (b"II+\0\x08\0\0\0", ImageFormat::Tiff),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ImageFormat::Unsupported("HEIC")),
            (b"\0\0\0\x14ftypmif1\0\0\0\0mif1", ImageFormat::Unsupported("HEIC")),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", ImageFormat::Unsupported("AVIF")),
            (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", ImageFormat::Unsupported("AVIF")),
            (b"\xff\x0a\0\0", ImageFormat::Unsupported("JPEG XL")),
            (b"\0\0\0\x0cJXL \r\n\x87\n\0\0", ImageFormat::Unsupported("JPEG XL")),
            (b"<?xml version=\"1.0\"?>\n<svg xmlns=\"\">", ImageFormat::Unsupported("SVG")),
        ] {
            assert_eq!(ImageFormat::of(bytes), Some(expected), "{bytes:?}");
        }
    }

    #[test]
    fn texts_videos_and_short_files_are_no_images() {
        for bytes in [
            b"".as_slice(),
            b"\xff\xd8",
            b"BM,score\nBMW_1.jpg,3\n",
            b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
            b"\0\0\0\x18ftyp",
            b"\0\0\0\0ftypheic",
            b"<html><body><svg>",
            b"PK\x03\x04",
        ] {
            assert_eq!(ImageFormat::of(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn an_unsupported_format_is_named_with_the_conversion() {
        let message = unsupported("HEIC");
        assert!(message.starts_with("HEIC is not supported; convert it"), "{message}");
        assert!(message.contains("mogrify -format png"), "{message}");
    }
}
