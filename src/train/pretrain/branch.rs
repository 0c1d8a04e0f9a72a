//! One backbone's pretraining: its epochs, what is kept of each, and how it is resumed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::images::TrainAndVal;
use super::masks::Masks;
use super::{Observer, Pretrained, Start};
use crate::config::{
    BackboneConfig, BackboneShape, Config, FreezeConfig, OnNan, OptimizerConfig, PretrainConfig,
    ScheduleConfig,
};
use crate::data::{HostBatch, ImageDataset, Loader, LoaderOptions, Mode};
use crate::models::ForwardContext;
use crate::models::images::upload;
use crate::models::masked_image::{Losses, MaskedImageModel, Targets};
use crate::models::weights;
use crate::run::{PretrainEpochRecord as EpochRecord, RunDir};
use crate::train::optimizer::Optimizer;
use crate::train::precision::{LossScale, autocast_kind, in_precision};
use crate::train::schedule::Schedule;
use crate::train::{Stop, Stopped, checkpoint};

/// How far a backbone has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Progress {
    epochs: usize,
    steps: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<LossScale>,
    /// The type that matrix products are computed in.
    precision: String,
    /// Fingerprint of the training images.
    images: String,
    /// A line of `metrics.jsonl` each.
    records: Vec<EpochRecord>,
}

/// What an epoch's steps add up to.
#[derive(Default)]
struct Sums {
    loss: f64,
    images: usize,
    skipped: usize,
    lr: f64,
}

/// A backbone that learns.
pub struct BranchRun<'a> {
    config: &'a Config,
    images: &'a TrainAndVal,
    folder: &'a RunDir,
    stop: &'a Stop,
    model: MaskedImageModel,
    masks: Masks,
    optimizer: Optimizer,
    schedule: Schedule,
    autocast: Option<Kind>,
    progress: Progress,
}

impl<'a> BranchRun<'a> {
    /// At its last epoch where the folder has one, else from the start.
    pub fn begin(
        config: &'a Config,
        backbone: &BackboneConfig,
        shape: BackboneShape,
        images: &'a TrainAndVal,
        folder: &'a RunDir,
        device: Device,
        stop: &'a Stop,
    ) -> Result<Self> {
        let settings = &config.pretrain;
        // The same seed for each, so that none depends on which others there are.
        tch::manual_seed(config.seed as i64);
        let colors = settings.class_token_weight > 0.0;
        let mut model = MaskedImageModel::new(backbone, shape, colors, device)?;
        if config.train.checkpoint_activations {
            model.recompute_blocks();
        }
        let autocast = autocast_kind(config.train.precision, device);
        let optimizer = OptimizerConfig {
            lr: settings.lr,
            weight_decay: settings.weight_decay,
            betas: Some([0.9, 0.95]),
            ..OptimizerConfig::default()
        };
        let schedule = ScheduleConfig {
            warmup_epochs: settings.warmup_epochs,
            min_lr: settings.min_lr,
            ..ScheduleConfig::default()
        };
        let steps_per_epoch = images.train.len().div_ceil(settings.batch_size);
        let mut run = Self {
            masks: Masks::new(config.seed, settings, &shape),
            optimizer: Optimizer::new(&model.parameters(), &optimizer, &FreezeConfig::default()),
            schedule: Schedule::new(&schedule, settings.epochs, steps_per_epoch),
            progress: Progress {
                loss_scale: LossScale::of(autocast),
                precision: format!("{:?}", autocast.unwrap_or(Kind::Float)),
                images: images.fingerprint.clone(),
                ..Progress::default()
            },
            config,
            images,
            folder,
            stop,
            model,
            autocast,
        };
        run.restore()?;
        Ok(run)
    }

    fn restore(&mut self) -> Result<()> {
        let path = self.folder.checkpoint(self.model.branch());
        let parameters = self.model.parameters();
        let saved: Option<Progress> =
            checkpoint::read(&path, &parameters, &mut self.optimizer, None)?;
        let Some(saved) = saved else {
            return Ok(());
        };
        ensure!(
            saved.images == self.progress.images,
            "the training images are not those that {} was started with: some were added, removed or changed",
            path.display()
        );
        ensure!(
            saved.precision == self.progress.precision,
            "{} was started in {}, and train.precision: auto is {} on this machine: resume it on one of the same kind",
            path.display(),
            saved.precision,
            self.progress.precision
        );
        self.progress = saved;
        Ok(())
    }

