//! Maps against pytorch-grad-cam's.

use std::path::Path;

use tch::{Device, Kind, Tensor};
use vm_beautynet::config::Config;
use vm_beautynet::explain::{ExplainOptions, Explanation, Layers, Method, explain};
use vm_beautynet::models::{BeautyNet, ForwardContext, Images};

use crate::backbones::network;
use crate::files::{assert_close, matching};
use crate::{VIM_SIZES, VIT_SIZES};

/// Returns Grad-CAM maps at these blocks.
fn grad_cam(
    net: &BeautyNet,
    x: &Tensor,
    vit: Layers,
    mamba: Layers,
) -> anyhow::Result<Explanation> {
    let mut request = ExplainOptions::new(Method::GradCam);
    request.vit.layers = vit;
    request.mamba.layers = mamba;
    explain(net, Images::Normalized(x), &request)
}

/// Checks the score and both maps for every case of a backbone, in the network of the case's
/// weights file with one linear layer as its head.
fn check(prefix: &str, branch: &str, preset: &str, sizes: &[&str]) {
    let backbones = matching(&prefix[8..], "_case");
    for case in matching(prefix, "") {
        let name = case.path.display();
        let weights = case.meta("weights").unwrap().replace("_weights", "");
        let backbone = backbones
            .iter()
            .find(|file| file.path.file_name() == Path::new(&weights).file_name())
            .unwrap_or_else(|| panic!("{name}: no {weights}"));
        let net = network(backbone, branch, preset, sizes, Device::Cpu);
        {
            let _guard = tch::no_grad_guard();
            for (ours, value) in net.parameters().into_iter().filter_map(|(name, tensor)| {
                let key = name.strip_prefix("head.layers.0.")?;
                Some((tensor, case.tensor(&format!("head.{key}"))))
            }) {
                ours.shallow_clone().copy_(&value);
            }
        }
        let cam = grad_cam(&net, &case.tensor("input"), Layers::Last, Layers::Last).unwrap();
        let map = cam.vit.or(cam.mamba).unwrap();
        assert_close(&format!("{name}: score"), &cam.score, &case.tensor("score"), 1e-4);
        let image = map.image().unwrap().select(1, 0);
        assert_close(&format!("{name}: cam"), &image, &case.tensor("cam"), 1e-4);
        let (ours, theirs) = (map.grid.select(1, 0), case.tensor("cam_grid"));
        assert_close(&format!("{name}: cam_grid"), &ours, &theirs, 1e-4);
        let unused = net.parameters().into_iter().all(|(_, p)| !p.grad().defined());
        assert!(unused, "{name}: a map left gradients in the network");
    }
}

#[test]
fn vit_maps_are_pytorch_grad_cams() {
    check("gradcam_vit_", "vit", "vit_tiny_patch16_224", &VIT_SIZES);
}

#[test]
fn vim_maps_are_pytorch_grad_cams() {
    check("gradcam_vim_", "mamba", "vim_tiny_patch16_224", &VIM_SIZES);
}

#[test]
fn a_tapped_pass_predicts_the_score_of_a_plain_one_and_a_missing_block_is_refused() {
    let yaml = "
data: {image_size: 32}
model:
  vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 2}
  mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 3}
  fusion: {dim: 16}
";
    let config = Config::from_yaml(yaml, "small", &[]).unwrap();
    tch::manual_seed(1);
    let net = BeautyNet::new(&config, Device::Cpu).unwrap();
    let x = Tensor::randn([3, 3, 32, 32], (Kind::Float, Device::Cpu));
    let plain = net.forward(Images::Normalized(&x), ForwardContext::eval()).unwrap();
    let batch = grad_cam(&net, &x, Layers::One(0), Layers::One(1)).unwrap();
    assert_close("score", &batch.score, &plain.score.detach(), 1e-6);
    assert_close("weights", &batch.weights.unwrap(), &plain.weights.unwrap().detach(), 1e-6);
    let one = grad_cam(&net, &x.narrow(0, 1, 1), Layers::One(0), Layers::One(1)).unwrap();
    for (alone, batch) in [(one.vit, batch.vit), (one.mamba, batch.mamba)] {
        let batch = batch.unwrap().grid.narrow(0, 1, 1);
        assert_close("an image alone", &alone.unwrap().grid, &batch, 1e-4);
    }
    let error = grad_cam(&net, &x, Layers::Last, Layers::One(3)).unwrap_err();
    assert!(error.to_string().contains("Mamba branch has 3"), "{error}");
    let _guard = tch::no_grad_guard();
    assert!(grad_cam(&net, &x, Layers::Last, Layers::Last).is_err());
}
