//! Linear models on the features of frozen backbones.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;

#[test]
fn a_probe_has_the_metrics_of_any_run_and_a_report_reads_it() {
    let sandbox = Sandbox::new();
    let probe = ["probe", "small.yaml", "--json", "--output", "probe"];
    let result = sandbox.json(&probe);
    for (name, features) in [("vit", 24), ("mamba", 24), ("both", 48)] {
        let model = &result["models"][name];
        assert_eq!(model["features"], features, "{result}");
        for split in ["val", "test"] {
            assert_eq!(model[split]["n"], 16);
            assert!(model[split]["pc_ci"][0].is_number(), "{result}");
        }
        let file = fs::read_to_string(sandbox.path(&format!("probe/{name}/summary.json"))).unwrap();
        let summary: Value = serde_json::from_str(&file).unwrap();
        assert_eq!(summary["test"], model["test"]);
        assert_eq!(summary["baselines"], result["baselines"]);
        assert_eq!(summary["parameters"], features + 1);
    }
    let (code, error) = sandbox.fails(&probe);
    assert!(code == 1 && error.contains("--output"), "{error}");
    // A run's baselines are the same, and one report has both.
    sandbox.train_one_epoch("run");
    let file = fs::read_to_string(sandbox.path("run/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(summary["baselines"], result["baselines"]);
    let report = sandbox.json(&["report", "run", "probe", "-o", "r.html", "--no-images", "--json"]);
    assert_eq!(report["leaderboards"][0]["models"].as_array().unwrap().len(), 4, "{report:#}");
    let report = sandbox.json(&["report", "probe", "-o", "r.html", "--no-images", "--json"]);
    let selection = report["leaderboards"][0]["selection"][0].as_str().unwrap();
    assert!(selection.starts_with("Probes are fitted to the training images alone"), "{selection}");
}

#[test]
fn a_probe_is_of_a_configs_weights_or_of_a_runs() {
    let sandbox = Sandbox::new();
    let output = sandbox.run(&["probe", "small.yaml"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    for branch in ["vit", "mamba"] {
        assert!(errors.contains(&format!("model.{branch}.weights is null")), "{errors}");
    }
    let table = String::from_utf8(output.stdout).unwrap();
    for row in ["ridge on both", "ridge on the ViT", "linear model on 16×16 gray pixels"] {
        assert_eq!(table.matches(row).count(), 2, "{table}");
    }
    sandbox.train_one_epoch("run");
    let of_run = sandbox.json(&["probe", "run", "--json"]);
    sandbox.done(&["export", "run", "--output", "."]);
    let weights = "model={vit: {weights: vit.safetensors}, mamba: {weights: mamba.safetensors}}";
    let of_files = sandbox.json(&["probe", "small.yaml", "--json", "--set", weights]);
    assert_eq!(of_run["models"], of_files["models"]);
    let alone = ["model.fusion.strategy=vit_only", "train.evaluate_test=false", weights];
    let mut arguments = vec!["probe", "small.yaml", "--json"];
    arguments.extend(alone.iter().flat_map(|set| ["--set", set]));
    let alone = sandbox.json(&arguments);
    assert_eq!(alone["models"].as_object().unwrap().len(), 1);
    assert_eq!(alone["models"]["vit"]["val"], of_run["models"]["vit"]["val"]);
    assert!(alone["models"]["vit"]["test"].is_null(), "{alone}");
}
