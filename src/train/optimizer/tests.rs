use tch::{Device, Kind};

use super::*;
use crate::config::{FrozenBlocks, ScheduleConfig};
use crate::test_gpu::gpu;

fn config() -> OptimizerConfig {
    OptimizerConfig {
        lr: 0.1,
        backbone_lr: Some(0.01),
        weight_decay: 0.5,
        ..OptimizerConfig::default()
    }
}

fn new_adamw(named: &[(String, Tensor)]) -> Optimizer {
    Optimizer::new(named, &config(), &FreezeConfig::default())
}

fn leaf(values: &[f32]) -> Tensor {
    leaf_on(Device::Cpu, values)
}

fn leaf_on(device: Device, values: &[f32]) -> Tensor {
    let tensor = Tensor::from_slice(values).view([1, values.len() as i64]);
    tensor.to_device(device).set_requires_grad(true)
}

/// Returns a decayed weight and an undecayed bias of the head, and a decayed weight of a backbone,
/// with and without their names.
fn three_groups(device: Device) -> ([(String, Tensor); 3], [Tensor; 3]) {
    let bias = Tensor::from_slice(&[3.0f32]).to_device(device).set_requires_grad(true);
    let tensors = [leaf_on(device, &[1.0, -2.0]), bias, leaf_on(device, &[4.0])];
    let names = ["head.layers.0.weight", "head.layers.0.bias", "vit.blocks.0.mlp.fc1.weight"];
    let named = std::array::from_fn(|i| (names[i].to_string(), tensors[i].shallow_clone()));
    (named, tensors)
}

/// Computes AdamW for one number, in double precision.
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
fn steps_are_adamws_with_each_groups_lr_and_decay() {
    check_adamw(Device::Cpu);
}

#[test]
fn on_a_gpu_every_optimizers_steps_are_its_formulas_also_from_a_restored_state() {
    if let Some(device) = gpu() {
        check_adamw(device);
        check_sgd_and_lion(device);
        check_restored(device);
    }
}

fn check_adamw(device: Device) {
    let (named, [head, bias, backbone]) = three_groups(device);
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
    close(head.double_value(&[0, 0]), reference(1.0, &[2.0; 3], 0.1, 0.5));
    close(bias.double_value(&[0]), reference(3.0, &[1.0; 3], 0.1, 0.0));
    close(backbone.double_value(&[0, 0]), reference(4.0, &[0.5; 3], 0.01, 0.5));
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

/// SGD and Lion with each of their options.
fn recipes() -> Vec<OptimizerConfig> {
    let named = |name| OptimizerConfig { name, ..config() };
    let sgd =
        |momentum, nesterov| OptimizerConfig { momentum, nesterov, ..named(OptimizerName::Sgd) };
    vec![
        named(OptimizerName::Adamw),
        sgd(0.0, false),
        sgd(0.8, false),
        sgd(0.8, true),
        named(OptimizerName::Lion),
        OptimizerConfig { betas: Some([0.3, 0.6]), ..named(OptimizerName::Lion) },
    ]
}

/// Computes `torch.optim.SGD` for one number, in double precision.
fn sgd_reference(
    mut p: f64,
    gradients: &[f64],
    lr: f64,
    decay: f64,
    config: &OptimizerConfig,
) -> f64 {
    let mu = config.momentum;
    let mut buffer = 0.0;
    for (i, g) in gradients.iter().enumerate() {
        let g = g + decay * p;
        buffer = if i == 0 { g } else { mu * buffer + g };
        p -= lr * if config.nesterov { g + mu * buffer } else { buffer };
    }
    p
}

/// Computes Lion for one number, in double precision.
fn lion_reference(
    mut p: f64,
    gradients: &[f64],
    lr: f64,
    decay: f64,
    config: &OptimizerConfig,
) -> f64 {
    let [b1, b2] = config.betas();
    let mut m = 0.0f64;
    for g in gradients {
        let update = b1 * m + (1.0 - b1) * g;
        p -= lr * decay * p;
        p -= lr * if update == 0.0 { 0.0 } else { update.signum() };
        m = b2 * m + (1.0 - b2) * g;
    }
    p
}

#[test]
fn steps_of_sgd_and_lion_are_their_formulas_with_each_groups_lr_and_decay() {
    check_sgd_and_lion(Device::Cpu);
}

fn check_sgd_and_lion(device: Device) {
    // The gradient changes its sign and size, so that momentum matters.
    let factors = [1.0, -0.2, -3.0, 0.5, 0.7, 0.0, 4.0, -0.1];
    for config in recipes() {
        let reference = match config.name {
            OptimizerName::Adamw => continue,
            OptimizerName::Sgd => sgd_reference,
            OptimizerName::Lion => lion_reference,
        };
        let (named, [head, bias, backbone]) = three_groups(device);
        let mut optimizer = Optimizer::new(&named, &config, &FreezeConfig::default());
        for factor in factors {
            optimizer.zero_grad();
            let loss = head.sum(Kind::Float) * 2.0
                + bias.sum(Kind::Float)
                + backbone.sum(Kind::Float) * 0.5;
            (loss * factor).backward();
            optimizer.step([0.1, 0.01], None).unwrap();
        }
        let gradients = |scale: f64| factors.map(|factor| scale * factor);
        for (found, expected) in [
            (head.double_value(&[0, 0]), reference(1.0, &gradients(2.0), 0.1, 0.5, &config)),
            (head.double_value(&[0, 1]), reference(-2.0, &gradients(2.0), 0.1, 0.5, &config)),
            (bias.double_value(&[0]), reference(3.0, &gradients(1.0), 0.1, 0.0, &config)),
            (backbone.double_value(&[0, 0]), reference(4.0, &gradients(0.5), 0.01, 0.5, &config)),
        ] {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}: {config:?}");
        }
    }
}

