//! Whether `predict` tells images that are unlike the training images.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster};
use serde_json::Value;
use vm_beautynet::config::Config;
use vm_beautynet::data::{ImageDataset, Split, load_split};

use crate::sandbox::Sandbox;

const SIDE: u32 = 128;
type Color = [f64; 3];

/// A stream of numbers (splitmix64).
struct Stream(u64);

impl Stream {
    fn uniform(&mut self, from: f64, to: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        from + (to - from) * ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn color(&mut self) -> Color {
        [0; 3].map(|_| self.uniform(0.0, 255.0))
    }

    /// A color near another one.
    fn near(&mut self, color: [f64; 3], by: f64) -> Color {
        color.map(|level| level + self.uniform(-by, by))
    }
}

/// Renders an image from the color at each place, from (0, 0) to (1, 1).
fn rendered(mut color: impl FnMut(f64, f64) -> Color) -> RgbImage {
    let place = |at: u32| f64::from(at) / f64::from(SIDE - 1);
    RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb(color(place(x), place(y)).map(|level| level as u8)))
}

fn mixed(from: Color, to: Color, at: f64) -> Color {
    [0, 1, 2].map(|channel| from[channel] + (to[channel] - from[channel]) * at)
}

fn noise(kind: usize, stream: &mut Stream) -> RgbImage {
    match kind % 3 {
        0 => rendered(|_, _| stream.color()),
        1 => {
            let (mean, by) = (stream.color(), stream.uniform(20.0, 100.0));
            rendered(|_, _| stream.near(mean, by))
        }
        _ => {
            let grid = RgbImage::from_fn(8, 8, |_, _| Rgb(stream.color().map(|level| level as u8)));
            image::imageops::resize(&grid, SIDE, SIDE, image::imageops::FilterType::CatmullRom)
        }
    }
}

fn flat(kind: usize, stream: &mut Stream) -> RgbImage {
    let known = [[0; 3], [255; 3], [128; 3], [124, 116, 104], [224, 172, 140], [90, 60, 40]];
    let known = known.get(kind).map(|color| color.map(f64::from));
    let color = known.unwrap_or_else(|| stream.color());
    rendered(|_, _| color)
}

fn gradient(kind: usize, stream: &mut Stream) -> RgbImage {
    let (from, to) = (stream.color(), stream.color());
    let (sin, cos) = stream.uniform(0.0, 1.5).sin_cos();
    rendered(|x, y| match kind % 2 {
        0 => mixed(from, to, (x * cos + y * sin) / (cos + sin)),
        _ => mixed(from, to, (x - 0.5).hypot(y - 0.5) * 1.4),
    })
}

fn text(kind: usize, stream: &mut Stream) -> RgbImage {
    let (paper, ink) = match kind % 2 {
        0 => ([255.0; 3], [20.0; 3]),
        _ => (stream.color(), stream.color()),
    };
    let height = [RasterHeight::Size16, RasterHeight::Size20, RasterHeight::Size32][kind % 3];
    let mut image = rendered(|_, _| paper);
    for top in (2..SIDE - height.val() as u32).step_by(height.val() + 1) {
        let mut left = 3;
        while left + height.val() as u32 / 2 < SIDE {
            let letter = char::from(b' ' + stream.uniform(1.0, 94.0) as u8);
            let letter = get_raster(letter, FontWeight::Regular, height).unwrap();
            for (y, row) in letter.rows().enumerate() {
                for (x, &level) in row.iter().enumerate() {
                    let color = mixed(paper, ink, f64::from(level) / 255.0);
                    let pixel = Rgb(color.map(|level| level as u8));
                    image.put_pixel(left + x as u32, top + y as u32, pixel);
                }
            }
            left += letter.width() as u32;
        }
    }
    image
}

