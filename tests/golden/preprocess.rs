//! The evaluation transform gives the images of torchvision's.

use std::path::PathBuf;

use safetensors::SafeTensors;
use vm_beautynet::config::{DataConfig, Interpolation, Resize};
use vm_beautynet::data::{EvalTransform, Workspace, read_image};

use crate::files::folder;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("preprocess_") && name.ends_with(".png")
    });
    cases.sort();
    assert!(!cases.is_empty(), "{}: no file preprocess_*.png", folder().display());
    cases
}

/// Returns the transform that a key names: `squash_56_bicubic`, `short_side_64_bilinear_center_56`.
fn transform(key: &str) -> EvalTransform {
    let numbers: Vec<u32> = key.split('_').filter_map(|part| part.parse().ok()).collect();
    let (resize, size) = match numbers[..] {
        [size] => (Resize::Squash, size),
        [_, size] => (Resize::Crop, size),
        _ => panic!("no transform is called {key}"),
    };
    let interpolation =
        if key.contains("bicubic") { Interpolation::Bicubic } else { Interpolation::Bilinear };
    let config = DataConfig {
        image_size: size.into(),
        resize,
        interpolation,
        short_side: Some(numbers[0]),
        ..DataConfig::default()
    };
    EvalTransform::new(&config).unwrap()
}

#[test]
fn evaluation_images_equal_torchvisions() {
    for png in cases() {
        let image = read_image(&png).unwrap();
        let bytes = std::fs::read(png.with_extension("safetensors")).unwrap();
        for (key, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let transform = transform(&key);
            let mut ours = vec![0; 3 * transform.size().pow(2)];
            transform.apply(&image, &mut Workspace::default(), &mut ours).unwrap();
            let values =
                tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let plane = ours.len() / 3;
            let levels = values
                .enumerate()
                .map(|(index, value)| (value * STD[index / plane] + MEAN[index / plane]) * 255.0);
            let differences: Vec<f32> =
                levels.zip(&ours).map(|(level, ours)| (level - f32::from(*ours)).abs()).collect();
            assert_eq!(differences.len(), ours.len(), "{} {key}", png.display());
            let mean = differences.iter().sum::<f32>() / ours.len() as f32;
            let worst = differences.iter().copied().fold(0.0, f32::max);
            println!(
                "{} {key}: {mean:.4} gray levels on average, {worst:.2} at worst",
                png.display()
            );
            assert!(
                mean < 1.0 && worst < 3.01,
                "{} {key}: mean {mean}, worst {worst}",
                png.display()
            );
        }
    }
}
