//! `vmbeauty pretrain`, and runs that begin from what it wrote.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;
use crate::sandbox::run::{epochs, tensors, train_arguments};

const QUICK: &str = "pretrain={epochs: 2, batch_size: 16, warmup_epochs: 1}";

fn pretrain_arguments<'a>(folder: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = train_arguments(folder, set);
    arguments[0] = "pretrain";
    arguments
}

#[test]
fn a_run_begins_from_what_pretraining_wrote_and_says_so() {
    let sandbox = Sandbox::new();
    let table = sandbox.done(&pretrain_arguments("faces", &[QUICK]));
    assert!(table.contains("vit.safetensors") && table.contains("val loss"), "{table}");
    let faces = sandbox.path("faces");
    for name in ["pretrain.yaml", "reconstructions.png", "state/vit.safetensors"] {
        assert!(faces.join(name).exists(), "{name}");
    }
    let lines = epochs(&faces);
    let branches: Vec<&Value> = lines.iter().map(|line| &line["branch"]).collect();
    assert_eq!(branches, ["vit", "vit", "mamba", "mamba"]);

    let weights =
        ["model.vit.weights=faces/vit.safetensors", "model.mamba.weights=faces/mamba.safetensors"];
    // A rate of 0 holds the backbones where they began.
    let still = "train={epochs: 1, optimizer: {backbone_lr: 0}}";
    sandbox.train("run", &[weights[0], weights[1], still]);
    let run = tensors(&sandbox.path("run/last.safetensors"));
    let summary = sandbox.read_json("run/summary.json");
    for branch in ["vit", "mamba"] {
        let file = faces.join(format!("{branch}.safetensors"));
        for (name, tensor) in tensors(&file) {
            assert_eq!(run[&format!("{branch}.{name}")], tensor, "{branch}.{name}");
        }
        let began = &summary["starting_weights"][branch];
        assert_eq!(began["file"], format!("faces/{branch}.safetensors"));
        let hash = blake3::hash(&fs::read(file).unwrap()).to_hex().to_string();
        assert_eq!(began["blake3"], hash);
    }
    sandbox.train("random", &["train.epochs=1"]);
    assert!(sandbox.read_json("random/summary.json").get("starting_weights").is_none());

    let input =
        [("input", tch::Tensor::zeros([1, 3, 32, 32], (tch::Kind::Float, tch::Device::Cpu)))];
    tch::Tensor::write_safetensors(&input, sandbox.path("input.safetensors")).unwrap();
    let mut features = vec!["features", "small.yaml", "--input-tensor", "input.safetensors"];
    features.extend(["--output", "features.safetensors", "--set", weights[0], "--set", weights[1]]);
    sandbox.done(&features);
    assert_eq!(tensors(&sandbox.path("features.safetensors"))["vit"].size(), [1, 24]);
}

#[test]
fn keys_that_are_wrong_are_refused_by_name_and_a_folder_in_use_too() {
    let sandbox = Sandbox::new();
    for (set, says) in [
        ("pretrain.mask_ration=0.5", "did you mean pretrain.mask_ratio"),
        ("pretrain.mask_ratio=1.5", "pretrain.mask_ratio must be"),
        ("pretrain.mask_patch=4", "pretrain.mask_patch must be"),
        ("pretrain.augment.rotation=200", "pretrain.augment.rotation must be"),
    ] {
        let (code, errors) = sandbox.fails(&pretrain_arguments("out", &[set]));
        assert!(code == 2 && errors.contains(says), "{code} {errors}");
    }
    assert!(!sandbox.path("out").exists());
    sandbox.done(&pretrain_arguments("out", &[QUICK]));
    let (code, errors) = sandbox.fails(&pretrain_arguments("out", &[QUICK]));
    assert!(code == 1 && errors.contains("add --resume"), "{code} {errors}");
    let (code, errors) = sandbox.fails(&train_arguments("out", &[]));
    assert!(code == 1 && errors.contains("holds a pretraining"), "{code} {errors}");
    // Nothing is left to do, and nothing changes.
    let before = fs::read(sandbox.path("out/vit.safetensors")).unwrap();
    let mut resume = pretrain_arguments("out", &[QUICK]);
    resume.push("--resume");
    sandbox.done(&resume);
    assert!(before == fs::read(sandbox.path("out/vit.safetensors")).unwrap());
}

#[test]
fn the_console_is_that_of_train() {
    let sandbox = Sandbox::new();
    let quiet = sandbox.log(&[&pretrain_arguments("quiet", &[QUICK])[..], &["--quiet"]].concat());
    assert_eq!(quiet, "");
    let json = ["--log-format", "json"];
    let errors = sandbox.log(&[&pretrain_arguments("json", &[QUICK])[..], &json].concat());
    let lines: Vec<Value> =
        errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&Value> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["start", "epoch", "epoch", "start", "epoch", "epoch", "end"]);
    assert_eq!((&lines[0]["branch"], &lines[3]["branch"]), (&"vit".into(), &"mamba".into()));
    assert_eq!(lines[6]["status"], "finished");
    let records = epochs(&sandbox.path("json"));
    assert_eq!(records[1]["val_loss"], lines[2]["val_loss"]);
}
