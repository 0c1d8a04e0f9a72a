//! The time that a training takes, from a few measured steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use tch::Device;

use super::train::{Bench, StepTrainer, WARM_UP};
use crate::config::{Cache, Config, DatasetName};
use crate::data::{self, Dataset, ImageDataset, Loader, LoaderOptions, Mode, Sample};
use crate::eval::evaluate::predict;
use crate::models::device;

/// How long steps are measured.
const TRAINING: Duration = Duration::from_secs(3);
/// How long loading, and how long evaluation is measured.
const OTHER: Duration = Duration::from_secs(1);
/// The maximum number of batches of each split that are read.
const MAX_BATCHES: usize = 16;
const MAX_STEPS: usize = 50;

/// The time that a training takes, and what it was estimated from. Start-up, checkpoints, logs and
/// explanations are not counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainEstimate {
    /// Numbers of training, validation and test images; 0 test images where none are evaluated.
    pub images: [usize; 3],
    /// Number of measured steps; 0 where features are cached, for then steps take little.
    pub steps: usize,
    /// Images per measured step.
    pub batch_size: usize,
    /// Images per second of the measured steps, with loading.
    pub train_images_per_second: Option<f64>,
    /// Images per second of the measured evaluation, with loading.
    pub evaluated_images_per_second: f64,
    /// Images that are loaded per second the first time, where they are kept in memory.
    pub first_loaded_images_per_second: Option<f64>,
    /// Estimated seconds of an epoch's steps.
    pub train_seconds: f64,
    /// Estimated seconds of an epoch's validation.
    pub val_seconds: f64,
    /// Estimated seconds of what is done once: loading images that are kept, features of frozen
    /// backbones, and the evaluation at the end.
    pub once_seconds: f64,
}

/// Measures a training for a few seconds with new weights, on up to 16 batches of each split, and
/// writes nothing. The dataset is listed and checked, but its images are not verified. Returns an
/// error if the data cannot be loaded or a size does not fit.
pub fn estimate_train(config: &Config) -> Result<TrainEstimate> {
    let mut config = config.clone();
    config.data.verify = false;
    let kept = config.data.dataset == DatasetName::Synthetic || config.data.cache != Cache::None;
    if config.data.cache == Cache::Disk {
        // The same without writing.
        config.data.cache = Cache::Memory;
    }
    let Dataset { train, val, test, .. } = data::load(&config.data, config.seed)?;
    let test = if config.train.evaluate_test { test.len() } else { 0 };
    let images = [train.len(), val.len(), test];
    config.train.batch_size = config.train.batch_size.min(train.len()).max(1);
    let (chosen, first_loaded) = subset(&train, &config, kept)?;
    let bench = Bench::with_images(&config, device::select(&config)?, chosen)?;
    let timed = if config.caches_features() { None } else { Some(time_steps(&bench)?) };
    let (steps, train_rate) = timed.unzip();
    let evaluated_rate = time_evaluation(&bench, &val, kept)?;
    let mut estimate = TrainEstimate {
        images,
        steps: steps.unwrap_or(0),
        batch_size: config.train.batch_size,
        train_images_per_second: train_rate,
        evaluated_images_per_second: evaluated_rate,
        first_loaded_images_per_second: first_loaded,
        train_seconds: train_rate.map_or(0.0, |rate| images[0] as f64 / rate),
        val_seconds: train_rate.map_or(0.0, |_| images[1] as f64 / evaluated_rate),
        once_seconds: 0.0,
    };
    estimate.once_seconds = estimate.once(&config, bench.net.device() == Device::Cpu);
    Ok(estimate)
}

impl TrainEstimate {
    /// Returns the seconds of a training of this number of epochs.
    pub fn seconds(&self, epochs: usize) -> f64 {
        epochs as f64 * (self.train_seconds + self.val_seconds) + self.once_seconds
    }

    fn once(&self, config: &Config, on_cpu: bool) -> f64 {
        let [train, val, test] = self.images.map(|images| images as f64);
        let Some(train_rate) = self.train_images_per_second else {
            let views = config.train.freeze.views.unwrap_or(0) + 1;
            return (views as f64 * train + val + test) / self.evaluated_images_per_second;
        };
        let evaluated_rate = self.evaluated_images_per_second;
        // A CPU loads and computes with the same cores. A GPU waits for what is loaded more slowly.
        let loading = self.first_loaded_images_per_second.map_or(0.0, |loaded| {
            let wait = |images: f64, rate: f64| {
                let meanwhile = if on_cpu { 0.0 } else { images / rate };
                (images / loaded - meanwhile).max(0.0)
            };
            wait(train, train_rate) + wait(val + test, evaluated_rate)
        });
        loading + (val + test) / evaluated_rate
    }
}

/// Chooses as many batches of a split as can be loaded in [`OTHER`]. Those that are `kept` in
/// memory are loaded, and how many images per second is returned too.
fn subset(
    samples: &[Sample],
    config: &Config,
    kept: bool,
) -> Result<(Arc<ImageDataset>, Option<f64>)> {
    if !kept {
        return Ok((choose(samples, MAX_BATCHES, config)?, None));
    }
    let first = choose(samples, 1, config)?;
    let seconds = first.len() as f64 / load(&first, config)?;
    let images = choose(samples, fitting(seconds), config)?;
    let rate = load(&images, config)?;
    Ok((images, Some(rate)))
}

