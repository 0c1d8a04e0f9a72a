//! The checkpoint that training resumes from. It is one file, so that weights, optimizer state and
//! progress are never of different epochs.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::ema::Ema;
use super::optimizer::Optimizer;
use super::precision::LossScale;
use crate::eval::metrics::nan_as_null;
use crate::models::weights::{self, WeightsFile};
use crate::run::StartingWeights;

const PROGRESS_KEY: &str = "progress";
const MODEL: &str = "model.";
const OPTIMIZER: &str = "optimizer.";
const EMA: &str = "ema.";

/// The progress of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress<R> {
    /// Epochs done.
    pub epochs: usize,
    /// Optimizer steps done.
    pub steps: u64,
    /// Wall time spent training, in seconds, over all starts.
    pub seconds: f64,
    /// The current epoch.
    pub within: EpochSums,
    /// The loss scale, if gradients are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// The type that matrix products are computed in, in Rust's name for it: `auto` may be another
    /// on another machine.
    pub precision: String,
    /// The weights files that the backbones were initialized from, by branch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub starting_weights: BTreeMap<String, StartingWeights>,
    /// Fingerprint of the data.
    pub data: String,
    /// Processes that train together, each with batches of the config's size.
    pub processes: usize,
    /// The records of the epochs done.
    pub records: Vec<R>,
}

/// Sums over the training steps of the current epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct EpochSums {
    /// Microbatches done.
    pub batches: usize,
    /// Loss times images.
    #[serde(with = "nan_as_null")]
    pub loss: f64,
    /// Images trained on.
    pub images: usize,
    /// Steps that were skipped because their loss or gradient was not finite.
    pub skipped: usize,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// The part of it that the steps waited for data, in seconds.
    pub waiting: f64,
    /// Learning rates of the last step: head, backbones.
    pub lr: [f64; 2],
}

/// Writes a checkpoint: parameters, state of the optimizer, EMA weights and `progress`. Returns an
/// error that names the file if it cannot be written.
pub(super) fn write(
    path: &Path,
    parameters: Vec<(String, Tensor)>,
    optimizer: &Optimizer,
    ema: Option<&Ema>,
    progress: &impl Serialize,
) -> Result<()> {
    let prefixed = |prefix: &str, list: Vec<(String, Tensor)>| -> Vec<(String, Tensor)> {
        list.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
    };
    let mut tensors = prefixed(MODEL, parameters);
    tensors.extend(prefixed(OPTIMIZER, optimizer.state()));
    if let Some(ema) = ema {
        tensors.extend(prefixed(EMA, ema.state()));
    }
    let metadata = HashMap::from([(PROGRESS_KEY.to_string(), serde_json::to_string(progress)?)]);
    weights::save(path, &tensors, metadata)
}

/// Loads a checkpoint that [`write`] wrote, and returns its progress; `None` if there is none yet.
/// Returns an error that names the file if it is damaged or of another model.
pub(super) fn read<P: DeserializeOwned>(
    path: &Path,
    parameters: &[(String, Tensor)],
    optimizer: &mut Optimizer,
    ema: Option<&mut Ema>,
) -> Result<Option<P>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut file = WeightsFile::open(path)?;
    restore(&mut file, parameters, optimizer, ema)
        .map(Some)
        .with_context(|| format!("cannot resume from {}", path.display()))
}

fn restore<P: DeserializeOwned>(
    file: &mut WeightsFile,
    parameters: &[(String, Tensor)],
    optimizer: &mut Optimizer,
    ema: Option<&mut Ema>,
) -> Result<P> {
    let progress = file
        .metadata()
        .get(PROGRESS_KEY)
        .context("it has no progress of a run")
        .and_then(|text| {
            let of_another = "another version of vmbeauty wrote it: resume with that version, or \
                              train without --resume in another directory";
            serde_json::from_str(text).context(of_another)
        })?;
    {
        let _guard = tch::no_grad_guard();
        for (name, target) in parameters {
            let tensor = file.tensor(&format!("{MODEL}{name}"))?;
            ensure!(
                tensor.size() == target.size(),
                "{name} has shape {:?} in it, {:?} in the model",
                tensor.size(),
                target.size()
            );
            target.shallow_clone().f_copy_(&tensor).with_context(|| name.clone())?;
        }
    }
    let mut saved = |prefix: &str, state: Vec<(String, Tensor)>| -> Result<HashMap<_, _>> {
        state
            .into_iter()
            .map(|(name, _)| {
                let tensor = file.tensor(&format!("{prefix}{name}"))?;
                Ok((name, tensor))
            })
            .collect()
    };
    optimizer.restore(&saved(OPTIMIZER, optimizer.state())?)?;
    if let Some(ema) = ema {
        ema.restore(&saved(EMA, ema.state())?)?;
    }
    Ok(progress)
}
