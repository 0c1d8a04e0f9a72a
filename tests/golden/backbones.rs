//! The backbones against timm's ViTs and the published Vim and Mamba-Reg: tokens, features, and the gradient of
//! every parameter and of the input.

use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{Branch, Config};
use vm_beautynet::models::{BeautyNet, ForwardContext, Images, Tap};

use crate::files::{Reference, assert_close, matching};
use crate::gpu::gpu;
use crate::{VIM_SIZES, VIT_SIZES};

/// ViTs of other architectures: the prefix of their reference files, and a preset.
const DINOV2_AND_CLIP: [(&str, &str); 3] = [
    ("dinov2_small_", "vit_small_patch14_dinov2"),
    ("dinov2_reg4_", "vit_small_patch14_reg4_dinov2"),
    ("clip_", "vit_base_patch16_clip_quickgelu_224"),
];

/// Returns a network of one branch, in the sizes of the reference file's metadata and with its
/// weights; the head is one linear layer.
pub(crate) fn network(
    case: &Reference,
    branch: &str,
    preset: &str,
    sizes: &[&str],
    device: Device,
) -> BeautyNet {
    network_with("cls", case, branch, preset, sizes, device)
}

/// As [`network`], with these `features`.
fn network_with(
    features: &str,
    case: &Reference,
    branch: &str,
    preset: &str,
    sizes: &[&str],
    device: Device,
) -> BeautyNet {
    let mut overrides = vec![
        format!("model.fusion.strategy={branch}_only"),
        format!("model.{branch}.name={preset}"),
        format!("model.{branch}.features={features}"),
        "model.head.hidden=[]".to_string(),
    ];
    for key in sizes {
        if let Some(value) = case.meta(key) {
            overrides.push(format!("model.{branch}.{key}={value}"));
        }
    }
    let config = Config::from_yaml("", "reference", &overrides).unwrap();
    let net = BeautyNet::new(&config, device).unwrap();
    let _guard = tch::no_grad_guard();
    let weights = case.weights();
    let prefix = format!("{branch}.");
    let ours: Vec<_> = net
        .parameters()
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor)))
        .collect();
    let names = |list: &[(String, Tensor)]| list.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&weights), "{}", case.path.display());
    for ((_, target), (_, value)) in ours.iter().zip(&weights) {
        target.shallow_clone().copy_(value);
    }
    net
}

/// Checks the features that the file has under `features`, and the gradients, if it has a gradient
/// of these features.
fn check(case: &Reference, branch: &str, net: &BeautyNet, features: &str) {
    let input = case.tensor("input").copy().to_device(net.device()).set_requires_grad(true);
    let output = net.forward(Images::Normalized(&input), ForwardContext::eval()).unwrap();
    let ours = output.vit.or(output.mamba).unwrap();
    let name = case.path.display();
    assert_close(&format!("{name}: {features}"), &ours, &case.tensor(features), 1e-4);
    let Some(gradient) = case.optional(&format!("d{features}")) else {
        assert!(["features_cls", "features_mean"].contains(&features), "{name}: no d{features}");
        return;
    };
    (ours * gradient.to_device(net.device())).sum(Kind::Float).backward();
    assert_close(&format!("{name}: dinput"), &input.grad(), &case.tensor("dinput"), 1e-4);
    let expected = case.with_prefix("grad.");
    assert!(!expected.is_empty(), "{name}: no gradients");
    let parameters = net.parameters();
    for (parameter, gradient) in expected {
        let full = format!("{branch}.{parameter}");
        let (_, ours) = parameters.iter().find(|(n, _)| *n == full).unwrap();
        assert_close(&format!("{name}: grad of {parameter}"), &ours.grad(), &gradient, 1e-4);
    }
}

struct Untapped;

impl Tap for Untapped {}

fn check_tokens(case: &Reference, net: &BeautyNet) {
    let input = case.tensor("input").to_device(net.device());
    let tokens = net.branch_tokens(Branch::Vit, Images::Normalized(&input), &mut Untapped);
    let tokens = tokens.unwrap().unwrap();
    let name = case.path.display();
    assert_close(&format!("{name}: tokens"), tokens.tokens(), &case.tensor("tokens"), 1e-4);
}

fn check_vit(device: Device) {
    for case in matching("vit_", "_case") {
        let net = network(&case, "vit", "vit_tiny_patch16_224", &VIT_SIZES, device);
        check(&case, "vit", &net, "features");
    }
}

fn check_dinov2_and_clip(device: Device) {
    for (prefix, preset) in DINOV2_AND_CLIP {
        for case in matching(prefix, "_case") {
            for features in ["cls", "mean", "cls_mean"] {
                let net = network_with(features, &case, "vit", preset, &VIT_SIZES, device);
                check(&case, "vit", &net, &format!("features_{features}"));
                check_tokens(&case, &net);
            }
        }
    }
}

fn check_distilled(device: Device) {
    for case in matching("deit_distilled_", "_case") {
        let net = network(&case, "vit", "deit_tiny_distilled_patch16_224", &VIT_SIZES, device);
        check(&case, "vit", &net, "features");
        check_tokens(&case, &net);
    }
}

fn check_vim(device: Device) {
    for case in matching("vim_", "_case") {
        let net = network(&case, "mamba", "vim_tiny_patch16_224", &VIM_SIZES, device);
        check(&case, "mamba", &net, "features");
    }
}

fn check_mamba_reg(device: Device) {
    let presets =
        [("mambar_small_", "mambar_small_patch16_224"), ("mambar_few_", "mambar_micro_patch8_64")];
    for (prefix, preset) in presets {
        for case in matching(prefix, "_case") {
            let net = network(&case, "mamba", preset, &VIM_SIZES, device);
            check(&case, "mamba", &net, "features");
        }
    }
}

#[test]
fn mamba_reg_features_and_gradients_are_the_published_codes() {
    check_mamba_reg(Device::Cpu);
}

#[test]
fn vit_features_and_gradients_are_timms() {
    check_vit(Device::Cpu);
}

#[test]
fn dinov2_and_clip_have_timms_tokens_features_and_gradients() {
    check_dinov2_and_clip(Device::Cpu);
}

#[test]
fn a_distilled_deit_has_timms_tokens_features_and_gradients() {
    check_distilled(Device::Cpu);
}

#[test]
fn vim_features_and_gradients_are_the_published_codes() {
    check_vim(Device::Cpu);
}

#[test]
fn on_a_gpu_the_features_and_gradients_of_every_backbone_are_the_published_codes() {
    if let Some(device) = gpu() {
        check_vit(device);
        check_dinov2_and_clip(device);
        check_distilled(device);
        check_vim(device);
        check_mamba_reg(device);
    }
}
