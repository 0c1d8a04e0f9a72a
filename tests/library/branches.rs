//! Balanced training: the branches' own heads and losses.

use std::collections::BTreeMap;

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{Config, FusionStrategy};
use vm_beautynet::models::summary::summarize;
use vm_beautynet::models::{BeautyNet, ForwardContext, Images, Output};
use vm_beautynet::train::loss::Criterion;

fn config(set: &[&str]) -> Config {
    let small = [
        "data={dataset: synthetic, image_size: 16}",
        "model.vit={name: vit_micro_patch8_64, embed_dim: 24, depth: 1, features: cls_mean}",
        "model.mamba={name: vim_micro_patch8_64, embed_dim: 20, depth: 1}",
        "model.fusion.dim=8",
        "model.head={hidden: [12], dropout: 0}",
    ];
    let set: Vec<String> = small.iter().chain(set).map(|key| key.to_string()).collect();
    Config::from_yaml("", "test", &set).unwrap()
}

fn network(config: &Config) -> (BeautyNet, BTreeMap<String, Tensor>) {
    tch::manual_seed(4);
    let net = BeautyNet::new(config, Device::Cpu).unwrap();
    let parameters = net.parameters().into_iter().collect();
    (net, parameters)
}

fn forward(net: &BeautyNet) -> Output {
    tch::manual_seed(5);
    let images = Tensor::randint(256, [3, 3, 16, 16], (Kind::Uint8, Device::Cpu));
    net.forward(Images::Pixels(&images), ForwardContext::eval()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).reshape(-1)).unwrap()
}

/// Scaled scores and weights of three images.
const SCORES: [f64; 3] = [0.5, -1.25, 1.0];
const WEIGHTS: [f64; 3] = [1.0, 2.0, 0.5];

fn targets() -> Tensor {
    let column = |values: &[f64]| Tensor::from_slice(values).to_kind(Kind::Float);
    Tensor::stack(&[column(&SCORES), column(&WEIGHTS)], 1)
}

#[test]
fn the_loss_adds_each_branchs_own_and_its_gradients_are_those_computed_by_hand() {
    let _alone = alone_with_the_generator();
    let config = config(&["train.branch_loss=0.25"]);
    let (net, parameters) = network(&config);
    let output = forward(&net);
    let criterion = Criterion::new(&config.train, &[]).unwrap();
    let total: f64 = WEIGHTS.iter().sum();
    let loss = criterion.loss(&criterion.predictions(&output).unwrap(), &targets(), total).unwrap();
    loss.total.backward();

    // The weighted mean of squares, and the factor of each image in its gradient.
    let mse = |predicted: &[f64]| {
        let errors = predicted.iter().zip(SCORES).map(|(predicted, score)| predicted - score);
        let sum: f64 =
            errors.clone().zip(WEIGHTS).map(|(error, weight)| weight * error * error).sum();
        let factors = errors.zip(WEIGHTS).map(|(error, weight)| 2.0 * weight * error / total);
        (sum / total, factors.collect::<Vec<f64>>())
    };
    let (ensemble, _) = mse(&values(&output.prediction.scaled));
    let mut expected = ensemble;
    let features = [("vit", output.vit.as_ref()), ("mamba", output.mamba.as_ref())];
    for ((branch, features), prediction) in features.into_iter().zip(&output.branches) {
        let (features, width) = (values(features.unwrap()), features.unwrap().size()[1] as usize);
        let weight = &parameters[&format!("branch_heads.{branch}.weight")];
        let bias = &parameters[&format!("branch_heads.{branch}.bias")];
        let predicted: Vec<f64> = features
            .chunks(width)
            .map(|row| row.iter().zip(values(weight)).map(|(x, w)| x * w).sum::<f64>())
            .collect();
        for (a, b) in predicted.iter().zip(values(&prediction.scaled)) {
            assert!((a - b).abs() < 1e-5, "{branch}: {a} {b}");
        }
        let (own, factors) = mse(&predicted);
        expected += 0.25 * own;
        let gradient = values(&weight.grad());
        for (channel, gradient) in gradient.into_iter().enumerate() {
            let by_hand: f64 =
                (0..3).map(|image| factors[image] * features[image * width + channel]).sum();
            assert!((gradient - 0.25 * by_hand).abs() < 1e-5, "{branch}: {gradient} {by_hand}");
        }
        let by_hand: f64 = factors.iter().sum();
        assert!((values(&bias.grad())[0] - 0.25 * by_hand).abs() < 1e-5, "{branch}");
    }
    assert!((loss.total.double_value(&[]) - expected).abs() < 1e-5);
    assert!((loss.reported.double_value(&[]) - ensemble).abs() < 1e-5, "it is the ensemble's");
}

