//! Mixed precision, and losses and gradients that are not finite.

use std::fs;

use serde_json::Value;
use tch::Tensor;

use crate::sandbox::Sandbox;
use crate::sandbox::run::{CHECKPOINT, epochs, largest_difference, progress, train_arguments};

#[test]
fn mixed_precision_rounds_and_auto_is_float32_for_narrow_backbones_on_a_cpu() {
    let sandbox = Sandbox::new();
    for name in ["float32", "auto", "bf16", "fp16"] {
        let precision = format!("train.precision={name}");
        sandbox.train(name, &[&precision, "device=cpu"]);
    }
    let [float32, auto, bf16, fp16] =
        ["float32", "auto", "bf16", "fp16"].map(|run| sandbox.path(run));
    assert_eq!(largest_difference([&float32, &auto]), 0.0);
    // AdamW changes every weight by about the learning rate, 1e-3, in each of nine steps, in
    // whichever direction a rounded gradient points.
    for rounded in [&bf16, &fp16] {
        let difference = largest_difference([&float32, rounded]);
        assert!((1e-6..2e-2).contains(&difference), "{difference}");
    }
    assert!(progress(&float32)["loss_scale"].is_null() && progress(&bf16)["loss_scale"].is_null());
    let scale = progress(&fp16)["loss_scale"]["scale"].as_f64().unwrap();
    assert!((1.0..=65536.0).contains(&scale), "{scale}");
}

#[test]
fn checkpointed_activations_change_nothing_but_the_memory() {
    check_checkpointed_activations(&Sandbox::new());
}

#[test]
fn on_a_gpu_checkpointed_activations_change_nothing_and_mixed_precision_is_finite() {
    if let Some(sandbox) = Sandbox::on_a_gpu() {
        check_checkpointed_activations(&sandbox);
        check_deep_stack(&sandbox);
    }
}

fn check_checkpointed_activations(sandbox: &Sandbox) {
    for precision in ["float32", "bf16"] {
        let precision = format!("train.precision={precision}");
        let set = [&precision, "model.vit.drop_path=0.3", "model.mamba.depth=2"];
        sandbox.train("kept", &set);
        let again = [&set[..], &["train.checkpoint_activations=true"]].concat();
        sandbox.train("again", &again);
        let [kept, again] = ["kept", "again"].map(|run| sandbox.path(run));
        assert_eq!(largest_difference([&kept, &again]), 0.0, "{precision}");
        for run in [kept, again] {
            fs::remove_dir_all(run).unwrap();
        }
    }
}

#[test]
fn a_deep_stack_trains_in_mixed_precision_without_a_nan() {
    check_deep_stack(&Sandbox::new());
}

fn check_deep_stack(sandbox: &Sandbox) {
    // hustvl/Vim's issue 30: under autocast the loss becomes NaN within a few hundred steps.
    for precision in ["bf16", "fp16"] {
        sandbox.train(
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
        let losses: Vec<f64> =
            epochs.iter().map(|epoch| epoch["train_loss"].as_f64().unwrap()).collect();
        assert!(
            losses.iter().all(|loss| loss.is_finite() && *loss < 3.0),
            "{precision}: {losses:?}"
        );
        assert!(epochs.iter().all(|epoch| epoch["skipped_steps"] == 0));
        assert_eq!(epochs[9]["step"], 200);
    }
}

/// Writes 20 training images, one with such a large weight that the loss of its batch overflows.
fn write_overflowing_images(sandbox: &Sandbox) {
    let mut rows = String::from("image,score,split,weight\n");
    for i in 0..28u8 {
        sandbox.image(&format!("{i}.png"), i * 9);
        let split = if i < 20 { "train" } else { "val" };
        let (score, weight) = match i {
            4 => ("50".to_string(), "3e38"),
            _ => (format!("{}", i % 5), "1"),
        };
        rows += &format!("{i}.png,{score},{split},{weight}\n");
    }
    fs::write(sandbox.path("list.csv"), rows).unwrap();
}

#[test]
fn steps_that_are_not_finite_are_skipped_and_the_run_continues() {
    let sandbox = Sandbox::new();
    write_overflowing_images(&sandbox);
    let set = [
        "data.dataset=csv",
        "data.root=list.csv",
        "train.batch_size=4",
        "train.epochs=3",
        "data.augment={horizontal_flip: 0, rotation: 0, random_resized_crop: null, \
         color_jitter: [0, 0, 0, 0]}",
    ];
    let skip = [&set[..], &["train.on_nan=skip"]].concat();
    let errors = sandbox.log(&train_arguments("run", &skip));
    // The image is in one batch of each epoch.
    let skipped: Vec<&str> =
        errors.lines().filter(|line| line.starts_with("warning: skipped: step ")).collect();
    assert_eq!(skipped.len(), 3, "{errors}");
    assert!(skipped.iter().all(|line| line.contains("4.png")), "{errors}");
    let run = sandbox.path("run");
    let epochs = epochs(&run);
    for (i, epoch) in epochs.iter().enumerate() {
        assert_eq!((&epoch["skipped_steps"], &epoch["step"]), (&1.into(), &(5 * (i + 1)).into()));
        assert!(epoch["train_loss"].is_f64() && epoch["val"]["mae"].is_f64());
    }
    // The steps between them change the weights.
    assert_ne!(epochs[0]["train_loss"], epochs[2]["train_loss"]);
    assert_eq!(sandbox.read_json("run/summary.json")["skipped_steps"], 3);
    for (name, tensor) in Tensor::read_safetensors(run.join("last.safetensors")).unwrap() {
        assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name}");
    }
    // The JSON log has a line for each.
    let json = [&train_arguments("json", &skip)[..], &["--log-format", "json"]].concat();
    let lines = sandbox.log(&json);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(lines.filter(|line| line["event"] == "skipped").count(), 3);

    let (code, errors) = sandbox.fails(&train_arguments("stop", &set));
    assert_eq!(code, 1);
    assert!(errors.contains("4.png") && errors.contains("on_nan: skip"), "{errors}");
}