fn landscape(_: usize, stream: &mut Stream) -> RgbImage {
    let horizon = stream.uniform(0.35, 0.65);
    let sky = stream.near([80.0, 130.0, 215.0], 40.0);
    let (haze, ground) =
        (stream.near([210.0, 220.0, 225.0], 25.0), stream.near([70.0, 130.0, 60.0], 45.0));
    let rock = stream.near([110.0, 110.0, 130.0], 25.0);
    let waves = [0; 4].map(|_| stream.uniform(4.0, 25.0));
    let sun = [stream.uniform(0.1, 0.9), stream.uniform(0.08, 0.25), stream.uniform(0.04, 0.09)];
    let trees: Vec<[f64; 3]> = (0..stream.uniform(2.0, 7.0) as usize)
        .map(|_| {
            [stream.uniform(0.0, 1.0), stream.uniform(horizon, 0.95), stream.uniform(0.04, 0.1)]
        })
        .collect();
    rendered(|x, y| {
        let ridge = 0.12 * (x * waves[0] / 3.0 + waves[1]).sin().abs()
            + 0.05 * (x * waves[2] + waves[3]).sin().abs();
        let mut color = match y {
            _ if (x - sun[0]).hypot(y - sun[1]) < sun[2] => [250.0, 240.0, 180.0],
            y if y < horizon - ridge => mixed(sky, haze, y / horizon),
            y if y < horizon => rock,
            y => mixed([0.0; 3], ground, 0.6 + 0.4 * (y - horizon) / (1.0 - horizon)),
        };
        for &[left, foot, size] in &trees {
            if (x - left).hypot(y - foot + size) < size {
                color = [30.0, 90.0, 30.0];
            } else if (x - left).abs() < 0.012 && (foot - size..foot).contains(&y) {
                color = [80.0, 50.0, 30.0];
            }
        }
        stream.near(color, 5.0)
    })
}

fn checkerboard(kind: usize, stream: &mut Stream) -> RgbImage {
    let squares = [2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0][kind % 8];
    let (a, b) = match kind % 2 {
        0 => (stream.color(), stream.color()),
        _ => ([0.0; 3], [255.0; 3]),
    };
    rendered(|x, y| {
        let odd = |at: f64| (at * squares * 0.999) as usize % 2;
        if odd(x) == odd(y) { a } else { b }
    })
}

/// Writes 50 images of no face, of six kinds, into a folder.
fn write_non_faces(folder: &Path) {
    type Render = fn(usize, &mut Stream) -> RgbImage;
    let kinds: [(&str, usize, Render); 6] = [
        ("noise", 9, noise),
        ("flat", 8, flat),
        ("gradient", 8, gradient),
        ("text", 8, text),
        ("landscape", 9, landscape),
        ("checkerboard", 8, checkerboard),
    ];
    fs::create_dir_all(folder).unwrap();
    let mut stream = Stream(1);
    for (name, count, render) in kinds {
        for kind in 0..count {
            render(kind, &mut stream).save(folder.join(format!("{name}-{kind}.png"))).unwrap();
        }
    }
}

/// Writes up to `count` images of a split of a run's dataset into a folder.
fn write_split(run: &Path, split: Split, count: usize, folder: &Path) {
    let config = Config::load(&run.join("config.yaml"), &[]).unwrap();
    let (mut samples, _) = load_split(&config.data, config.seed, split).unwrap();
    samples.truncate(count);
    fs::create_dir_all(folder).unwrap();
    let images = ImageDataset::new(samples, &config.data).unwrap();
    for at in 0..images.len() {
        images.image(at).unwrap().save(folder.join(format!("face-{at:04}.png"))).unwrap();
    }
}

/// Returns how many images of a folder are flagged, and how many there are, by the start of their
/// names.
fn flagged(sandbox: &Sandbox, runs: &[&str], folder: &str) -> BTreeMap<String, [usize; 2]> {
    let arguments = [&["predict", "--format", "json", folder], runs].concat();
    let mut counts = BTreeMap::new();
    for row in sandbox.json(&arguments)["predictions"].as_array().unwrap() {
        let name = row["image"].as_str().unwrap().rsplit('/').next().unwrap();
        let [flags, all]: &mut [usize; 2] =
            counts.entry(name.split('-').next().unwrap().to_string()).or_default();
        *flags += usize::from(row["in_distribution"] == Value::Bool(false));
        *all += 1;
    }
    counts
}

fn total(counts: &BTreeMap<String, [usize; 2]>) -> usize {
    counts.values().map(|[flags, _]| flags).sum()
}

