//! Weights files: what loads, and what is refused.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{Branch, Config};
use vm_beautynet::models::{BeautyNet, weights};

const MICRO: [&str; 4] = [
    "data.image_size=32",
    "model.vit={name: vit_micro_patch8_64, depth: 2}",
    "model.mamba={name: vim_micro_patch8_64, depth: 2}",
    "model.fusion.dim=16",
];

fn config(overrides: &[&str]) -> Config {
    let all: Vec<String> = MICRO.iter().chain(overrides).map(|s| s.to_string()).collect();
    Config::from_yaml("", "test", &all).unwrap()
}

fn network(overrides: &[&str]) -> BeautyNet {
    BeautyNet::new(&config(overrides), Device::Cpu).unwrap()
}

fn message(error: anyhow::Error) -> String {
    format!("{error:#}")
}

/// Writes the ViT's weights like a published file: without our prefix, with a classifier.
fn published_vit(net: &BeautyNet, path: &Path) {
    let mut tensors = net.branch_parameters(Branch::Vit);
    let options = (Kind::Float, Device::Cpu);
    tensors.push(("head.weight".into(), Tensor::zeros([1000, 96], options)));
    tensors.push(("head.bias".into(), Tensor::zeros([1000], options)));
    weights::save(path, &tensors, HashMap::new()).unwrap();
}

#[test]
fn saved_weights_load_bit_for_bit_with_the_scale_of_the_scores() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    tch::manual_seed(1);
    let mut net = network(&[]);
    net.head_mut().set_score_scale(5.5, 1.25);
    weights::save(&path, &net.parameters(), HashMap::new()).unwrap();
    tch::manual_seed(2);
    let other = network(&[]);
    weights::load(&other.parameters(), &path).unwrap();
    for ((name, a), (_, b)) in net.parameters().iter().zip(other.parameters()) {
        assert!(a.equal(&b), "{name}");
    }
}

#[test]
fn a_published_backbone_loads_without_its_classifier() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    tch::manual_seed(1);
    let source = network(&[]);
    published_vit(&source, &path);
    tch::manual_seed(2);
    let loaded = network(&[&format!("model.vit.weights={}", path.display())]);
    for ((name, a), (_, b)) in vit_parameters(&source).iter().zip(vit_parameters(&loaded)) {
        assert!(a.equal(&b), "{name}");
    }
}

#[test]
fn a_file_of_another_preset_is_refused_with_the_names_that_differ() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    published_vit(&network(&[]), &path);
    for (overrides, words) in [
        ("model.vit.depth=3", vec!["missing: blocks.2.attn.proj.bias"]),
        ("model.vit.depth=1", vec!["unexpected: blocks.1.attn.proj.bias"]),
        (
            "model.vit.embed_dim=48",
            vec!["of another shape", "([96] in the file, [48] in the model)"],
        ),
    ] {
        let weights = format!("model.vit.weights={}", path.display());
        let error = BeautyNet::new(&config(&[overrides, &weights]), Device::Cpu).unwrap_err();
        let text = message(error);
        for word in words.iter().chain(&["model.vit.weights", "vit.safetensors"]) {
            assert!(text.contains(word), "{text:?} does not contain {word}");
        }
    }
}

#[test]
fn an_error_lists_at_most_twenty_names_of_each_kind() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    published_vit(&network(&[]), &path);
    let weights = format!("model.vit.weights={}", path.display());
    let error = BeautyNet::new(&config(&["model.vit.depth=8", &weights]), Device::Cpu).unwrap_err();
    let text = message(error);
    assert!(text.contains("and 52 more"), "{text}");
    assert_eq!(text.matches("blocks.").count(), 20, "{text}");
}

fn vit_parameters(net: &BeautyNet) -> Vec<(String, Tensor)> {
    let all = net.parameters().into_iter();
    all.filter(|(name, _)| name.starts_with("vit.")).collect()
}

#[test]
fn a_file_with_a_wrappers_prefix_loads() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.pth");
    let source = network(&[]);
    let tensors: Vec<(String, Tensor)> = vit_parameters(&source)
        .into_iter()
        .map(|(name, tensor)| (name.replacen("vit.", "module._orig_mod.", 1), tensor))
        .collect();
    weights::save_torch(&path, &tensors).unwrap();
    let loaded = network(&[&format!("model.vit.weights={}", path.display())]);
    for ((name, a), (_, b)) in vit_parameters(&source).iter().zip(vit_parameters(&loaded)) {
        assert!(a.equal(&b), "{name}");
    }
    assert!(loaded.notes().is_empty(), "{:?}", loaded.notes());
}

