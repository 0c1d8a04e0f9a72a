//! The backbones against timm's ViT and the published Vim: features, and the gradient of every
//! parameter and of the input.

use tch::{Device, Kind, Tensor};
use vm_beautynet::config::Config;
use vm_beautynet::models::{BeautyNet, ForwardContext, Images};

use crate::files::{Reference, assert_close, matching};
use crate::gpu::gpu;
use crate::{VIM_SIZES, VIT_SIZES};

/// Returns a network of one branch, in the sizes of the reference file's metadata and with its
/// weights; the head is one linear layer.
pub(crate) fn network(
    case: &Reference,
    branch: &str,
    preset: &str,
    sizes: &[&str],
    device: Device,
) -> BeautyNet {
    let mut overrides = vec![
        format!("model.fusion.strategy={branch}_only"),
        format!("model.{branch}.name={preset}"),
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
    let weights = case.with_prefix("model.");
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

fn check(case: &Reference, branch: &str, net: &BeautyNet) {
    let input = case.tensor("input").copy().to_device(net.device()).set_requires_grad(true);
    let output = net.forward(Images::Normalized(&input), ForwardContext::eval()).unwrap();
    let features = output.vit.or(output.mamba).unwrap();
    let name = case.path.display();
    assert_close(&format!("{name}: features"), &features, &case.tensor("features"), 1e-4);
    let gradient = case.tensor("dfeatures").to_device(net.device());
    (features * gradient).sum(Kind::Float).backward();
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

fn check_vit(device: Device) {
    for case in matching("vit_", "_case") {
        let net = network(&case, "vit", "vit_tiny_patch16_224", &VIT_SIZES, device);
        check(&case, "vit", &net);
    }
}

fn check_vim(device: Device) {
    for case in matching("vim_", "_case") {
        let net = network(&case, "mamba", "vim_tiny_patch16_224", &VIM_SIZES, device);
        check(&case, "mamba", &net);
    }
}

#[test]
fn vit_features_and_gradients_are_timms() {
    check_vit(Device::Cpu);
}

#[test]
fn vim_features_and_gradients_are_the_published_codes() {
    check_vim(Device::Cpu);
}

#[test]
fn on_a_gpu_the_features_and_gradients_of_both_backbones_are_the_published_codes() {
    if let Some(device) = gpu() {
        check_vit(device);
        check_vim(device);
    }
}
