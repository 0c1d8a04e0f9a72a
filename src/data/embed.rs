//! Images embedded in HTML.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use maud::{Markup, html};

/// Renders an `img` element that holds the image itself as a JPEG file of this quality, its longer
/// side at most `side` pixels; `None` if the image cannot be encoded.
pub fn embedded(image: &RgbImage, side: u32, quality: u8, alt: &str) -> Option<Markup> {
    let scale = f64::from(side) / f64::from(image.width().max(image.height()));
    let side = |length: u32| ((f64::from(length) * scale.min(1.0)).round() as u32).max(1);
    let (width, height) = (side(image.width()), side(image.height()));
    let small = resize(image, width, height, FilterType::Triangle);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, quality).encode_image(&small).ok()?;
    let source = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(&jpeg));
    Some(html! { img width=(width) height=(height) alt=(alt) src=(source); })
}
