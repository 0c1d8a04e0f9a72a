//! Pretraining: the backbones learn from the training images alone, without scores, by masked image
//! modeling.

mod branch;
mod images;
mod masks;
mod observer;
mod reconstructions;

use std::path::{Path, PathBuf};

use anyhow::{Error, Result};

use self::branch::BranchRun;
use self::images::TrainAndVal;
use self::reconstructions::Panels;
use crate::config::{BackboneConfig, BackboneShape, Branch, Config};
use crate::data::preview;
use crate::models::device;
use crate::run::{PretrainEpochRecord as EpochRecord, RunDir, RunKind};
use crate::train::{Stop, Stopped};

pub use observer::{Observer, Start};

/// How a pretraining is made, beside its config.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether to go on with the one that is in the folder.
    pub resume: bool,
    /// Ends it early.
    pub stop: Stop,
}

/// What a backbone's pretraining came to.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// Which branch.
    pub branch: Branch,
    /// Its weights under their published names, for `model.vit.weights` or `model.mamba.weights`.
    pub weights: PathBuf,
    /// The last epoch's metrics.
    pub last: EpochRecord,
}

/// What a pretraining came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Of each backbone that the fusion strategy uses.
    pub backbones: Vec<Pretrained>,
    /// Some validation images: as they are, and for each backbone with patches masked, and
    /// reconstructed.
    pub reconstructions: PathBuf,
}

/// Pretrains the backbones that the config's fusion strategy uses, one after the other, and writes
/// their weights into the folder `root`. Validation images are looked at after each epoch and never
/// learned from; test images are not opened. A resumed one goes on from its last epoch and ends
/// with the same weights, bit for bit on one machine, as one that was not interrupted.
///
/// # Errors
/// Data, weights or a folder that do not fit, masks that leave nothing to see or to predict, a loss
/// or gradient that is not finite, or [`Stopped`] where it was asked to end.
pub fn pretrain(
    config: &Config,
    root: &Path,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    config.check_image_sizes()?;
    config.model.check_weights()?;
    let backbones = backbones(config)?;
    if options.resume {
        RunDir::check_config(root, RunKind::Pretrain, config)?
    } else {
        RunDir::check_free(root, RunKind::Pretrain)?
    }
    let device = device::select(config.device)?;
    let images = TrainAndVal::load(config)?;
    if options.stop.signal() > 0 {
        return Err(Error::new(Stopped {
            signal: options.stop.signal(),
            steps: 0,
            epoch: 0,
            config: None,
            command: "pretrain",
        }));
    }
    let folder = if options.resume {
        RunDir::resume(root, RunKind::Pretrain, config)?
    } else {
        RunDir::create(root, RunKind::Pretrain, config)?
    };
    let mut panels = Panels::new(&images, config)?;
    let mut records = Vec::new();
    let mut done = Vec::new();
    for (backbone, shape) in backbones {
        let mut run =
            BranchRun::begin(config, backbone, shape, &images, &folder, device, &options.stop)?;
        run.learn(&records, observer)?;
        records.extend_from_slice(run.records());
        done.push(run.finish()?);
        panels.add(run.model(), config)?;
    }
    folder.write_metrics(&records)?;
    preview::save(&panels.image(), &folder.reconstructions())?;
    Ok(Outcome { backbones: done, reconstructions: folder.reconstructions() })
}

/// Those in use, with the shape that they learn in: nothing is dropped, for a masked image is hard
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
