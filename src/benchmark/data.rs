//! Measures the throughput of the data pipeline.
//!
//! It times a [`Loader`] that opens, decodes, augments and batches image files, and the
//! normalization of its pixels, which the device does in training.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image::codecs::jpeg::JpegEncoder;
use serde::Serialize;

use crate::benchmark::measure::median;
use crate::config::{Cache, DataConfig};
use crate::data::synthetic::{self, FaceSeed};
use crate::data::{
    HostBatch, ImageDataset, Loader, LoaderOptions, Mode, Sample, Source, read_image,
};
use crate::run::memory::resident_bytes;

/// Images per batch.
const BATCH: usize = 32;
/// Rounds of each measurement, of which the median is reported.
const ROUNDS: usize = 3;
/// Batches of a pass over the files.
const BATCHES: usize = 8;
/// Quality of the generated JPEGs.
const QUALITY: u8 = 90;

/// The settings of [`benchmark_data`].
#[derive(Debug, Clone)]
pub struct DataBenchmarkSettings {
    /// The image size and augmentations; the dataset and cache are ignored.
    pub config: DataConfig,
    /// A folder of the user's images, measured in addition to the generated ones.
    pub folder: Option<PathBuf>,
    /// The approximate duration of a round; 0 to try all of it once, with few files.
    pub round: Duration,
    /// The number of worker threads whose throughput is compared with that of one.
    pub workers: usize,
    /// Images to load at the end while watching the memory; 0 to skip that.
    pub memory_images: usize,
}

impl DataBenchmarkSettings {
    /// Returns the number of files, images or rounds: one of each where no time is to be spent.
    fn count(&self, usual: usize) -> usize {
        if self.round.is_zero() { 1 } else { usual }
    }
}

/// The result of [`benchmark_data`].
#[derive(Debug, Clone, Serialize)]
pub struct DataBenchmark {
    /// Throughput of the training transform on the generated 224-pixel files, one thread.
    pub train_images_per_second_per_core: f64,
    /// Throughput of the evaluation transform on the same files, one thread.
    pub eval_images_per_second_per_core: f64,
    /// Throughput of `workers` threads relative to one, training transform, the same files.
    pub scaling: f64,
    /// The number of threads of `scaling`.
    pub workers: usize,
    /// Side of the output images, in pixels.
    pub image_size: usize,
    /// The results of each set of files.
    pub sets: Vec<FileSetBenchmark>,
    /// Memory while loading many images, if requested.
    pub memory: Option<MemoryGrowth>,
}

/// The results of one set of files.
#[derive(Debug, Clone, Serialize)]
pub struct FileSetBenchmark {
    /// The name of the set: `generated 224 px`, or the folder.
    pub name: String,
    /// The number of files.
    pub files: usize,
    /// Mean size of a file, in bytes.
    pub mean_bytes: u64,
    /// Throughput of decoding alone, one thread.
    pub decode_images_per_second_per_core: f64,
    /// Throughput of the training transform, one thread.
    pub train_images_per_second_per_core: f64,
    /// Throughput of the evaluation transform, one thread.
    pub eval_images_per_second_per_core: f64,
    /// Throughput of the training transform with all workers, relative to one.
    pub scaling: f64,
}

/// Resident memory of the process, in MiB.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryGrowth {
    /// The number of images loaded.
    pub images: usize,
    /// Memory after the first tenth of them.
    pub early_mib: f64,
    /// Memory at the end.
    pub late_mib: f64,
}

/// Measures files generated in a temporary folder, and the user's folder if there is one. Calls
/// `progress` before each measurement. Returns an error if the folder has no readable image or the
/// files cannot be generated.
pub fn benchmark_data(
    settings: &DataBenchmarkSettings,
    progress: impl Fn(&str),
) -> Result<DataBenchmark> {
    let scratch = Scratch::new()?;
    let mut sets = vec![
        ("generated 224 px".to_string(), scratch.generate(224, settings.count(64))?),
        ("generated 1024 px".to_string(), scratch.generate(1024, settings.count(16))?),
    ];
    if let Some(folder) = &settings.folder {
        sets.push((folder.display().to_string(), readable_files(folder)?));
    }
    let mut reports = Vec::new();
    for (name, files) in &sets {
        progress(&format!("measuring {name}, {} files", files.len()));
        reports.push(measure_set(name, files, settings)?);
    }
    let mut memory = None;
    if settings.memory_images > 0 {
        progress(&format!("watching the memory over {} images", settings.memory_images));
        memory = Some(watch_memory(&sets[0].1, settings)?);
    }
    let first = reports.first().context("no set was measured")?;
    Ok(DataBenchmark {
        train_images_per_second_per_core: first.train_images_per_second_per_core,
        eval_images_per_second_per_core: first.eval_images_per_second_per_core,
        scaling: first.scaling,
        workers: settings.workers,
        image_size: settings.config.image_size as usize,
        sets: reports,
        memory,
    })
}