    /// The epochs that are left. `before` are the lines of the backbones that are done.
    ///
    /// # Errors
    /// An image that cannot be read, a file that cannot be written, a step that is not finite, or
    /// the wish to end.
    pub fn learn(&mut self, before: &[EpochRecord], observer: &mut dyn Observer) -> Result<()> {
        let epochs = self.config.pretrain.epochs;
        observer.start(&Start {
            branch: self.model.branch(),
            images: [self.images.train.len(), self.images.val.len()],
            skipped: self.images.skipped,
            parameters: self.optimizer.parameter_count(),
            epochs,
            epochs_done: self.progress.epochs,
            notes: self.model.notes(),
        });
        while self.progress.epochs < epochs {
            let record = self.epoch(observer)?;
            self.progress.epochs += 1;
            self.progress.records.push(record);
            let path = self.folder.checkpoint(self.model.branch());
            let parameters = self.model.parameters();
            checkpoint::write(&path, parameters, &self.optimizer, None, &self.progress)?;
            self.folder.write_metrics(before.iter().chain(&self.progress.records))?;
            if let Some(record) = self.progress.records.last() {
                observer.epoch(record);
            }
        }
        Ok(())
    }

    /// One pass over the training images, and one over those of the validation.
    fn epoch(&mut self, observer: &mut dyn Observer) -> Result<EpochRecord> {
        let begun = Instant::now();
        let pass = Mode::Train { seed: self.config.seed, epoch: self.progress.epochs as u64 };
        let mut sums = Sums::default();
        for batch in self.loader(&self.images.train, pass)? {
            self.end_if_asked()?;
            let batch = batch?;
            let rates = self.optimizer.rates(&self.schedule, self.progress.steps);
            sums.lr = rates[0];
            match self.step(&batch, rates)? {
                Some(loss) => {
                    sums.loss += loss * batch.len as f64;
                    sums.images += batch.len;
                    observer.step(batch.len, loss);
                }
                None => {
                    sums.skipped += 1;
                    observer.step(batch.len, f64::NAN);
                    observer.note(&format!(
                        "left out: step {}, whose loss or gradient is not finite",
                        self.progress.steps
                    ));
                }
            }
        }
        ensure!(
            sums.images > 0,
            "every step of epoch {} was left out, because its loss or gradient was not finite: lower pretrain.lr",
            self.progress.epochs + 1
        );
        let learning = begun.elapsed().as_secs_f64();
        let (val_loss, val_color_loss) = self.validate()?;
        ensure!(
            val_loss.is_finite(),
            "the weights of the {} after epoch {} give a validation loss of {val_loss}: lower pretrain.lr",
            self.model.branch(),
            self.progress.epochs + 1
        );
        Ok(EpochRecord {
            branch: self.model.branch(),
            epoch: self.progress.epochs + 1,
            step: self.progress.steps,
            train_loss: sums.loss / sums.images as f64,
            val_loss,
            val_color_loss,
            lr: sums.lr,
            images_per_second: sums.images as f64 / learning,
            seconds: begun.elapsed().as_secs_f64(),
            skipped_steps: sums.skipped,
        })
    }

    fn loader(&self, images: &Arc<ImageDataset>, pass: Mode) -> Result<Loader> {
        let (batch_size, workers) = (self.config.pretrain.batch_size, self.config.data.workers);
        let options = LoaderOptions::new(pass, batch_size, workers);
        Loader::new(Arc::clone(images), options)
    }

    fn end_if_asked(&self) -> Result<()> {
        match self.stop.signal() {
            0 => Ok(()),
            signal => Err(Error::new(Stopped {
                signal,
                steps: self.progress.steps,
                epoch: self.progress.epochs + 1,
                config: Some(self.folder.config()),
                command: "pretrain",
            })),
        }
    }