#[test]
fn without_strict_what_fits_is_loaded_and_the_rest_is_noted() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    let source = network(&["model.vit.depth=1"]);
    published_vit(&source, &path);
    let weights = format!("model.vit.weights={}", path.display());
    tch::manual_seed(9);
    let loaded = network(&[&weights, "model.vit.strict=false"]);
    let parameters = loaded.parameters();
    for (name, expected) in vit_parameters(&source) {
        let (_, ours) = parameters.iter().find(|(n, _)| *n == name).unwrap();
        assert!(ours.equal(&expected), "{name}");
    }
    let [note] = loaded.notes() else {
        panic!("{:?}", loaded.notes());
    };
    assert!(note.contains("model.vit.weights: missing: blocks.1.attn.proj.bias"), "{note}");

    // A file of another model is refused nevertheless.
    let other = vec![("fc.weight".to_string(), Tensor::from(1.0f32))];
    weights::save(&path, &other, HashMap::new()).unwrap();
    let error = BeautyNet::new(&config(&[&weights, "model.vit.strict=false"]), Device::Cpu);
    let text = message(error.unwrap_err());
    assert!(text.contains("none of its names") && text.contains("unexpected: fc.weight"), "{text}");
}

#[test]
fn a_safetensors_file_has_no_ema_weights() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    published_vit(&network(&[]), &path);
    let weights = format!("model.vit.weights={}", path.display());
    let error = BeautyNet::new(&config(&[&weights, "model.vit.weights_ema=true"]), Device::Cpu);
    let text = message(error.unwrap_err());
    assert!(text.contains("no EMA weights"), "{text}");
}

#[test]
fn another_patch_and_image_size_resample_the_embeddings_of_both_branches() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let source = network(&[]);
    for (branch, at, resampled_at) in [(Branch::Vit, 0, 0), (Branch::Mamba, 8, 18)] {
        let path = folder.path().join(format!("{branch}.pth"));
        weights::save_torch(&path, &source.branch_parameters(branch)).unwrap();
        // From 4x4 patches of 8 pixels to 6x6 of 4.
        let loaded = network(&[
            &format!("model.{branch}.weights={}", path.display()),
            "data.image_size=24",
            &format!("model.{branch}.patch_size=4"),
        ]);
        let notes = loaded.notes().join("; ");
        assert!(notes.contains("from 4x4 to 6x6 patches"), "{notes}");
        assert!(notes.contains("from 8x8 to 4x4 pixels"), "{notes}");
        let [old, new] = [&source, &loaded].map(|net| {
            let parameters = net.branch_parameters(branch);
            parameters.into_iter().find(|(name, _)| name == "pos_embed").unwrap().1
        });
        assert_eq!(new.size(), [1, 37, 96]);
        assert!(new.select(1, resampled_at).equal(&old.select(1, at)), "{branch}");
    }
}

#[test]
fn damaged_files_are_one_line_errors_that_name_the_file() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let net = network(&[]);
    weights::save(&path, &net.parameters(), HashMap::new()).unwrap();
    let saved = fs::read(&path).unwrap();
    let header = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,16],"data_offsets":[0,8]}}"#;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut in the header", saved[..100].to_vec()),
        ("cut in the data", saved[..saved.len() - 1].to_vec()),
        ("with trailing bytes", [&saved[..], b"x"].concat()),
        ("not safetensors", b"PK\x03\x04 a zip file, as torch.save writes them".to_vec()),
        ("overlapping tensors", header(overlapping, 12)),
        ("a shape whose size overflows", header(huge, 8)),
        ("a header longer than memory", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
    ] {
        fs::write(&path, bytes).unwrap();
        let text = message(weights::load(&net.parameters(), &path).unwrap_err());
        assert!(text.contains("w.safetensors") && !text.contains('\n'), "{what}: {text:?}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let _alone = alone_with_the_generator();
    let error = weights::load(&[], Path::new("/nowhere/w.safetensors")).unwrap_err();
    assert!(message(error).contains("/nowhere/w.safetensors"));
}
