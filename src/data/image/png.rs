//! PNG files without what their pixels do not depend on.

use std::borrow::Cow;

/// Texts and the color profile, which is not applied. They are compressed, and a megabyte may
/// decompress to a thousand.
const SKIPPED: [&[u8; 4]; 4] = [b"iCCP", b"zTXt", b"iTXt", b"tEXt"];
const SIGNATURE: usize = 8;

/// Returns the file without the chunks that may decompress to more memory than its pixels need.
pub(super) fn without_texts(bytes: &[u8]) -> Cow<'_, [u8]> {
    let skipped = chunks(bytes).filter(|(name, _)| SKIPPED.contains(name));
    let mut kept = Vec::new();
    let mut from = 0;
    for (_, (start, end)) in skipped {
        kept.extend_from_slice(&bytes[from..start]);
        from = end;
    }
    if from == 0 {
        return Cow::Borrowed(bytes);
    }
    kept.extend_from_slice(&bytes[from..]);
    Cow::Owned(kept)
}

/// Returns the names of the complete chunks, and where they start and end.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], (usize, usize))> {
    let mut at = SIGNATURE;
    std::iter::from_fn(move || {
        let start = at;
        let length = u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
        let name = bytes.get(at + 4..)?.first_chunk()?;
        // Length, name, content and checksum.
        at = at.checked_add(length)?.checked_add(12).filter(|&end| end <= bytes.len())?;
        Some((name, (start, at)))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, RgbImage};

    use super::*;

    fn png() -> Vec<u8> {
        let image = RgbImage::from_fn(5, 4, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u32).to_be_bytes();
        [&length, name.as_slice(), content, &[0; 4]].concat()
    }

    #[test]
    fn texts_and_profiles_are_skipped_wherever_they_are() {
        let plain = png();
        assert!(matches!(without_texts(&plain), Cow::Borrowed(_)));
        let header = 33;
        let end = plain.len() - 12;
        let with_texts = [
            &plain[..header],
            &chunk(b"iCCP", &[7; 900]),
            &chunk(b"zTXt", b""),
            &plain[header..end],
            &chunk(b"iTXt", &[8; 30]),
            &chunk(b"tEXt", b"a\0b"),
            &plain[end..],
        ]
        .concat();
        assert_eq!(without_texts(&with_texts), plain);
    }

    #[test]
    fn a_cut_file_keeps_its_incomplete_chunk() {
        let plain = png();
        for kept in 0..plain.len() {
            assert_eq!(without_texts(&plain[..kept]), &plain[..kept]);
        }
        let bomb = [&plain[..33], &chunk(b"iCCP", &[7; 900])[..500]].concat();
        assert_eq!(without_texts(&bomb), bomb);
    }
}
