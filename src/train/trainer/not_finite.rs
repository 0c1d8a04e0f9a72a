//! Reports of steps whose loss, gradient or updated weights are not finite.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context, Error, Result, anyhow, ensure};
use serde::Serialize;
use tch::Tensor;

use super::step::seed_of;
use super::{Trainer, named};
use crate::data::HostBatch;
use crate::files::write_json;
use crate::models::images::upload;
use crate::models::weights;
use crate::train::ema::Ema;
use crate::train::modules::gradient_norms;
use crate::train::objective::Objective;

/// The number of modules or parameters that an error names; the file has all.
const NAMED: usize = 5;

/// A report of a step that is skipped, or ends the run.
#[derive(Debug, Serialize)]
pub(super) struct NotFinite {
    /// The step, from 1.
    step: u64,
    epoch: usize,
    /// The microbatch in the epoch, from 1.
    batch: usize,
    seed: u64,
    /// The seed of torch's generator before the step.
    torch_seed: i64,
    /// The loss as text: JSON cannot express NaN.
    loss: String,
    lr: f64,
    backbone_lr: f64,
    /// The images of the global batch.
    images: Vec<String>,
    /// The 2-norm of the gradients of each module, as text.
    gradient_norms: BTreeMap<String, String>,
    /// Whether the weights were updated.
    updated: bool,
    /// Parameters that are not finite: after the update, or without one before the step.
    broken_parameters: Vec<String>,
}

impl NotFinite {
    /// Returns whether weights are not finite, which no later step changes.
    pub(super) fn is_beyond_repair(&self) -> bool {
        !self.broken_parameters.is_empty()
    }
}

/// Joins the first names, and says that there are more.
fn first(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let not_finite = |norm: &&String| matches!(norm.as_str(), "NaN" | "inf");
        let modules = self.gradient_norms.iter();
        let modules: Vec<String> = modules
            .filter(|(_, norm)| not_finite(norm))
            .map(|(module, norm)| format!("{module} {norm}"))
            .collect();
        let broken = (self.broken_parameters.len(), first(&self.broken_parameters));
        write!(f, "step {}: the loss is {}", self.step, self.loss)?;
        match (modules.len(), broken) {
            (_, (n, names)) if self.updated => {
                write!(f, ", but the update made {n} parameters not finite ({names})")?;
            }
            (_, (n, names)) if n > 0 => {
                write!(f, ", {n} parameters were not finite before it ({names})")?;
            }
            (0, _) => write!(f, " (all gradients are finite)")?,
            (n, _) => {
                let total = self.gradient_norms.len();
                write!(
                    f,
                    ", the gradient norms of {n} of {total} modules are not finite ({})",
                    first(&modules)
                )?;
            }
        }
        write!(f, "; the images were {}", self.images.join(", "))
    }
}

