//! The published backbones: our names and shapes are theirs, and their files load, run and are
//! exported unchanged.
//!
//! The tests of large files and the measurements take a minute: `MALLOC_MMAP_THRESHOLD_=65536 cargo
//! test --release --test library published -- --ignored --nocapture --test-threads 1`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{BackboneConfig, Branch, Config, preset};
use vm_beautynet::export::{Layout, export};
use vm_beautynet::models::onnx::OnnxOptions;
use vm_beautynet::models::summary::summarize;
use vm_beautynet::models::weights::{self, WeightsFile};
use vm_beautynet::models::{BeautyNet, ForwardContext, Images};
use vm_beautynet::run::Run;
use vm_beautynet::run::memory::{peak_bytes, resident_bytes};

type Shapes = BTreeMap<String, Vec<i64>>;

/// Returns the parameter names and shapes of each published preset, classifier included.
fn manifests() -> BTreeMap<String, Shapes> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/golden/checkpoint_manifests.json");
    let manifests: BTreeMap<String, Shapes> =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(manifests.len(), 17);
    manifests
}

fn without_classifier(shapes: &Shapes) -> Shapes {
    let shapes = shapes.clone().into_iter();
    shapes.filter(|(name, _)| !is_classifier(name)).collect()
}

fn is_classifier(name: &str) -> bool {
    name.starts_with("head.") || name.starts_with("head_dist.")
}

fn branch(name: &str) -> Branch {
    preset(name).unwrap().shape.branch
}

fn config(name: &str, more: &[String]) -> Config {
    let (branch, preset) = (branch(name), preset(name).unwrap());
    let mut overrides = vec![
        format!("model.{branch}.name={name}"),
        format!("model.fusion.strategy={branch}_only"),
        format!("data.image_size={}", preset.shape.image_size),
    ];
    overrides.extend_from_slice(more);
    Config::from_yaml("", "published", &overrides).unwrap()
}

/// Returns random tensors under a manifest's names, like a file's.
fn random(shapes: &Shapes) -> Vec<(String, Tensor)> {
    let options = (Kind::Float, Device::Cpu);
    let tensors = shapes.iter();
    tensors.map(|(name, shape)| (name.clone(), Tensor::randn(shape, options) * 0.02)).collect()
}

#[test]
fn names_and_shapes_are_those_of_the_published_files() {
    let _alone = alone_with_the_generator();
    let block = |name: &str| name.split('.').nth(1).and_then(|number| number.parse::<i64>().ok());
    for (name, mut published) in manifests() {
        let depth = preset(&name).unwrap().shape.depth;
        assert_eq!(
            published.keys().filter_map(|name| block(name)).max(),
            Some(depth - 1),
            "{name}"
        );
        // All blocks are alike, and the largest model has more than a gigabyte of them.
        published.retain(|name, _| block(name).is_none_or(|block| block < 2));
        let two_blocks = config(&name, &[format!("model.{}.depth=2", branch(&name))]);
        let net = BeautyNet::without_pretrained(&two_blocks, Device::Cpu).unwrap();
        let parameters = net.branch_parameters(branch(&name));
        let ours: Shapes =
            parameters.into_iter().map(|(name, tensor)| (name, tensor.size())).collect();
        assert_eq!(ours, without_classifier(&published), "{name}");
    }
}

