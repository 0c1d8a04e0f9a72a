//! The images of one split: from a sample to the pixels that the model sees.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use image::RgbImage;

use super::augment::TrainTransform;
use super::batch::{HostBatch, Vote};
use super::dataset::{Sample, Source};
use super::datasets::synthetic;
use super::image::Workspace;
use super::image::cache::DiskCache;
use super::image::decode::{decode_again_over, decode_image_over, read_file};
use super::panic::catch_panic;
use crate::config::{AugmentConfig, Cache, DataConfig};

/// The capacity of the cache of one split, in bytes; images beyond it are decoded each time.
const CACHE_LIMIT: u64 = 8 << 30;

/// The mode of a pass over the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Shuffled and augmented, both determined by seed and epoch.
    Train {
        /// The run's seed.
        seed: u64,
        /// The epoch, from 0.
        epoch: u64,
    },
    /// In order, without augmentation.
    Eval,
}

/// Samples, the transforms that the configuration asks for, and the decoded images kept between
/// epochs: all of them with `data.cache: memory` or `disk`, and always the synthetic ones, which
/// cost most to make. Threads share it; loaders are made from it, one per pass.
pub struct ImageDataset {
    samples: Vec<Sample>,
    transform: TrainTransform,
    test_time_flip: bool,
    background: [u8; 3],
    keep_files: bool,
    disk: Option<DiskCache>,
    /// The hash of each file's content when it was first decoded.
    decoded: Vec<OnceLock<blake3::Hash>>,
    cache: Vec<OnceLock<Arc<RgbImage>>>,
    cached: AtomicU64,
}

impl ImageDataset {
    /// Creates the dataset of a split from its samples.
    pub fn new(samples: Vec<Sample>, config: &DataConfig) -> Result<Self> {
        let cache = samples.iter().map(|_| OnceLock::new()).collect();
        let decoded = samples.iter().map(|_| OnceLock::new()).collect();
        Ok(Self {
            samples,
            transform: TrainTransform::new(config)?,
            test_time_flip: config.test_time_flip,
            background: config.background,
            disk: (config.cache == Cache::Disk)
                .then(|| DiskCache::open(config.cache_dir.as_deref(), config.background))
                .transpose()?,
            keep_files: config.cache == Cache::Memory,
            decoded,
            cache,
            cached: AtomicU64::new(0),
        })
    }

    /// Returns the samples, in the order of their indices.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Returns whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Returns the side of the images that the model sees, in pixels.
    pub fn size(&self) -> usize {
        self.transform.eval().size()
    }

    /// Returns the configured augmentations.
    pub fn augment(&self) -> &AugmentConfig {
        self.transform.config()
    }

    /// Returns the transform of training images.
    pub fn transform(&self) -> &TrainTransform {
        &self.transform
    }

    /// Returns whether predictions are averaged over each image and its mirror image.
    pub fn test_time_flip(&self) -> bool {
        self.test_time_flip
    }

