//! Text in images.

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

pub(crate) const INK: Rgb<u8> = Rgb([30, 30, 30]);
pub(crate) const FAINT: Rgb<u8> = Rgb([110, 110, 110]);
pub(crate) const PAPER: Rgb<u8> = Rgb([255; 3]);

#[derive(Clone, Copy)]
pub(crate) enum Letters {
    Small,
    Large,
    /// The largest that there are, to be resized.
    Largest,
}

impl Letters {
    fn raster(self) -> RasterHeight {
        match self {
            Letters::Small => RasterHeight::Size16,
            Letters::Large => RasterHeight::Size20,
            Letters::Largest => RasterHeight::Size32,
        }
    }

    /// Returns the size of a scalable monospaced font with letters as wide.
    pub(crate) fn font_size(self) -> f64 {
        f64::from(self.width("m")) / 0.602 // the advance of DejaVu Sans Mono, in em
    }

    /// Returns the height of a line in pixels.
    pub(crate) fn height(self) -> u32 {
        self.raster().val() as u32
    }

    /// Returns the width of a line of text in pixels.
    pub(crate) fn width(self, text: &str) -> u32 {
        let one = get_raster_width(FontWeight::Regular, self.raster());
        (text.chars().count() * one) as u32
    }

    /// Shortens a text to a width in pixels by removing its middle; the start and the end, which
    /// has the extension, remain.
    pub(crate) fn fit(self, text: &str, pixels: u32) -> String {
        let room = (pixels / self.width("m").max(1)) as usize;
        let count = text.chars().count();
        if count <= room {
            return text.to_string();
        }
        let kept = room.saturating_sub(3);
        let (start, end) = (kept.div_ceil(2), kept / 2);
        let first: String = text.chars().take(start).collect();
        let last: String = text.chars().skip(count - end).collect();
        format!("{first}...{last}").chars().take(room.max(1)).collect()
    }
}

/// Writes one line with its upper left corner at (x, y). A character that is not in the font (which
/// is Latin) becomes `?`.
pub(crate) fn write(
    canvas: &mut RgbImage,
    at: (u32, u32),
    text: &str,
    letters: Letters,
    ink: Rgb<u8>,
) {
    let mut left = at.0;
    for letter in text.chars() {
        let raster = |letter| get_raster(letter, FontWeight::Regular, letters.raster());
        let Some(raster) = raster(letter).or_else(|| raster('?')) else {
            continue;
        };
        for (dy, line) in raster.rows().enumerate() {
            for (dx, &cover) in line.iter().enumerate() {
                let (x, y) = (left + dx as u32, at.1 + dy as u32);
                if let Some(pixel) = canvas.get_pixel_mut_checked(x, y) {
                    let opacity = f32::from(cover) / 255.0;
                    for (value, ink) in pixel.0.iter_mut().zip(ink.0) {
                        *value = mix(*value, ink, opacity);
                    }
                }
            }
        }
        left += raster.width() as u32;
    }
}

/// Mixes two levels, the second with this weight.
pub(crate) fn mix(from: u8, to: u8, weight: f32) -> u8 {
    (f32::from(from) * (1.0 - weight) + f32::from(to) * weight).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_start_and_its_end() {
        let letters = Letters::Small;
        let name = format!("{}{}.jpeg", "holiday_", "x".repeat(200));
        let short = letters.fit(&name, 160);
        assert!(letters.width(&short) <= 160);
        assert!(short.starts_with("holida") && short.ends_with("x.jpeg") && short.contains("..."));
        assert_eq!(letters.fit("a.png", 160), "a.png");
    }
}
