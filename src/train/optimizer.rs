//! AdamW (arXiv 1711.05101) over groups of parameters, all of a group in one fused call; its state is open to checkpoints.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::schedule::Schedule;
use crate::config::OptimizerConfig;
use crate::ops::{self, AdamWStep};

/// Names whose last part is one of these are not decayed, whatever their shape (Vision Mamba's and timm's rule).
const NOT_DECAYED: [&str; 6] = ["A_log", "A_b_log", "D", "D_b", "cls_token", "pos_embed"];

/// Whether weight decay applies: to matrices and kernels, not to biases, norms, tokens, or the scan's A and D.
pub fn is_decayed(name: &str, parameter: &Tensor) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    parameter.dim() > 1 && !NOT_DECAYED.contains(&last)
}

/// Whether a parameter belongs to a backbone, which may have a learning rate of its own.
pub fn is_backbone(name: &str) -> bool {
    name.starts_with("vit.") || name.starts_with("mamba.")
}

#[derive(Debug, Default)]
struct Group {
    names: Vec<String>,
    params: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl Group {
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
    /// By (in a backbone, decayed).
    groups: [[Group; 2]; 2],
    config: OptimizerConfig,
}

impl AdamW {
    /// For all of `parameters` that want gradients.
    pub fn new(parameters: &[(String, Tensor)], config: &OptimizerConfig) -> Self {
        let mut groups: [[Group; 2]; 2] = Default::default();
        for (name, parameter) in parameters.iter().filter(|(_, p)| p.requires_grad()) {
            let [backbone, decayed] = [is_backbone(name), is_decayed(name, parameter)];
            groups[usize::from(backbone)][usize::from(decayed)].add(name, parameter);
        }
        Self {
            groups,
            config: config.clone(),
        }
    }

    fn all_groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flatten()
    }

    /// Trained parameters, in numbers.
    pub fn parameter_count(&self) -> i64 {
        self.all_groups()
            .flat_map(|group| &group.params)
            .map(|parameter| parameter.numel() as i64)
            .sum()
    }

    /// The learning rates of head and backbones at a step (from 0).
    pub fn rates(&self, schedule: &Schedule, step: u64) -> [f64; 2] {
        [self.config.lr, self.config.backbone_lr()].map(|base| schedule.lr(base, step))
    }

    /// Forgets the gradients.
    pub fn zero_grad(&self) {
        for parameter in self.all_groups().flat_map(|group| &group.params) {
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
            .all_groups()
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
        let mut gradients = gradients.iter();
        for (lr, pair) in rates.into_iter().zip(&self.groups) {
            for (decayed, group) in pair.iter().enumerate() {
                let Some(gradients) = gradients.next() else {
                    break;
                };
                let step = AdamWStep {
                    lr,
                    betas: self.config.betas,
                    weight_decay: self.config.weight_decay * decayed as f64,
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
        }
        Ok(norm)
    }

    /// The moments and step counts by name (`exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`); they share the optimizer's storage.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for group in self.all_groups() {
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
    use crate::config::ScheduleConfig;

    fn config() -> OptimizerConfig {
        OptimizerConfig {
            lr: 0.1,
            backbone_lr: Some(0.01),
            weight_decay: 0.5,
            ..OptimizerConfig::default()
        }
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
        let mut adamw = AdamW::new(&named, &config());
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
        let mut adamw = AdamW::new(
            &[("head.w".to_string(), parameter.shallow_clone())],
            &config(),
        );
        (parameter.sum(Kind::Float) * 3.0).backward();
        let norm = adamw.step([0.1, 0.1], Some(1.0)).unwrap();
        assert!((norm - 18f64.sqrt()).abs() < 1e-5);
        let clipped = parameter.grad().norm().double_value(&[]);
        assert!((clipped - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let parameter = leaf(&[1.0]);
        let mut adamw = AdamW::new(
            &[("head.w".to_string(), parameter.shallow_clone())],
            &config(),
        );
        (parameter.sum(Kind::Float) * f64::NAN).backward();
        assert!(adamw.step([0.1, 0.1], Some(1.0)).unwrap().is_nan());
        assert_eq!(parameter.double_value(&[0, 0]), 1.0);
    }

    #[test]
    fn restored_state_continues_as_if_nothing_had_happened() {
        let run = |interrupt: bool| {
            let parameter = leaf(&[1.0, 2.0]);
            let named = [("head.w".to_string(), parameter.shallow_clone())];
            let mut adamw = AdamW::new(&named, &config());
            for step in 0..6 {
                if interrupt && step == 3 {
                    let saved = adamw
                        .state()
                        .into_iter()
                        .map(|(n, t)| (n, t.copy()))
                        .collect();
                    adamw = AdamW::new(&named, &config());
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
    fn decay_leaves_out_what_the_published_recipes_leave_out() {
        let matrix = Tensor::zeros([2, 2], (Kind::Float, tch::Device::Cpu));
        for name in [
            "mamba.layers.0.mixer.A_log",
            "mamba.layers.0.mixer.A_b_log",
            "vit.cls_token",
            "mamba.pos_embed",
        ] {
            assert!(!is_decayed(name, &matrix), "{name}");
        }
        assert!(is_decayed("mamba.layers.0.mixer.in_proj.weight", &matrix));
        assert!(!is_decayed("vit.norm.weight", &matrix.select(0, 0)));
    }

    #[test]
    fn rates_follow_the_schedule_by_group() {
        let adamw = AdamW::new(&[], &config());
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
}
