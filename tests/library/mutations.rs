//! Damaged image and label files are read or rejected by name, at once and without a panic.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::ImageFormat;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_beautynet::config::{Config, DataConfig, DatasetName};
use vm_beautynet::data::{self, read_image};

/// A limit far above what any file needs, to detect a hang.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A generator with a fixed seed, so that the files are the same everywhere.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0.random_range(0..sides.max(1))
    }

    /// One to eight changes: bytes set, bits flipped, stretches removed, repeated, or taken from
    /// another file, ends cut off.
    fn damage(&mut self, original: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for _ in 0..=self.roll(8) {
            let at = self.roll(bytes.len());
            let end = (at + 1 + self.roll(32)).min(bytes.len());
            match self.roll(7) {
                0 if at < bytes.len() => bytes[at] = self.roll(256) as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                2 if at < end => drop(bytes.drain(at..end)),
                3 if at < end => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                4 => {
                    let from = self.roll(other.len());
                    let to = (from + self.roll(64)).min(other.len());
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
                5 => bytes.truncate(at),
                _ if at < end => bytes[at..end].fill([0, 255, b',', b'"', b'\n'][self.roll(5)]),
                _ => {}
            }
        }
        bytes
    }
}

/// The fixtures, and images in the formats that they are not in.
fn image_fixtures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut files: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let image = image::RgbImage::from_fn(24, 24, |x, y| image::Rgb([x as u8 * 9, y as u8, 90]));
    for format in [ImageFormat::Gif, ImageFormat::Bmp] {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        files.push(bytes.into_inner());
    }
    files
}

/// Returns the number that were read nevertheless.
fn read_damaged_images(count: usize) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let originals = image_fixtures();
    let mut dice = Dice::new(11);
    let mut read = 0;
    for index in 0..count {
        let name = format!("image_{index}.jpg");
        let path = folder.path().join(&name);
        let other = dice.roll(originals.len());
        fs::write(&path, dice.damage(&originals[index % originals.len()], &originals[other]))
            .unwrap();
        let started = Instant::now();
        match read_image(&path) {
            Ok(_) => read += 1,
            Err(error) => assert!(format!("{error:#}").contains(&name), "{error:#}"),
        }
        assert!(started.elapsed() < TIMEOUT, "{name} took {:?}", started.elapsed());
        fs::remove_file(path).unwrap();
    }
    read
}

/// A label file, its path in its dataset, and the configuration that reads it.
struct Labels {
    file: &'static str,
    text: &'static str,
    others: &'static [(&'static str, &'static str)],
    config: fn(&Path) -> DataConfig,
}

fn csv_config(root: &Path, name: &str) -> DataConfig {
    DataConfig {
        dataset: DatasetName::Csv,
        root: root.join(name),
        verify: false,
        ..DataConfig::default()
    }
}

const LABELS: [Labels; 4] = [
    Labels {
        file: "faces.csv",
        text: "image,score,split,group,weight,person\n\
               a.jpg,1.5,train,x,1,p\n\"b, c.jpg\",2,val,\"y\"\"z\",0.5,q\nd.jpg,-3e2,test,,,\n",
        others: &[],
        config: |root| csv_config(root, "faces.csv"),
    },
    Labels {
        file: "faces.tsv",
        text: "image\trater_1\trater_2\nå.jpg\t1\t2\nb.jpg\t\t4\nc.jpg\t3\t\nd.jpg\t5\t1\n",
        others: &[],
        config: |root| {
            let mut config = csv_config(root, "faces.tsv");
            config.csv.votes_columns = vec!["rater_*".to_string()];
            config
        },
    },
    Labels {
        file: "scores/train_2022.txt",
        text: "./a/female/asian/x.jpg 6.5\n\"./a/male/black/y (1).jpg\" 2\n",
        others: &[("scores/val_2022.txt", "v.jpg 1\n"), ("scores/test_2022.txt", "t.jpg 2\n")],
        config: |root| DataConfig {
            dataset: DatasetName::Mebeauty,
            root: root.to_path_buf(),
            verify: false,
            ..DataConfig::default()
        },
    },
    Labels {
        file: "1/train_1.txt",
        text: "CF1.jpg 3.5\nftw2.jpg 1.25\nAM3.jpg 5\n",
        others: &[("1/test_1.txt", "CF4.jpg 1\n")],
        config: |root| DataConfig {
            dataset: DatasetName::ScutFbp5500,
            split: "fold_1".to_string(),
            root: root.to_path_buf(),
            verify: false,
            ..DataConfig::default()
        },
    },
];

/// Returns the number that were read nevertheless.
fn read_damaged_labels(count: usize) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let images = "a.jpg; b.jpg; c.jpg; d.jpg; b, c.jpg; å.jpg; v.jpg; t.jpg; CF1.jpg; CF2.jpg; \
                  AM3.jpg; CF4.jpg; a/female/asian/x.jpg; a/male/black/y (1).jpg";
    let mut dice = Dice::new(5);
    let mut read = 0;
    for labels in &LABELS {
        let root = folder.path().join(labels.file.replace('/', "_"));
        for (name, text) in labels.others.iter().chain([&(labels.file, labels.text)]) {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        }
        for image in images.split("; ") {
            fs::create_dir_all(root.join(image).parent().unwrap()).unwrap();
            fs::write(root.join(image), "").unwrap();
        }
        let config = (labels.config)(&root);
        for _ in 0..count / LABELS.len() {
            let other = LABELS[dice.roll(LABELS.len())].text;
            let damaged = dice.damage(labels.text.as_bytes(), other.as_bytes());
            fs::write(root.join(labels.file), &damaged).unwrap();
            let started = Instant::now();
            match data::load(&config, 1) {
                Ok(_) => read += 1,
                Err(error) => {
                    let message = format!("{error:#}");
                    // A list that can be parsed but leaves nothing to train on is named by the data
                    // set's folder or file.
                    let named = message.contains(&config.root.display().to_string());
                    assert!(named || message.contains("data.overlap"), "{message}");
                }
            }
            assert!(started.elapsed() < TIMEOUT);
        }
    }
    read
}

fn read_damaged_configs(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.yaml");
    let original = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.yaml"));
    let original = original.unwrap();
    let mut dice = Dice::new(3);
    for _ in 0..count {
        fs::write(&path, dice.damage(&original, &original)).unwrap();
        let started = Instant::now();
        if let Err(error) = Config::load(&path, &[]) {
            assert!(error.to_string().contains("damaged.yaml"), "{error}");
        }
        assert!(started.elapsed() < TIMEOUT);
    }
}

#[test]
fn hundreds_of_damaged_images_are_read_or_rejected_by_name() {
    let read = read_damaged_images(600);
    assert!((1..600).contains(&read), "{read}");
}

#[test]
fn hundreds_of_damaged_label_files_are_read_or_rejected_by_name() {
    let read = read_damaged_labels(400);
    assert!((1..400).contains(&read), "{read}");
}

#[test]
fn damaged_configs_are_read_or_rejected_by_name() {
    read_damaged_configs(200);
}

#[test]
#[ignore = "takes some seconds: cargo test --release --test library mutations -- --ignored"]
fn ten_thousand_damaged_files_of_each_kind_are_read_or_rejected_by_name() {
    let images = read_damaged_images(10_000);
    let labels = read_damaged_labels(10_000);
    read_damaged_configs(10_000);
    println!("of 10000 each, {images} images and {labels} label files were read");
    assert!((1..10_000).contains(&images) && (1..10_000).contains(&labels));
}
