//! AdamW (arXiv 1711.05101) over groups of parameters, all of a group in one fused call; its state is open to checkpoints.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::groups::{self, GroupKey};
use super::schedule::Schedule;
use crate::config::{FreezeConfig, OptimizerConfig};
use crate::ops::{self, AdamWStep};

#[derive(Debug)]
struct Group {
    key: GroupKey,
    names: Vec<String>,
    params: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl Group {
    fn new(key: GroupKey) -> Self {
        Self {
            key,
            names: Vec::new(),
            params: Vec::new(),
            exp_avgs: Vec::new(),
            exp_avg_sqs: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, parameter: &Tensor) {
        self.names.push(name.to_string());
        self.params.push(parameter.shallow_clone());
        self.exp_avgs.push(parameter.detach().zeros_like());
        self.exp_avg_sqs.push(parameter.detach().zeros_like());
        self.steps
            .push(Tensor::zeros([], (Kind::Float, parameter.device())));
    }
}

/// The optimizer and its state.
#[derive(Debug)]
pub struct AdamW {
    groups: Vec<Group>,
    config: OptimizerConfig,
    /// Whether the groups that may be frozen are.
    frozen: bool,
}

impl AdamW {
    /// For all of `parameters` that want gradients. Those that `freeze` names can be [frozen](Self::freeze).
    pub fn new(
        parameters: &[(String, Tensor)],
        config: &OptimizerConfig,
        freeze: &FreezeConfig,
    ) -> Self {
        let trained: Vec<_> = parameters
            .iter()
            .filter(|(_, p)| p.requires_grad())
            .collect();
        let depths = groups::depths(trained.iter().map(|(name, _)| name.as_str()));
        let mut groups: Vec<Group> = Vec::new();
        for (name, parameter) in trained {
            let key = GroupKey::new(name, parameter, depths, config, freeze);
            let place = groups.partition_point(|group| group.key < key);
            if groups.get(place).is_none_or(|group| group.key != key) {
                groups.insert(place, Group::new(key));
            }
            groups[place].add(name, parameter);
        }
        Self {
            groups,
            config: config.clone(),
            frozen: false,
        }
    }

    /// Holds the parameters that may be frozen still, or lets them learn. While they are still they take no gradient, so
    /// backward does not go below them, and their moments rest.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
        for group in self.groups.iter().filter(|group| group.key.freezable) {
            for parameter in &group.params {
                let _ = parameter.set_requires_grad(!frozen);
            }
        }
    }

    /// Groups that learn now.
    fn learning(&self) -> impl Iterator<Item = &Group> {
        let groups = self.groups.iter();
        groups.filter(|group| !(self.frozen && group.key.freezable))
    }

    /// Trained parameters, in numbers.
    pub fn parameter_count(&self) -> i64 {
        self.groups
            .iter()
            .flat_map(|group| &group.params)
            .map(|parameter| parameter.numel() as i64)
            .sum()
    }

    /// The learning rates of head and backbones (of their topmost layer) at a step (from 0).
    pub fn rates(&self, schedule: &Schedule, step: u64) -> [f64; 2] {
        [self.config.lr, self.config.backbone_lr()].map(|base| schedule.lr(base, step))
    }

    /// Forgets the gradients.
    pub fn zero_grad(&self) {
        for parameter in self.learning().flat_map(|group| &group.params) {
            parameter.shallow_clone().zero_grad();
        }
    }

    /// One update with the gradients that `backward` left. They are first scaled to the 2-norm `clip` together, where they
    /// exceed it. Returns the norm before that; where it is not finite, nothing is updated.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn step(&mut self, rates: [f64; 2], clip: Option<f64>) -> Result<f64> {
        let gradients: Vec<Vec<Tensor>> = self
            .learning()
            .map(|group| group.params.iter().map(gradient).collect())
            .collect();
        let all: Vec<Tensor> = gradients
            .iter()
            .flatten()
            .map(Tensor::shallow_clone)
            .collect();
        let norm = ops::clip_grad_norm(&all, clip)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        for (group, gradients) in self.learning().zip(&gradients) {
            let GroupKey {
                backbone, decayed, ..
            } = group.key;
            let step = AdamWStep {
                lr: rates[usize::from(backbone)] * group.key.lr_scale(),
                betas: self.config.betas,
                weight_decay: if decayed {
                    self.config.weight_decay
                } else {
                    0.0
                },
                eps: self.config.eps,
            };
            ops::adamw_step(
                &group.params,
                gradients,
                &group.exp_avgs,
                &group.exp_avg_sqs,
                &group.steps,
                &step,
            )?;
        }
        Ok(norm)
    }

