//! Drawings of images and lines of text, as pixels or as SVG.

use std::io::Cursor;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use maud::{PreEscaped, html};

use super::canvas::{Letters, PAPER, paste, write_scaled};
use crate::files::printable;

/// A drawing in units that are pixels at scale 1.
pub struct Drawing {
    /// Pixels per unit.
    scale: f64,
    size: (u32, u32),
    marks: Vec<Mark>,
}

/// A part of a drawing, with its upper left corner.
enum Mark {
    Text { at: (u32, u32), text: String, letters: Letters, ink: Rgb<u8> },
    Image { at: (u32, u32), size: (u32, u32), image: RgbImage },
}

impl Drawing {
    pub(super) fn new(size: (u32, u32), scale: f64) -> Self {
        Self { scale, size, marks: Vec::new() }
    }

    pub(super) fn text(&mut self, at: (u32, u32), text: &str, letters: Letters, ink: Rgb<u8>) {
        self.marks.push(Mark::Text { at, text: printable(text), letters, ink });
    }

    /// Adds an image that has about `scale` times `size` pixels.
    pub(super) fn image(&mut self, at: (u32, u32), size: (u32, u32), image: RgbImage) {
        self.marks.push(Mark::Image { at, size, image });
    }

    /// Renders the drawing.
    pub fn to_image(&self) -> RgbImage {
        let pixels = |length: u32| (f64::from(length) * self.scale).round() as u32;
        let mut canvas = RgbImage::from_pixel(pixels(self.size.0), pixels(self.size.1), PAPER);
        for mark in &self.marks {
            match mark {
                Mark::Text { at: (x, y), text, letters, ink } => {
                    let at = (pixels(*x), pixels(*y));
                    write_scaled(&mut canvas, at, text, *letters, self.scale, *ink);
                }
                Mark::Image { at: (x, y), image, .. } => {
                    paste(&mut canvas, image, pixels(*x), pixels(*y));
                }
            }
        }
        canvas
    }

    /// Writes the drawing as SVG: text as text, images as they are. Returns an error if an image
    /// cannot be encoded.
    pub fn to_svg(&self) -> Result<String> {
        let mut body = String::new();
        for mark in &self.marks {
            let element = match mark {
                Mark::Text { at: (x, y), text, letters, ink: Rgb([r, g, b]) } => {
                    let (size, width) = (letters.font_size(), letters.width(text));
                    let baseline = f64::from(*y) + 0.8 * f64::from(letters.height());
                    html! {
                        text x=(x) y=(format!("{baseline:.1}")) font-size=(format!("{size:.1}"))
                            textLength=(width) fill={ "rgb(" (r) "," (g) "," (b) ")" }
                            xml:space="preserve" { (text) }
                    }
                }
                Mark::Image { at: (x, y), size: (width, height), image } => {
                    let mut png = Cursor::new(Vec::new());
                    image
                        .write_to(&mut png, ImageFormat::Png)
                        .context("cannot encode an image as PNG")?;
                    let source =
                        format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png.get_ref()));
                    html! {
                        image x=(x) y=(y) width=(width) height=(height) xlink:href=(source)
                            preserveAspectRatio="none" {}
                    }
                }
            };
            body += &element.into_string();
            body.push('\n');
        }
        let (width, height) = self.size;
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
                width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) }
                font-family="'DejaVu Sans Mono', Menlo, Consolas, monospace" {
                rect width=(width) height=(height) fill="#fff" {}
                (PreEscaped(body))
            }
        };
        Ok(svg.into_string() + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::INK;
    use super::*;

    #[test]
    fn a_drawing_scales_its_text_and_svg_takes_no_name_for_markup() {
        for scale in [1.0, 2.5] {
            let mut drawing = Drawing::new((100, 40), scale);
            drawing.text((4, 4), "<b>&\u{1b}", Letters::Small, INK);
            let side = (10.0 * scale) as u32;
            drawing.image((80, 10), (10, 10), RgbImage::new(side, side));
            let image = drawing.to_image();
            assert_eq!(image.dimensions(), ((100.0 * scale) as u32, (40.0 * scale) as u32));
            let dark = |from: (u32, u32), to: (u32, u32)| {
                let inside = |x: u32, y: u32| {
                    let (x, y) = (f64::from(x) / scale, f64::from(y) / scale);
                    let (from, to) = ((from.0 as f64, from.1 as f64), (to.0 as f64, to.1 as f64));
                    from.0 <= x && x < to.0 && from.1 <= y && y < to.1
                };
                let pixels = image.enumerate_pixels();
                pixels.filter(|(x, y, p)| inside(*x, *y) && p.0[0] < 128).count()
            };
            assert!(dark((4, 4), (60, 20)) > 20, "the text is missing");
            assert_eq!(dark((80, 10), (90, 20)), (side * side) as usize);
            assert_eq!(dark((0, 24), (78, 40)), 0);
            let svg = drawing.to_svg().unwrap();
            assert!(svg.contains(">&lt;b&gt;&amp;\\u{1b}</text>"), "{svg}");
            assert!(svg.contains("<image x=\"80\" y=\"10\" width=\"10\" height=\"10\""), "{svg}");
            assert!(svg.contains("viewBox=\"0 0 100 40\""), "{svg}");
        }
    }
}
