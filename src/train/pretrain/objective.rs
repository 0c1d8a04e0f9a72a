//! The objective of masked image modeling, for one backbone.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::Pretrained;
use super::images::TrainAndVal;
use super::masks::{Masks, VALIDATION_EPOCH};
use crate::config::{BackboneConfig, BackboneShape, Branch, Config};
use crate::data::{HostBatch, ImageDataset, Loader, LoaderOptions, Mode, Split};
use crate::models::ForwardContext;
use crate::models::images::upload_rows;
use crate::models::masked_image::{Losses, MaskedImageModel};
use crate::models::weights;
use crate::run::{PretrainEpochRecord, RunDir};
use crate::train::loss::SliceLoss;
use crate::train::objective::{Description, EpochStats, Evaluation, Objective, Slice};
use crate::train::precision::in_precision;

/// A backbone that reconstructs masked images.
pub(super) struct MaskedImages<'a> {
    config: &'a Config,
    images: &'a TrainAndVal,
    /// The records of the backbones pretrained before.
    before: &'a [PretrainEpochRecord],
    model: MaskedImageModel,
    masks: Masks,
}

impl<'a> MaskedImages<'a> {
    /// Builds the model, with the weights that the backbone's config names.
    pub(super) fn new(
        config: &'a Config,
        backbone: &BackboneConfig,
        shape: BackboneShape,
        images: &'a TrainAndVal,
        before: &'a [PretrainEpochRecord],
        device: Device,
    ) -> Result<Self> {
        // The same seed for each backbone, so that none depends on which others there are.
        tch::manual_seed(config.seed as i64);
        let colors = config.pretrain.class_token_weight > 0.0;
        let mut model = MaskedImageModel::new(backbone, shape, colors, device)?;
        if config.train.checkpoint_activations {
            model.recompute_blocks();
        }
        let masks = Masks::new(config.seed, &config.pretrain, &shape);
        Ok(Self { config, images, before, model, masks })
    }

    pub(super) fn branch(&self) -> Branch {
        self.model.branch()
    }

    pub(super) fn model(&self) -> &MaskedImageModel {
        &self.model
    }

    /// Computes the losses of these images of a batch with the masks of an epoch: means over the
    /// masked patches, times their number divided by `total`.
    fn losses(
        &self,
        (batch, rows): (&HostBatch, &Range<usize>),
        epoch: u64,
        (ctx, autocast): (ForwardContext, Option<Kind>),
        total: f64,
    ) -> Result<Losses> {
        let device = self.model.device();
        let indices = &batch.indices[rows.clone()];
        let (mask, masked) = self.masks.sample(epoch, indices, device)?;
        let x = self.model.normalize(&upload_rows(batch, rows, device)?)?;
        let prediction = in_precision(autocast, device, || self.model.predict(&x, &mask, ctx))?;
        let normalized = self.config.pretrain.normalized_pixels;
        let Losses { pixels, colors } = self.model.losses(&prediction, &x, &mask, normalized)?;
        let fraction = masked as f64 / total;
        Ok(Losses { pixels: pixels * fraction, colors: colors.map(|colors| colors * fraction) })
    }

    /// Writes the backbone's weights. Returns an error if the file cannot be written.
    pub(super) fn finish(
        &self,
        run: &RunDir,
        records: &[PretrainEpochRecord],
    ) -> Result<Pretrained> {
        let branch = self.branch();
        // The metadata have no time in them, so that equal weights make equal files.
        let origin = serde_json::json!({
            "method": "masked image modeling (SimMIM)",
            "branch": branch,
            "config": self.config.to_yaml()?,
            "images": self.images.train.len(),
            "images_blake3": self.images.fingerprint,
            "epochs": records.len(),
            "version": env!("CARGO_PKG_VERSION"),
        });
        let metadata = HashMap::from([("pretrain".to_string(), origin.to_string())]);
        let weights = run.backbone(branch);
        weights::save(&weights, &self.model.branch_parameters(), metadata)?;
        let last = records.last().cloned().context("no epoch was done")?;
        Ok(Pretrained { branch, weights, last })
    }
}

