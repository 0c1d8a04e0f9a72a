//! Weights of a detector that ignores the image.

use std::fs;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use vm_beautynet::models::weights::save;

/// A layer's name, the shape of its weight, and the biases of an output.
type Layer = (&'static str, &'static [i64], &'static [f32]);

const LANDMARKS: [f32; 10] = [0.3, 0.7, 0.5, 0.35, 0.65, 0.4, 0.4, 0.6, 0.8, 0.8];

/// Writes the weights of a detector that takes every window for a face.
pub(super) fn finds_everywhere(folder: &Path) {
    write(folder, &[-5.0, 5.0]);
}

/// Writes the weights of a detector that finds no face.
pub(super) fn finds_nothing(folder: &Path) {
    write(folder, &[0.0, 0.0]);
}

fn write(folder: &Path, class: &[f32]) {
    let pnet: &[Layer] = &[
        ("conv1", &[10, 3, 3, 3], &[]),
        ("conv2", &[16, 10, 3, 3], &[]),
        ("conv3", &[32, 16, 3, 3], &[]),
        ("conv4_1", &[2, 32, 1, 1], &[0.0; 2]),
        ("conv4_2", &[4, 32, 1, 1], &[0.0; 4]),
    ];
    let rnet: &[Layer] = &[
        ("conv1", &[28, 3, 3, 3], &[]),
        ("conv2", &[48, 28, 3, 3], &[]),
        ("conv3", &[64, 48, 2, 2], &[]),
        ("dense4", &[128, 576], &[]),
        ("dense5_1", &[2, 128], &[0.0; 2]),
        ("dense5_2", &[4, 128], &[0.0; 4]),
    ];
    let onet: &[Layer] = &[
        ("conv1", &[32, 3, 3, 3], &[]),
        ("conv2", &[64, 32, 3, 3], &[]),
        ("conv3", &[64, 64, 3, 3], &[]),
        ("conv4", &[128, 64, 2, 2], &[]),
        ("dense5", &[256, 1152], &[]),
        ("dense6_1", &[2, 256], &[0.0; 2]),
        ("dense6_2", &[4, 256], &[0.0; 4]),
        ("dense6_3", &[10, 256], &LANDMARKS),
    ];
    fs::create_dir_all(folder).unwrap();
    for (file, layers) in [("pnet.pt", pnet), ("rnet.pt", rnet), ("onet.pt", onet)] {
        let mut tensors = Vec::new();
        for &(name, shape, biases) in layers {
            let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            let biases = match biases {
                // Followed by a PReLU.
                [] => {
                    let number = name.trim_start_matches(char::is_alphabetic);
                    tensors.push((format!("prelu{number}.weight"), zeros(&shape[..1])));
                    zeros(&shape[..1])
                }
                [_, _] => Tensor::from_slice(class),
                biases => Tensor::from_slice(biases),
            };
            tensors.push((format!("{name}.weight"), zeros(shape)));
            tensors.push((format!("{name}.bias"), biases));
        }
        save(&folder.join(file), &tensors, Default::default()).unwrap();
    }
}