impl<O: Objective> Trainer<'_, O> {
    /// Returns whether all weights are finite that are not frozen for the entire run.
    pub(super) fn weights_are_finite(&self) -> Result<bool> {
        Ok(broken(&self.parameters)?.is_empty())
    }

    /// Refuses to keep weights that are not finite. Returns an error that names some.
    pub(super) fn ensure_finite(&self) -> Result<()> {
        let mut weights: Vec<_> = self.parameters.iter().map(named).collect();
        weights.extend(self.ema.iter().flat_map(Ema::state));
        let broken = broken(&weights)?;
        ensure!(
            broken.is_empty(),
            "after step {} weights are not finite ({}), and are not saved: lower {}",
            self.progress.steps,
            first(&broken),
            self.recipe.lr_key
        );
        Ok(())
    }

    /// Describes the current step by its gradients, which are still there, after the update if the
    /// weights were `updated`.
    pub(super) fn describe_not_finite(
        &self,
        batches: &[HostBatch],
        loss: f64,
        updated: bool,
    ) -> Result<NotFinite> {
        let parameters = self.objective.parameters();
        let samples = self.objective.train_images().samples();
        let mut images = Vec::new();
        for batch in batches {
            let own: Vec<i64> = batch.indices.iter().map(|&index| index as i64).collect();
            let own = Tensor::f_from_slice(&own)?.to_device(self.objective.device());
            let all = self.world.gather_batch(&own, batch.global_len)?;
            let all = Vec::<i64>::try_from(&all)?;
            let all = all.iter().filter_map(|&index| samples.get(index as usize));
            images.extend(all.map(|sample| sample.id.clone()));
        }
        let [lr, backbone_lr] = self.optimizer.learning_rates(&self.schedule, self.progress.steps);
        Ok(NotFinite {
            step: self.progress.steps + 1,
            epoch: self.progress.epochs + 1,
            batch: self.progress.within.batches + 1,
            seed: self.config.seed,
            torch_seed: seed_of(self.config.seed, self.progress.steps),
            loss: loss.to_string(),
            lr,
            backbone_lr,
            images,
            gradient_norms: gradient_norms(&parameters)
                .into_iter()
                .map(|(module, norm)| (module, norm.to_string()))
                .collect(),
            updated,
            broken_parameters: broken(&parameters)?,
        })
    }

    /// Saves what is needed to repeat the step, and returns the error that ends the run.
    pub(super) fn end_not_finite(&self, batches: &[HostBatch], found: &NotFinite) -> Error {
        let root = self.run.root().display();
        let saved = self.save_not_finite(batches, found).and_then(|folder| {
            self.world.barrier()?;
            Ok(folder)
        });
        match saved {
            Ok(files) => {
                let (or_skip, first) = if found.is_beyond_repair() {
                    ("", "the last checkpoint")
                } else {
                    (", or set train.on_nan: skip", "this step")
                };
                anyhow!(
                    "{found}. Lower {}{or_skip}. {files}; `vmbeauty {} {} --output {root} \
                     --resume` begins with {first}",
                    self.recipe.lr_key,
                    self.run.kind().command(),
                    self.run.config().display(),
                )
            }
            Err(error) => error.context(format!("{found}; and it could not be saved")),
        }
    }

    /// Saves the batch as the network got it, all norms, and the state before the step as the
    /// checkpoint, unless its parameters were already not finite.
    fn save_not_finite(&self, batches: &[HostBatch], found: &NotFinite) -> Result<String> {
        let folder = self.run.root().join("not_finite");
        let branch = self.objective.describe().branch;
        let prefix = branch.map(|branch| format!("{branch}_")).unwrap_or_default();
        let stem = folder.join(format!("{prefix}step_{}", found.step));
        let report = stem.with_extension("json");
        let tensors = stem.with_extension("safetensors");
        if self.world.is_first() {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
            write_json(&report, found)?;
            let batches = self.with_pixels(batches)?;
            let pixels = batches.iter().map(|batch| upload(batch, self.objective.device()));
            let pixels = Tensor::f_cat(&pixels.collect::<Result<Vec<_>>>()?, 0)?;
            let targets: Vec<f32> = batches.iter().flat_map(|b| b.targets.clone()).collect();
            let batch = [
                ("pixels".to_string(), pixels),
                ("targets".to_string(), Tensor::f_from_slice(&targets)?),
            ];
            weights::save(&tensors, &batch, Default::default())?;
            if !found.is_beyond_repair() {
                self.save_checkpoint()?;
            }
        }
        Ok(format!(
            "{} has the gradient norms of all modules, {} the batch",
            report.display(),
            tensors.display()
        ))
    }
}

/// Returns the names of the tensors that are not finite, with one wait for the device.
fn broken(tensors: &[(String, Tensor)]) -> Result<Vec<String>> {
    let flags = tensors.iter().map(|(_, tensor)| Ok(tensor.f_isfinite()?.f_all()?));
    let flags: Vec<Tensor> = flags.collect::<Result<_>>()?;
    if flags.is_empty() {
        return Ok(Vec::new());
    }
    let finite = Vec::<bool>::try_from(Tensor::f_stack(&flags, 0)?)?;
    let broken = tensors.iter().zip(finite).filter(|(_, finite)| !finite);
    Ok(broken.map(|((name, _), _)| name.clone()).collect())
}
