//! The first directory of a TIFF file, which EXIF data are too.

use std::ops::Range;

use image::metadata::Orientation;

const NEW_SUBFILE_TYPE: u64 = 0x00fe;
const STRIPS: [u64; 2] = [0x0111, 0x0117];
const TILES: [u64; 2] = [0x0144, 0x0145];
const JPEG_TABLES: u64 = 0x015b;
const DNG_VERSION: u64 = 0xc612;
const ORIENTATION: u64 = 0x0112;
const SAMPLES_PER_PIXEL: u64 = 0x0115;
const TILE_WIDTH: u64 = 0x0142;
/// The most bytes of a sample.
const SAMPLE: u64 = 8;
/// The most strips or tiles that are listed.
const MAX_PARTS: u64 = 1 << 20;

/// Returns the orientation that EXIF data state, as an integer of any width: the standard says 16
/// bits, and some programs write 8 or 32.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let value = Directory::new(exif)?.integer(ORIENTATION)?;
    Orientation::from_exif(u8::try_from(value).ok()?)
}

/// Returns the most bytes that a row of a TIFF's tiles or strips may have, from what it states of
/// them.
pub(super) fn row_bytes(tiff: &[u8], width: u32) -> u64 {
    let integer = |tag| Directory::new(tiff)?.integer(tag);
    let tile = integer(TILE_WIDTH).unwrap_or(0);
    let samples = integer(SAMPLES_PER_PIXEL).unwrap_or(1);
    tile.max(width.into()).saturating_mul(samples).saturating_mul(SAMPLE)
}

/// Returns whether a TIFF is a camera's raw file (DNG, NEF, ARW, CR2), whose first image is only a
/// preview or no colors yet.
pub(super) fn is_camera_raw(tiff: &[u8]) -> bool {
    let integer = |tag| Directory::new(tiff)?.integer(tag);
    tiff.get(8..12) == Some(b"CR\x02\0")
        || integer(DNG_VERSION).is_some()
        || integer(NEW_SUBFILE_TYPE).is_some_and(|kind| kind & 1 == 1)
}

/// Returns where a TIFF's first image is, in order: its strips or tiles, and the tables that its
/// JPEGs share. `None` if the directory does not list them as every reader would.
pub(super) fn parts(tiff: &[u8]) -> Option<Vec<Range<usize>>> {
    let directory = Directory::new(tiff)?;
    let mut parts = Vec::new();
    for [offsets, lengths] in [STRIPS, TILES] {
        let (offsets, lengths) = (directory.integers(offsets)?, directory.integers(lengths)?);
        if offsets.len() != lengths.len() {
            return None;
        }
        parts.extend(offsets.into_iter().zip(lengths));
    }
    if let Some(tables) = directory.find(JPEG_TABLES) {
        let Values { at, width, count } = directory.values(tables)?;
        parts.push((at, count.checked_mul(width)?));
    }
    parts.sort_unstable();
    let range = |(at, length)| {
        let start = usize::try_from(at).ok()?;
        Some(start..start.checked_add(usize::try_from(length).ok()?)?)
    };
    parts.into_iter().map(range).collect()
}

/// The place and the size of a tag's values.
struct Values {
    at: u64,
    /// Bytes of one.
    width: u64,
    count: u64,
}

struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    /// Whether offsets have 64 bits.
    big: bool,
}

