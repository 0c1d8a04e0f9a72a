//! Loads batches of pixels in order, in worker threads ahead of the training step.

mod batch_plan;
mod files;
mod options;
mod prefetch;
mod queue;
mod shard;

use std::sync::Arc;

use anyhow::{Context, Result};

use self::batch_plan::BatchPlan;
use super::batch::HostBatch;
use super::image_dataset::ImageDataset;

pub use self::files::{FileBatch, FileLoader};
pub use self::options::LoaderOptions;
pub(crate) use self::prefetch::Prefetch;
pub use self::shard::RankShard;

/// Iterates over the batches of one pass.
///
/// Order and pixels depend on the samples and the [mode](crate::data::Mode) alone, never on the
/// number of workers.
/// Worker threads put batches in a queue of bounded length. An image that cannot be read, or a
/// panic while loading one, ends the pass with an error that names the image. Dropping the loader
/// early stops its threads.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use vm_beautynet::config::DataConfig;
/// use vm_beautynet::data::synthetic::FaceSeed;
/// use vm_beautynet::data::{ImageDataset, Loader, LoaderOptions, Mode, Sample, Source};
///
/// let face = |index| Source::Synthetic(FaceSeed { seed: 1, index });
/// let samples = (0..8).map(|i| Sample::new(format!("face_{i}"), face(i), 3.0, None)).collect();
/// let config = DataConfig { image_size: 32, ..DataConfig::default() };
/// let images = Arc::new(ImageDataset::new(samples, &config)?);
/// let options = LoaderOptions::new(Mode::Train { seed: 1, epoch: 0 }, 4, 2);
/// for batch in Loader::new(images, options)? {
///     assert_eq!(batch?.pixels.len(), 4 * 3 * 32 * 32); // (4, 3, 32, 32)
/// }
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct Loader {
    batches: Prefetch<HostBatch>,
}

impl Loader {
    /// Starts a pass over the images. Returns an error if the batch size is 0, `drop_last` leaves
    /// no batch, or threads cannot be started.
    pub fn new(images: Arc<ImageDataset>, options: LoaderOptions) -> Result<Self> {
        let plan = BatchPlan::new(images, options)?;
        let batches = plan.batches.start.max(options.start_batch)..plan.batches.end;
        let window = options.prefetch.max(options.workers);
        let load = move |batch, workspace: &mut _| plan.load(batch, workspace);
        let batches = Prefetch::new(batches, options.workers, window, load)
            .context("starting a data worker; lower data.workers")?;
        Ok(Self { batches })
    }
}

impl Iterator for Loader {
    type Item = Result<HostBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        if batch.is_err() {
            // An error ends the pass.
            self.batches.end();
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.batches.left(), Some(self.batches.left()))
    }
}

