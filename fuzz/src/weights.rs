//! Weights files: each must be read, or refused with an error that names it.

use std::fs;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{BackboneConfig, Branch};
use vm_beautynet::models::weights::{self, StateDict, WeightsFile};

/// Larger tensors are not read: one that repeats a value may have any shape.
const MAX_VALUES: i64 = 1 << 20;

/// Opens the bytes as a weights file, reads its tensors, and loads them as a run's and as a
/// published backbone's.
pub fn check(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("weights.pth");
    fs::write(&path, bytes).expect("a file is written");
    for wanted in [StateDict::Model, StateDict::Ema] {
        match WeightsFile::open_state_dict(&path, wanted) {
            Ok(file) => read_all(file),
            Err(error) => check_error(&path, &error),
        }
    }
    load(&path);
}

fn read_all(mut file: WeightsFile) {
    for (name, size) in file.shapes() {
        let values = size.iter().try_fold(1i64, |values, &size| values.checked_mul(size));
        if values.is_some_and(|values| values <= MAX_VALUES)
            && let Ok(tensor) = file.tensor(&name)
        {
            assert_eq!(tensor.size(), size, "{name}");
        }
    }
}

fn load(path: &Path) {
    let parameter = |(name, shape): (&str, &[i64])| {
        (name.to_string(), Tensor::zeros(shape, (Kind::Float, Device::Cpu)))
    };
    let parameters: Vec<(String, Tensor)> = [
        ("cls_token", &[1, 1, 4][..]),
        ("pos_embed", &[1, 5, 4]),
        ("patch_embed.proj.weight", &[4, 3, 2, 2]),
        ("x", &[4]),
    ]
    .map(parameter)
    .into();
    if let Err(error) = weights::load(&parameters, path) {
        check_error(path, &error);
    }
    for branch in [Branch::Vit, Branch::Mamba] {
        let weights = Some(path.to_path_buf());
        let config = BackboneConfig { weights, strict: false, ..BackboneConfig::default() };
        if let Err(error) = weights::load_backbone(&parameters, branch, &config) {
            check_error(path, &error);
        }
    }
}

fn check_error(path: &Path, error: &anyhow::Error) {
    let message = format!("{error:#}");
    let named = message.contains(&path.display().to_string());
    assert!(named && !message.contains('\n'), "{message}");
}
