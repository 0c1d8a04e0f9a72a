//! Which folders hold runs, and which runs belong to one model.

use std::fs;

use serde_json::Value;

use super::written::{Run, VAL, csv_rows, grouped, model, write_config};
use crate::sandbox::Sandbox;

fn run<'a>(set: &'a str, seed: u64, test: &'a [super::written::Row<'a>]) -> Run<'a> {
    Run { set, seed, val: &VAL, test: Some(test) }
}

#[test]
fn shards_of_a_sweep_from_several_machines_are_merged() {
    let sandbox = Sandbox::new();
    let (near, far) = (grouped(0.25), grouped(0.5));
    let sum = "model.fusion.strategy=sum";
    run("", 1, &near).write(&sandbox, "one/runs/strategy=gated,seed=1");
    run(sum, 2, &far).write(&sandbox, "one/runs/strategy=sum,seed=2");
    run("data.workers=7 train.threads=3 train.checkpoint_activations=true", 2, &far)
        .write(&sandbox, "two/runs/strategy=gated,seed=2");
    let sum_without_test = format!("{sum} train.evaluate_test=false");
    run(&sum_without_test, 1, &near).write(&sandbox, "two/runs/strategy=sum,seed=1");
    // Started on the first machine, finished on the second.
    write_config(&sandbox.path("one/runs/strategy=sum,seed=1"), sum, 1);
    // Copied from the second to the first.
    run("", 2, &far).write(&sandbox, "one/runs/strategy=gated,seed=2");

    let report = sandbox.json(&["report", "one", "two", "-o", "r.html", "--no-images", "--json"]);
    let models = report["leaderboards"][0]["models"].as_array().unwrap();
    assert_eq!(models.len(), 2, "{report:#}");
    for name in ["strategy=gated", "strategy=sum"] {
        let model = model(&report, name);
        assert_eq!(model["seeds"], serde_json::json!([1, 2]));
        assert!((model["metrics"]["mae"]["mean"].as_f64().unwrap() - 0.375).abs() < 1e-9);
    }
    let notes = report["notes"].to_string();
    assert!(notes.contains("is a copy of one/runs/strategy=gated,seed=2"), "{notes}");
}

#[test]
fn another_result_of_the_same_seed_is_another_model() {
    let sandbox = Sandbox::new();
    let (a, b) = (grouped(0.25), grouped(0.5));
    run("", 1, &a).write(&sandbox, "a/x");
    run("", 1, &b).write(&sandbox, "b/x");
    let report = sandbox.json(&["report", "a/x", "b/x", "-o", "r.html", "--no-images", "--json"]);
    assert_eq!(model(&report, "a: x")["seeds"], serde_json::json!([1]));
    assert_eq!(model(&report, "b: x")["seeds"], serde_json::json!([1]));
}

#[test]
fn folds_are_pooled_and_each_image_counts_once() {
    let sandbox = Sandbox::new();
    let all = grouped(0.5);
    for (fold, rows) in all.chunks(12).enumerate() {
        let set = format!("data.split=fold_{}_of_2", fold + 1);
        run(&set, 1, rows).write(&sandbox, &format!("cv/fold_{}_of_2", fold + 1));
    }
    let report = sandbox.json(&["report", "cv", "-o", "r.html", "--no-images", "--json"]);
    let model = model(&report, "cv");
    assert_eq!((&model["folds"], &model["images"]), (&Value::from(2), &Value::from(24)));
    let rows = csv_rows(&sandbox.path("r.csv"));
    assert_eq!(rows[0]["folds"], "2");
    assert_eq!(rows.len(), 1, "the baselines of one fold are not baselines of all folds");
}

#[test]
fn unfinished_runs_are_listed_and_skipped() {
    let sandbox = Sandbox::new();
    let test = grouped(0.5);
    run("", 1, &test).write(&sandbox, "s/runs/strategy=gated,seed=1");
    run("", 2, &test).write(&sandbox, "s/runs/strategy=gated,seed=2");
    fs::remove_file(sandbox.path("s/runs/strategy=gated,seed=2/summary.json")).unwrap();
    let failed = sandbox.path("s/runs/strategy=sum,seed=1");
    fs::create_dir_all(&failed).unwrap();
    fs::write(failed.join("failed.json"), "{\"error\": \"no <memory>\", \"code\": 1}").unwrap();
    let report = sandbox.json(&["report", "s", "-o", "r.html", "--no-images", "--json"]);
    assert_eq!(model(&report, "strategy=gated")["seeds"], serde_json::json!([1]));
    let status: Vec<&Value> =
        report["runs"].as_array().unwrap().iter().map(|run| &run["status"]).collect();
    assert_eq!(status, ["finished", "stopped", "failed"]);
    let rows = csv_rows(&sandbox.path("r.runs.csv"));
    assert_eq!(rows[1]["epochs"], "2 of 3");
    assert_eq!(rows[2]["status"], "failed: no <memory>");
    assert!(report["notes"].to_string().contains("seed 2, is skipped"));
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("1 of 3") && page.contains("no &lt;memory&gt;"));
}