#[test]
fn images_of_no_face_are_flagged_by_a_run_that_keeps_how_its_training_images_are_distributed() {
    let sandbox = Sandbox::new();
    let sizes = "data.synthetic={train: 100, val: 100, test: 16}";
    for (run, seed) in [("a", "seed=7"), ("b", "seed=8")] {
        let train = ["train", "small.yaml", "--quiet", "--output", run, "--set", sizes];
        let set = ["--set", seed, "--set", "train.epochs=1", "--set", "train.tensorboard=false"];
        sandbox.done(&[&train[..], &set].concat());
    }
    write_non_faces(&sandbox.path("others"));
    write_split(&sandbox.path("a"), Split::Val, 20, &sandbox.path("val"));
    let others = flagged(&sandbox, &["a"], "others");
    assert!(total(&others) >= 48, "{others:?}");
    assert_eq!(total(&flagged(&sandbox, &["a"], "val")), 0, "the threshold is theirs");
    let predict = |runs: &[&str]| {
        sandbox.succeeds(&[&["predict"], runs, &["others", "val", "--format", "csv"]].concat())
    };
    let flags = |csv: &str| {
        let cell = |line: &str| line.rsplit(',').nth(1).unwrap().to_string();
        csv.lines().map(cell).collect::<Vec<_>>()
    };
    let [csv, warning] = predict(&["a"]);
    assert_eq!(flags(&csv)[0], "in_distribution");
    assert!(flags(&csv).contains(&"true".to_string()) && flags(&csv).contains(&"false".into()));
    let words = "of 70 images are unlike the training images";
    assert!(warning.contains(words) && warning.contains("others/checkerboard-0.png"), "{warning}");

    // Without a file, or with that of other weights, nothing is known; another run may know.
    let file = sandbox.path("a/feature_distribution.safetensors");
    let written = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    for other in [false, true] {
        if other {
            fs::copy(sandbox.path("b/feature_distribution.safetensors"), &file).unwrap();
        }
        let [csv, warning] = predict(&["a"]);
        assert!(flags(&csv)[1..].iter().all(String::is_empty) && !warning.contains(words));
        assert_eq!(flags(&predict(&["a", "b"])[0]), flags(&predict(&["b"])[0]));
    }
    let (code, error) =
        sandbox.fails(&["evaluate", "a/last.safetensors", "--feature-distribution"]);
    assert!(code == 2 && error.contains("is of a run's best weights"), "{error}");
    sandbox.done(&["evaluate", "a", "--feature-distribution"]);
    assert_eq!(flags(&predict(&["a"])[0]), flags(&csv));
    fs::write(&file, &written[..written.len() / 2]).unwrap();
    let (code, error) = sandbox.fails(&["predict", "a", "val"]);
    let remedy = "`vmbeauty evaluate a/ --feature-distribution` writes it again";
    assert!(code == 1 && error.contains(remedy), "{error}");
}

/// `make test-ood` trains the model of configs/quickstart.yaml; VMB_OOD_RUN names a finished run
/// instead.
#[test]
#[ignore = "trains the model of the quickstart: minutes"]
fn of_50_images_of_no_face_48_are_flagged_and_of_200_validation_images_2() {
    let sandbox = Sandbox::new();
    let named = std::env::var_os("VMB_OOD_RUN").map(PathBuf::from);
    let run = named.unwrap_or_else(|| {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.yaml");
        sandbox.done(&["train", config.to_str().unwrap(), "--output", "run", "--quiet"]);
        sandbox.path("run")
    });
    write_non_faces(&sandbox.path("others"));
    write_split(&run, Split::Val, 200, &sandbox.path("val"));
    write_split(&run, Split::Test, 1000, &sandbox.path("test"));
    let [others, val, test] =
        ["others", "val", "test"].map(|name| flagged(&sandbox, &[run.to_str().unwrap()], name));
    println!("flagged of images of no face: {others:?}");
    println!("of validation images: {val:?}, of test images: {test:?}");
    assert!(total(&others) >= 48 && total(&val) <= 2, "{others:?} {val:?}");
}
