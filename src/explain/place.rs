//! A map of what the model saw, on the pixels of the original image.

use image::{GrayImage, Luma};

use crate::data::Frame;

/// A map over the square that the model saw, and where that square lies in the original.
#[derive(Debug, Clone)]
pub struct PlacedMap {
    /// (side, side), row by row, from 0 to 1.
    pub values: Vec<f32>,
    /// Pixels a side.
    pub side: usize,
    /// The square, in the original's pixels.
    pub frame: Frame,
}

impl PlacedMap {
    /// The value at a point of the original, in its pixels; pixel (i, j) covers i..i+1, j..j+1.
    /// `None` where the model saw nothing.
    pub fn at(&self, x: f64, y: f64) -> Option<f32> {
        let u = (x - self.frame.left) / self.frame.width;
        let v = (y - self.frame.top) / self.frame.height;
        if !(0.0..1.0).contains(&u) || !(0.0..1.0).contains(&v) || self.side == 0 {
            return None;
        }
        let (x0, x1, across) = self.neighbors(u);
        let (y0, y1, down) = self.neighbors(v);
        let value = |x: usize, y: usize| self.values.get(y * self.side + x).copied();
        let upper = value(x0, y0)? * (1.0 - across) + value(x1, y0)? * across;
        let lower = value(x0, y1)? * (1.0 - across) + value(x1, y1)? * across;
        Some(upper * (1.0 - down) + lower * down)
    }

    /// Whether nothing is on it: the map was the same everywhere, most often because no patch
    /// raises the score.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|&value| value == 0.0)
    }

    /// The values on both sides of a place from 0 to 1, and how far it is from the first to the
    /// second.
    fn neighbors(&self, part: f64) -> (usize, usize, f32) {
        let last = self.side - 1;
        let place = (part * self.side as f64 - 0.5).clamp(0.0, last as f64);
        let first = place.floor() as usize;
        (first, (first + 1).min(last), (place - first as f64) as f32)
    }

    /// The map as a gray image of the original's size: 0 is black, 1 white, and black is also what
    /// the model did not see.
    pub fn gray(&self, width: u32, height: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| {
            let value = self.at(f64::from(x) + 0.5, f64::from(y) + 0.5);
            Luma([(value.unwrap_or(0.0).clamp(0.0, 1.0) * 255.0).round() as u8])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 in one of 4×4 cells.
    fn spot(column: usize, row: usize, frame: Frame) -> PlacedMap {
        let mut values = vec![0.0; 16];
        values[row * 4 + column] = 1.0;
        PlacedMap { values, side: 4, frame }
    }

    #[test]
    fn a_crops_map_lies_in_the_middle_and_nowhere_else() {
        let frame = Frame { left: 50.0, top: 0.0, width: 100.0, height: 100.0 };
        let map = spot(0, 3, frame);
        assert_eq!(map.at(62.5, 87.5), Some(1.0));
        assert_eq!(map.at(112.5, 87.5), Some(0.0));
        assert_eq!((map.at(49.9, 50.0), map.at(150.0, 50.0)), (None, None));
    }

    #[test]
    fn a_map_of_zeros_is_empty() {
        let frame = Frame { left: 0.0, top: 0.0, width: 8.0, height: 8.0 };
        let mut map = spot(0, 3, frame);
        assert!(!map.is_empty());
        map.values.fill(0.0);
        assert!(map.is_empty());
    }

    #[test]
    fn a_squashed_map_is_stretched_with_its_image() {
        let frame = Frame { left: 0.0, top: 0.0, width: 40.0, height: 400.0 };
        let gray = spot(2, 1, frame).gray(40, 400);
        // The pixel's center is 0.05 and 0.005 of a cell off the cell's: 0.95 · 0.995 · 255.
        assert_eq!(gray.get_pixel(25, 150).0, [241]);
        assert_eq!(gray.get_pixel(5, 150).0, [0]);
        assert_eq!(gray.get_pixel(25, 350).0, [0]);
    }
}