impl<'a> Directory<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (little, big) = match bytes.first_chunk()? {
            b"II*\0" => (true, false),
            b"MM\0*" => (false, false),
            b"II+\0" => (true, true),
            b"MM\0+" => (false, true),
            _ => return None,
        };
        Some(Self { bytes, little, big })
    }

    /// Returns the unsigned integer of `width` bytes at `at`.
    fn read(&self, at: u64, width: u64) -> Option<u64> {
        let range = usize::try_from(at).ok()?..usize::try_from(at.checked_add(width)?).ok()?;
        let bytes = self.bytes.get(range)?;
        let append = |value, &byte: &u8| value << 8 | u64::from(byte);
        Some(if self.little {
            bytes.iter().rev().fold(0, append)
        } else {
            bytes.iter().fold(0, append)
        })
    }

    /// Returns where a tag's entry is; the last, as decoders do, if it has several.
    fn find(&self, tag: u64) -> Option<u64> {
        // Of the file's header: where the offset is. Of the directory: the widths of its count and
        // of an entry.
        let (offset, count, entry) = if self.big { ((8, 8), 8, 20) } else { ((4, 4), 2, 12) };
        let start = self.read(offset.0, offset.1)?;
        let number = self.read(start, count)?;
        (0..number)
            .map_while(|index| start.checked_add(count)?.checked_add(index.checked_mul(entry)?))
            .map_while(|at| Some((at, self.read(at, 2)?)))
            .filter_map(|(at, found)| (found == tag).then_some(at))
            .last()
    }

    /// Returns where the values of the entry at `at` are, if they are integers or bytes. A few are
    /// in the entry itself.
    fn values(&self, at: u64) -> Option<Values> {
        // Unsigned and signed integers, and bytes of no type.
        let width = match self.read(at + 2, 2)? {
            1 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 => 4,
            16 | 17 => 8,
            _ => return None,
        };
        let field = if self.big { 8 } else { 4 };
        let (count, value) = (self.read(at + 4, field)?, at + 4 + field);
        let inside = count.checked_mul(width)? <= field;
        let at = if inside { value } else { self.read(value, field)? };
        Some(Values { at, width, count })
    }

    /// Returns the first integer that a tag has.
    fn integer(&self, tag: u64) -> Option<u64> {
        let Values { at, width, .. } = self.values(self.find(tag)?)?;
        self.read(at, width)
    }

    /// Returns the integers that a tag has, none without the tag; `None` if they cannot be read.
    fn integers(&self, tag: u64) -> Option<Vec<u64>> {
        let Some(entry) = self.find(tag) else {
            return Some(Vec::new());
        };
        let Values { at, width, count } = self.values(entry)?;
        let integer = |index: u64| self.read(at.checked_add(index.checked_mul(width)?)?, width);
        if count > MAX_PARTS { None } else { (0..count).map(integer).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF data whose first directory has another entry and then the orientation, as `kind`.
    fn exif(little: bool, kind: u16, value: &[u8]) -> Vec<u8> {
        let short = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let long = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let mut bytes = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        bytes.extend(long(8));
        bytes.extend(short(2));
        for (tag, kind, value) in
            [(0x0100, 3, [0; 4].as_slice()), (ORIENTATION as u16, kind, value)]
        {
            bytes.extend([short(tag), short(kind)].concat());
            bytes.extend(long(1));
            bytes.extend(value);
        }
        bytes.extend(long(0));
        bytes
    }

    #[test]
    fn an_orientation_of_any_integer_type_and_byte_order_is_read() {
        for (little, kind, value) in [
            (false, 1, [6, 0, 0, 0]),
            (false, 3, [0, 6, 0, 0]),
            (false, 4, [0, 0, 0, 6]),
            (false, 9, [0, 0, 0, 6]),
            (true, 3, [6, 0, 0, 0]),
            (true, 4, [6, 0, 0, 0]),
            (true, 8, [6, 0, 9, 9]),
        ] {
            let bytes = exif(little, kind, &value);
            assert_eq!(orientation(&bytes), Some(Orientation::Rotate90), "{little} {kind}");
            let prefixed = [b"Exif\0\0".as_slice(), &bytes].concat();
            assert_eq!(orientation(&prefixed), Some(Orientation::Rotate90));
        }
    }

    #[test]
    fn the_rows_of_wide_tiles_and_many_samples_are_counted() {
        let mut bytes = exif(true, 4, &[0, 0, 1, 0]);
        assert_eq!(row_bytes(&bytes, 100), 100 * 8);
        bytes[22..24].copy_from_slice(&(TILE_WIDTH as u16).to_le_bytes());
        assert_eq!(row_bytes(&bytes, 100), 65_536 * 8);
        bytes[22..24].copy_from_slice(&(SAMPLES_PER_PIXEL as u16).to_le_bytes());
        assert_eq!(row_bytes(&bytes, 100), 65_536 * 100 * 8);
        assert_eq!(row_bytes(b"MM", 7), 7 * 8);
    }

    #[test]
    fn values_that_are_no_orientation_and_cut_data_are_ignored() {
        assert_eq!(orientation(&exif(true, 4, &[9, 0, 0, 0])), None);
        assert_eq!(orientation(&exif(true, 4, &[6, 1, 0, 0])), None);
        assert_eq!(orientation(&exif(true, 2, &[6, 0, 0, 0])), None);
        let complete = exif(false, 4, &[0, 0, 0, 6]);
        for kept in 0..complete.len() - 4 {
            assert_eq!(orientation(&complete[..kept]), None, "{kept}");
        }
        let beyond = [b"MM\0*".as_slice(), &[255; 4], &[255; 20]].concat();
        assert_eq!(orientation(&beyond), None);
    }
}