#[test]
fn restored_state_continues_as_if_nothing_had_happened() {
    check_restored(Device::Cpu);
}

fn check_restored(device: Device) {
    for config in recipes() {
        let run = |interrupt: bool| {
            let parameter = leaf_on(device, &[1.0, 2.0]);
            let named = [("head.w".to_string(), parameter.shallow_clone())];
            let new = || Optimizer::new(&named, &config, &FreezeConfig::default());
            let mut optimizer = new();
            for step in 0..6 {
                if interrupt && step == 3 {
                    let state = optimizer.state().into_iter();
                    let saved = state.map(|(name, tensor)| (name, tensor.copy())).collect();
                    optimizer = new();
                    optimizer.restore(&saved).unwrap();
                }
                optimizer.zero_grad();
                // The sign of the gradient turns, or Lion's momentum would not matter.
                let loss = (parameter.shallow_clone() - 0.9).square().sum(Kind::Float);
                (loss * [1.0, 2.0, 3.0, -0.1, 0.2, 1.0][step]).backward();
                optimizer.step([0.1, 0.1], None).unwrap();
            }
            Vec::<f32>::try_from(parameter.view([-1])).unwrap()
        };
        assert_eq!(run(true), run(false), "{config:?}");
    }
}

#[test]
fn each_optimizer_saves_its_state_and_refuses_anothers() {
    let names = |config: &OptimizerConfig| -> Vec<String> {
        let named = [("head.w".to_string(), leaf(&[1.0]))];
        let optimizer = Optimizer::new(&named, config, &FreezeConfig::default());
        optimizer.state().into_iter().map(|(name, _)| name).collect()
    };
    let recipes = recipes();
    assert_eq!(names(&recipes[0]), ["exp_avg.head.w", "exp_avg_sq.head.w", "step.head.w"]);
    assert!(names(&recipes[1]).is_empty());
    assert_eq!(names(&recipes[2]), ["momentum_buffer.head.w"]);
    assert_eq!(names(&recipes[4]), ["exp_avg.head.w"]);
    let named = [("head.w".to_string(), leaf(&[1.0]))];
    let mut sgd = Optimizer::new(&named, &recipes[2], &FreezeConfig::default());
    let error = sgd.restore(&HashMap::new()).unwrap_err().to_string();
    assert!(error.contains("momentum_buffer.head.w"), "{error}");
}

#[test]
fn learning_rates_follow_the_schedule_by_group() {
    let adamw = new_adamw(&[]);
    let schedule =
        Schedule::new(&ScheduleConfig { warmup_epochs: 0.0, ..ScheduleConfig::default() }, 1, 1000);
    let [head, backbone] = adamw.learning_rates(&schedule, 0);
    assert!((head - 0.1).abs() < 1e-5 && (backbone - 0.01).abs() < 1e-6);
}

/// Trains one parameter of 1.0 per name for some steps with a gradient of 1 each.
fn trained(names: &[&str], steps: usize, prepare: impl Fn(&mut Optimizer, usize)) -> Vec<f64> {
    let named: Vec<_> = names.iter().map(|n| (n.to_string(), leaf(&[1.0]))).collect();
    let freeze = FreezeConfig { vit: FrozenBlocks::First(1), ..FreezeConfig::default() };
    let optimizer = OptimizerConfig { layer_decay: 0.5, weight_decay: 0.0, ..config() };
    let mut adamw = Optimizer::new(&named, &optimizer, &freeze);
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
    // Adam's first step is the learning rate itself, whatever the gradient.
    let moved: Vec<f64> = trained(&NAMES, 1, |_, _| {}).iter().map(|p| 1.0 - p).collect();
    for (moved, expected) in moved.iter().zip([0.1, 0.01, 0.005, 0.0025, 0.00125, 0.005]) {
        assert!((moved - expected).abs() < 1e-6, "{moved} is not {expected}");
    }
}

#[test]
fn frozen_blocks_do_not_change_until_they_are_unfrozen() {
    let values = trained(&NAMES, 3, |adamw, _| adamw.freeze(true));
    let frozen: Vec<bool> = values.iter().map(|&value| value == 1.0).collect();
    assert_eq!(frozen, [false, false, false, true, true, false]);
    let unfrozen = trained(&NAMES, 3, |adamw, step| adamw.freeze(step < 2));
    // The first step after unfreezing is a first step: the moments were frozen, too.
    assert!((1.0 - unfrozen[3] - 0.0025).abs() < 1e-6, "{}", unfrozen[3]);
    let never = trained(&NAMES, 3, |_, _| {});
    assert!(never[3] < unfrozen[3] && unfrozen[0] == never[0]);
}