    /// One optimizer step; the loss of the pixels. None where the step was left out.
    fn step(&mut self, batch: &HostBatch, rates: [f64; 2]) -> Result<Option<f64>> {
        self.optimizer.zero_grad();
        let epoch = self.progress.epochs as u64;
        let device = self.model.device();
        let mask = self.masks.of_training(epoch, &batch.indices, device)?;
        let losses = self.losses(batch, &mask, ForwardContext::train())?;
        let loss = losses.pixels.double_value(&[]);
        let total = match losses.colors {
            Some(colors) => losses.pixels + colors * self.config.pretrain.class_token_weight,
            None => losses.pixels,
        };
        LossScale::backward(self.progress.loss_scale, &total)?;
        let scale = &mut self.progress.loss_scale;
        let norm = (self.optimizer).step_scaled(scale, rates, self.config.train.clip_grad_norm)?;
        self.progress.steps += 1;
        let scaled_down = loss.is_finite()
            && (self.progress.loss_scale).is_some_and(|scale| !scale.is_exhausted());
        if norm.is_finite() || scaled_down {
            return Ok(Some(loss));
        }
        if self.config.train.on_nan == OnNan::Skip {
            return Ok(None);
        }
        let samples = self.images.train.samples();
        let names = batch.indices.iter().map(|&index| samples[index].id.as_str());
        bail!(
            "step {} of the {} (epoch {}) is not finite: the loss is {loss}, the gradient's norm {norm}; lower pretrain.lr, or set train.on_nan to skip to leave such steps out. The images were {}",
            self.progress.steps,
            self.model.branch(),
            epoch + 1,
            names.collect::<Vec<_>>().join(", ")
        )
    }

    /// Of a batch whose patches `mask` hides; in mixed precision in training, where the config
    /// says so.
    fn losses(&self, batch: &HostBatch, mask: &Tensor, ctx: ForwardContext) -> Result<Losses> {
        let device = self.model.device();
        let x = self.model.normalize(&upload(batch, device)?)?;
        let autocast = self.autocast.filter(|_| ctx.is_train());
        let prediction = in_precision(autocast, device, || self.model.predict(&x, mask, ctx))?;
        let targets = targets(&self.config.pretrain);
        self.model.losses(&prediction, &x, mask, targets)
    }

    /// The two losses of the validation images.
    fn validate(&self) -> Result<(f64, Option<f64>)> {
        let _guard = tch::no_grad_guard();
        let (mut pixels, mut colors, mut images) = (0.0, None, 0.0);
        for batch in self.loader(&self.images.val, Mode::Eval)? {
            self.end_if_asked()?;
            let batch = batch?;
            let mask = (self.masks).of_validation(&batch.indices, self.model.device())?;
            let losses = self.losses(&batch, &mask, ForwardContext::eval())?;
            let count = batch.len as f64;
            pixels += losses.pixels.double_value(&[]) * count;
            if let Some(loss) = losses.colors {
                *colors.get_or_insert(0.0) += loss.double_value(&[]) * count;
            }
            images += count;
        }
        Ok((pixels / images, colors.map(|sum: f64| sum / images)))
    }

    /// Writes the weights.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&self) -> Result<Pretrained> {
        let branch = self.model.branch();
        let path = self.folder.backbone(branch);
        // One entry, and no clock in it, so that equal weights make equal files.
        let origin = serde_json::json!({
            "method": "masked image modeling (SimMIM)",
            "branch": branch,
            "config": self.config.to_yaml()?,
            "images": self.images.train.len(),
            "images_blake3": self.progress.images,
            "epochs": self.progress.epochs,
            "version": env!("CARGO_PKG_VERSION"),
        });
        let metadata = HashMap::from([("pretrain".to_string(), origin.to_string())]);
        weights::save(&path, &self.model.branch_parameters(), metadata)?;
        let last = self.progress.records.last().cloned();
        Ok(Pretrained { branch, weights: path, last: last.context("no epoch was done")? })
    }

    /// A line each.
    pub fn records(&self) -> &[EpochRecord] {
        &self.progress.records
    }

    /// As it is now.
    pub fn model(&self) -> &MaskedImageModel {
        &self.model
    }
}

/// As the config says.
pub fn targets(config: &PretrainConfig) -> Targets {
    Targets { normalized_pixels: config.normalized_pixels }
}
