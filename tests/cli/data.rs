//! `vmbeauty data` and `vmbeauty benchmark data`, as a user runs them.

use std::fs;

use crate::sandbox::Sandbox;
use serde_json::Value;

#[test]
fn a_preview_is_the_same_grid_each_time_and_says_where_it_is() {
    let sandbox = Sandbox::new();
    let preview = |name: &str, more: &[&str]| {
        let arguments =
            ["data", "preview", "small.yaml", "--images", "3", "--epochs", "2", "--output", name];
        sandbox.done(&[&arguments, more].concat());
        fs::read(sandbox.path(name)).unwrap()
    };
    let first = preview("grid.png", &[]);
    assert_eq!(image::load_from_memory(&first).unwrap().width(), 3 * 36 + 4);
    assert_eq!(first, preview("again.png", &[]));
    assert_ne!(first, preview("other.png", &["--set", "seed=8"]));
    assert_ne!(first, preview("val.png", &["--split", "val"]));
    preview("with_gallery.jpg", &["--gallery", "gallery"]);
    assert_eq!(fs::read_dir(sandbox.path("gallery")).unwrap().count(), 11);
    let refused = sandbox.run(&["data", "preview", "small.yaml", "--output", "grid.txt"]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && message.contains("grid.txt"), "{message}");
}

#[test]
fn a_check_is_printed_as_table_json_or_page() {
    let sandbox = Sandbox::new();
    for score in ["1", "2", "4.5"] {
        fs::create_dir_all(sandbox.path("faces").join(score)).unwrap();
        for index in 0..4u8 {
            let shade = index * 40 + score.len() as u8;
            image::RgbImage::from_fn(40, 40, |x, y| {
                image::Rgb([shade, x as u8, (x * y) as u8 ^ index])
            })
            .save(sandbox.path("faces").join(score).join(format!("{index}.png")))
            .unwrap();
        }
    }
    let check = |more: &[&str]| {
        let arguments = [
            "data",
            "check",
            "small.yaml",
            "--set",
            "data.dataset=folder",
            "--set",
            "data.root=faces",
        ];
        sandbox.done(&[&arguments, more].concat())
    };
    let table = check(&["--manifest", "manifest.csv"]);
    assert!(table.contains("4.150 to 4.500"), "{table}");
    assert_eq!(fs::read_to_string(sandbox.path("manifest.csv")).unwrap().lines().count(), 13);
    let json: Value = serde_json::from_str(&check(&["--format", "json"])).unwrap();
    assert_eq!(json, serde_json::from_str::<Value>(&check(&["--json"])).unwrap());
    let counts = json["splits"].as_array().unwrap().iter();
    assert_eq!(counts.map(|split| split["usable"].as_u64().unwrap()).sum::<u64>(), 12);
    assert!(check(&["--format", "html"]).starts_with("<!DOCTYPE html>"));
}

#[test]
fn the_benchmark_reports_its_keys_for_generated_files_and_a_folder() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("mine")).unwrap();
    image::RgbImage::new(30, 20).save(sandbox.path("mine/a.png")).unwrap();
    let report = sandbox.done(&[
        "benchmark",
        "data",
        "mine",
        "--seconds",
        "0",
        "--memory-images",
        "64",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&report).unwrap();
    for key in ["train_images_per_second_per_core", "eval_images_per_second_per_core", "scaling"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{report}");
    }
    assert_eq!(report["sets"].as_array().unwrap().len(), 3);
    assert!(report["memory"]["images"].as_u64().unwrap() >= 64);
    let empty = sandbox.run(&["benchmark", "data", "nowhere", "--seconds", "0"]);
    assert!(String::from_utf8_lossy(&empty.stderr).contains("nowhere"));
}

#[test]
fn test_time_flip_changes_predictions_and_mixing_trains() {
    let sandbox = Sandbox::new();
    sandbox.done(&[
        "train",
        "small.yaml",
        "--output",
        "run",
        "--set",
        "train.epochs=1",
        "--set",
        "data.augment.mixup=0.4",
        "--set",
        "data.augment.cutmix=1",
    ]);
    fs::copy(sandbox.path("run/config.yaml"), sandbox.path("resolved.yaml")).unwrap();
    let evaluate = || {
        let text = sandbox.done(&["evaluate", "run", "--split", "test", "--json"]);
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let plain = evaluate();
    let config = fs::read_to_string(sandbox.path("run/config.yaml")).unwrap();
    assert!(config.contains("test_time_flip: false"));
    fs::write(
        sandbox.path("run/config.yaml"),
        config.replace("test_time_flip: false", "test_time_flip: true"),
    )
    .unwrap();
    assert_ne!(plain, evaluate());
}