const DIVERGES: [&str; 3] =
    ["train.optimizer.lr=1.0e30", "train.clip_grad_norm=null", "train.schedule.warmup_epochs=0"];

#[test]
fn a_run_that_diverges_stops_and_saves_the_batch_and_the_norms() {
    let sandbox = Sandbox::new();
    let arguments = train_arguments("run", &DIVERGES);
    let (code, errors) = sandbox.fails(&arguments);
    assert_eq!(code, 1, "{errors}");
    for expected in [
        "step 2: the loss is",
        "the images were synthetic/train/",
        "on_nan: skip",
        "not_finite/step_2.json",
    ] {
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    }
    let kept = sandbox.path("run/not_finite");
    let report = sandbox.read_json("run/not_finite/step_2.json");
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
    let shapes: Vec<_> =
        batch.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect();
    assert!(
        shapes.contains(&("pixels", vec![16, 3, 32, 32]))
            && shapes.contains(&("targets", vec![16])),
        "{shapes:?}"
    );
    // The checkpoint is from the step before.
    assert_eq!(
        (
            progress(&sandbox.path("run"))["steps"].as_u64(),
            progress(&sandbox.path("run"))["within"]["batches"].as_u64()
        ),
        (Some(1), Some(1))
    );
    let (_, again) = sandbox.fails(&[&arguments[..], &["--resume"]].concat());
    let reason =
        |errors: &str| errors.lines().find(|line| line.starts_with("error: ")).unwrap().to_string();
    assert_eq!(reason(&errors), reason(&again));
}

/// One step per epoch, so that no later one notices what it did.
const ONE_STEP: [&str; 5] = [
    "train.batch_size=48",
    "train.schedule.name=constant",
    "train.epochs=1",
    "train.clip_grad_norm=null",
    "train.schedule.warmup_epochs=0",
];

#[test]
fn weights_that_an_epochs_last_step_breaks_are_not_kept() {
    let sandbox = Sandbox::new();
    for (run, lr, words) in [
        ("weights", "1.0e+39", "parameters not finite (fusion."),
        // Finite weights whose predictions overflow.
        ("predictions", "1.0e+30", "after epoch 1 predictions of validation images are not finite"),
    ] {
        let lr = format!("train.optimizer.lr={lr}");
        let set = [&ONE_STEP[..], &[&lr]].concat();
        let (code, errors) = sandbox.fails(&train_arguments(run, &set));
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains(words), "{errors}");
        assert!(errors.to_lowercase().contains("lower train.optimizer.lr"), "{errors}");
        for file in ["best.safetensors", "last.safetensors", "metrics.jsonl", CHECKPOINT] {
            assert!(!sandbox.path(run).join(file).exists(), "{file}");
        }
    }
    let report = sandbox.read_json("weights/not_finite/step_1.json");
    assert_eq!(report["updated"], true);
    assert!(report["broken_parameters"].as_array().unwrap().len() > 10, "{report}");
}

#[test]
fn weights_that_are_not_finite_end_a_run_that_skips_steps_too() {
    let sandbox = Sandbox::new();
    // After the epoch's only step, and where the next step has a loss that is not finite.
    for (run, batch, words) in [
        ("last", 48, "step 1: the loss is"),
        ("next", 16, "parameters were not finite before it (fusion."),
    ] {
        let batch = format!("train.batch_size={batch}");
        let set = [&ONE_STEP[..], &[&batch, "train.optimizer.lr=1.0e+39", "train.on_nan=skip"]];
        let (code, errors) = sandbox.fails(&train_arguments(run, &set.concat()));
        assert_eq!(code, 1, "{errors}");
        assert!(
            errors.contains(words) && errors.contains("Lower train.optimizer.lr. "),
            "{errors}"
        );
        assert!(!errors.contains("skip"), "{errors}");
        assert!(!sandbox.path(run).join(CHECKPOINT).exists());
    }
}

#[test]
fn a_run_whose_metrics_are_undefined_is_resumed_and_reported() {
    let sandbox = Sandbox::new();
    // The predictions of every epoch overflow.
    let skip = [&ONE_STEP[..], &["train.optimizer.lr=1.0e+30", "train.on_nan=skip"]].concat();
    let arguments = train_arguments("run", &skip);
    let errors = sandbox.log(&arguments);
    assert!(errors.contains("warning: train.monitor: the validation PC of epoch 1"), "{errors}");
    let metrics = fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    assert!(metrics.contains(r#""fusion_weights":[null,null]"#), "{metrics}");
    fs::remove_file(sandbox.path("run/summary.json")).unwrap();
    sandbox.done(&[&arguments[..], &["--resume"]].concat());
    sandbox.done(&["report", "run", "--output", "report.html"]);
}
