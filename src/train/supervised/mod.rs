//! Supervised training: BeautyNet on rated images.

mod features;
mod finish;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Result, ensure};
use serde_json::Value;
use tch::{Device, Tensor};

use self::features::FrozenFeatures;
use super::distributed::World;
use super::loss::{Criterion, SliceLoss};
use super::monitor;
use super::objective::{Description, EpochStats, Evaluation, Microbatch, Objective, Recipe, Slice};
use super::observer::{AfterEpoch, Observer, Validated};
use super::precision::in_precision;
use super::slice_loss::JointLoss;
use super::stop::Stopped;
use super::trainer::{Options, Trainer, batches, seed_of};
use crate::config::{Config, FusionStrategy, OnNan};
use crate::data::{HostBatch, ImageDataset, Loader, LoaderOptions, RunImages, Split};
use crate::eval::evaluate::{self, BRANCH_WEIGHTS, BranchMetrics};
use crate::eval::feature_distribution::{self, ImageFeatures};
use crate::eval::predictions::Predictions;
use crate::models::images::upload_rows;
use crate::models::{BeautyNet, Images, device, weights};
use crate::run::{
    CHECKPOINT, EpochRecord, Failure, RunDir, RunKind, StartRecord, StartingWeights, Summary,
    representative_dataset,
};

/// Trains a model as the config says, in the run directory `root`, and evaluates its best weights
/// at the end. A resumed run continues from its last checkpoint and ends with the same weights, bit
/// for bit on one machine, as one that was not interrupted. Returns an error if data, weights or
/// the run directory do not fit; a new run directory is created only when everything else is there.
/// Returns an error with the step and its images if a loss or gradient is not finite, and
/// [`Stopped`](super::Stopped) if the run was asked to stop. With several ranks, an error of one
/// ends all.
pub fn train(
    config: &Config,
    root: &Path,
    options: Options,
    observers: &mut [Box<dyn Observer>],
) -> Result<Summary> {
    let world = options.world.clone();
    world.end(run(config, root, options, observers))
}

fn run(
    config: &Config,
    root: &Path,
    options: Options,
    observers: &mut [Box<dyn Observer>],
) -> Result<Summary> {
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    config.check_image_sizes()?;
    let is_first = options.world.is_first();
    let resumed = match options.resume {
        true if is_first => Some(RunDir::resume(root, RunKind::Train, config)?),
        true => Some(RunDir::of_first_rank(root)),
        false => None,
    };
    if resumed.is_none() && is_first {
        RunDir::check_free(root, RunKind::Train)?;
    }
    // A checkpoint holds all weights: published files are read only if there is none yet.
    let from_scratch = resumed.as_ref().is_none_or(|run| !run.checkpoint(CHECKPOINT).exists());
    if from_scratch && is_first {
        config.model.check_weights()?;
        weights::download(&config.model, &mut |download| {
            observers.iter_mut().for_each(|observer| observer.download(download));
            options.stop.check()
        })?;
    }
    let (objective, ahead) = Supervised::new(config, &options.world, from_scratch)?;
    let run = match resumed {
        Some(run) => run,
        None => {
            if options.world.size() == 1 {
                options.stop.check()?;
            }
            if is_first {
                RunDir::create(root, RunKind::Train, config)?
            } else {
                RunDir::of_first_rank(root)
            }
        }
    };
    if is_first {
        Failure::clear(root)?;
    }
    let outcome = run_in(&run, config, (objective, ahead), from_scratch, options, observers);
    if let Err(error) = &outcome
        && is_first
        && !error.chain().any(|cause| cause.is::<Stopped>())
    {
        // It is the error that counts, also where it cannot be recorded.
        let _ = Failure { error: format!("{error:#}"), code: Some(1) }.write(root);
    }
    outcome
}

