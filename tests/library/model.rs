//! Properties of the network.

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{Config, FusionStrategy};
use vm_beautynet::models::{BeautyNet, ForwardContext, Images};

fn network(strategy: &str) -> BeautyNet {
    network_with(strategy, &[])
}

fn network_with(strategy: &str, more: &[&str]) -> BeautyNet {
    let mut overrides: Vec<String> = [
        "data.image_size=32",
        "model.vit={name: vit_micro_patch8_64, depth: 2}",
        "model.mamba={name: vim_micro_patch8_64, depth: 2, image_size: 32}",
        "model.fusion.dim=16",
        &format!("model.fusion.strategy={strategy}"),
    ]
    .map(str::to_string)
    .to_vec();
    overrides.extend(more.iter().map(|s| s.to_string()));
    tch::manual_seed(5);
    BeautyNet::new(&Config::from_yaml("", "test", &overrides).unwrap(), Device::Cpu).unwrap()
}

fn pixels(b: i64) -> Tensor {
    Tensor::randint(256, [b, 3, 32, 32], (Kind::Uint8, Device::Cpu))
}

#[test]
fn a_batch_predicts_what_its_images_predict_one_by_one() {
    let _alone = alone_with_the_generator();
    for strategy in FusionStrategy::ALL {
        let net = network(strategy.name());
        let images = pixels(4);
        let batch = net.forward(Images::Pixels(&images), ForwardContext::eval()).unwrap().score;
        for item in 0..4 {
            let one = net
                .forward(Images::Pixels(&images.narrow(0, item, 1)), ForwardContext::eval())
                .unwrap()
                .score;
            let difference = (one.double_value(&[0]) - batch.double_value(&[item])).abs();
            assert!(difference < 1e-5, "{strategy}: {difference}");
        }
    }
}

#[test]
fn every_parameter_receives_gradient() {
    let _alone = alone_with_the_generator();
    for strategy in FusionStrategy::ALL {
        let net = network(strategy.name());
        // Off its starting point: zero gate weights pass no gradient to what they read.
        for (_, parameter) in net.parameters().iter().filter(|(_, p)| p.requires_grad()) {
            let _guard = tch::no_grad_guard();
            let noise = parameter.randn_like() * 0.02;
            let _ = parameter.shallow_clone().g_add_(&noise);
        }
        let output = net.forward(Images::Pixels(&pixels(3)), ForwardContext::eval()).unwrap();
        output.prediction.scaled.square().sum(Kind::Float).backward();
        for (name, parameter) in net.parameters().iter().filter(|(_, p)| p.requires_grad()) {
            let gradient = parameter.grad();
            assert!(gradient.defined(), "{strategy}: {name} has no gradient");
            assert!(
                gradient.abs().max().double_value(&[]) > 0.0,
                "{strategy}: {name}'s gradient is zero"
            );
        }
    }
}

#[test]
fn branch_weights_sum_to_one_and_the_fused_vector_is_their_mixture() {
    let _alone = alone_with_the_generator();
    let net = network("weighted");
    let output = net.forward(Images::Pixels(&pixels(3)), ForwardContext::eval()).unwrap();
    let weights = output.weights.unwrap();
    assert_eq!(weights.size(), [3, 2]);
    // Learned scalars that start at zero: equal weights.
    assert!((weights - 0.5).abs().max().double_value(&[]) < 1e-6);

    let net = network("gated");
    let sums =
        net.forward(Images::Pixels(&pixels(3)), ForwardContext::eval()).unwrap().weights.unwrap();
    let sums = sums.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    assert!((sums - 1.0).abs().max().double_value(&[]) < 1e-6);
}

#[test]
fn pixels_are_normalized_with_the_presets_mean_and_std() {
    let _alone = alone_with_the_generator();
    let net = network("vit_only");
    let images = pixels(2);
    let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]);
    let (mean, std) = (channels([0.485, 0.456, 0.406]), channels([0.229, 0.224, 0.225]));
    let normalized = (images.to_kind(Kind::Float) / 255.0 - mean) / std;
    let by_hand =
        net.forward(Images::Normalized(&normalized), ForwardContext::eval()).unwrap().score;
    let by_model = net.forward(Images::Pixels(&images), ForwardContext::eval()).unwrap().score;
    assert!((by_hand - by_model).abs().max().double_value(&[]) < 1e-6);
}

