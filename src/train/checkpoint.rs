//! What resuming needs, in one file: weights, optimizer state and progress can never be of
//! different epochs.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Tensor;

use super::ema::Ema;
use super::optimizer::Optimizer;
use super::precision::LossScale;
use crate::models::BeautyNet;
use crate::models::weights::{self, WeightsFile};
use crate::run::{RunDir, StartingWeights};

const PROGRESS_KEY: &str = "progress";
const MODEL: &str = "model.";
const OPTIMIZER: &str = "optimizer.";
const AVERAGE: &str = "ema.";

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs done.
    pub epochs: usize,
    /// Optimizer steps done.
    pub steps: u64,
    /// The best epoch (from 1) and its [merit](super::monitor::merit).
    pub best: Option<(usize, f64)>,
    /// Wall time spent training, in seconds, over all starts.
    pub seconds: f64,
    /// The epoch under way, where one is.
    #[serde(default)]
    pub within: EpochSums,
    /// Where gradients are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// The type that matrix products are computed in, in Rust's name for it: `auto` may be another
    /// on another machine.
    #[serde(default)]
    pub precision: String,
    /// The files that the backbones began from, by branch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub starting_weights: BTreeMap<String, StartingWeights>,
    /// Fingerprint of the images' names and scores.
    pub data: String,
    /// Processes that train together, each with batches of the config's size.
    #[serde(default = "one")]
    pub processes: usize,
}

fn one() -> usize {
    1
}

/// What an epoch's training has added up to so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EpochSums {
    /// Batches done.
    pub batches: usize,
    /// Loss times images.
    pub loss: f64,
    /// Images that were learned from.
    pub images: usize,
    /// Steps that were left out, because they were not finite.
    pub skipped: usize,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// Of it, time that the steps waited for data.
    pub waiting: f64,
    /// Learning rates of the last step: head, backbones.
    pub rates: [f64; 2],
}

/// Writes the checkpoint, whole or not at all. `origin` is what it says of where it comes from, for
/// people: nothing reads it.
///
/// # Errors
/// Names the file where it cannot be written.
pub fn save(
    run: &RunDir,
    net: &BeautyNet,
    optimizer: &Optimizer,
    ema: Option<&Ema>,
    progress: &Progress,
    origin: &Value,
) -> Result<()> {
    let mut entry = serde_json::to_value(progress)?;
    entry["run"] = origin.clone();
    let parameters = net.parameters();
    write(&run.checkpoint("checkpoint"), parameters, optimizer, ema, &entry)
}

/// As [`save`], of any parameters and whatever says how far they have come.
///
/// # Errors
/// Names the file where it cannot be written.
pub fn write(
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
        tensors.extend(prefixed(AVERAGE, ema.state()));
    }
    // One entry: several would be written in no fixed order.
    let metadata = HashMap::from([(PROGRESS_KEY.to_string(), serde_json::to_string(progress)?)]);
    weights::save(path, &tensors, metadata)
}

/// Puts a checkpoint back; `None` where the run has none yet.
///
/// # Errors
/// Names the file where it is damaged or of another model.
pub fn load(
    run: &RunDir,
    net: &BeautyNet,
    optimizer: &mut Optimizer,
    ema: Option<&mut Ema>,
) -> Result<Option<Progress>> {
    read(&run.checkpoint("checkpoint"), &net.parameters(), optimizer, ema)
}

/// As [`load`], of what [`write`] wrote.
///
/// # Errors
/// Names the file where it is damaged or of another model.
pub fn read<P: DeserializeOwned>(
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
        .context("it does not say how far the run had come")
        .and_then(|text| Ok(serde_json::from_str(text)?))?;
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
        ema.restore(&saved(AVERAGE, ema.state())?)?;
    }
    Ok(progress)
}