#[test]
fn a_branch_that_the_fusion_ignores_is_trained_by_its_own_loss() {
    let _alone = alone_with_the_generator();
    let gradient_of_vit = |set: &[&str]| {
        let config = config(&[set, &["model.fusion.strategy=weighted"]].concat());
        let (net, parameters) = network(&config);
        let ignored = Tensor::from_slice(&[-200f32, 200.0]);
        tch::no_grad(|| parameters["fusion.weights"].shallow_clone().copy_(&ignored));
        let criterion = Criterion::new(&config.train, &[]).unwrap();
        let predictions = criterion.predictions(&forward(&net)).unwrap();
        criterion.loss(&predictions, &targets(), 1.0).unwrap().total.backward();
        parameters["vit.blocks.0.mlp.fc1.weight"].grad().abs().max().double_value(&[])
    };
    assert_eq!(gradient_of_vit(&[]), 0.0);
    assert!(gradient_of_vit(&["train.branch_loss=0.5"]) > 1e-6);
}

#[test]
fn without_a_branch_loss_the_network_has_no_such_heads_and_all_else_starts_the_same() {
    let _alone = alone_with_the_generator();
    let (_, plain) = network(&config(&[]));
    let (net, with_heads) = network(&config(&["train.branch_loss=0.5"]));
    let heads = ["mamba.bias", "mamba.weight", "vit.bias", "vit.weight"];
    let heads = heads.map(|name| format!("branch_heads.{name}"));
    let added: Vec<&String> = with_heads.keys().filter(|name| !plain.contains_key(*name)).collect();
    assert_eq!(added, heads.iter().collect::<Vec<_>>());
    for (name, tensor) in &plain {
        assert!(tensor == &with_heads[name], "{name}");
    }
    assert_eq!(forward(&net).branch_scores.unwrap().size(), [3, 2]);
    // One branch alone is trained by the loss already.
    for strategy in ["vit_only", "mamba_only"] {
        let strategy = format!("model.fusion.strategy={strategy}");
        let (net, parameters) = network(&config(&["train.branch_loss=0.5", &strategy]));
        assert!(parameters.keys().all(|name| !name.starts_with("branch_heads")));
        assert!(forward(&net).branches.is_empty());
    }
    // The deployed model has none.
    let count = |set: &[&str]| summarize(&config(set)).unwrap();
    assert_eq!(count(&["train.branch_loss=0.5"]), count(&[]));
}

#[test]
fn every_strategy_and_loss_has_the_branches_own_predictions() {
    let _alone = alone_with_the_generator();
    for &strategy in FusionStrategy::ALL {
        for loss in ["mse", "label_distribution"] {
            if loss == "label_distribution" && strategy == FusionStrategy::Score {
                continue;
            }
            let keys = [format!("model.fusion.strategy={strategy}"), format!("train.loss={loss}")];
            let config = config(&["train.branch_loss=0.5", &keys[0], &keys[1]]);
            let (mut net, _) = network(&config);
            net.head_mut().set_score_range([1.0, 5.0]);
            let heads = if config.has_branch_heads() { 2 } else { 0 };
            let output = forward(&net);
            assert_eq!(output.branches.len(), heads, "{strategy}, {loss}");
            let both = Output::concatenate(vec![forward(&net), forward(&net)]).unwrap();
            for (once, twice) in output.branches.iter().zip(&both.branches) {
                assert_eq!(once.scaled.size(), [3]);
                assert_eq!(twice.scaled.size(), [6]);
                assert_eq!(once.log_probabilities.is_some(), loss == "label_distribution");
            }
        }
    }
}
