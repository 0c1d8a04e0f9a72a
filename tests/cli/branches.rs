//! Balanced training of the two branches, as a run of the program.

use std::fs;

use serde_json::Value;
use vm_beautynet::eval::predictions::Predictions;

use crate::sandbox::Sandbox;
use crate::sandbox::events::{events, values};
use crate::sandbox::run::{epochs, tensors, train_arguments};

const HEADS: &str = "train.branch_loss=0.5";

fn last(sandbox: &Sandbox, run: &str) -> Vec<u8> {
    fs::read(sandbox.path(run).join("last.safetensors")).unwrap()
}

#[test]
fn a_run_reports_the_pc_of_each_branch_by_epoch_and_each_prediction_of_its_head() {
    let sandbox = Sandbox::new();
    let [table, console] = sandbox.succeeds(&train_arguments("run", &[HEADS]));
    let (run, log) = (sandbox.path("run"), events(&sandbox.path("run")));
    let logged = ["branches/pc_vit", "branches/pc_mamba"].map(|tag| values(&log, tag));
    let epochs = epochs(&run);
    for (at, epoch) in epochs.iter().enumerate() {
        let pc = [0, 1].map(|branch| epoch["branch_pc"][branch].as_f64().unwrap());
        for (pc, logged) in pc.iter().zip(&logged) {
            let (step, value) = &logged[at];
            assert_eq!(*step, epoch["step"].as_i64().unwrap());
            assert!((f64::from(value.get_simple_value()) - pc).abs() < 1e-6);
        }
        let shown = format!("  PC of vit {:.2} mamba {:.2}  weight of vit 0.", pc[0], pc[1]);
        assert!(console.contains(&shown), "{console}");
    }
    let best = epochs.iter().rposition(|epoch| epoch["best"] == true).unwrap();
    let predictions = Predictions::read(&run.join("predictions_val.csv")).unwrap();
    for (branch, name) in ["prediction_vit", "prediction_mamba"].into_iter().enumerate() {
        let pc = predictions.metrics_of(name).unwrap().unwrap().pc;
        let recorded = epochs[best]["branch_pc"][branch].as_f64().unwrap();
        assert!((pc - recorded).abs() < 1e-9, "{name}: {pc} {recorded}");
    }
    let of_vit = predictions.metrics_of("prediction_vit").unwrap().unwrap();
    let row = table.lines().find(|line| line.contains("the ViT's own head")).unwrap();
    assert!(row.starts_with("val") && row.contains(&format!("{:.4}", of_vit.pc)), "{table}");
    let summary = fs::read_to_string(run.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["branches"]["val"]["vit"]["pc"], of_vit.pc);
    assert!(summary["branches"]["test"]["mamba"]["mae"].is_f64(), "{summary}");
    // The same from the weights, which have the heads.
    let again = ["evaluate", "run", "--split", "val", "--predictions", "again.csv"];
    sandbox.done(&again);
    let again = Predictions::read(&sandbox.path("again.csv")).unwrap();
    for (name, column) in &predictions.extra {
        let pairs = column.iter().zip(again.column(name).unwrap());
        assert!(pairs.clone().count() == 16 && pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5));
    }

    sandbox.done(&["report", "run", "-o", "r.html", "--no-images"]);
    let table = fs::read_to_string(sandbox.path("r.branches.csv")).unwrap();
    let test = Predictions::read(&run.join("predictions_test.csv")).unwrap();
    let pc = test.metrics_of("prediction_vit").unwrap().unwrap().pc;
    assert!(table.starts_with("model,pc,") && table.contains(&format!(",{pc},")), "{table}");
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    for title in ["Branches", "Validation PC of the ViT's own head", "Mean weight of the ViT"] {
        assert!(page.contains(title), "{title}");
    }

    sandbox.done(&train_arguments("plain", &["train.epochs=1"]));
    let text = fs::read_to_string(sandbox.path("plain/metrics.jsonl")).unwrap();
    assert!(!text.contains("branch_pc"), "{text}");
    let csv = fs::read_to_string(sandbox.path("plain/predictions_val.csv")).unwrap();
    assert!(csv.starts_with("image,target,prediction,group,weight_vit,weight_mamba\n"), "{csv}");
}

#[test]
fn a_balanced_run_resumes_bit_for_bit() {
    let sandbox = Sandbox::new();
    let set = [HEADS, "train.ema_decay=0.5", "model.fusion.branch_dropout=0.5"];
    sandbox.done(&train_arguments("whole", &set));
    let stopped = [&train_arguments("stopped", &set)[..], &["--stop-after", "1"]].concat();
    sandbox.done(&stopped);
    sandbox.done(&[&train_arguments("stopped", &set)[..], &["--resume"]].concat());
    assert!(last(&sandbox, "whole") == last(&sandbox, "stopped"));
    let lines = |run: &str| -> Vec<Value> {
        let lines = epochs(&sandbox.path(run)).into_iter();
        lines.map(|line| line["branch_pc"].clone()).collect()
    };
    assert_eq!(lines("whole"), lines("stopped"));
    let other = train_arguments("whole", &["train.branch_loss=0.25", set[1], set[2]]);
    let (_, error) = sandbox.fails(&[&other[..], &["--resume"]].concat());
    assert!(error.contains("train.branch_loss 0.25, was 0.5"), "{error}");
}

