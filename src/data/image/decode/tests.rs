//! Every format, what is refused, and what may not take memory.

use std::fs;
use std::io::Write;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageBuffer, Luma, Rgb, Rgba};

use super::*;

/// An image whose four quarters differ, so that a turn or a flip shows.
fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| match (x < width / 2, y < height / 2) {
        (true, true) => Rgb([220, 30, 30]),
        (false, true) => Rgb([30, 220, 30]),
        (true, false) => Rgb([30, 30, 220]),
        (false, false) => Rgb([200, 200, 40]),
    })
}

fn encode(image: &DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    bytes
}

/// Puts an EXIF segment that holds only an orientation behind a JPEG's first marker.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = [
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
        &[orientation, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let length = (tiff.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &tiff, &jpeg[2..]].concat()
}

fn message(bytes: &[u8]) -> String {
    format!("{:#}", decode_image(bytes).unwrap_err())
}

#[test]
fn every_format_decodes_whatever_the_file_name() {
    let image = quarters(24, 16);
    let folder = tempfile::tempdir().unwrap();
    for format in [
        image::ImageFormat::Jpeg,
        image::ImageFormat::Png,
        image::ImageFormat::WebP,
        image::ImageFormat::Bmp,
        image::ImageFormat::Gif,
        image::ImageFormat::Tiff,
    ] {
        let path = folder.path().join("image.jpg");
        fs::write(&path, encode(&image.clone().into(), format)).unwrap();
        let decoded = read_image(&path).unwrap();
        assert_eq!(decoded.dimensions(), (24, 16));
        for (x, y) in [(4, 4), (20, 4), (4, 12), (20, 12)] {
            for (a, b) in decoded.get_pixel(x, y).0.iter().zip(image.get_pixel(x, y).0) {
                assert!(a.abs_diff(b) < 12, "{format:?} at {x},{y}: {a} {b}");
            }
        }
    }
}

#[test]
fn exif_orientation_is_applied() {
    let stored = jpeg(&quarters(32, 16));
    let upright = decode_image(&stored).unwrap();
    // 6: the camera was turned, the image has to be turned clockwise by 90 degrees.
    let turned = decode_image(&with_orientation(&stored, 6)).unwrap();
    assert_eq!(turned, image::imageops::rotate90(&upright));
    let mirrored = decode_image(&with_orientation(&stored, 2)).unwrap();
    assert_eq!(mirrored, image::imageops::flip_horizontal(&upright));
}

#[test]
fn gray_and_deep_images_become_rgb() {
    let gray: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(3, 2, Luma([40_000u16]));
    let decoded = decode_image(&encode(&gray.into(), image::ImageFormat::Png)).unwrap();
    assert!(decoded.pixels().all(|pixel| pixel.0 == [156; 3]), "{decoded:?}");
}

#[test]
fn transparent_pixels_are_blended_over_the_neutral_color() {
    let clear = ImageBuffer::from_fn(2, 1, |x, _| Rgba([255u8, 0, 0, x as u8 * 255]));
    let decoded = decode_image(&encode(&clear.into(), image::ImageFormat::Png)).unwrap();
    assert_eq!(decoded.get_pixel(0, 0).0, NEUTRAL);
    assert_eq!(decoded.get_pixel(1, 0).0, [255, 0, 0]);
}

#[test]
fn a_file_truncated_anywhere_is_an_error() {
    let image = quarters(40, 40);
    for format in [
        image::ImageFormat::Jpeg,
        image::ImageFormat::Png,
        image::ImageFormat::WebP,
        image::ImageFormat::Bmp,
    ] {
        let complete = encode(&image.clone().into(), format);
        for kept in [0, 1, 2, 3, 10, complete.len() / 2, complete.len() * 3 / 4] {
            assert!(decode_image(&complete[..kept]).is_err(), "{format:?} of {kept} bytes");
        }
    }
    let complete = jpeg(&image);
    assert!(message(&complete[..complete.len() - 4]).contains("truncated"));
    assert!(message(&[]).contains("empty"));
}

#[test]
fn a_thumbnail_does_not_hide_a_truncation() {
    let complete = jpeg(&quarters(40, 40));
    let length = (complete.len() as u16 + 2).to_be_bytes();
    let with_thumbnail =
        [&complete[..2], &[0xff, 0xe2], &length, &complete, &complete[2..]].concat();
    assert!(decode_image(&with_thumbnail).is_ok());
    assert!(message(&with_thumbnail[..with_thumbnail.len() - 100]).contains("truncated"));
}

#[test]
fn trailing_data_after_a_jpeg_is_ignored() {
    let mut bytes = jpeg(&quarters(16, 16));
    bytes.extend_from_slice(b"something that a camera appended");
    assert!(decode_image(&bytes).is_ok());
}