/// A temporary folder, removed with its files when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let name = format!("vmbeauty-benchmark-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot be created; set TMPDIR", folder.display()))?;
        Ok(Self(folder))
    }

    /// Writes synthetic faces as JPEGs, `size` pixels square.
    fn generate(&self, size: u32, count: usize) -> Result<Vec<PathBuf>> {
        let write = |index: u64| -> Result<PathBuf> {
            let path = self.0.join(format!("{size}_{index}.jpg"));
            let image = synthetic::render(FaceSeed { seed: 1, index }, size);
            let file = fs::File::create(&path)?;
            JpegEncoder::new_with_quality(BufWriter::new(file), QUALITY).encode_image(&image)?;
            Ok(path)
        };
        (0..count as u64)
            .map(|index| {
                write(index).with_context(|| format!("writing to {}; set TMPDIR", self.0.display()))
            })
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An error here would hide the result; a file may stay in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn readable_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.is_file() && read_image(path).is_ok()).collect();
    files.sort();
    let name = folder.display();
    ensure!(!files.is_empty(), "{name}: holds no readable image; name a folder of images");
    Ok(files)
}

/// Opens the files as a split, repeated to fill the batches of a pass.
fn open_dataset(files: &[PathBuf], settings: &DataBenchmarkSettings) -> Result<Arc<ImageDataset>> {
    let repeats = settings.count(BATCHES * BATCH).div_ceil(files.len());
    let samples = (0..repeats).flat_map(|_| files).map(|file| {
        let id = file.display().to_string();
        Sample::new(id, Source::File(file.clone()), 0.0, None)
    });
    let config = DataConfig { cache: Cache::None, ..settings.config.clone() };
    Ok(Arc::new(ImageDataset::new(samples.collect(), &config)?))
}

fn measure_set(
    name: &str,
    files: &[PathBuf],
    settings: &DataBenchmarkSettings,
) -> Result<FileSetBenchmark> {
    let images = open_dataset(files, settings)?;
    let train = |epoch| Mode::Train { seed: 1, epoch };
    let evaluate = |_| Mode::Eval;
    let round = settings.round;
    // All are measured in turn, so that a slower phase of the machine affects all of them.
    let mut speeds: [Vec<f64>; 5] = Default::default();
    for _ in 0..settings.count(ROUNDS) {
        let measured = [
            decode_speed(files, round)?,
            speed(&images, &train, 0, round)?,
            speed(&images, &evaluate, 0, round)?,
            speed(&images, &train, 1, round)?,
            speed(&images, &train, settings.workers, round)?,
        ];
        for (speeds, measured) in speeds.iter_mut().zip(measured) {
            speeds.push(measured);
        }
    }
    let [decode, train, eval, one, all] = speeds.map(median);
    let bytes: u64 = files.iter().flat_map(fs::metadata).map(|data| data.len()).sum();
    Ok(FileSetBenchmark {
        name: name.to_string(),
        files: files.len(),
        mean_bytes: bytes / files.len() as u64,
        decode_images_per_second_per_core: decode,
        train_images_per_second_per_core: train,
        eval_images_per_second_per_core: eval,
        scaling: all / one,
    })
}

/// Measures the images decoded per second by the calling thread.
fn decode_speed(files: &[PathBuf], at_least: Duration) -> Result<f64> {
    let (started, mut images) = (Instant::now(), 0);
    while images == 0 || started.elapsed() < at_least {
        for file in files {
            read_image(file)?;
            images += 1;
        }
    }
    Ok(f64::from(images) / started.elapsed().as_secs_f64())
}

/// Measures the images per second of complete passes, at least one, including the start of their
/// threads.
fn speed(
    dataset: &Arc<ImageDataset>,
    mode: &dyn Fn(u64) -> Mode,
    workers: usize,
    at_least: Duration,
) -> Result<f64> {
    let (mut images, mut epoch) = (0, 0);
    let mut normalized = Vec::new();
    let started = Instant::now();
    while images == 0 || started.elapsed() < at_least {
        let options = LoaderOptions::new(mode(epoch), BATCH, workers);
        for batch in Loader::new(Arc::clone(dataset), options)? {
            let batch = batch?;
            normalize(&batch, &mut normalized);
            images += batch.len;
        }
        epoch += 1;
    }
    Ok(images as f64 / started.elapsed().as_secs_f64())
}

/// Normalizes a batch with ImageNet's mean and standard deviation, as the models do.
fn normalize(batch: &HostBatch, out: &mut Vec<f32>) {
    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];
    out.resize(batch.pixels.len(), 0.0);
    let plane = batch.size * batch.size;
    let planes = batch.pixels.chunks_exact(plane).zip(out.chunks_exact_mut(plane));
    for (index, (pixels, out)) in planes.enumerate() {
        let (mean, scale) = (MEAN[index % 3], 1.0 / STD[index % 3]);
        for (out, &pixel) in out.iter_mut().zip(pixels) {
            *out = (f32::from(pixel) / 255.0 - mean) * scale;
        }
    }
    std::hint::black_box(out);
}

fn watch_memory(files: &[PathBuf], settings: &DataBenchmarkSettings) -> Result<MemoryGrowth> {
    let dataset = open_dataset(files, settings)?;
    let (mut done, mut epoch, mut early) = (0, 0, None);
    while done < settings.memory_images {
        let mode = Mode::Train { seed: 1, epoch };
        let options = LoaderOptions::new(mode, BATCH, settings.workers);
        for batch in Loader::new(Arc::clone(&dataset), options)? {
            done += batch?.len;
        }
        epoch += 1;
        if early.is_none() && done >= settings.memory_images / 10 {
            early = resident_mib();
        }
    }
    Ok(MemoryGrowth {
        images: done,
        early_mib: early.unwrap_or(f64::NAN),
        late_mib: resident_mib().unwrap_or(f64::NAN),
    })
}

fn resident_mib() -> Option<f64> {
    Some(resident_bytes()? as f64 / f64::from(1 << 20))
}
