//! A batch divided over threads trains what one thread would with the whole batch.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::generator::{alone_with_seed, alone_with_the_generator};
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::Config;
use vm_beautynet::data::{ImageDataset, Split, load_split};
use vm_beautynet::eval::evaluate::predict;
use vm_beautynet::models::{BeautyNet, Images, Slicer};
use vm_beautynet::run::Run;
use vm_beautynet::train::pretrain::pretrain;
use vm_beautynet::train::{Options, train};

/// Dropout, stochastic depth and mixed images, batches of 6 and one of 2, and weights large enough
/// for libtorch to divide their elements over threads.
const SMALL: &str = "
device: cpu
data:
  dataset: synthetic
  image_size: 32
  workers: 1
  synthetic: {train: 14, val: 5, test: 2}
  augment: {mixup: 0.5}
model:
  vit: {name: vit_micro_patch8_64, depth: 2, drop_path: 0.3}
  mamba: {name: vim_micro_patch8_64, depth: 2, drop_path: 0.3}
  head: {dropout: 0.3}
train: {epochs: 2, batch_size: 6, evaluate_test: false, tensorboard: false}
pretrain: {epochs: 1, batch_size: 6, mask_patch: 1}
";

fn config(set: &[&str]) -> Config {
    let set: Vec<String> = set.iter().map(|key| key.to_string()).collect();
    Config::from_yaml(SMALL, "test", &set).unwrap()
}

/// The tensors of a weights file, by name.
fn weights(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = Tensor::read_safetensors(file).unwrap().into_iter();
    tensors.map(|(name, tensor)| (name, Vec::try_from(tensor.reshape(-1)).unwrap())).collect()
}

/// Trains with these keys, and returns the last weights.
fn trained(set: &[&str], folder: &Path) -> BTreeMap<String, Vec<f32>> {
    train(&config(set), folder, Options::default(), &mut []).unwrap();
    weights(&folder.join("last.safetensors"))
}

/// Runs `f` with the first keys and each number of threads, and checks that results are the same.
fn same_for_any_number_of_threads<T: PartialEq>(set: &[&str], f: impl Fn(&[&str], &Path) -> T) {
    let folder = tempfile::tempdir().unwrap();
    let run = |threads: usize| {
        let threads = format!("train.threads={threads}");
        f(&[set, &[&threads]].concat(), &folder.path().join(&threads))
    };
    let one = run(1);
    for threads in 2..=4 {
        assert!(run(threads) == one, "{set:?} with {threads} threads");
    }
}

#[test]
fn weights_and_predictions_do_not_depend_on_the_number_of_threads() {
    let _alone = alone_with_the_generator();
    for set in [
        &["train.slice=1", "train.accumulate=2", "train.ema_decay=0.5"][..],
        &["train.loss=pearson", "train.optimizer.name=lion", "train.clip_grad_norm=0.1"],
        &[
            "train={loss: pearson, branch_loss: 0.5, gradient_modulation: 0.5, slice: 1}",
            "train.optimizer.name=sgd",
        ],
        &[
            "train={loss: label_distribution, branch_loss: 0.5, slice: 1, accumulate: 2}",
            "model.fusion.branch_dropout=0.5",
        ],
        &["train.checkpoint_activations=true", "train.precision=bf16", "train.slice=4"],
        &["train.optimizer.name=sgd", "train.freeze.vit=1", "train.precision=fp16"],
    ] {
        same_for_any_number_of_threads(set, |set, folder| {
            (trained(set, folder), fs::read(folder.join("predictions_val.csv")).unwrap())
        });
    }
    same_for_any_number_of_threads(&[], |set, folder| {
        pretrain(&config(set), folder, &Options::default(), &mut []).unwrap();
        ["vit.safetensors", "mamba.safetensors"].map(|file| weights(&folder.join(file)))
    });
}

#[test]
fn slices_train_what_a_whole_batch_does() {
    let _alone = alone_with_the_generator();
    // AdamW would blow up the rounding of gradients that are 0.
    let sgd = "train.optimizer={name: sgd, lr: 0.02}";
    for loss in ["mse", "pearson"] {
        let folder = tempfile::tempdir().unwrap();
        let loss = format!("train.loss={loss}");
        let run = |slice: usize| {
            let folder = folder.path().join(slice.to_string());
            let slice = format!("train.slice={slice}");
            let balanced = ["train.branch_loss=0.5", "model.fusion.branch_dropout=0.5"];
            let set = [&loss, sgd, &slice, "train.threads=2", "train.accumulate=2"];
            trained(&[&set[..], &balanced].concat(), &folder)
        };
        let whole = run(6);
        for slice in [1, 4] {
            for ((name, a), (_, b)) in whole.iter().zip(run(slice)) {
                for (a, b) in a.iter().zip(b) {
                    assert!((a - b).abs() < 1e-5, "{loss}, slices of {slice}: {name} {a} {b}");
                }
            }
        }
    }
}

#[test]
fn a_run_is_evaluated_in_the_slices_that_it_trained_in() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    train(&config(&["train.slice=1"]), folder.path(), Options::default(), &mut []).unwrap();
    let run = Run::open(folder.path(), &[]).unwrap();
    let (samples, _) = load_split(&run.config.data, run.config.seed, Split::Val).unwrap();
    let images = Arc::new(ImageDataset::new(samples, &run.config.data).unwrap());
    let predictions = predict(&run.net, &images, &run.config, &mut |_| Ok(())).unwrap();
    let file = folder.path().join("again.csv");
    run.write_predictions(&predictions, Split::Val, &file).unwrap();
    let [again, first] = [file, folder.path().join("predictions_val.csv")].map(fs::read);
    assert!(again.unwrap() == first.unwrap());
}

#[test]
fn the_outputs_of_slices_are_those_of_the_batch() {
    let _alone = alone_with_seed(1);
    let net = BeautyNet::new(&config(&[]), Device::Cpu).unwrap();
    let pixels = Tensor::randint(256, [5, 3, 32, 32], (Kind::Uint8, Device::Cpu));
    let whole = net.infer(Images::Pixels(&pixels), &Slicer::whole()).unwrap();
    let sliced = net.infer(Images::Pixels(&pixels), &Slicer::new(Some(2), Device::Cpu).unwrap());
    let sliced = sliced.unwrap();
    assert!(!sliced.score.requires_grad());
    for (a, b) in [
        (&whole.score, &sliced.score),
        (&whole.fused, &sliced.fused),
        (whole.vit.as_ref().unwrap(), sliced.vit.as_ref().unwrap()),
        (whole.weights.as_ref().unwrap(), sliced.weights.as_ref().unwrap()),
    ] {
        assert_eq!(a.size(), b.size());
        assert!((a - b).abs().max().double_value(&[]) < 1e-5);
    }
}