    /// The moments and step counts by name (`exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`); they share the optimizer's storage.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for group in &self.groups {
            for (i, name) in group.names.iter().enumerate() {
                state.push((format!("exp_avg.{name}"), group.exp_avgs[i].shallow_clone()));
                state.push((
                    format!("exp_avg_sq.{name}"),
                    group.exp_avg_sqs[i].shallow_clone(),
                ));
                state.push((format!("step.{name}"), group.steps[i].shallow_clone()));
            }
        }
        state
    }

    /// Puts back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// Names a tensor that is missing or has another shape.
    pub fn restore(&mut self, saved: &HashMap<String, Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for (name, mut target) in self.state() {
            let tensor = saved
                .get(&name)
                .with_context(|| format!("the optimizer state has no {name}"))?;
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

/// A parameter's gradient; zeros where the loss did not reach it.
fn gradient(parameter: &Tensor) -> Tensor {
    let gradient = parameter.grad();
    if gradient.defined() {
        gradient
    } else {
        parameter.detach().zeros_like()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FrozenBlocks, ScheduleConfig};

    fn config() -> OptimizerConfig {
        OptimizerConfig {
            lr: 0.1,
            backbone_lr: Some(0.01),
            weight_decay: 0.5,
            ..OptimizerConfig::default()
        }
    }

    fn new_adamw(named: &[(String, Tensor)]) -> AdamW {
        AdamW::new(named, &config(), &FreezeConfig::default())
    }

    fn leaf(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
            .view([1, values.len() as i64])
            .set_requires_grad(true)
    }

    /// AdamW written out for one number, in double precision.
    fn reference(mut p: f64, gradients: &[f64], lr: f64, decay: f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (i, g) in gradients.iter().enumerate() {
            let t = i as i32 + 1;
            p -= lr * decay * p;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (mh, vh) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
            p -= lr * mh / (vh.sqrt() + 1e-8);
        }
        p
    }

    #[test]
    fn steps_are_adamws_with_each_groups_rate_and_decay() {
        let head = leaf(&[1.0, -2.0]);
        let bias = Tensor::from_slice(&[3.0f32]).set_requires_grad(true);
        let backbone = leaf(&[4.0]);
        let named = [
            ("head.layers.0.weight".to_string(), head.shallow_clone()),
            ("head.layers.0.bias".to_string(), bias.shallow_clone()),
            (
                "vit.blocks.0.mlp.fc1.weight".to_string(),
                backbone.shallow_clone(),
            ),
        ];
        let mut adamw = new_adamw(&named);
        for _ in 0..3 {
            adamw.zero_grad();
            (head.sum(Kind::Float) * 2.0 + bias.sum(Kind::Float) + backbone.sum(Kind::Float) * 0.5)
                .backward();
            adamw.step([0.1, 0.01], None).unwrap();
        }
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}")
        };
        close(
            head.double_value(&[0, 0]),
            reference(1.0, &[2.0; 3], 0.1, 0.5),
        );
        close(bias.double_value(&[0]), reference(3.0, &[1.0; 3], 0.1, 0.0));
        close(
            backbone.double_value(&[0, 0]),
            reference(4.0, &[0.5; 3], 0.01, 0.5),
        );
    }

    #[test]
    fn clipping_scales_to_the_norm_and_reports_the_one_before() {
        let parameter = leaf(&[0.0, 0.0]);
        let mut adamw = new_adamw(&[("head.w".to_string(), parameter.shallow_clone())]);
        (parameter.sum(Kind::Float) * 3.0).backward();
        let norm = adamw.step([0.1, 0.1], Some(1.0)).unwrap();
        assert!((norm - 18f64.sqrt()).abs() < 1e-5);
        let clipped = parameter.grad().norm().double_value(&[]);
        assert!((clipped - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let parameter = leaf(&[1.0]);
        let mut adamw = new_adamw(&[("head.w".to_string(), parameter.shallow_clone())]);
        (parameter.sum(Kind::Float) * f64::NAN).backward();
        assert!(adamw.step([0.1, 0.1], Some(1.0)).unwrap().is_nan());
        assert_eq!(parameter.double_value(&[0, 0]), 1.0);
    }

    #[test]
    fn restored_state_continues_as_if_nothing_had_happened() {
        let run = |interrupt: bool| {
            let parameter = leaf(&[1.0, 2.0]);
            let named = [("head.w".to_string(), parameter.shallow_clone())];
            let mut adamw = new_adamw(&named);
            for step in 0..6 {
                if interrupt && step == 3 {
                    let saved = adamw
                        .state()
                        .into_iter()
                        .map(|(n, t)| (n, t.copy()))
                        .collect();
                    adamw = new_adamw(&named);
                    adamw.restore(&saved).unwrap();
                }
                adamw.zero_grad();
                (parameter.square().sum(Kind::Float) * (step + 1)).backward();
                adamw.step([0.1, 0.1], None).unwrap();
            }
            Vec::<f32>::try_from(parameter.view([-1])).unwrap()
        };
        assert_eq!(run(true), run(false));
    }

    #[test]
    fn rates_follow_the_schedule_by_group() {
        let adamw = new_adamw(&[]);
        let schedule = Schedule::new(
            &ScheduleConfig {
                warmup_epochs: 0.0,
                ..ScheduleConfig::default()
            },
            1,
            1000,
        );
        let [head, backbone] = adamw.rates(&schedule, 0);
        assert!((head - 0.1).abs() < 1e-5 && (backbone - 0.01).abs() < 1e-6);
    }

    /// One parameter of 1.0 each, after some steps with a gradient of 1 each.
    fn trained(names: &[&str], steps: usize, prepare: impl Fn(&mut AdamW, usize)) -> Vec<f64> {
        let named: Vec<_> = names
            .iter()
            .map(|n| (n.to_string(), leaf(&[1.0])))
            .collect();
        let freeze = FreezeConfig {
            vit: FrozenBlocks::First(1),
            ..FreezeConfig::default()
        };
        let optimizer = OptimizerConfig {
            layer_decay: 0.5,
            weight_decay: 0.0,
            ..config()
        };
        let mut adamw = AdamW::new(&named, &optimizer, &freeze);
        for step in 0..steps {
            prepare(&mut adamw, step);
            adamw.zero_grad();
            let loss = named.iter().map(|(_, p)| p.sum(Kind::Float));
            loss.reduce(|a, b| a + b).unwrap().backward();
            adamw.step([0.1, 0.01], None).unwrap();
        }
        named.iter().map(|(_, p)| p.double_value(&[0, 0])).collect()
    }

    const NAMES: [&str; 6] = [
        "head.layers.0.weight",
        "vit.norm.weight",
        "vit.blocks.1.attn.qkv.weight",
        "vit.blocks.0.attn.qkv.weight",
        "vit.pos_embed",
        "mamba.layers.0.mixer.out_proj.weight",
    ];

    #[test]
    fn layer_decay_shrinks_the_step_from_block_to_block() {
        // Adam's first step is the rate itself, whatever the gradient.
        let moved: Vec<f64> = trained(&NAMES, 1, |_, _| {})
            .iter()
            .map(|p| 1.0 - p)
            .collect();
        for (moved, expected) in moved.iter().zip([0.1, 0.01, 0.005, 0.0025, 0.00125, 0.005]) {
            assert!((moved - expected).abs() < 1e-6, "{moved} is not {expected}");
        }
    }

    #[test]
    fn frozen_blocks_rest_until_they_are_let_go() {
        let values = trained(&NAMES, 3, |adamw, _| adamw.freeze(true));
        let rests: Vec<bool> = values.iter().map(|&value| value == 1.0).collect();
        assert_eq!(rests, [false, false, false, true, true, false]);
        let thawed = trained(&NAMES, 3, |adamw, step| adamw.freeze(step < 2));
        // The first step after the thaw is a first step: the moments rested too.
        assert!((1.0 - thawed[3] - 0.0025).abs() < 1e-6, "{}", thawed[3]);
        let never = trained(&NAMES, 3, |_, _| {});
        assert!(never[3] < thawed[3] && thawed[0] == never[0]);
    }
}
