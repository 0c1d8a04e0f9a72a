//! A perceptual hash, which survives changes of size, format and quality.

use image::RgbImage;
use image::imageops::{FilterType, resize};

/// Sides of the gray thumbnail whose neighbors are compared: 16 comparisons in each of 16 rows.
const COLUMNS: u32 = 17;
const ROWS: u32 = 16;
/// The levels by which a pixel has to be darker than its right neighbor, so that noise on a uniform
/// background sets no bit.
const MARGIN: i16 = 2;
/// The fewest set bits of a useful hash: two empty walls are no duplicates.
const LEAST_BITS: u32 = 12;
/// The most bits in which hashes of one image differ. Copies at half the size and low quality
/// differ in up to 17, two synthetic faces in 45 or more.
pub(in crate::data) const SAME: u32 = 24;

/// 256 bits: whether each pixel of a 17x16 thumbnail is darker than the one to its right (a
/// difference hash).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct PerceptualHash([u64; 4]);

impl PerceptualHash {
    /// Hashes an image; `None` if it has too little structure.
    pub(in crate::data) fn new(image: &RgbImage) -> Option<Self> {
        let thumbnail = resize(image, COLUMNS, ROWS, FilterType::Triangle);
        let gray = |x: u32, y: u32| {
            let [r, g, b] = thumbnail.get_pixel(x, y).0.map(u32::from);
            ((299 * r + 587 * g + 114 * b + 500) / 1000) as i16
        };
        let mut bits = [0u64; 4];
        for y in 0..ROWS {
            for x in 0..COLUMNS - 1 {
                let at = (y * (COLUMNS - 1) + x) as usize;
                let darker = gray(x, y) + MARGIN <= gray(x + 1, y);
                bits[at / 64] |= u64::from(darker) << (at % 64);
            }
        }
        let set: u32 = bits.iter().map(|word| word.count_ones()).sum();
        (set >= LEAST_BITS).then_some(Self(bits))
    }

    /// Returns the number of bits in which two hashes differ.
    pub(in crate::data) fn distance(&self, other: &Self) -> u32 {
        let words = self.0.iter().zip(other.0);
        words.map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::datasets::synthetic::{FaceSeed, render};
    use crate::data::decode_image;

    #[test]
    fn a_smaller_copy_of_low_quality_is_the_same_image_and_another_face_is_not() {
        let face = |index| render(FaceSeed { seed: 3, index }, 160);
        let hash = |image: &RgbImage| PerceptualHash::new(image).unwrap();
        let hashes: Vec<_> = (0..40).map(|index| hash(&face(index))).collect();
        let (mut farthest_copy, mut nearest_other) = (0, u32::MAX);
        for index in 0..40 {
            let small = resize(&face(index), 90, 90, FilterType::CatmullRom);
            let mut bytes = Vec::new();
            image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 60)
                .encode_image(&small)
                .unwrap();
            let copy = hash(&decode_image(&bytes).unwrap());
            for (other, found) in hashes.iter().enumerate() {
                let distance = copy.distance(found);
                if other == index as usize {
                    farthest_copy = farthest_copy.max(distance)
                } else {
                    nearest_other = nearest_other.min(distance)
                }
            }
        }
        assert!(farthest_copy <= SAME && nearest_other > SAME, "{farthest_copy} {nearest_other}");
    }

    #[test]
    fn a_uniform_image_has_no_hash() {
        assert_eq!(PerceptualHash::new(&RgbImage::from_pixel(9, 9, image::Rgb([4; 3]))), None);
    }
}
