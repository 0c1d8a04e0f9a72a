//! Training on the features of frozen backbones, which are computed once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use tch::Device;

use super::Supervised;
use crate::config::{Branch, Config, FusionStrategy};
use crate::data::random_stream::RandomStream;
use crate::data::{HostBatch, ImageDataset, Split};
use crate::eval::evaluate::viewed_splits;
use crate::eval::feature_distribution::ImageFeatures;
use crate::eval::pixel_statistics::{STATISTICS, pixel_statistics};
use crate::features::{self, Progress, SplitFeatures, View, branch_features};
use crate::models::fusion::BranchTokens;
use crate::run::{EpochRecord, representative_dataset, representative_images};
use crate::train::objective::Evaluation;

/// The features of the backbones for all images of a run.
pub(super) struct FrozenFeatures {
    train: SplitFeatures,
    val: SplitFeatures,
    test: Option<SplitFeatures>,
}

impl FrozenFeatures {
    /// Returns the features of a split.
    pub(super) fn of_split(&self, split: Split) -> Option<&SplitFeatures> {
        match split {
            Split::Train => Some(&self.train),
            Split::Val => Some(&self.val),
            Split::Test => self.test.as_ref(),
        }
    }

    /// Returns the branches' tokens for these images of a training batch.
    pub(super) fn of_batch(
        &self,
        config: &Config,
        batch: &HostBatch,
        rows: &Range<usize>,
        epoch: usize,
        device: Device,
    ) -> Result<[Option<BranchTokens>; 2]> {
        let images = batch.indices.get(rows.clone()).unwrap_or_default().iter();
        let images: Vec<_> = images.map(|&image| (image, view_of(config, image, epoch))).collect();
        let tokens = |branch| self.train.tokens(branch, &images, device);
        Ok([tokens(Branch::Vit)?, tokens(Branch::Mamba)?])
    }
}

impl Supervised<'_> {
    /// Returns the features of the frozen backbones, computed or from the cache; `None` if they are
    /// not cached.
    pub(super) fn frozen_features(
        &self,
        evaluation: &mut Evaluation<EpochRecord>,
    ) -> Result<Option<FrozenFeatures>> {
        if !self.config.caches_features() {
            if let Some(text) = what_views_would_save(self.config) {
                evaluation.observers.iter_mut().for_each(|observer| observer.note(&text));
            }
            return Ok(None);
        }
        let splits = viewed_splits(&self.splits, views(self.config));
        let (start, mut waits, mut computing) = (Instant::now(), false, String::new());
        let with_tokens = self.config.model.fusion.strategy == FusionStrategy::CrossAttention;
        let mut report = |progress: Progress| {
            for observer in evaluation.observers.iter_mut() {
                match progress {
                    Progress::Computed { name, done, total } => {
                        if computing != name {
                            observer.note(&format!("computing the features of {name}: {total}"));
                        }
                        observer.computing(name, done, total)
                    }
                    Progress::Waiting if !waits => {
                        observer.note("waiting for another run to compute the same features")
                    }
                    Progress::Waiting => {}
                }
            }
            waits = matches!(progress, Progress::Waiting);
            if let Progress::Computed { name, .. } = progress {
                computing = name.to_string();
            }
            (evaluation.check_stop)()
        };
        let fetched = branch_features(&self.net, self.config, &splits, with_tokens, &mut report)?;
        let text = format!(
            "features of the frozen backbones: {} of {} rows computed in {:.1} s, {:.1} MiB in all",
            fetched.computed,
            fetched.rows,
            start.elapsed().as_secs_f64(),
            fetched.bytes as f64 / f64::from(1 << 20),
        );
        evaluation.observers.iter_mut().for_each(|observer| observer.note(&text));
        if let Some(problem) = fetched.problem {
            let text = format!(
                "the features of the frozen backbones are kept in memory only: {problem}; set \
                 data.cache_dir to a folder that can be written"
            );
            evaluation.observers.iter_mut().for_each(|observer| observer.warning(&text));
        }
        let mut splits = fetched.splits.into_iter();
        let (Some(train), Some(val)) = (splits.next(), splits.next()) else {
            anyhow::bail!("internal: features of a split are missing")
        };
        Ok(Some(FrozenFeatures { train, val, test: splits.next() }))
    }
}