/// Trains in a run directory that no other process writes to.
fn run_in(
    run: &RunDir,
    config: &Config,
    (objective, ahead): (Supervised, Option<Loader>),
    from_scratch: bool,
    options: Options,
    observers: &mut [Box<dyn Observer>],
) -> Result<Summary> {
    let is_first = options.world.is_first();
    let mut trainer = Trainer::new(config, run, recipe(config), objective, ahead, options)?;
    if from_scratch && is_first {
        trainer.progress.starting_weights = StartingWeights::of(config)?;
    }
    trainer.load_checkpoint()?;
    if is_first {
        run.accept_changes(config)?;
    }
    ensure!(
        !is_first || trainer.progress.records.is_empty() || run.best().exists(),
        "{} is missing: it cannot be restored, so the run cannot be resumed",
        run.best().display()
    );
    trainer.synchronize()?;
    if is_first {
        let steps = trainer.progress.steps;
        run.add_start(&StartRecord::now(steps, config.seed, run.changes(), &trainer.provenance))?;
    }
    trainer.run(observers)?;
    trainer.finish(observers)
}

fn recipe(config: &Config) -> Recipe {
    let settings = &config.train;
    let strategy = config.model.fusion.strategy;
    let small = config.caches_features() && strategy != FusionStrategy::CrossAttention;
    Recipe {
        epochs: settings.epochs,
        batch_size: settings.batch_size,
        accumulate: settings.accumulate,
        optimizer: settings.optimizer.clone(),
        schedule: settings.schedule.clone(),
        freeze: settings.freeze.clone(),
        ema_decay: settings.ema_decay,
        lr_key: "train.optimizer.lr",
        checkpoint: CHECKPOINT.to_string(),
        slice: settings.slice.or(small.then_some(FEATURES_SLICE)),
    }
}

/// Images of a slice where training reads features: fusion and head are small.
const FEATURES_SLICE: usize = 64;

/// BeautyNet with its data and its loss.
struct Supervised<'a> {
    config: &'a Config,
    splits: RunImages,
    net: BeautyNet,
    criterion: Criterion,
    /// The features of the backbones, if they are cached; once training starts.
    features: OnceLock<FrozenFeatures>,
}

impl<'a> Supervised<'a> {
    /// Loads the data and builds the network, `from_scratch` with the weights files that the config
    /// names (on rank 0, the others get its weights) and with a loader of the first epoch.
    fn new(
        config: &'a Config,
        world: &World,
        from_scratch: bool,
    ) -> Result<(Self, Option<Loader>)> {
        let device = world.connect(device::select(config)?)?;
        let splits = RunImages::load(config)?;
        let ahead = if from_scratch {
            let pixels = !config.caches_features();
            Some(batches(config, world, &splits.train, config.train.batch_size, (0, 0), pixels)?)
        } else {
            None
        };
        let criterion = Criterion::new(&config.train, splits.train.samples())?;
        tch::manual_seed(seed_of(config.seed, u64::MAX));
        let mut net = if from_scratch && world.is_first() {
            BeautyNet::new(config, device)?
        } else {
            BeautyNet::without_pretrained(config, device)?
        };
        let scores: Vec<f64> = splits.train.samples().iter().map(|s| s.score.into()).collect();
        let (mean, std) = mean_and_std(&scores);
        net.head_mut().set_score_scale(mean, std);
        if let Some(range) = criterion.score_range() {
            net.head_mut().set_score_range(range);
        }
        if config.train.checkpoint_activations {
            net.recompute_blocks();
        }
        Ok((Self { config, splits, net, criterion, features: OnceLock::new() }, ahead))
    }

    /// Returns what the loss uses of the network's outputs for a slice.
    fn outputs(&self, slice: &Slice) -> Result<Tensor> {
        let Slice { batch, ref rows, epoch, ctx, autocast } = *slice;
        let device = self.net.device();
        let output = if let Some(features) = self.features.get() {
            let [vit, mamba] = features.of_batch(self.config, batch, rows, epoch, device)?;
            in_precision(autocast, device, || self.net.join_tokens(vit, mamba, ctx))
        } else {
            let pixels = upload_rows(batch, rows, device)?;
            let ctx = ctx.with_frozen(|branch| self.config.train.freeze.freezes(branch, epoch));
            in_precision(autocast, device, || self.net.forward(Images::Pixels(&pixels), ctx))
        };
        self.criterion.predictions(&output?)
    }