#[test]
fn drop_path_and_dropout_act_in_training_only() {
    let _alone = alone_with_the_generator();
    let net = network("gated");
    let images = pixels(8);
    let (train, eval) = (ForwardContext::train(), ForwardContext::eval());
    let scores = |ctx: ForwardContext, seed: i64| {
        tch::manual_seed(seed);
        net.forward(Images::Pixels(&images), ctx).unwrap().score
    };
    assert!(scores(eval, 1).equal(&scores(eval, 2)));
    assert!(!scores(train, 1).equal(&scores(train, 2)));
    assert!(scores(train, 1).equal(&scores(train, 1)));
}

#[test]
fn drop_path_and_dropout_each_act_alone() {
    let _alone = alone_with_the_generator();
    let still = ["model.vit.drop_path=0", "model.mamba.drop_path=0", "model.head.dropout=0"];
    let images = pixels(16);
    let varies = |on: Option<&str>| {
        let set: Vec<&str> = still.into_iter().chain(on).collect();
        let net = network_with("gated", &set);
        let scores = |seed: i64| {
            tch::manual_seed(seed);
            net.forward(Images::Pixels(&images), ForwardContext::train()).unwrap().score
        };
        !scores(1).equal(&scores(2))
    };
    assert!(!varies(None));
    for on in ["model.vit.drop_path=0.5", "model.mamba.drop_path=0.5", "model.head.dropout=0.5"] {
        assert!(varies(Some(on)), "{on} is ignored");
    }
}

#[test]
fn convolutional_stems_encode_each_image_alone_and_train_every_parameter() {
    let _alone = alone_with_the_generator();
    for patch in [4, 8] {
        let stem = "depth: 1, stem: conv";
        let net = network_with(
            "concat",
            &[
                &format!("model.vit={{name: vit_micro_patch8_64, {stem}, patch_size: {patch}}}"),
                &format!("model.mamba={{name: vim_micro_patch8_64, {stem}, patch_size: {patch}}}"),
            ],
        );
        let images = pixels(3);
        let batch = net.forward(Images::Pixels(&images), ForwardContext::eval()).unwrap();
        assert_eq!(batch.vit.as_ref().unwrap().size(), [3, 96]);
        let last =
            net.forward(Images::Pixels(&images.narrow(0, 2, 1)), ForwardContext::eval()).unwrap();
        let difference = last.score.double_value(&[0]) - batch.score.double_value(&[2]);
        assert!(difference.abs() < 1e-5, "{difference}");
        batch.prediction.scaled.square().sum(Kind::Float).backward();
        let parameters = net.parameters();
        let stem = parameters.iter().filter(|(name, _)| name.contains(".patch_embed."));
        // Three of each convolution, which is one less for patches half as wide, and two of the
        // projection, in both branches.
        assert_eq!(stem.clone().count(), 2 * (3 * if patch == 8 { 3 } else { 2 } + 2));
        for (name, parameter) in stem {
            let gradient = parameter.grad().abs().max().double_value(&[]);
            assert!(gradient > 0.0, "{patch}: {name}");
        }
    }
}

#[test]
fn overlapping_patches_are_a_convolution() {
    let _alone = alone_with_the_generator();
    let net = network_with(
        "mamba_only",
        &[
            "model.mamba={name: vim_tiny_patch16_stride8_224, depth: 1, embed_dim: 32, image_size: 48}",
        ],
    );
    let parameters = net.parameters();
    let find = |name: &str| &parameters.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(find("mamba.pos_embed").size(), [1, 1 + 5 * 5, 32]);
    let x = Tensor::randn([2, 3, 48, 48], (Kind::Float, Device::Cpu));
    let (weight, bias) =
        (find("mamba.patch_embed.proj.weight"), find("mamba.patch_embed.proj.bias"));
    // By the definition, and through the model: its gradient by the bias counts the patches.
    let by_convolution = x.conv2d(weight, Some(bias), [8, 8], [0, 0], [1, 1], 1);
    assert_eq!(by_convolution.size(), [2, 32, 5, 5]);
    let output = net.forward(Images::Normalized(&x), ForwardContext::eval()).unwrap();
    assert_eq!(output.mamba.unwrap().size(), [2, 32]);
}

#[test]
fn images_of_another_size_are_refused_with_the_expected_size() {
    let _alone = alone_with_the_generator();
    let net = network("gated");
    let large = Tensor::zeros([1, 3, 48, 48], (Kind::Uint8, Device::Cpu));
    let error =
        net.forward(Images::Pixels(&large), ForwardContext::eval()).unwrap_err().to_string();
    assert!(error.contains("(batch, 3, 32, 32)") && error.contains("[1, 3, 48, 48]"), "{error}");
}