    /// Returns the image of a sample, decoded or rendered, before any transform.
    pub fn image(&self, index: usize) -> Result<Arc<RgbImage>> {
        let (Some(sample), Some(cached)) = (self.samples.get(index), self.cache.get(index)) else {
            anyhow::bail!("there is no sample {index} among {}", self.samples.len());
        };
        if let Some(image) = cached.get() {
            return Ok(Arc::clone(image));
        }
        let (image, keep) = match &sample.source {
            Source::File(path) => {
                let image = match &self.disk {
                    Some(disk) => disk.image(path)?,
                    None => self
                        .decode(path, &self.decoded[index])
                        .with_context(|| path.display().to_string())?,
                };
                (image, self.keep_files)
            }
            Source::Synthetic(face) => (synthetic::render(*face, self.size() as u32), true),
        };
        let image = Arc::new(image);
        let bytes = image.len() as u64;
        if keep && self.cached.load(Ordering::Relaxed) + bytes <= CACHE_LIMIT {
            // Two threads may have decoded the same image: the first result is kept.
            if cached.set(Arc::clone(&image)).is_ok() {
                self.cached.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        Ok(image)
    }

    /// Decodes a file, whose content is checked unless it was decoded before.
    fn decode(&self, path: &Path, decoded: &OnceLock<blake3::Hash>) -> Result<RgbImage> {
        let bytes = read_file(path)?;
        let hash = blake3::hash(&bytes);
        if decoded.get() == Some(&hash) {
            return decode_again_over(&bytes, self.background);
        }
        let image = decode_image_over(&bytes, self.background)?;
        // Of a file that changes, only the first content is known.
        let _ = decoded.set(hash);
        Ok(image)
    }

    /// Writes what the model sees of a sample to `out`: (3, size, size), one plane per color.
    pub(super) fn pixels(
        &self,
        index: usize,
        mode: Mode,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<()> {
        let image = self.image(index)?;
        match mode {
            Mode::Train { seed, epoch } => {
                self.transform.apply(&image, (seed, epoch, index as u64), workspace, out)
            }
            Mode::Eval => self.transform.eval().apply(&image, workspace, out),
        }
    }

    /// Loads the images of these indices with their labels.
    pub(super) fn load_batch(
        &self,
        indices: Vec<usize>,
        mode: Mode,
        workspace: &mut Workspace,
    ) -> Result<HostBatch> {
        let size = self.size();
        let mut pixels = vec![0; indices.len() * 3 * size * size];
        for (&index, out) in indices.iter().zip(pixels.chunks_exact_mut(3 * size * size)) {
            catch_panic(|| self.pixels(index, mode, workspace, out)).with_context(|| {
                let id = self.samples.get(index).map_or("?", |sample| &sample.id);
                format!("the image {id}")
            })?;
        }
        Ok(HostBatch { pixels, ..self.labels(indices) })
    }

    /// Returns the labels of the images of these indices, without their pixels.
    pub(super) fn labels(&self, indices: Vec<usize>) -> HostBatch {
        let samples = || indices.iter().map(|&index| &self.samples[index]);
        HostBatch {
            pixels: Vec::new(),
            len: indices.len(),
            global_len: indices.len(),
            size: self.size(),
            targets: samples().map(|sample| sample.score).collect(),
            weights: samples().map(|sample| sample.weight).collect(),
            votes: samples().map(|sample| Vote::with_equal_probabilities(&sample.votes)).collect(),
            indices,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn stored(cache: Cache) -> (tempfile::TempDir, ImageDataset) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        RgbImage::from_pixel(8, 8, image::Rgb([1, 2, 3])).save(&path).unwrap();
        let sample = Sample::new("a", Source::File(path), 1.0, None);
        let config = DataConfig { cache, image_size: 8, ..DataConfig::default() };
        (folder, ImageDataset::new(vec![sample], &config).unwrap())
    }

    #[test]
    fn a_cached_image_outlives_its_file() {
        for (cache, survives) in [(Cache::Memory, true), (Cache::None, false)] {
            let (folder, images) = stored(cache);
            images.image(0).unwrap();
            fs::remove_file(folder.path().join("a.png")).unwrap();
            assert_eq!(images.image(0).is_ok(), survives);
        }
    }

    #[test]
    fn a_jpeg_decodes_alike_again_and_is_checked_when_it_changes() {
        let (folder, images) = stored(Cache::None);
        let path = folder.path().join("a.png");
        let levels = |x: u32, y: u32| image::Rgb([x as u8 * 3, y as u8 * 3, (x * y) as u8]);
        RgbImage::from_fn(80, 80, levels)
            .save_with_format(&path, image::ImageFormat::Jpeg)
            .unwrap();
        let first = images.image(0).unwrap();
        assert_eq!(images.image(0).unwrap(), first);
        let bytes = fs::read(&path).unwrap();
        // The end marker hides from the decoder that half of the blocks are missing.
        fs::write(&path, [&bytes[..bytes.len() * 2 / 3], &[0xff, 0xd9]].concat()).unwrap();
        for _ in 0..2 {
            let error = format!("{:#}", images.image(0).unwrap_err());
            assert!(error.contains("a.png: damaged"), "{error}");
        }
        fs::write(&path, bytes).unwrap();
        assert_eq!(images.image(0).unwrap(), first);
    }

    #[test]
    fn an_error_names_sample_and_file() {
        let (folder, images) = stored(Cache::None);
        fs::write(folder.path().join("a.png"), b"no image").unwrap();
        let error = images.load_batch(vec![0], Mode::Eval, &mut Workspace::default()).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("the image a: ") && error.contains("a.png: not an image"),
            "{error}"
        );
        assert!(images.image(1).is_err());
    }
}