/// Returns how many batches fit into [`OTHER`] if one takes this number of seconds.
fn fitting(seconds: f64) -> usize {
    ((OTHER.as_secs_f64() / seconds.max(1e-9)) as usize).clamp(1, MAX_BATCHES)
}

/// Chooses up to this number of batches from all over a split.
fn choose(samples: &[Sample], batches: usize, config: &Config) -> Result<Arc<ImageDataset>> {
    ensure!(!samples.is_empty(), "the dataset has no image to measure with");
    let count = samples.len().min(batches * config.train.batch_size);
    let chosen = (0..count).map(|i| samples[i * samples.len() / count].clone());
    Ok(Arc::new(ImageDataset::new(chosen.collect(), &config.data)?))
}

/// Loads images once, and returns how many per second.
fn load(images: &Arc<ImageDataset>, config: &Config) -> Result<f64> {
    // Small batches occupy all workers.
    let workers = config.data.workers;
    let options =
        LoaderOptions::new(Mode::Eval, images.len().div_ceil(4 * workers.max(1)), workers);
    let start = Instant::now();
    for batch in Loader::new(Arc::clone(images), options)? {
        batch?;
    }
    Ok(images.len() as f64 / start.elapsed().as_secs_f64().max(1e-9))
}

/// Measures training steps with loading. Returns their number, and images per second.
fn time_steps(bench: &Bench) -> Result<(usize, f64)> {
    let mut trainer = StepTrainer::new(bench, &bench.slicer)?;
    let (mut steps, mut images, mut seconds) = (0, 0, 0.0);
    let begun = Instant::now();
    let mut clock = begun;
    for (number, batch) in bench.batches(true).enumerate() {
        let batch = batch?;
        trainer.step(&batch)?;
        let took = clock.elapsed();
        clock = Instant::now();
        // A first step that takes all of the time is measured nevertheless.
        if number >= WARM_UP || took >= TRAINING {
            (steps, images) = (steps + 1, images + batch.len);
            seconds += took.as_secs_f64();
        }
        if steps > 0 && (begun.elapsed() >= TRAINING || steps == MAX_STEPS) {
            break;
        }
    }
    Ok((steps, images as f64 / seconds))
}

/// Measures an evaluation with loading, and returns images per second.
fn time_evaluation(bench: &Bench, samples: &[Sample], kept: bool) -> Result<f64> {
    let time = |batches: usize| -> Result<f64> {
        let images = choose(samples, batches, bench.config)?;
        if kept {
            load(&images, bench.config)?;
        }
        let start = Instant::now();
        predict(&bench.net, &images, bench.config, &mut |_| Ok(()))?;
        Ok(images.len() as f64 / start.elapsed().as_secs_f64().max(1e-9))
    };
    let rate = time(1)?;
    let images = samples.len().min(bench.config.train.batch_size);
    // The first one also starts what computes.
    match fitting(images as f64 / rate) {
        1 => Ok(rate),
        batches => time(batches),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let text = "data: {dataset: synthetic, image_size: 32, \
                    synthetic: {train: 40, val: 10, test: 20}}\n\
                    model: {vit: {name: vit_micro_patch8_64, depth: 1}, \
                    mamba: {name: vim_micro_patch8_64, depth: 1}}\n";
        Config::from_yaml(&format!("{text}{more}"), "small", &[]).unwrap()
    }

    #[test]
    fn a_training_is_estimated_from_measured_steps_loading_and_evaluation() {
        let found = estimate_train(&config("train: {batch_size: 4}")).unwrap();
        assert!(found.steps > 0 && found.images == [40, 10, 20], "{found:?}");
        let train_rate = found.train_images_per_second.unwrap();
        assert!((found.train_seconds - 40.0 / train_rate).abs() < 1e-9, "{found:?}");
        assert!(found.first_loaded_images_per_second.is_some());
        let per_epoch = found.train_seconds + found.val_seconds;
        assert!((found.seconds(5) - found.seconds(3) - 2.0 * per_epoch).abs() < 1e-9);
        let once = |on_cpu| found.once(&config(""), on_cpu);
        let evaluation = 30.0 / found.evaluated_images_per_second;
        let loading = 70.0 / found.first_loaded_images_per_second.unwrap();
        assert!((once(true) - evaluation - loading).abs() < 1e-9 && once(false) < once(true));
        // A batch larger than the dataset is one of all images.
        let found = estimate_train(&config("train: {batch_size: 64}")).unwrap();
        assert_eq!(found.batch_size, 40);
    }

    #[test]
    fn cached_features_are_computed_once_for_each_view() {
        let frozen = "train: {batch_size: 4, freeze: {vit: all, mamba: all, views: 3}}";
        let found = estimate_train(&config(frozen)).unwrap();
        let passes = (4 * 40 + 10 + 20) as f64;
        assert_eq!((found.steps, found.train_seconds), (0, 0.0));
        assert_eq!(found.seconds(99), passes / found.evaluated_images_per_second);
    }
}