impl ExactSizeIterator for Loader {}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::config::{Cache, DataConfig};
    use crate::data::{Mode, Sample, Source, Vote};

    fn images(folder: &Path, count: usize) -> Arc<ImageDataset> {
        let samples = (0..count).map(|index| {
            let path = folder.join(format!("{index}.png"));
            let seed = index as u32;
            RgbImage::from_fn(20 + seed % 5, 24, |x, y| {
                Rgb([(x * 9 + seed) as u8, (y * 7) as u8, (x * y + seed) as u8])
            })
            .save(&path)
            .unwrap();
            Sample::new(format!("{index}.png"), Source::File(path), index as f32, None)
        });
        let config = DataConfig { image_size: 16, cache: Cache::None, ..DataConfig::default() };
        Arc::new(ImageDataset::new(samples.collect(), &config).unwrap())
    }

    fn train(workers: usize) -> LoaderOptions {
        LoaderOptions::new(Mode::Train { seed: 3, epoch: 1 }, 4, workers)
    }

    fn run(images: &Arc<ImageDataset>, options: LoaderOptions) -> Vec<HostBatch> {
        Loader::new(Arc::clone(images), options).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn batches_are_the_same_with_any_number_of_workers() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 23);
        let reference = run(&images, train(0));
        assert_eq!(reference.len(), 6);
        assert_eq!(reference[5].len, 3);
        for workers in [1, 2, 5, 40] {
            assert!(run(&images, train(workers)) == reference, "{workers} workers");
        }
    }

    #[test]
    fn batches_with_every_augmentation_are_the_same_with_any_number_of_workers_and_any_cache() {
        let folder = tempfile::tempdir().unwrap();
        let samples = images(folder.path(), 21).samples().to_vec();
        let mut config = DataConfig {
            image_size: 24,
            cache_dir: Some(folder.path().join("cache")),
            ..DataConfig::default()
        };
        let augment = &mut config.augment;
        augment.affine.translate = [0.1, 0.1];
        augment.affine.shear = [5.0, 5.0];
        augment.trivial_augment.probability = 0.7;
        augment.grayscale = 0.3;
        augment.gaussian_blur.probability = 0.5;
        augment.random_erasing.probability = 0.5;
        (augment.mixup, augment.cutmix) = (0.4, 1.0);
        let mut reference = None;
        for cache in [Cache::None, Cache::Memory, Cache::Disk, Cache::Disk] {
            config.cache = cache;
            let images = Arc::new(ImageDataset::new(samples.clone(), &config).unwrap());
            for workers in [0, 1, 3, 8] {
                let batches = run(&images, train(workers));
                let reference = reference.get_or_insert_with(|| batches.clone());
                assert!(batches == *reference, "{workers} workers, {cache}");
            }
        }
    }

    #[test]
    fn a_training_pass_reshuffles_each_epoch_and_holds_every_image() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 23);
        let order = |epoch| -> Vec<usize> {
            let options = LoaderOptions::new(Mode::Train { seed: 3, epoch }, 4, 2);
            run(&images, options).into_iter().flat_map(|batch| batch.indices).collect()
        };
        let (mut first, second) = (order(0), order(1));
        assert_ne!(first, second);
        first.sort_unstable();
        assert_eq!(first, (0..23).collect::<Vec<_>>());
    }

    #[test]
    fn an_evaluation_pass_keeps_the_order() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 10);
        let batches = run(&images, LoaderOptions::new(Mode::Eval, 4, 2));
        let targets: Vec<f32> = batches.iter().flat_map(|batch| batch.targets.clone()).collect();
        assert_eq!(targets, (0..10).map(|index| index as f32).collect::<Vec<_>>());
        assert_eq!(batches[0].pixels.len(), 4 * 3 * 16 * 16);
    }

    #[test]
    fn a_pass_can_start_within_the_epoch_and_skip_an_incomplete_batch() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 11);
        let expected_batches = run(&images, train(0));
        for workers in [0, 2] {
            let late =
                run(&images, LoaderOptions { start_batch: 1, drop_last: true, ..train(workers) });
            assert_eq!(late, expected_batches[1..2]);
        }
        let nothing = LoaderOptions { batch_size: 12, drop_last: true, ..train(0) };
        assert!(Loader::new(Arc::clone(&images), nothing).is_err());
        assert!(Loader::new(images, LoaderOptions { batch_size: 0, ..train(0) }).is_err());
    }

    #[test]
    fn the_shards_of_all_ranks_make_up_the_batches_of_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 23);
        let mut config = DataConfig { image_size: 16, cache: Cache::None, ..DataConfig::default() };
        (config.augment.mixup, config.augment.cutmix) = (0.4, 1.0);
        let mixed = ImageDataset::new(images.samples().to_vec(), &config).unwrap();
        let cases = [
            (Mode::Eval, &images),
            (Mode::Train { seed: 3, epoch: 1 }, &images),
            (Mode::Train { seed: 3, epoch: 1 }, &Arc::new(mixed)),
        ];
        for (pass, images) in cases {
            let alone = LoaderOptions::new(pass, 4, 2);
            let expected_batches = run(images, alone);
            let shards: Vec<Vec<HostBatch>> = (0..3)
                .map(|rank| {
                    let shard = RankShard::new(rank, 3).unwrap();
                    run(images, LoaderOptions { shard, ..alone })
                })
                .collect();
            if pass == Mode::Eval {
                assert_eq!(shards.concat(), expected_batches);
                continue;
            }
            for (batch, expected) in expected_batches.iter().enumerate() {
                let shards = || shards.iter().map(|of_rank| &of_rank[batch]);
                assert!(shards().all(|shard| shard.global_len == expected.len));
                let pixels: Vec<u8> = shards().flat_map(|shard| shard.pixels.clone()).collect();
                let indices: Vec<usize> =
                    shards().flat_map(|shard| shard.indices.clone()).collect();
                assert!(pixels == expected.pixels && indices == expected.indices);
                let targets: Vec<f32> = shards().flat_map(|shard| shard.targets.clone()).collect();
                let votes: Vec<Vec<Vote>> =
                    shards().flat_map(|shard| shard.votes.clone()).collect();
                assert!(targets == expected.targets && votes == expected.votes);
            }
        }
    }

    #[test]
    fn an_unreadable_image_ends_the_pass_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 20);
        fs::write(folder.path().join("9.png"), b"").unwrap();
        for workers in [0, 3] {
            let options = LoaderOptions::new(Mode::Eval, 4, workers);
            let results: Vec<_> = Loader::new(Arc::clone(&images), options).unwrap().collect();
            assert_eq!(results.len(), 3);
            assert!(results[0].is_ok() && results[1].is_ok());
            let error = format!("{:#}", results[2].as_ref().unwrap_err());
            assert!(error.contains("9.png: the file is empty"), "{error}");
        }
    }

    #[test]
    fn a_loader_dropped_early_stops_its_threads() {
        let folder = tempfile::tempdir().unwrap();
        let images = images(folder.path(), 40);
        for taken in 0..4 {
            let mut loader = Loader::new(Arc::clone(&images), train(3)).unwrap();
            assert_eq!(loader.by_ref().take(taken).filter(Result::is_ok).count(), taken);
            drop(loader);
            assert_eq!(Arc::strong_count(&images), 1);
        }
    }
}