    /// Computes the loss of the predictions of the validation images.
    fn validation_loss(&self, validation: &Predictions) -> Result<f64> {
        let samples = self.splits.val.samples().iter();
        let weights: Vec<f32> = samples.map(|sample| sample.weight).collect();
        self.criterion.loss_of_scores(validation, &weights, self.net.head())
    }

    /// Predicts the images of a split: the same predictions on all ranks.
    fn predict(
        &self,
        split: Split,
        images: &Arc<ImageDataset>,
        evaluation: &mut Evaluation<EpochRecord>,
    ) -> Result<Predictions> {
        let (world, slicer) = (evaluation.world, evaluation.slicer);
        let options =
            LoaderOptions { shard: world.shard(), ..LoaderOptions::for_evaluation(self.config) };
        let mut advance = |images| evaluation.advance(split, images);
        let mine = match self.features.get().and_then(|features| features.of_split(split)) {
            Some(features) => {
                let images = (&**images, features);
                evaluate::predict_features(&self.net, images, options, slicer, &mut advance)?
            }
            None => evaluate::predict_shard(&self.net, images, options, slicer, &mut advance)?,
        };
        world.gather_predictions(mine, images.samples(), options.batch_size)
    }

    /// Describes representative images of a split; what is cached of them is not computed again.
    fn image_features(
        &self,
        split: Split,
        images: &Arc<ImageDataset>,
        evaluation: &mut Evaluation<EpochRecord>,
    ) -> Result<ImageFeatures> {
        if let Some(features) = self.features.get().and_then(|features| features.of_split(split)) {
            return features::image_features(self.config, images, features);
        }
        let images = representative_dataset(images.samples(), self.config)?;
        let (slicer, mut check_stop) = (evaluation.slicer, |_| (evaluation.check_stop)());
        let (net, config) = (&self.net, self.config);
        feature_distribution::image_features(net, &images, config, slicer, &mut check_stop)
    }
}

