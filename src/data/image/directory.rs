//! The first directory of a TIFF file, which EXIF data are too.

use image::metadata::Orientation;

const ORIENTATION: u64 = 0x0112;
const SAMPLES_PER_PIXEL: u64 = 0x0115;
const TILE_WIDTH: u64 = 0x0142;
/// The most bytes of a sample.
const SAMPLE: u64 = 8;

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

    /// Returns the integer that a tag has, its first if there are few.
    fn integer(&self, tag: u64) -> Option<u64> {
        // Of the file's header: where the offset is. Of the directory: the widths of its count, of
        // an entry, and of what precedes an entry's value.
        let (offset, count, entry, value) =
            if self.big { ((8, 8), 8, 20, 12) } else { ((4, 4), 2, 12, 8) };
        let start = self.read(offset.0, offset.1)?;
        let number = self.read(start, count)?;
        let at = (0..number)
            .map_while(|index| start.checked_add(count)?.checked_add(index.checked_mul(entry)?))
            .map_while(|at| Some((at, self.read(at, 2)?)))
            .find_map(|(at, found)| (found == tag).then_some(at))?;
        // Unsigned and signed integers.
        let width = match self.read(at + 2, 2)? {
            1 | 6 => 1,
            3 | 8 => 2,
            4 | 9 => 4,
            16 | 17 => 8,
            _ => return None,
        };
        self.read(at + value, width)
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
