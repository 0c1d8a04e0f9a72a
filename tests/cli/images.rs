//! Image files in every format: each is decoded correctly or rejected by name, and none crashes the
//! program.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use vm_beautynet::config::{DataConfig, Resize};
use vm_beautynet::data::{
    ImageDataset, Loader, LoaderOptions, Mode, NEUTRAL, Sample, Source, read_image,
};

use crate::sandbox::Sandbox;

/// Files that Pillow wrote, all of the same 48x32 image; `*_as_rgb.png` is what Pillow decodes from
/// the file of that name.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}

fn read(name: &str) -> RgbImage {
    read_image(&fixture(name)).unwrap()
}

/// Largest difference of two images of one size, in levels.
fn difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn cmyk_palette_gray_and_webp_files_become_the_rgb_that_pillow_reads() {
    let original = read("rgb.png");
    assert!(difference(&read("cmyk.jpg"), &read("cmyk_as_rgb.png")) <= 3);
    assert_eq!(read("palette.png"), read("palette_as_rgb.png"));
    assert!(difference(&read("lossy.webp"), &original) <= 24);
    // ITU-R 601 luma of the original.
    for (x, y, pixel) in read("gray.jpg").enumerate_pixels() {
        let [r, g, b] = original.get_pixel(x, y).0.map(f64::from);
        let luma = 0.299 * r + 0.587 * g + 0.114 * b;
        assert!((f64::from(pixel.0[0]) - luma).abs() < 8.0);
        assert!(pixel.0[0] == pixel.0[1] && pixel.0[1] == pixel.0[2]);
    }
}

#[test]
fn sixteen_bits_become_eight_by_their_high_byte() {
    for name in ["gray_16.png", "gray_16.tiff"] {
        for (x, y, pixel) in read(name).enumerate_pixels() {
            let level = (x * 1300 + y * 100) & 0xffff;
            let expected = (f64::from(level) / 257.0).round() as i32;
            assert!((i32::from(pixel.0[0]) - expected).abs() <= 1, "{name} {x} {y}");
        }
    }
}

#[test]
fn a_progressive_jpeg_is_rotated_by_its_exif_orientation() {
    // 8: the image has to be rotated counter-clockwise by 90 degrees.
    let upright = image::imageops::rotate270(&read("rgb.png"));
    assert!(difference(&read("progressive_turned.jpg"), &upright) <= 12);
}

#[test]
fn alpha_is_blended_over_the_background_of_gray_palette_and_webp_files() {
    let original = read("rgb.png");
    let webp = read("alpha.webp");
    // Alpha grows from the top row to the last one.
    assert!(difference_at(&webp, 0, Rgb(NEUTRAL)) <= 8);
    let last = original.get_pixel(20, 31);
    assert!(webp.get_pixel(20, 31).0.iter().zip(last.0).all(|(a, b)| a.abs_diff(b) <= 4));
    assert!(difference_at(&read("gray_alpha.png"), 0, Rgb(NEUTRAL)) <= 8);
    let clear = read("palette_clear.png");
    assert!(clear.pixels().any(|pixel| pixel.0 == NEUTRAL));
    assert!(clear.pixels().any(|pixel| pixel.0 != NEUTRAL));
}

fn difference_at(image: &RgbImage, row: u32, color: Rgb<u8>) -> u8 {
    let pixels = (0..image.width()).map(|x| image.get_pixel(x, row).0);
    pixels.flat_map(|pixel| (0..3).map(move |c| pixel[c].abs_diff(color.0[c]))).max().unwrap()
}

#[test]
fn the_configured_background_shows_through_and_around() {
    let sandbox = Sandbox::new();
    fs::copy(fixture("alpha.webp"), sandbox.path("a.webp")).unwrap();
    let (background, resize) = ([9, 200, 30], Resize::Pad);
    let config = DataConfig { background, resize, image_size: 16, ..DataConfig::default() };
    let sample = Sample::new("a", Source::File(sandbox.path("a.webp")), 0.0, None);
    let images = ImageDataset::new(vec![sample], &config).unwrap();
    assert!(difference_at(&images.image(0).unwrap(), 0, Rgb(background)) <= 8);
    let mut loader = Loader::new(images.into(), LoaderOptions::new(Mode::Eval, 1, 0)).unwrap();
    let batch = loader.next().unwrap().unwrap();
    assert_eq!([batch.pixels[0], batch.pixels[256], batch.pixels[512]], [9, 200, 30]);
}

/// A PNG whose header claims `side` pixels square.
fn png_bomb(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    RgbImage::new(1, 1).write_with_encoder(encoder).unwrap();
    bytes[16..20].copy_from_slice(&side.to_be_bytes());
    bytes[20..24].copy_from_slice(&side.to_be_bytes());
    let crc = crc32fast::hash(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
#[cfg(unix)]
fn a_data_set_with_every_broken_file_is_checked_and_trained_on_without_them() {
    use std::os::unix::ffi::OsStrExt;

    let sandbox = Sandbox::new();
    let complete = fs::read(fixture("progressive_turned.jpg")).unwrap();
    fs::create_dir(sandbox.path("folder.jpg")).unwrap();
    fs::write(sandbox.path("empty.jpg"), "").unwrap();
    fs::write(sandbox.path("cut.jpg"), &complete[..complete.len() / 2]).unwrap();
    fs::write(sandbox.path("text.png"), "not an image at all").unwrap();
    fs::write(sandbox.path("bomb.png"), png_bomb(30_000)).unwrap();
    std::os::unix::fs::symlink(sandbox.path("gone"), sandbox.path("dangling.jpg")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("loop.jpg"), sandbox.path("loop.jpg")).unwrap();
    // A WebP file named as a JPEG is read.
    fs::copy(fixture("lossy.webp"), sandbox.path("really_webp.jpg")).unwrap();
    let bad =
        ["folder.jpg", "empty.jpg", "cut.jpg", "text.png", "bomb.png", "dangling.jpg", "loop.jpg"];
    let mut table = String::from("image,score,split\n");
    for name in bad {
        table += &format!("{name},3,train\n");
    }
    table += "really_webp.jpg,3,train\n";
    for index in 0..12u8 {
        let name = format!("{index}.png");
        let split = ["train", "train", "val"][usize::from(index) % 3];
        sandbox.image(&name, index * 20);
        table += &format!("{name},{},{split}\n", index % 5);
    }
    fs::write(sandbox.path("faces.csv"), table).unwrap();
    // A name that is not Unicode cannot be in the table, and must not cause an error.
    let strange = std::ffi::OsStr::from_bytes(b"caf\xe9.png");
    fs::copy(sandbox.path("1.png"), sandbox.path("x").with_file_name(strange)).unwrap();

    let set = "data={dataset: csv, root: faces.csv}";
    let report = sandbox.json(&["data", "check", "small.yaml", "--json", "--set", set]);
    let mut named: Vec<&str> = ["missing", "unreadable"]
        .iter()
        .flat_map(|kind| report[kind].as_array().unwrap())
        .map(|row| row["id"].as_str().unwrap())
        .collect();
    named.sort_unstable();
    let mut expected = bad;
    expected.sort_unstable();
    assert_eq!(named, expected);

    sandbox.train("run", &["train.epochs=1", set, "data={cache: disk, cache_dir: cache}"]);
    assert_eq!(sandbox.read_json("run/summary.json")["skipped_rows"], bad.len());
    assert!(sandbox.path("cache").is_dir());

    // The name that is not Unicode is read like any other.
    let output = sandbox
        .command(&["predict", "run", "--format", "json"])
        .arg(sandbox.path("x").with_file_name(strange))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