#[test]
fn a_text_and_a_heic_file_are_named_as_such() {
    assert!(message(b"image,score\na.jpg,3\n").contains("not an image"));
    assert!(message(b"\0\0\0\x18ftypheic\0\0\0\0").contains("HEIC"));
}

#[test]
fn an_oversized_image_is_rejected_before_it_is_decoded() {
    // A PNG that claims 30,000 pixels a side.
    let mut bomb = encode(&quarters(8, 8).into(), image::ImageFormat::Png);
    bomb[16..20].copy_from_slice(&30_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&30_000u32.to_be_bytes());
    let checksum = crc32fast::hash(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    assert!(message(&bomb).contains("shrink it"), "{}", message(&bomb));
}

/// A little-endian TIFF of one strip with these tags beyond its size: (tag, type, values).
fn tiff(side: u32, tags: &[(u16, u16, &[u32])], pixels: &[u8]) -> Vec<u8> {
    let length = [pixels.len() as u32];
    let side = [side];
    let mut all = vec![(256, 4, &side[..]), (257, 4, &side), (273, 4, &[8]), (279, 4, &length)];
    all.extend(tags);
    all.sort_by_key(|tag| tag.0);
    let directory = 8 + pixels.len();
    let extra = directory + 2 + 12 * all.len() + 4;
    let mut bytes = [b"II*\0", &(directory as u32).to_le_bytes()[..], pixels].concat();
    bytes.extend((all.len() as u16).to_le_bytes());
    let mut values: Vec<u8> = Vec::new();
    for (tag, kind, numbers) in all {
        bytes.extend([tag.to_le_bytes(), u16::to_le_bytes(kind)].concat());
        bytes.extend((numbers.len() as u32).to_le_bytes());
        let width = if kind == 3 { 2 } else { 4 };
        let mut field: Vec<u8> =
            numbers.iter().flat_map(|v| v.to_le_bytes()[..width].to_vec()).collect();
        if field.len() > 4 {
            values.extend(&field);
            field = ((extra + values.len() - field.len()) as u32).to_le_bytes().to_vec();
        }
        field.resize(4, 0);
        bytes.extend(field);
    }
    bytes.extend([0; 4]);
    bytes.extend(values);
    bytes
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn float_images_from_0_to_1_are_read_and_others_are_refused() {
    let rgb: &[(u16, u16, &[u32])] =
        &[(258, 3, &[32; 3]), (262, 3, &[2]), (277, 3, &[3]), (339, 3, &[3; 3])];
    let decoded = decode_image(&tiff(1, rgb, &floats(&[0.0, 0.5, 1.0]))).unwrap();
    assert_eq!(decoded.get_pixel(0, 0).0, [0, 128, 255]);
    for level in [2.0, -0.1, f32::NAN] {
        let message = message(&tiff(1, rgb, &floats(&[0.0, 0.5, level])));
        assert!(message.contains("float values beyond 0 to 1"), "{message}");
    }
    let gray: &[(u16, u16, &[u32])] =
        &[(258, 3, &[32]), (262, 3, &[1]), (277, 3, &[1]), (339, 3, &[3])];
    let message = message(&tiff(1, gray, &floats(&[0.5])));
    assert!(message.contains("a TIFF with such colors (32 bits per pixel) is not supported"));
}

#[test]
fn a_tiff_is_read_or_refused_by_what_its_tags_say() {
    let gray: [(u16, u16, &[u32]); 3] = [(258, 3, &[8]), (262, 3, &[1]), (277, 3, &[1])];
    let pixels = [10, 20, 30, 40];
    let upright = decode_image(&tiff(2, &gray, &pixels)).unwrap();
    assert_eq!(upright.get_pixel(1, 0).0, [20; 3]);
    // The orientation as a long integer.
    let turned: Vec<_> = gray.into_iter().chain([(274, 4, &[6][..])]).collect();
    let turned = decode_image(&tiff(2, &turned, &pixels)).unwrap();
    assert_eq!(turned, image::imageops::rotate90(&upright));
    let palette = [0; 768];
    let palette = [(258, 3, &[8][..]), (262, 3, &[3]), (320, 3, &palette)];
    let message = message(&tiff(2, &palette, &pixels));
    assert!(message.contains("is not supported; convert it"), "{message}");
}

#[test]
fn a_big_tiff_is_read() {
    let mut bytes = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0".to_vec();
    let tags: [(u16, u64); 8] = [
        (256, 2),
        (257, 1),
        (258, 8),
        (262, 1),
        (273, 16 + 8 + 8 * 20 + 8),
        (277, 1),
        (278, 1),
        (279, 2),
    ];
    bytes.extend((tags.len() as u64).to_le_bytes());
    for (tag, value) in tags {
        bytes.extend([tag.to_le_bytes(), 16u16.to_le_bytes()].concat());
        bytes.extend([1, value].map(u64::to_le_bytes).concat());
    }
    bytes.extend([0; 8]);
    bytes.extend([7, 200]);
    let decoded = decode_image(&bytes).unwrap();
    assert_eq!(decoded.into_raw(), [7, 7, 7, 200, 200, 200]);
}

#[test]
fn what_a_tiff_has_beyond_its_first_page_is_not_checked() {
    let gray: [(u16, u16, &[u32]); 3] = [(258, 3, &[8]), (262, 3, &[1]), (277, 3, &[1])];
    // The header of a JPEG of 16,384 pixels a side.
    let large = [0xff, 0xc0, 0, 17, 8, 0x40, 0, 0x40, 0, 3];
    let second = [tiff(4, &gray, &[9; 16]), large.to_vec()].concat();
    assert_eq!(decode_image(&second).unwrap().dimensions(), (4, 4));
    let first = tiff(4, &gray, &[large.as_slice(), &[9; 6]].concat());
    assert!(message(&first).contains("claims more memory"), "{}", message(&first));
    // The tables that JPEGs share are part of the first page.
    let tables: Vec<u32> =
        large.chunks(2).map(|two| u32::from(two[1]) << 8 | u32::from(two[0])).collect();
    let shared = tiff(4, &[&gray[..], &[(347, 3, &tables)]].concat(), &[9; 16]);
    assert!(message(&shared).contains("claims more memory"), "{}", message(&shared));
}

#[test]
fn a_raw_file_of_a_camera_is_refused_and_its_preview_not_taken_for_the_image() {
    let gray: [(u16, u16, &[u32]); 3] = [(258, 3, &[8]), (262, 3, &[1]), (277, 3, &[1])];
    for (tag, value) in [(254, 1), (50706, 1)] {
        let raw = tiff(2, &[&gray[..], &[(tag, 4, &[value])]].concat(), &[1, 2, 3, 4]);
        assert!(message(&raw).contains("raw file"), "{}", message(&raw));
        assert!(message(&raw).contains("export it as JPEG or PNG"), "{}", message(&raw));
    }
    assert!(decode_image(&tiff(2, &gray, &[1, 2, 3, 4])).is_ok());
    assert!(
        decode_image(&tiff(2, &[&gray[..], &[(254, 4, &[0])]].concat(), &[1, 2, 3, 4])).is_ok()
    );
}

#[test]
fn memory_beyond_the_pixels_is_not_allocated() {
    // A strip that claims 400 MB of a file of 100 bytes.
    let gray: [(u16, u16, &[u32]); 3] = [(258, 3, &[8]), (262, 3, &[1]), (277, 3, &[1])];
    let mut bytes = tiff(2, &gray, &[1, 2, 3, 4]);
    let length = [&279u16.to_le_bytes()[..], &[4, 0, 1, 0, 0, 0]].concat();
    let at = bytes.windows(8).position(|window| window == length).unwrap() + 8;
    bytes[at..at + 4].copy_from_slice(&400_000_000u32.to_le_bytes());
    assert!(message(&bytes).contains("claims more memory"), "{}", message(&bytes));
    // A frame of 60,000 pixels a side in a GIF of 8 by 8.
    let mut bytes = encode(&quarters(8, 8).into(), image::ImageFormat::Gif);
    let frame = [0x2c, 0, 0, 0, 0, 8, 0, 8, 0];
    let at = bytes.windows(9).position(|window| window == frame).unwrap() + 5;
    bytes[at..at + 4].copy_from_slice(&[0x60, 0xea, 0x60, 0xea]);
    assert!(message(&bytes).contains("damaged"), "{}", message(&bytes));
    // A BMP that claims 16,000 pixels a side and has 64.
    let mut bytes = encode(&quarters(8, 8).into(), image::ImageFormat::Bmp);
    bytes[18..20].copy_from_slice(&16_000u16.to_le_bytes());
    bytes[22..24].copy_from_slice(&16_000u16.to_le_bytes());
    assert!(message(&bytes).contains("shrink it"), "{}", message(&bytes));
}

#[test]
#[cfg(unix)]
fn a_link_to_a_device_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for (name, target, expected) in [
        ("zero.jpg", "/dev/zero", "a pipe, a socket or a device"),
        ("tty.jpg", "/dev/tty", "a pipe, a socket or a device"),
    ] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(target, &link).unwrap();
        let message = format!("{:#}", read_image(&link).unwrap_err());
        assert!(message.contains(name) && message.contains(expected), "{message}");
    }
}

#[test]
fn errors_start_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("face.jpg");
    assert!(format!("{:#}", read_image(&path).unwrap_err()).ends_with("face.jpg: no such file"));
    fs::File::create(&path).unwrap().write_all(b"").unwrap();
    assert!(
        format!("{:#}", read_image(&path).unwrap_err()).contains("face.jpg: the file is empty")
    );
    assert!(format!("{:#}", read_image(folder.path()).unwrap_err()).contains("not a regular file"));
}