#[test]
fn unfinished_runs_have_learning_curves() {
    let sandbox = Sandbox::new();
    run("", 1, &VAL).write(&sandbox, "r");
    fs::remove_file(sandbox.path("r/summary.json")).unwrap();
    let report = sandbox.json(&["report", "r", "-o", "r.html", "--no-images", "--json"]);
    assert_eq!(report["leaderboards"], serde_json::json!([]));
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("No run has finished yet") && page.contains("Validation PC"));
}

#[test]
fn a_trained_run_has_groups_and_images() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("run");
    let header = fs::read_to_string(sandbox.path("run/predictions_test.csv")).unwrap();
    assert!(header.starts_with("image,target,prediction,group,weight_vit"), "{header}");
    let summary = fs::read_to_string(sandbox.path("run/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let of_groups = &summary["baselines"]["test"]["group"];
    assert_eq!(of_groups["n"], 16);
    assert!(of_groups["mae"].as_f64().is_some_and(|mae| mae > 0.0));
    sandbox.done(&["report", "run", "-o", "r.html"]);
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    // Twelve synthetic faces, and the branches' weights.
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 12);
    assert!(page.contains("weight of the ViT branch"));
    assert!(page.contains("Errors by group"));
    sandbox.done(&["report", "run", "-o", "names.html", "--no-images"]);
    let names = fs::read_to_string(sandbox.path("names.html")).unwrap();
    assert!(!names.contains("data:image") && names.contains("Largest errors"));
}

#[test]
fn runs_that_differ_only_in_seed_have_the_name_that_they_share() {
    let sandbox = Sandbox::new();
    let test = grouped(0.5);
    for (folder, set, seed) in [
        ("gated-s1", "name=gated-s1", 1),
        ("gated-s2", "name=gated-s2", 2),
        ("sum-a", "name=same model.fusion.strategy=sum", 1),
        ("sum-b", "name=same model.fusion.strategy=sum", 2),
        ("concat-1", "name=same model.fusion.strategy=concat", 1),
        ("concat-2", "name=same model.fusion.strategy=concat", 2),
    ] {
        run(set, seed, &test).write(&sandbox, folder);
    }
    let mut arguments = vec!["report", "gated-s1", "gated-s2", "sum-a", "sum-b"];
    arguments.extend(["concat-1", "concat-2", "-o", "r.html", "--no-images", "--json"]);
    let report = sandbox.json(&arguments);
    for name in ["gated", "sum", "concat"] {
        assert_eq!(model(&report, name)["seeds"], serde_json::json!([1, 2]));
    }
}

#[test]
fn epochs_without_numbers_leave_gaps_in_the_curves() {
    let sandbox = Sandbox::new();
    run("", 1, &VAL).write(&sandbox, "r");
    let path = sandbox.path("r/metrics.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let mut undefined: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    undefined["epoch"] = 3.into();
    for key in
        ["train_loss", "val_loss", "lr", "backbone_lr", "images_per_second", "data_wait", "seconds"]
    {
        undefined[key] = Value::Null;
    }
    undefined["fusion_weights"] = serde_json::json!([null, null]);
    for metric in ["pc", "mae", "rmse", "srcc"] {
        undefined["val"][metric] = Value::Null;
    }
    fs::write(&path, format!("{lines}{undefined}\n")).unwrap();
    sandbox.done(&["report", "r", "-o", "r.html", "--no-images"]);
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    let curves = page.split("id=\"curves\"").nth(1).unwrap().split("</section>").next().unwrap();
    assert_eq!(curves.matches("<path class=\"l s0\" d=\"M").count(), 5, "{curves}");
    assert!(!curves.contains("NaN"), "{curves}");
    // Nothing is defined in any epoch.
    fs::write(&path, format!("{undefined}\n")).unwrap();
    sandbox.done(&["report", "r", "-o", "r.html", "--no-images"]);
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(!page.contains("NaN") && page.contains("Validation PC"));
}