/// Describes representative images of a split by features that are cached, and by statistics of
/// pixels that are kept with them.
pub(super) fn image_features(
    config: &Config,
    images: &Arc<ImageDataset>,
    features: &SplitFeatures,
) -> Result<ImageFeatures> {
    let chosen = representative_dataset(images.samples(), config)?;
    let statistics = ("pixel statistics", STATISTICS);
    let all = features::pixel_features(statistics, pixel_statistics, config, &[&chosen])?;
    let [pixels] = &all[..] else { anyhow::bail!("internal: statistics of a split are missing") };
    let features = features.vectors(&representative_images(images.len()))?;
    Ok(ImageFeatures { features, pixels: pixels.shallow_clone() })
}

/// Returns the views of each training image whose features are cached.
fn views(config: &Config) -> Vec<View> {
    let augmented = 0..config.train.freeze.views.unwrap_or(0);
    std::iter::once(View::Plain).chain(augmented.map(View::Augmented)).collect()
}

/// Returns the index of the view that an epoch, from 0, has of a training image: one after the
/// other, from one that the seed chooses.
fn view_of(config: &Config, image: usize, epoch: usize) -> usize {
    let views = config.train.freeze.views.unwrap_or(0) + 1;
    let mut stream = RandomStream::new(config.seed, 0, image as u64, "view");
    if views == 1 { 0 } else { (stream.below(views) + epoch) % views }
}

/// Returns the pixels that the cached features of a training batch are of.
pub(super) fn pixels(
    config: &Config,
    images: &ImageDataset,
    batch: &HostBatch,
    epoch: usize,
) -> Result<Vec<u8>> {
    let views = views(config);
    let of_one =
        |&image: &usize| features::view_pixels(images, image, views[view_of(config, image, epoch)]);
    Ok(batch.indices.iter().map(of_one).collect::<Result<Vec<_>>>()?.concat())
}

/// Says what cached views would save, where the frozen backbones run in every epoch.
fn what_views_would_save(config: &Config) -> Option<String> {
    let freeze = &config.train.freeze;
    let applies = config.freezes_backbones() && freeze.cache && !config.data.augment.mixes();
    applies.then(|| {
        format!(
            "the frozen backbones encode augmented images in each of {} epochs: \
             train.freeze.views: 8 would encode 9 views of each image once and keep their \
             features, train.freeze.views: 0 each image as it is",
            config.train.epochs
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_all_views_in_turn_and_the_seed_chooses_the_first() {
        let config = |seed: u64, views: usize| {
            let set = [
                "train.freeze={vit: all, mamba: all}".to_string(),
                format!("train.freeze.views={views}"),
                format!("seed={seed}"),
            ];
            Config::from_yaml("", "a.yaml", &set).unwrap()
        };
        let first: Vec<usize> = (0..200).map(|image| view_of(&config(1, 3), image, 0)).collect();
        assert!((0..4).all(|view| first.iter().filter(|&&other| other == view).count() > 30));
        let of_image: Vec<usize> = (0..8).map(|epoch| view_of(&config(1, 3), 5, epoch)).collect();
        assert_eq!(of_image[..4], of_image[4..]);
        assert_eq!(of_image[..4].iter().sum::<usize>(), 6);
        let other: Vec<usize> = (0..200).map(|image| view_of(&config(2, 3), image, 0)).collect();
        assert_ne!(first, other);
        assert!((0..200).all(|image| view_of(&config(1, 0), image, 7) == 0));
        assert_eq!(views(&config(1, 2)), [View::Plain, View::Augmented(0), View::Augmented(1)]);
    }
}
