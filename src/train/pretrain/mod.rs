//! Pretraining: the backbones train on the training images alone, without scores, by masked image
//! modeling.

mod images;
mod masks;
mod objective;
mod reconstructions;

use std::path::{Path, PathBuf};

use anyhow::Result;

use self::images::TrainAndVal;
use self::objective::MaskedImages;
use self::reconstructions::Panels;
use super::objective::Recipe;
use super::observer::Observer;
use super::trainer::{Options, Trainer};
use crate::config::{
    BackboneConfig, BackboneShape, Branch, Config, FreezeConfig, OptimizerConfig, ScheduleConfig,
};
use crate::data::preview;
use crate::models::{device, weights};
use crate::run::{PretrainEpochRecord, RunDir, RunKind};

/// A pretrained backbone.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// The branch of the backbone.
    pub branch: Branch,
    /// The file of its weights under their published names, for `model.vit.weights` or
    /// `model.mamba.weights`.
    pub weights: PathBuf,
    /// The record of the last epoch.
    pub last: PretrainEpochRecord,
}

/// The result of a pretraining run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The backbones that the fusion strategy uses.
    pub backbones: Vec<Pretrained>,
    /// A sheet of validation images: original, then masked and reconstructed for each backbone.
    pub reconstructions: PathBuf,
}

/// Pretrains the backbones that the config's fusion strategy uses, one after the other, and writes
/// their weights into the folder `root`. Validation images are evaluated after each epoch and never
/// trained on; test images are not opened. A resumed pretraining continues from its last checkpoint
/// and ends with the same weights, bit for bit on one machine, as one that was not interrupted.
/// Returns an error if data, weights or the folder do not fit, if masks would hide all patches or
/// none, if a loss or gradient is not finite, or [`Stopped`](super::Stopped) if it was asked to
/// stop.
pub fn pretrain(
    config: &Config,
    root: &Path,
    options: &Options,
    observers: &mut [Box<dyn Observer<PretrainEpochRecord>>],
) -> Result<Outcome> {
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    config.check_image_sizes()?;
    config.model.check_weights()?;
    weights::download(&config.model, &mut |download| {
        observers.iter_mut().for_each(|observer| observer.download(download));
        options.stop.check()
    })?;
    let backbones = backbones(config)?;
    if options.resume {
        RunDir::check_config(root, RunKind::Pretrain, config)?
    } else {
        RunDir::check_free(root, RunKind::Pretrain)?
    }
    let device = device::select(config)?;
    let images = TrainAndVal::load(config)?;
    options.stop.check()?;
    let run = if options.resume {
        RunDir::resume(root, RunKind::Pretrain, config)?
    } else {
        RunDir::create(root, RunKind::Pretrain, config)?
    };
    let mut panels = Panels::new(&images, config)?;
    let mut records = Vec::new();
    let mut pretrained = Vec::new();
    for (backbone, shape) in backbones {
        let objective = MaskedImages::new(config, backbone, shape, &images, &records, device)?;
        let branch = objective.branch();
        let recipe = recipe(config, branch);
        let mut trainer = Trainer::new(config, &run, recipe, objective, None, options.clone())?;
        trainer.load_checkpoint()?;
        run.accept_changes(config)?;
        trainer.run(observers)?;
        pretrained.push(trainer.objective.finish(&run, &trainer.progress.records)?);
        panels.add(trainer.objective.model(), config)?;
        let Trainer { progress, .. } = trainer;
        records.extend(progress.records);
    }
    run.write_metrics(&records)?;
    preview::save(&panels.image(), &run.reconstructions())?;
    Ok(Outcome { backbones: pretrained, reconstructions: run.reconstructions() })
}

fn recipe(config: &Config, branch: Branch) -> Recipe {
    let settings = &config.pretrain;
    Recipe {
        epochs: settings.epochs,
        batch_size: settings.batch_size,
        accumulate: 1,
        optimizer: OptimizerConfig {
            lr: settings.lr,
            weight_decay: settings.weight_decay,
            betas: Some([0.9, 0.95]),
            ..OptimizerConfig::default()
        },
        schedule: ScheduleConfig {
            warmup_epochs: settings.warmup_epochs,
            min_lr: settings.min_lr,
            ..ScheduleConfig::default()
        },
        freeze: FreezeConfig::default(),
        ema_decay: None,
        lr_key: "pretrain.lr",
        checkpoint: branch.to_string(),
        slice: config.train.slice,
    }
}

/// Returns the backbones in use with their shapes, without stochastic depth: masked images are hard
/// enough.
fn backbones(config: &Config) -> Result<Vec<(&BackboneConfig, BackboneShape)>> {
    let mut backbones = Vec::new();
    for &branch in Branch::ALL {
        if let Some(shape) = config.shape(branch)? {
            config.pretrain.check_masks(&shape)?;
            let drop_path = 0.0;
            backbones.push((config.model.backbone(branch), BackboneShape { drop_path, ..shape }));
        }
    }
    Ok(backbones)
}
