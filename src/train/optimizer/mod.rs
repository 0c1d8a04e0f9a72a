//! The optimizers. Each updates a group of parameters in one fused or batched call, and exposes its
//! state to checkpoints.

mod adamw;
mod lion;
mod sgd;

use std::collections::HashMap;
use std::fmt::Debug;

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use self::adamw::AdamW;
use self::lion::Lion;
use self::sgd::Sgd;
use super::groups::{self, GroupKey};
use super::precision::LossScale;
use super::schedule::Schedule;
use crate::config::{FreezeConfig, OptimizerConfig, OptimizerName};
use crate::ops;

/// The inputs of one step of a group.
struct Update<'a> {
    params: &'a [Tensor],
    /// The clipped gradient of each parameter.
    grads: &'a [Tensor],
    lr: f64,
    weight_decay: f64,
}

/// An optimizer's update rule, with the state of one group of parameters.
trait UpdateRule: Debug + Send {
    /// Creates the state of one more parameter.
    fn add(&mut self, parameter: &Tensor);

    /// Updates the added parameters, in the order of their addition, and the state in place.
    fn step(&self, update: &Update) -> Result<()>;

    /// Returns the state's components by name, each with a tensor per parameter.
    fn state(&self) -> Vec<(&'static str, &[Tensor])>;
}

#[derive(Debug)]
struct Group {
    key: GroupKey,
    names: Vec<String>,
    params: Vec<Tensor>,
    rule: Box<dyn UpdateRule>,
}

impl Group {
    fn new(key: GroupKey, config: &OptimizerConfig) -> Self {
        Self {
            key,
            names: Vec::new(),
            params: Vec::new(),
            rule: match config.name {
                OptimizerName::Adamw => Box::new(AdamW::new(config)),
                OptimizerName::Sgd => Box::new(Sgd::new(config)),
                OptimizerName::Lion => Box::new(Lion::new(config)),
            },
        }
    }

    fn add(&mut self, name: &str, parameter: &Tensor) {
        self.names.push(name.to_string());
        self.params.push(parameter.shallow_clone());
        self.rule.add(parameter);
    }
}

/// The optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    groups: Vec<Group>,
    config: OptimizerConfig,
    /// Whether the freezable groups are frozen.
    frozen: bool,
}

impl Optimizer {
    /// Creates the optimizer of all `parameters` that require gradients; those that `freeze` names
    /// can be [frozen](Self::freeze).
    pub fn new(
        parameters: &[(String, Tensor)],
        config: &OptimizerConfig,
        freeze: &FreezeConfig,
    ) -> Self {
        let trained: Vec<_> = parameters.iter().filter(|(_, p)| p.requires_grad()).collect();
        let depths = groups::depths(trained.iter().map(|(name, _)| name.as_str()));
        let mut groups: Vec<Group> = Vec::new();
        for (name, parameter) in trained {
            let key = GroupKey::new(name, parameter, depths, config, freeze);
            let index = groups.partition_point(|group| group.key < key);
            if groups.get(index).is_none_or(|group| group.key != key) {
                groups.insert(index, Group::new(key, config));
            }
            groups[index].add(name, parameter);
        }
        Self { groups, config: config.clone(), frozen: false }
    }

    /// Freezes the freezable parameters, or unfreezes them. Frozen parameters require no gradient,
    /// so backward does not go below them, and their moments do not change.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
        for group in self.groups.iter().filter(|group| group.key.freezable) {
            for parameter in &group.params {
                let _ = parameter.set_requires_grad(!frozen);
            }
        }
    }

    /// Returns the groups that are not frozen.
    fn unfrozen(&self) -> impl Iterator<Item = &Group> {
        let groups = self.groups.iter();
        groups.filter(|group| !(self.frozen && group.key.freezable))
    }

    /// Returns the number of trained parameters.
    pub fn parameter_count(&self) -> i64 {
        self.groups
            .iter()
            .flat_map(|group| &group.params)
            .map(|parameter| parameter.numel() as i64)
            .sum()
    }

    /// Returns the learning rates of head and backbones (of their topmost layer) at a step (from
    /// 0).
    pub fn learning_rates(&self, schedule: &Schedule, step: u64) -> [f64; 2] {
        [self.config.lr, self.config.backbone_lr()].map(|base| schedule.lr(base, step))
    }

    /// Removes the gradients of the parameters that are not frozen.
    pub fn zero_grad(&self) {
        self.unfrozen().for_each(|group| ops::remove_gradients(&group.params));
    }

    /// Clips the gradients to a total 2-norm of `clip`, and updates the parameters with the
    /// learning rates `lr` of head and backbones. Returns the norm before clipping; if it is not
    /// finite, nothing is updated. Returns libtorch's error.
    pub fn step(&mut self, lr: [f64; 2], clip: Option<f64>) -> Result<f64> {
        let gradients: Vec<Vec<Tensor>> =
            self.unfrozen().map(|group| group.params.iter().map(gradient).collect()).collect();
        let all: Vec<Tensor> = gradients.iter().flatten().map(Tensor::shallow_clone).collect();
        let norm = ops::clip_grad_norm(&all, clip)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        for (group, grads) in self.unfrozen().zip(&gradients) {
            let key = group.key;
            group.rule.step(&Update {
                params: &group.params,
                grads,
                lr: lr[usize::from(key.backbone)] * key.lr_scale(),
                weight_decay: if key.decayed { self.config.weight_decay } else { 0.0 },
            })?;
        }
        Ok(norm)
    }

    /// Makes a [`step`](Self::step) with the gradients of a loss that was [scaled
    /// up](LossScale::scaled): they are scaled down first, and the scale is updated by whether
    /// they were finite. Returns libtorch's error.
    pub fn step_scaled(
        &mut self,
        scale: &mut Option<LossScale>,
        lr: [f64; 2],
        clip: Option<f64>,
    ) -> Result<f64> {
        if let Some(LossScale { scale, .. }) = scale {
            let _guard = tch::no_grad_guard();
            for parameter in self.unfrozen().flat_map(|group| &group.params) {
                let mut gradient = parameter.grad();
                if gradient.defined() {
                    let _ = gradient.f_mul_scalar_(1.0 / *scale)?;
                }
            }
        }
        let norm = self.step(lr, clip)?;
        if let Some(scale) = scale {
            scale.update(norm.is_finite());
        }
        Ok(norm)
    }

    /// Returns the state by name, as `exp_avg.NAME` for AdamW's first moment of the parameter NAME.
    /// The tensors share the optimizer's storage.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for group in &self.groups {
            for (component, tensors) in group.rule.state() {
                let named = group.names.iter().zip(tensors);
                state.extend(
                    named.map(|(name, tensor)| {
                        (format!("{component}.{name}"), tensor.shallow_clone())
                    }),
                );
            }
        }
        state
    }

    /// Restores what [`state`](Self::state) returned. Returns an error that names a tensor that is
    /// missing or has another shape.
    pub fn restore(&mut self, saved: &HashMap<String, Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (name, mut target) in self.state() {
            let tensor =
                saved.get(&name).with_context(|| format!("the optimizer state has no {name}"))?;
            ensure!(
                tensor.size() == target.size(),
                "the optimizer state's {name} has shape {:?}, not {:?}",
                tensor.size(),
                target.size()
            );
            target.f_copy_(tensor)?;
        }
        Ok(())
    }
}

/// Returns a parameter's gradient; zeros if the loss does not depend on it.
fn gradient(parameter: &Tensor) -> Tensor {
    let gradient = parameter.grad();
    if gradient.defined() { gradient } else { parameter.detach().zeros_like() }
}

#[cfg(test)]
mod tests;
