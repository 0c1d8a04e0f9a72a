//! Weights that torch.save wrote: values, the choice of the state dict, and a file that would run a
//! command.

use tch::{Device, Kind, Tensor};
use vm_beautynet::config::Config;
use vm_beautynet::models::BeautyNet;
use vm_beautynet::models::weights::{StateDict, WeightsFile};

use crate::VIM_SIZES;
use crate::files::{assert_close, folder, matching};

fn values(values: &[f64], shape: &[i64]) -> Tensor {
    Tensor::from_slice(values).view(shape)
}

#[test]
fn every_tensor_of_a_plain_checkpoint_has_its_values() {
    let mut file = WeightsFile::open(&folder().join("checkpoint_plain.pth")).unwrap();
    let base = Tensor::arange(24, (Kind::Double, Device::Cpu)).view([4, 6]);
    let expected = [
        ("transposed", Kind::Float, base.transpose(0, 1)),
        ("view", Kind::Float, base.narrow(0, 1, 2).narrow(1, 2, 3)),
        ("half", Kind::Half, base.shallow_clone()),
        ("bfloat", Kind::BFloat16, base.shallow_clone()),
        ("double", Kind::Double, base.shallow_clone()),
        ("int64", Kind::Int64, values(&[0.0, 1.0, 2.0, 3.0, 4.0], &[5])),
        ("scalar", Kind::Float, values(&[3.5], &[])),
        ("empty", Kind::Float, values(&[], &[0, 3])),
        ("parameter", Kind::Float, base.shallow_clone()),
        ("bool_", Kind::Bool, values(&[1.0, 0.0], &[2])),
    ];
    let names: Vec<String> = file.shapes().into_keys().collect();
    assert_eq!(names.len(), expected.len(), "{names:?}");
    for (name, kind, expected) in expected {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.kind(), kind, "{name}");
        assert_eq!(tensor.size(), expected.size(), "{name}");
        assert!(tensor.to_kind(Kind::Double).equal(&expected), "{name}");
    }
}

/// The Vim of the training checkpoint, with its weights or their moving average.
fn network(ema: bool) -> BeautyNet {
    let case = &matching("vim_small", "_case")[0];
    let mut overrides = vec![
        "model.fusion.strategy=mamba_only".to_string(),
        "model.mamba.name=vim_tiny_patch16_224".to_string(),
        format!("model.mamba.weights={}", folder().join("checkpoint_training_style.pth").display()),
        format!("model.mamba.weights_ema={ema}"),
    ];
    for key in VIM_SIZES {
        if let Some(value) = case.meta(key) {
            overrides.push(format!("model.mamba.{key}={value}"));
        }
    }
    let config = Config::from_yaml("", "checkpoint", &overrides).unwrap();
    BeautyNet::new(&config, Device::Cpu).unwrap()
}

#[test]
fn a_training_checkpoint_loads_its_model_or_its_ema_weights() {
    let weights = matching("vim_small", "_case")[0].with_prefix("model.");
    assert!(weights.len() > 50);
    // The checkpoint's moving average is the weights halved.
    for (ema, factor) in [(false, 1.0), (true, 0.5)] {
        let loaded = network(ema).parameters();
        for (name, expected) in &weights {
            let full = format!("mamba.{name}");
            let (_, ours) = loaded.iter().find(|(n, _)| *n == full).unwrap();
            assert!(ours.equal(&(expected * factor)), "{name}, ema: {ema}");
        }
    }
}

#[test]
fn a_hostile_checkpoint_is_refused_by_name_and_nothing_runs() {
    let path = folder().join("checkpoint_hostile.pth");
    let error = format!("{:#}", WeightsFile::open(&path).unwrap_err());
    assert!(error.contains("checkpoint_hostile.pth") && error.contains("posix.system"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    for place in [std::env::current_dir().unwrap(), path.parent().unwrap().to_path_buf()] {
        assert!(!place.join("THIS_FILE_MUST_NOT_APPEAR").exists());
    }
}

#[test]
fn a_checkpoint_without_ema_weights_is_refused_by_that_name() {
    let path = folder().join("checkpoint_plain.pth");
    let error = WeightsFile::open_state_dict(&path, StateDict::Ema).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("no EMA weights") && error.contains("transposed"), "{error}");
}

#[test]
fn resampled_position_embeddings_are_timms() {
    for case in matching("vit_pos_embed", "") {
        let embedding = case.tensor("pos_embed");
        let depth_and_width = format!("embed_dim: {}, num_heads: 1, depth: 1", embedding.size()[2]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vit.safetensors");
        let side = |name: &str| -> i64 { name.split('x').next_back().unwrap().parse().unwrap() };
        let resampled = case.with_prefix("resampled_");
        assert!(!resampled.is_empty());
        for (name, expected) in resampled {
            let config = |side: i64, rest: &str| {
                let vit = format!(
                    "model.vit={{patch_size: 2, image_size: {}, {depth_and_width}{rest}}}",
                    2 * side
                );
                let overrides = ["model.fusion.strategy=vit_only".to_string(), vit];
                Config::from_yaml("", "resampled", &overrides).unwrap()
            };
            // A file as published for the old grid, with the embedding of the case.
            let old = ((embedding.size()[1] - 1) as f64).sqrt() as i64;
            let source = BeautyNet::new(&config(old, ""), Device::Cpu).unwrap();
            let published: Vec<_> = source
                .parameters()
                .into_iter()
                .filter_map(|(name, tensor)| {
                    let name = name.strip_prefix("vit.")?.to_string();
                    let tensor = match name.as_str() {
                        "pos_embed" => embedding.shallow_clone(),
                        _ => tensor,
                    };
                    Some((name, tensor))
                })
                .collect();
            vm_beautynet::models::weights::save(&file, &published, Default::default()).unwrap();

            let weights = format!(", weights: {:?}", file.display().to_string());
            let net = BeautyNet::new(&config(side(&name), &weights), Device::Cpu).unwrap();
            let parameters = net.parameters();
            let (_, ours) = parameters.iter().find(|(name, _)| name == "vit.pos_embed").unwrap();
            assert_close(&format!("resampled to {name}"), ours, &expected, 1e-4);
            assert!(
                net.notes()[0].text.contains("pos_embed was resampled from"),
                "{:?}",
                net.notes()
            );
        }
    }
}