impl Objective for Supervised<'_> {
    type Record = EpochRecord;
    type Validation = Predictions;

    fn describe(&self) -> Description<'_> {
        Description {
            branch: None,
            images: self.splits.counts(),
            skipped_rows: self.splits.skipped,
            warnings: &self.splits.warnings,
            notes: self.net.notes(),
        }
    }

    fn device(&self) -> Device {
        self.net.device()
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        self.net.parameters()
    }

    fn trained_parameters(&self) -> Vec<Tensor> {
        self.net.trainable_parameters()
    }

    fn train_images(&self) -> &Arc<ImageDataset> {
        &self.splits.train
    }

    fn needs_pixels(&self) -> bool {
        !self.config.caches_features()
    }

    fn with_pixels(&self, batch: &HostBatch, epoch: usize) -> Result<HostBatch> {
        let pixels = features::pixels(self.config, &self.splits.train, batch, epoch)?;
        Ok(HostBatch { pixels, ..batch.clone() })
    }

    fn prepare(&self, evaluation: &mut Evaluation<EpochRecord>) -> Result<()> {
        if let Some(features) = self.frozen_features(evaluation)? {
            // It is empty: training is prepared once.
            let _ = self.features.set(features);
        }
        Ok(())
    }

    fn fingerprint(&self) -> String {
        self.splits.fingerprint()
    }

    fn weight(&self, batches: &[HostBatch], _epoch: usize) -> f64 {
        Criterion::total_weight(batches.iter().flat_map(|batch| &batch.weights))
    }

    fn branch_heads(&self) -> usize {
        self.net.branch_heads()
    }

    fn loss(&self, slice: &Slice, total: f64) -> Result<SliceLoss> {
        let targets = self.criterion.targets(slice.batch, &slice.rows, self.net.head())?;
        self.criterion.loss(&self.outputs(slice)?, &targets, total)
    }

    fn joint_loss(&self, microbatch: &Microbatch) -> Result<Option<JointLoss>> {
        if self.criterion.is_sum() {
            return Ok(None);
        }
        let Microbatch { batch, ref slices, total, world, slicer } = *microbatch;
        let outputs = slicer.map(slices.len(), |slice| self.outputs(&slices[slice]))?;
        let targets = self.criterion.targets(batch, &(0..batch.len), self.net.head())?;
        let targets = world.gather_batch(&targets, batch.global_len)?;
        let loss = |outputs: &Tensor| self.criterion.loss(outputs, &targets, total);
        let sizes = [batch.global_len, 1 + self.net.branch_heads()];
        JointLoss::new(outputs, sizes, (world, self.net.device()), loss).map(Some)
    }

    fn validate(&self, evaluation: &mut Evaluation<EpochRecord>) -> Result<Predictions> {
        let predictions = self.predict(Split::Val, &self.splits.val, evaluation)?;
        let validated = Validated {
            epoch: evaluation.epoch,
            step: evaluation.step,
            net: &self.net,
            images: &self.splits.val,
            predictions: &predictions,
        };
        evaluation.observers.iter_mut().for_each(|observer| observer.validated(&validated));
        Ok(predictions)
    }

    fn record(
        &self,
        stats: EpochStats,
        validation: &Predictions,
        before: &[EpochRecord],
    ) -> Result<EpochRecord> {
        let val = validation.metrics()?;
        ensure!(
            val.mae.is_finite() || self.config.train.on_nan == OnNan::Skip,
            "after epoch {} predictions of validation images are not finite, and the weights are \
             not saved: lower train.optimizer.lr, or set train.on_nan: skip",
            stats.epoch
        );
        let mut record = EpochRecord {
            epoch: stats.epoch,
            step: stats.step,
            train_loss: stats.train_loss,
            val_loss: self.validation_loss(validation)?,
            val,
            lr: stats.lr[0],
            backbone_lr: stats.lr[1],
            fusion_weights: mean_fusion_weights(validation),
            branch_pc: BranchMetrics::of(validation)?.map(|of| [of.vit.pc, of.mamba.pc]),
            images_per_second: stats.images_per_second,
            data_wait: stats.data_wait,
            seconds: stats.seconds,
            skipped_steps: stats.skipped_steps,
            best: false,
        };
        record.best = monitor::is_best(self.config.train.monitor, &record, before);
        Ok(record)
    }

    fn save(&self, run: &RunDir, records: &[EpochRecord], mut origin: Value) -> Result<()> {
        let parameters = self.net.parameters();
        origin["epoch"] = records.len().into();
        let metadata = HashMap::from([("run".to_string(), origin.to_string())]);
        if records.last().is_some_and(|record| record.best) {
            weights::save(&run.best(), &parameters, metadata.clone())?;
        }
        weights::save(&run.last(), &parameters, metadata)?;
        run.write_metrics(records)
    }

    fn after_epoch(
        &self,
        record: &EpochRecord,
        predictions: &Predictions,
        observers: &mut [Box<dyn Observer>],
    ) {
        let after = AfterEpoch { record, net: &self.net, predictions };
        observers.iter_mut().for_each(|observer| observer.after_epoch(&after));
    }

    fn warning(&self, validation: &Predictions, records: &[EpochRecord]) -> Option<String> {
        monitor::warning(self.config.train.monitor, records, validation)
    }

    fn stops_early(&self, records: &[EpochRecord]) -> bool {
        let settings = &self.config.train;
        monitor::stops_early(settings.monitor, &settings.early_stopping, records)
    }
}

/// Returns the mean fusion weights, if the strategy defines them.
fn mean_fusion_weights(predictions: &Predictions) -> Option<[f64; 2]> {
    let [vit, mamba] = BRANCH_WEIGHTS.map(|name| predictions.mean_of(name));
    Some([vit?, mamba?])
}

/// Returns mean and standard deviation. A deviation of 0 (one image, or all scores the same) counts
/// as 1: there is nothing to scale.
fn mean_and_std(scores: &[f64]) -> (f64, f64) {
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n;
    (mean, if variance > 1e-12 { variance.sqrt() } else { 1.0 })
}