/// Loads a file of random values in both formats, runs it, exports it in both layouts, and
/// compares.
fn check_round_trip(name: &str, published: &Shapes) {
    tch::manual_seed(3);
    let folder = tempfile::tempdir().unwrap();
    let tensors = random(published);
    let branch = branch(name);
    for format in ["safetensors", "pth"] {
        let file = folder.path().join(format!("published.{format}"));
        match format {
            "pth" => weights::save_torch(&file, &tensors).unwrap(),
            _ => weights::save(&file, &tensors, Default::default()).unwrap(),
        }
        let config = config(name, &[format!("model.{branch}.weights={}", file.display())]);
        let net = BeautyNet::new(&config, Device::Cpu).unwrap();
        let side = config.data.image_size;
        let image = Tensor::randn([1, 3, side, side], (Kind::Float, Device::Cpu));
        let score = net.forward(Images::Normalized(&image), ForwardContext::eval()).unwrap().score;
        assert!(score.isfinite().all().int64_value(&[]) == 1, "{name}");

        let run = Run { config, net, weights: "best.safetensors".into() };
        let output = folder.path().join(format);
        export(&run, Layout::Safetensors, OnnxOptions::default(), &output).unwrap();
        export(&run, Layout::Timm, OnnxOptions::default(), &output).unwrap();
        let timm = match branch {
            Branch::Vit => "vit/model.safetensors",
            Branch::Mamba => "mamba/model.pth",
        };
        for exported in [format!("{branch}.safetensors"), timm.to_string()] {
            let mut file = WeightsFile::open(&output.join(&exported)).unwrap();
            assert_eq!(file.shapes(), without_classifier(published), "{exported}");
            for (name, tensor) in tensors.iter().filter(|(name, _)| !is_classifier(name)) {
                assert!(file.tensor(name).unwrap().equal(tensor), "{exported}: {name}");
            }
        }
    }
}

#[test]
fn a_published_file_loads_runs_and_is_exported_bit_for_bit() {
    let _alone = alone_with_the_generator();
    let manifests = manifests();
    for name in [
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vim_tiny_patch16_224",
        "mambar_small_patch16_224",
    ] {
        check_round_trip(name, &manifests[name]);
    }
}

#[test]
fn a_dinov2_file_of_518_pixels_loads_for_224() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dinov2.safetensors");
    for (name, special) in [("vit_small_patch14_dinov2", 1), ("vit_small_patch14_reg4_dinov2", 0)] {
        let mut published = random(&manifests()[name]);
        // What DINOv2's own files have in addition.
        published.push(("mask_token".into(), Tensor::zeros([1, 384], (Kind::Float, Device::Cpu))));
        weights::save(&file, &published, Default::default()).unwrap();
        let set = [format!("model.vit.weights={}", file.display()), "data.image_size=224".into()];
        let net = BeautyNet::new(&config(name, &set), Device::Cpu).unwrap();
        let notes: Vec<String> = net.notes().iter().map(ToString::to_string).collect();
        let resampled = "model.vit.weights: pos_embed was resampled from 37x37 to 16x16 patches";
        assert_eq!(notes, [resampled]);
        let find = |all: &[(String, Tensor)]| {
            let (_, tensor) = all.iter().find(|(name, _)| name == "pos_embed").unwrap();
            tensor.shallow_clone()
        };
        let (ours, theirs) = (find(&net.branch_parameters(Branch::Vit)), find(&published));
        assert_eq!(ours.size(), [1, special + 256, 384]);
        let rows = |tensor: &Tensor| tensor.narrow(1, 0, special);
        assert!(rows(&ours).equal(&rows(&theirs)), "{name}");
    }
}

#[test]
#[ignore = "takes a minute and some gigabytes"]
fn every_published_file_loads_runs_and_is_exported_bit_for_bit() {
    let _alone = alone_with_the_generator();
    for (name, published) in manifests() {
        check_round_trip(&name, &published);
    }
}

#[test]
fn timm_pools_an_exported_vit_as_its_features_are_made() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    for (name, features, pool) in [
        ("vit_small_patch14_dinov2", "cls", "token"),
        ("vit_small_patch14_dinov2", "mean", "avg"),
        ("vit_small_patch14_dinov2", "cls_mean", "token"),
        // timm's distilled models accept no other.
        ("deit_tiny_distilled_patch16_224", "mean", "token"),
    ] {
        let small = format!(
            "model.vit={{embed_dim: 24, depth: 1, num_heads: 3, image_size: 28, patch_size: 14, \
             features: {features}}}"
        );
        let config = config(name, &[small]);
        let net = BeautyNet::new(&config, Device::Cpu).unwrap();
        let run = Run { config, net, weights: "best.safetensors".into() };
        export(&run, Layout::Timm, OnnxOptions::default(), folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("vit/config.json")).unwrap();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["architecture"], name);
        assert_eq!(found["global_pool"], pool, "{name}, {features}");
        // timm would pool before the norm, and name it otherwise.
        let arguments = &found["model_args"];
        let expected = if pool == "avg" { "avg" } else { "" };
        assert_eq!(arguments["global_pool"].as_str().unwrap_or(""), expected, "{name}, {features}");
        assert_eq!(arguments["fc_norm"].as_bool().is_some(), pool == "avg", "{name}, {features}");
        let card = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        let timms = if pool == "avg" { "mean" } else { "cls" };
        let differs = format!("whose features in timm are `{timms}`, not `{features}`");
        assert_eq!(card.contains(&differs), features != timms, "{name}: {card}");
    }
}

