//! Mixed precision, and losses and gradients that are not finite.

mod sandbox;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tch::Tensor;
use vm_beautynet::models::weights::WeightsFile;
use vm_beautynet::train::precision::cpu_has_bf16;

use crate::sandbox::Sandbox;

fn train(sandbox: &Sandbox, run: &str, set: &[&str]) {
    let mut arguments = vec!["train", "small.yaml", "--output", run];
    arguments.extend(set.iter().flat_map(|set| ["--set", set]));
    sandbox.done(&arguments);
}

fn epochs(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// How far a run's checkpoint has come.
fn progress(run: &Path) -> Value {
    let file = run.join("state/checkpoint.safetensors");
    let metadata = WeightsFile::open(&file).unwrap().metadata();
    serde_json::from_str(&metadata["progress"]).unwrap()
}

/// The largest difference between two runs' last weights.
fn difference(a: &Path, b: &Path) -> f64 {
    let [a, b] = [a, b].map(|run| Tensor::read_safetensors(run.join("last.safetensors")).unwrap());
    let b: HashMap<String, Tensor> = b.into_iter().collect();
    let differences = a
        .iter()
        .map(|(name, a)| (a - &b[name]).abs().max().double_value(&[]));
    differences.fold(0.0, f64::max)
}

#[test]
fn mixed_precision_rounds_and_auto_takes_what_the_processor_has() {
    let sandbox = Sandbox::new();
    for name in ["float32", "auto", "bf16", "fp16"] {
        let precision = format!("train.precision={name}");
        train(&sandbox, name, &[&precision, "device=cpu"]);
    }
    let [float32, auto, bf16, fp16] =
        ["float32", "auto", "bf16", "fp16"].map(|run| sandbox.path(run));
    let native = if cpu_has_bf16() { &bf16 } else { &float32 };
    assert_eq!(difference(native, &auto), 0.0);
    // AdamW moves every weight by about its rate, 1e-3, in each of nine steps, whichever way a rounded gradient points.
    for rounded in [&bf16, &fp16] {
        let difference = difference(&float32, rounded);
        assert!((1e-6..2e-2).contains(&difference), "{difference}");
    }
    assert!(progress(&float32)["loss_scale"].is_null() && progress(&bf16)["loss_scale"].is_null());
    let scale = progress(&fp16)["loss_scale"]["scale"].as_f64().unwrap();
    assert!((1.0..=65536.0).contains(&scale), "{scale}");
}

#[test]
fn checkpointed_activations_change_nothing_but_the_memory() {
    let sandbox = Sandbox::new();
    for precision in ["float32", "bf16"] {
        let precision = format!("train.precision={precision}");
        let set = [&precision, "model.vit.drop_path=0.3", "model.mamba.depth=2"];
        train(&sandbox, "kept", &set);
        let again = [&set[..], &["train.checkpoint_activations=true"]].concat();
        train(&sandbox, "again", &again);
        let [kept, again] = ["kept", "again"].map(|run| sandbox.path(run));
        assert_eq!(difference(&kept, &again), 0.0, "{precision}");
        for run in [kept, again] {
            fs::remove_dir_all(run).unwrap();
        }
    }
}

#[test]
fn a_deep_stack_trains_in_mixed_precision_without_a_nan() {
    // hustvl/Vim's issue 30: under autocast the loss becomes NaN within some hundred steps.
    let sandbox = Sandbox::new();
    for precision in ["bf16", "fp16"] {
        train(
            &sandbox,
            precision,
            &[
                &format!("train.precision={precision}"),
                "train.epochs=10",
                "train.batch_size=8",
                "train.threads=null",
                "data.synthetic={train: 160, val: 16, test: 16}",
                "model.mamba={name: vim_micro_patch8_64, embed_dim: 32, depth: 24}",
                "model.vit={name: vit_micro_patch8_64, embed_dim: 24, depth: 12}",
            ],
        );
        let epochs = epochs(&sandbox.path(precision));
        let losses: Vec<f64> = epochs
            .iter()
            .map(|epoch| epoch["train_loss"].as_f64().unwrap())
            .collect();
        assert!(
            losses.iter().all(|loss| loss.is_finite() && *loss < 3.0),
            "{precision}: {losses:?}"
        );
        assert!(epochs.iter().all(|epoch| epoch["skipped"] == 0));
        assert_eq!(epochs[9]["step"], 200);
    }
}

const DIVERGES: [&str; 3] = [
    "train.optimizer.lr=1.0e30",
    "train.clip_grad_norm=null",
    "train.schedule.warmup_epochs=0",
];

#[test]
fn a_run_that_diverges_stops_and_keeps_what_shows_why() {
    let sandbox = Sandbox::new();
    let mut arguments = vec!["train", "small.yaml", "--output", "run"];
    arguments.extend(DIVERGES.iter().flat_map(|set| ["--set", set]));
    let (code, errors) = sandbox.fails(&arguments);
    assert_eq!(code, 1, "{errors}");
    for expected in [
        "step 2: the loss is",
        "the pictures were synthetic/train/",
        "on_nan: skip",
        "not_finite/step_2.json",
    ] {
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    }
    let kept = sandbox.path("run/not_finite");
    let report: Value =
        serde_json::from_slice(&fs::read(kept.join("step_2.json")).unwrap()).unwrap();
    assert_eq!(
        (&report["step"], &report["epoch"], &report["batch"]),
        (&2.into(), &1.into(), &2.into())
    );
    assert_eq!(report["images"].as_array().unwrap().len(), 16);
    let norms = report["gradient_norms"].as_object().unwrap();
    for module in ["vit.blocks.0", "mamba.layers.0", "fusion", "head"] {
        assert!(norms.contains_key(module), "{module} is not in {norms:?}");
    }
    let batch = Tensor::read_safetensors(kept.join("step_2.safetensors")).unwrap();
    let shapes: Vec<_> = batch
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.size()))
        .collect();
    assert!(
        shapes.contains(&("pixels", vec![16, 3, 32, 32]))
            && shapes.contains(&("targets", vec![16])),
        "{shapes:?}"
    );
    // The checkpoint is from just before.
    assert_eq!(
        (
            progress(&sandbox.path("run"))["steps"].as_u64(),
            progress(&sandbox.path("run"))["within"]["batches"].as_u64()
        ),
        (Some(1), Some(1))
    );
    let (_, again) = sandbox.fails(&[&arguments[..], &["--resume"]].concat());
    let reason = |errors: &str| {
        errors
            .lines()
            .find(|line| line.starts_with("error: "))
            .unwrap()
            .to_string()
    };
    assert_eq!(reason(&errors), reason(&again));
}
