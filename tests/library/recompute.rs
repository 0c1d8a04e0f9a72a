//! Activation checkpointing: the same gradients, less memory.

use crate::generator::alone_with_the_generator;
use crate::gpu::gpu;
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::Config;
use vm_beautynet::models::{BeautyNet, ForwardContext, Images};
use vm_beautynet::ops::profiler::MemoryWatch;
use vm_beautynet::ops::{OpError, autocast, recomputed};
use vm_beautynet::train::{Options, train};

fn leaf(shape: &[i64]) -> Tensor {
    leaf_on(Device::Cpu, shape)
}

fn leaf_on(device: Device, shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, device)).set_requires_grad(true)
}

fn layers(x: &Tensor, weight: &Tensor) -> Tensor {
    (0..8).fold(x.shallow_clone(), |x, _| {
        let y = x.linear(weight, None::<&Tensor>);
        y.to_kind(Kind::Float).sigmoid().dropout(0.5, true)
    })
}

struct Run {
    out: Tensor,
    gradients: Vec<Tensor>,
    /// Sampled after forward and after backward.
    samples: [f64; 2],
    saved_bytes: i64,
}

fn run(x: &Tensor, weight: &Tensor, checkpointed: bool, half: bool) -> Run {
    let device = x.device();
    let sample = || Tensor::rand([1], (Kind::Double, device)).double_value(&[0]);
    tch::manual_seed(3);
    let mut watch = MemoryWatch::start().unwrap();
    let inside = weight.shallow_clone();
    let forward = || {
        if checkpointed {
            let segment = move |x: &Tensor| Ok(layers(x, &inside));
            recomputed(segment, x, &[weight.shallow_clone().into()]).unwrap()
        } else {
            layers(x, weight)
        }
    };
    let out = if half { autocast(device, Kind::BFloat16, forward).unwrap() } else { forward() };
    let saved_bytes = watch.peak();
    drop(watch);
    let next = sample();
    let gradients = Tensor::run_backward(&[out.sum(Kind::Float)], &[x, weight], false, false);
    Run { out: out.detach(), gradients, samples: [next, sample()], saved_bytes }
}

#[test]
fn gradients_and_random_numbers_are_the_same_with_a_fraction_of_the_memory() {
    let _alone = alone_with_the_generator();
    check_layers(Device::Cpu);
}

#[test]
fn on_a_gpu_recomputed_activations_have_the_same_gradients_with_a_fraction_of_the_memory() {
    let _alone = alone_with_the_generator();
    if let Some(device) = gpu() {
        check_layers(device);
        check_ensemble(device);
    }
}

fn check_layers(device: Device) {
    let (x, weight) = (leaf_on(device, &[4096, 16]), leaf_on(device, &[16, 16]));
    for half in [false, true] {
        let plain = run(&x, &weight, false, half);
        let again = run(&x, &weight, true, half);
        assert_eq!(plain.out, again.out);
        assert_eq!(plain.gradients, again.gradients);
        assert_eq!(plain.samples, again.samples);
        assert!(2 * again.saved_bytes < plain.saved_bytes);
    }
}

#[test]
fn errors_and_panics_are_returned_as_messages() {
    let _alone = alone_with_the_generator();
    let x = leaf(&[2]);
    let error = recomputed(|_| Err(OpError("no such thing".into())), &x, &[]).unwrap_err();
    assert!(error.0.contains("no such thing"), "{error}");
    let error = recomputed(|_| panic!("{}", "at the third layer"), &x, &[]).unwrap_err();
    assert!(error.0.contains("at the third layer"), "{error}");
}

#[test]
fn a_gradient_of_gradients_is_refused() {
    let _alone = alone_with_the_generator();
    let x = leaf(&[2]);
    let out = recomputed(|x| Ok(x * x), &x, &[]).unwrap();
    let result = std::panic::catch_unwind(|| {
        Tensor::run_backward(&[out.sum(Kind::Float)], &[&x], true, true)
    });
    assert!(result.is_err());
}

/// Returns the gradients of a training step of the tiny ensemble on two images, and its peak
/// memory.
fn step(device: Device, checkpointed: bool) -> (Vec<(String, Tensor)>, i64) {
    let sizes = "{model: {vit: {drop_path: 0.2}, mamba: {drop_path: 0.2}}}";
    let config = Config::from_yaml(sizes, "test", &[]).unwrap();
    tch::manual_seed(1);
    let mut net = BeautyNet::new(&config, device).unwrap();
    if checkpointed {
        net.recompute_blocks();
    }
    let pixels = Tensor::randint(256, [2, 3, 224, 224], (Kind::Uint8, device));
    tch::manual_seed(2);
    let mut watch = MemoryWatch::start().unwrap();
    // As a process with the second half of a batch of four: backward must sample what forward
    // sampled.
    let ctx = ForwardContext::train().with_batch_shard(&(2..4), 4);
    let output = net.forward(Images::Pixels(&pixels), ctx);
    output.unwrap().prediction.scaled.square().sum(Kind::Float).backward();
    let peak = watch.peak();
    let gradients = net.parameters().into_iter().map(|(name, tensor)| {
        let gradient = tensor.grad();
        (name, gradient)
    });
    (gradients.filter(|(_, gradient)| gradient.defined()).collect(), peak)
}

/// Returns the peak memory of a one-epoch run on this thread.
fn peak_of_training(folder: &std::path::Path, set: &str) -> i64 {
    let small = "
device: cpu
data: {dataset: synthetic, image_size: 64, workers: 1, synthetic: {train: 32, val: 8, test: 8}}
model:
  vit: {name: vit_micro_patch8_64, embed_dim: 48, depth: 6}
  mamba: {name: vim_micro_patch8_64, embed_dim: 48, depth: 6}
train: {epochs: 1, batch_size: 16, slice: 16, threads: 1, tensorboard: false}
";
    let config = Config::from_yaml(small, "test", &[set.to_string()]).unwrap();
    let mut watch = MemoryWatch::start().unwrap();
    train(&config, folder, Options::default(), &mut []).unwrap();
    watch.peak()
}

#[test]
fn a_run_that_checkpoints_activations_needs_less_memory() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let [kept, again] = [false, true].map(|again| {
        let set = format!("train.checkpoint_activations={again}");
        peak_of_training(&folder.path().join(again.to_string()), &set)
    });
    eprintln!("{kept} bytes, {again} with checkpoints");
    assert!(2 * again < kept, "{again} of {kept} bytes");
}

#[test]
fn the_tiny_ensemble_has_the_same_gradients_in_half_the_memory() {
    let _alone = alone_with_the_generator();
    check_ensemble(Device::Cpu);
}

fn check_ensemble(device: Device) {
    let (plain, kept) = step(device, false);
    let (again, peak) = step(device, true);
    assert!(plain.len() > 400 && plain == again);
    eprintln!("{kept} bytes, {peak} with checkpoints");
    assert!(2 * peak <= kept, "{peak} of {kept} bytes");
}