/// Memory can be measured only if the C library returns freed memory immediately.
fn check_allocator() {
    assert!(
        std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_some(),
        "run this with MALLOC_MMAP_THRESHOLD_=65536"
    );
}

fn mebibytes(bytes: Option<u64>) -> f64 {
    bytes.unwrap() as f64 / f64::from(1 << 20)
}

#[test]
#[ignore = "measures time and memory: run it alone"]
fn a_vit_base_file_loads_within_a_second_without_a_second_copy_in_memory() {
    let _alone = alone_with_the_generator();
    check_allocator();
    let name = "vit_base_patch16_224";
    let folder = tempfile::tempdir().unwrap();
    let config = config(name, &[]);
    let net = BeautyNet::without_pretrained(&config, Device::Cpu).unwrap();
    let parameters = net.branch_parameters(Branch::Vit);
    for format in ["safetensors", "pth"] {
        let file = folder.path().join(format!("vit_base.{format}"));
        let tensors = random(&manifests()[name]);
        match format {
            "pth" => weights::save_torch(&file, &tensors).unwrap(),
            _ => weights::save(&file, &tensors, Default::default()).unwrap(),
        }
        drop(tensors);
        let backbone =
            BackboneConfig { weights: Some(file.clone().into()), ..config.model.vit.clone() };
        std::fs::write("/proc/self/clear_refs", "5").unwrap(); // resets the peak
        let (before, start) = (mebibytes(resident_bytes()), Instant::now());
        weights::load_backbone(&parameters, Branch::Vit, &backbone).unwrap();
        let (seconds, extra) = (start.elapsed().as_secs_f64(), mebibytes(peak_bytes()) - before);
        let size = std::fs::metadata(&file).unwrap().len() as f64 / f64::from(1 << 20);
        println!(
            "{format}: {size:.0} MiB in {seconds:.3} s, {extra:.0} MiB more memory at the peak"
        );
        assert!(seconds < 1.0, "{format}: {seconds} s");
        assert!(extra < 0.2 * size, "{format}: {extra} MiB more");
    }
}

#[test]
#[ignore = "measures memory: run it alone"]
fn the_forward_pass_keeps_the_memory_of_the_summary() {
    let _alone = alone_with_the_generator();
    check_allocator();
    for (name, batch) in [
        ("vit_tiny_patch16_224", 16),
        ("vit_small_patch14_reg4_dinov2", 8),
        ("vit_base_patch16_clip_quickgelu_224", 4),
        ("vim_tiny_patch16_224", 16),
        ("mambar_small_patch16_224", 8),
    ] {
        let config = config(name, &["data.image_size=224".into()]);
        let net = BeautyNet::new(&config, Device::Cpu).unwrap();
        let images = |count: i64| Tensor::randn([count, 3, 224, 224], (Kind::Float, Device::Cpu));
        drop(net.forward(Images::Normalized(&images(1)), ForwardContext::train()).unwrap());
        let images = images(batch);
        let before = mebibytes(resident_bytes());
        let output = net.forward(Images::Normalized(&images), ForwardContext::train()).unwrap();
        let kept = mebibytes(resident_bytes()) - before;
        let summary = summarize(&config).unwrap();
        let counted = (batch * summary.activation_bytes) as f64 / f64::from(1 << 20);
        println!("{name}: {kept:.0} MiB kept for {batch} images, {counted:.0} MiB counted");
        assert!((kept / counted - 1.0).abs() < 0.1, "{name}");
        drop(output);
    }
}
