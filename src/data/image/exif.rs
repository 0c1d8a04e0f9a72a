//! The orientation that EXIF data state.

use image::metadata::Orientation;

const ORIENTATION: u16 = 0x0112;

/// Returns the orientation that the first directory of EXIF data states, as an integer of any
/// width: the standard says 16 bits, and some programs write 8 or 32.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = match exif.first_chunk()? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let integer = |at: usize, width: usize| -> Option<u32> {
        let bytes = exif.get(at..at.checked_add(width)?)?;
        let append = |value, &byte: &u8| value << 8 | u32::from(byte);
        Some(if little { bytes.iter().rev().fold(0, append) } else { bytes.iter().fold(0, append) })
    };
    let directory = integer(4, 4)? as usize;
    let count = integer(directory, 2)? as usize;
    let entries = (0..count).map(|index| directory + 2 + 12 * index);
    let entry = entries.into_iter().find(|&at| integer(at, 2) == Some(ORIENTATION.into()))?;
    // Unsigned and signed integers of one, two and four bytes; they begin the field of the value.
    let width = match integer(entry + 2, 2)? {
        1 | 6 => 1,
        3 | 8 => 2,
        4 | 9 => 4,
        _ => return None,
    };
    Orientation::from_exif(u8::try_from(integer(entry + 8, width)?).ok()?)
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
        for (tag, kind, value) in [(0x0100, 3, [0; 4].as_slice()), (ORIENTATION, kind, value)] {
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