#[test]
fn a_run_starts_from_one_with_or_without_the_branches_own_heads() {
    let sandbox = Sandbox::new();
    let frozen = ["train.epochs=1", "train.optimizer.lr=1e-12", "train.schedule.min_lr=0"];
    for (first, second) in [(HEADS, "train.branch_loss=0"), ("train.branch_loss=0", HEADS)] {
        let [from, to] = [format!("from-{second}"), format!("to-{second}")];
        sandbox.done(&train_arguments(&from, &["train.epochs=1", first]));
        let arguments = train_arguments(&to, &[&frozen[..], &[second]].concat());
        sandbox.done(&[&arguments[..], &["--from", &from]].concat());
        let [before, after] = [(&from, "best"), (&to, "last")]
            .map(|(run, file)| tensors(&sandbox.path(run).join(format!("{file}.safetensors"))));
        for (name, tensor) in before.iter().filter(|(name, _)| !name.starts_with("branch_heads")) {
            assert!((tensor - &after[name]).abs().max().double_value(&[]) < 1e-6, "{name}");
        }
        assert_eq!(after.contains_key("branch_heads.vit.weight"), second == HEADS);
    }
}

#[test]
fn an_exported_model_predicts_and_its_card_names_the_heads() {
    let sandbox = Sandbox::new();
    sandbox.done(&train_arguments("run", &[HEADS, "train.epochs=1"]));
    sandbox.done(&["export", "run", "--output", "out"]);
    let card = fs::read_to_string(sandbox.path("out/README.md")).unwrap();
    assert!(card.contains("- A linear head of each branch, which trained it"), "{card}");
    let vit = tensors(&sandbox.path("out/vit.safetensors"));
    assert!(vit.keys().all(|name| !name.contains("branch_heads")));
    sandbox.image("a.png", 90);
    let scores = ["run", "out/model.safetensors"].map(|model| {
        let rows = sandbox.json(&["predict", model, "a.png", "--format", "json"]);
        rows["predictions"][0]["score"].as_f64().unwrap()
    });
    assert_eq!(scores[0], scores[1]);
}

#[test]
fn a_run_starts_from_the_branches_of_two_runs_of_one_branch_each() {
    let sandbox = Sandbox::new();
    let alone = |branch: &str| {
        let strategy = format!("model.fusion.strategy={branch}_only");
        sandbox.done(&train_arguments(branch, &["train.epochs=1", &strategy, HEADS]));
        tensors(&sandbox.path(branch).join("best.safetensors"))
    };
    let stages = [alone("vit"), alone("mamba")];
    let set = [
        "model.vit.weights=vit/best.safetensors",
        "model.mamba.weights=mamba/best.safetensors",
        "train.freeze={vit: all, mamba: all, epochs: 1}",
        HEADS,
    ];
    let frozen = [&set[..], &["train.epochs=1"]].concat();
    sandbox.done(&train_arguments("frozen", &frozen));
    let both = tensors(&sandbox.path("frozen/last.safetensors"));
    for (branch, stage) in ["vit.", "mamba."].into_iter().zip(&stages) {
        let backbone = stage.iter().filter(|(name, _)| name.starts_with(branch));
        assert!(backbone.clone().count() > 10);
        for (name, tensor) in backbone {
            assert!(*tensor == both[name], "{name}");
        }
    }
    sandbox.done(&train_arguments("unfrozen", &[&set[..], &["train.epochs=2"]].concat()));
    let unfrozen = tensors(&sandbox.path("unfrozen/last.safetensors"));
    assert!(unfrozen["vit.pos_embed"] != both["vit.pos_embed"]);
}

#[test]
fn gradient_modulation_needs_the_branches_losses_and_resumes_bit_for_bit() {
    let sandbox = Sandbox::new();
    let (code, error) = sandbox.fails(&train_arguments("run", &["train.gradient_modulation=0.3"]));
    let words = "train.gradient_modulation 0.3 compares the losses of the branches' own heads, and \
                 train.branch_loss is 0: set that to 1, or remove this key";
    assert!(code == 2 && error.contains(words), "{error}");
    let set = [HEADS, "train.gradient_modulation=0.3", "train.optimizer.name=sgd"];
    sandbox.done(&train_arguments("whole", &set));
    let stopped = [&train_arguments("stopped", &set)[..], &["--stop-after", "2"]].concat();
    sandbox.done(&stopped);
    sandbox.done(&[&train_arguments("stopped", &set)[..], &["--resume"]].concat());
    assert!(last(&sandbox, "whole") == last(&sandbox, "stopped"));
}
