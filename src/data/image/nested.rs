//! Images inside of others: the JPEGs in a TIFF and the frames in a WebP state sizes of their own.
//! The decoders allocate memory for them before they compare them with the image's.

use super::directory;

/// Pixels that an inner image may have beyond four times those of the image, for the padding of
/// tiles.
const ROOM: u64 = 1 << 22;

/// Returns whether a JPEG in a TIFF or a frame in a WebP claims far more pixels than the image has.
/// Of a TIFF, only the first image is decoded.
pub(super) fn claims_more_than(pixels: u64, bytes: &[u8]) -> bool {
    let most = 4 * pixels + ROOM;
    let claims = |at: usize| match bytes[at] {
        0xff => jpeg_frame(&bytes[at..]).is_some_and(|inner| inner > most),
        b'V' => webp_frame(&bytes[at..]).is_some_and(|inner| inner > most),
        _ => false,
    };
    let Some(parts) = directory::parts(bytes) else {
        return (0..bytes.len()).any(claims);
    };
    // Parts may overlap; no byte is read twice.
    let mut end = 0;
    parts.into_iter().any(|part| {
        let start = part.start.max(end);
        end = end.max(part.end.min(bytes.len()));
        (start..end).any(claims)
    })
}

/// Returns the pixels of a JPEG whose frame header is here: a marker, its length, the precision,
/// height, width and the number of components, which follows from the length.
fn jpeg_frame(bytes: &[u8]) -> Option<u64> {
    match *bytes.first_chunk()? {
        [0xff, 0xc0..=0xc2, 0, length, 8, h1, h0, w1, w0, count]
            if length == 8 + 3 * (count & 7) =>
        {
            Some(u64::from(u16::from_be_bytes([h1, h0])) * u64::from(u16::from_be_bytes([w1, w0])))
        }
        _ => None,
    }
}

/// Returns the pixels of a lossy WebP frame whose chunk is here: name, length, a tag of three
/// bytes, the start code, width and height in 14 bits.
fn webp_frame(bytes: &[u8]) -> Option<u64> {
    let (head, frame) = bytes.split_at_checked(11)?;
    match *frame.first_chunk()? {
        [0x9d, 0x01, 0x2a, w0, w1, h0, h1] if head.starts_with(b"VP8 ") => {
            let side = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some(side(w0, w1) * side(h0, h1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inner_images_far_larger_than_the_image_are_found() {
        let jpeg = |side: [u8; 2]| {
            [&[7, 7, 0xff, 0xc0, 0, 17, 8], &side[..], &side, &[3, 1, 0x11, 0]].concat()
        };
        let webp = |side: [u8; 2]| {
            let tag = [0x50, 1, 0, 0x9d, 0x01, 0x2a];
            [b"RIFFVP8 \x20\0\0\0".as_slice(), &tag, &side, &side, &[0; 9]].concat()
        };
        assert!(claims_more_than(64, &jpeg([0x40, 0])) && claims_more_than(64, &webp([0, 0x30])));
        // As large as the image, or a padded tile.
        assert!(!claims_more_than(1 << 28, &jpeg([0x40, 0])));
        assert!(!claims_more_than(64, &jpeg([4, 0])) && !claims_more_than(64, &webp([0, 4])));
        assert!(!claims_more_than(64, b"VP8 \xff\xc0\0"));
    }
}