impl Objective for MaskedImages<'_> {
    type Record = PretrainEpochRecord;
    /// The mean losses of pixels and colors.
    type Validation = (f64, Option<f64>);

    fn describe(&self) -> Description<'_> {
        Description {
            branch: Some(self.branch()),
            images: [self.images.train.len(), self.images.val.len(), 0],
            skipped_rows: self.images.skipped,
            warnings: &[],
            notes: self.model.notes(),
        }
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        self.model.parameters()
    }

    fn trained_parameters(&self) -> Vec<Tensor> {
        self.model.parameters().into_iter().rev().map(|(_, tensor)| tensor).collect()
    }

    fn train_images(&self) -> &Arc<ImageDataset> {
        &self.images.train
    }

    fn fingerprint(&self) -> String {
        self.images.fingerprint.clone()
    }

    fn weight(&self, batches: &[HostBatch], epoch: usize) -> f64 {
        let count = |batch: &HostBatch| self.masks.count(epoch as u64, &batch.indices);
        batches.iter().map(count).sum::<usize>() as f64
    }

    fn loss(&self, slice: &Slice, total: f64) -> Result<SliceLoss> {
        let Slice { batch, ref rows, epoch, ctx, autocast } = *slice;
        let Losses { pixels, colors } =
            self.losses((batch, rows), epoch as u64, (ctx, autocast), total)?;
        let reported = pixels.shallow_clone();
        let total = match colors {
            Some(colors) => pixels + colors * self.config.pretrain.class_token_weight,
            None => pixels,
        };
        Ok(SliceLoss { total, reported, branches: Vec::new() })
    }

    fn validate(
        &self,
        evaluation: &mut Evaluation<PretrainEpochRecord>,
    ) -> Result<Self::Validation> {
        let (batch_size, workers) = (self.config.pretrain.batch_size, self.config.data.workers);
        let options = LoaderOptions::new(Mode::Eval, batch_size, workers);
        let (mut pixels, mut colors, mut images) = (0.0, None, 0.0);
        for batch in Loader::new(Arc::clone(&self.images.val), options)? {
            let batch = batch?;
            let slices = evaluation.slicer.slices(batch.len);
            let masked = self.masks.count(VALIDATION_EPOCH, &batch.indices) as f64;
            let losses = evaluation.slicer.map(slices.len(), |slice| {
                let _guard = tch::no_grad_guard();
                let rows = (&batch, &slices[slice]);
                let mode = (ForwardContext::eval(), None);
                let losses = self.losses(rows, VALIDATION_EPOCH, mode, masked)?;
                let colors = losses.colors.map(|colors| colors.double_value(&[]));
                Ok((losses.pixels.double_value(&[]), colors))
            })?;
            let count = batch.len as f64;
            for (pixel_loss, color_loss) in losses {
                pixels += pixel_loss * count;
                if let Some(loss) = color_loss {
                    *colors.get_or_insert(0.0) += loss * count;
                }
            }
            images += count;
            evaluation.advance(Split::Val, batch.len)?;
        }
        Ok((pixels / images, colors.map(|sum: f64| sum / images)))
    }

    fn record(
        &self,
        stats: EpochStats,
        &(val_loss, val_color_loss): &Self::Validation,
        _before: &[PretrainEpochRecord],
    ) -> Result<PretrainEpochRecord> {
        ensure!(
            val_loss.is_finite(),
            "after epoch {} the validation loss of the {} is {val_loss}: lower pretrain.lr",
            stats.epoch,
            self.branch().title()
        );
        Ok(PretrainEpochRecord {
            branch: self.branch(),
            epoch: stats.epoch,
            step: stats.step,
            train_loss: stats.train_loss,
            val_loss,
            val_color_loss,
            lr: stats.lr[0],
            images_per_second: stats.images_per_second,
            data_wait: stats.data_wait,
            seconds: stats.seconds,
            skipped_steps: stats.skipped_steps,
        })
    }

    fn save(&self, run: &RunDir, records: &[PretrainEpochRecord], _origin: Value) -> Result<()> {
        run.write_metrics(self.before.iter().chain(records))
    }
}
