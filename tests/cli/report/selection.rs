//! What is selected, on which images, and what the report claims about it.

use std::fs;

use serde_json::Value;

use super::written::{Run, VAL, csv_rows, grouped};
use crate::sandbox::Sandbox;

const SUM: &str = "model.fusion.strategy=sum";

/// Writes a run per seed of a model whose test errors are `off`, with this validation PC.
fn write(sandbox: &Sandbox, name: &str, set: &str, seeds: &[u64], off: f64, val_pc: f64) {
    for &seed in seeds {
        let folder = format!("{name}-s{seed}");
        let test = grouped(off + seed as f64 / 100.0);
        Run { set, seed, val: &VAL, test: Some(&test) }.write(sandbox, &folder);
        let path = sandbox.path(&format!("{folder}/summary.json"));
        let mut summary: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        summary["val"]["pc"] = val_pc.into();
        fs::write(path, summary.to_string()).unwrap();
    }
}

fn report(sandbox: &Sandbox, more: &[&str]) -> Value {
    let runs = fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().path());
    let mut runs: Vec<String> = runs
        .filter(|path| path.join("summary.json").exists())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_string())
        .collect();
    runs.sort();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    let options = ["-o", "r.html", "--no-images", "--json"];
    sandbox.json(&[&["report"], &runs[..], &options, more].concat())
}

fn names(report: &Value) -> Vec<&str> {
    let models = report["leaderboards"][0]["models"].as_array().unwrap();
    models.iter().map(|model| model["name"].as_str().unwrap()).collect()
}

#[test]
fn validation_ranks_the_models_and_the_winner_on_test_is_named() {
    let sandbox = Sandbox::new();
    write(&sandbox, "chosen", "", &[1], 0.9, 0.8);
    write(&sandbox, "lucky", SUM, &[1], 0.1, 0.7);
    let by_val = report(&sandbox, &[]);
    assert_eq!(names(&by_val), ["chosen-s1", "lucky-s1"]);
    let board = &by_val["leaderboards"][0];
    assert_eq!((&board["ranked_by"], &board["winners"]["pc"]), (&"val".into(), &"lucky-s1".into()));
    let rows = csv_rows(&sandbox.path("r.csv"));
    let place = |at: usize| {
        let row = &rows[at];
        (row["model"].as_str(), row["val_pc"].as_str(), row["rank_on_split"].as_str())
    };
    assert_eq!((place(0), place(1)), (("chosen-s1", "0.8", "2"), ("lucky-s1", "0.7", "1")));
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    let markdown = fs::read_to_string(sandbox.path("r.md")).unwrap();
    for text in [&page, &markdown] {
        for words in [
            "chosen-s1 is selected among 2 models by its mean validation PC (0.8000)",
            "Validation&#39;s winner is not test&#39;s: on the test images lucky-s1 has the better PC",
            "2 of 2 models have fewer than 3 seeds",
        ] {
            let plain = words.replace("&#39;", "'");
            assert!(text.contains(words) || text.contains(&plain), "{words}: {text}");
        }
    }
    let by_test = report(&sandbox, &["--rank-by", "test"]);
    assert_eq!(names(&by_test), ["lucky-s1", "chosen-s1"]);
    let said = by_test["leaderboards"][0]["selection"].to_string();
    assert!(said.contains("its metrics are optimistic"), "{said}");
    let run = ["report", "chosen-s1", "-o", "r.html", "--split", "val", "--rank-by", "test"];
    let (_, error) = sandbox.fails(&run);
    assert!(error.contains("--rank-by test needs --split test"), "{error}");
}

#[test]
fn every_metric_is_compared_over_images_and_seeds_and_few_seeds_claim_nothing() {
    let sandbox = Sandbox::new();
    write(&sandbox, "good", "", &[1, 2, 3], 0.1, 0.8);
    write(&sandbox, "bad", SUM, &[1, 2, 3], 0.9, 0.7);
    let three = report(&sandbox, &[]);
    let significant = |metric: &str| {
        let rows = three["leaderboards"][0]["comparisons"].as_array().unwrap();
        let row = rows.iter().find(|row| row["metric"] == metric).unwrap();
        assert_eq!(row["seeds"], 3);
        let [lo, hi] = [0, 1].map(|end| row["ci"][end].as_f64().unwrap());
        (lo * hi > 0.0, row["p_holm"].as_f64().unwrap() < 0.05)
    };
    for metric in ["pc", "mae", "rmse", "srcc"] {
        assert_eq!(significant(metric), (true, true), "{metric}");
    }
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("The other model's PC differs significantly"), "{page}");
    assert!(!page.contains("fewer than 3 seeds:"));

    fs::remove_dir_all(sandbox.path("bad-s3")).unwrap();
    let two = report(&sandbox, &[]);
    assert!(two["leaderboards"][0]["selection"].to_string().contains("1 of 2 models have fewer"));
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("Fewer than 3 seeds: too few to claim a difference in PC"), "{page}");
}

#[test]
fn curves_have_a_line_for_each_seed_and_one_for_their_mean() {
    let sandbox = Sandbox::new();
    write(&sandbox, "gated", "", &[1, 2], 0.1, 0.8);
    report(&sandbox, &[]);
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    let count = |words: &str| page.matches(words).count();
    // Four charts: two metrics and two losses.
    assert_eq!(count(": mean of 2 runs</title>"), 4);
    assert_eq!((count("l thin s0"), count("<title>gated-s1</title>")), (8, 4));
}

#[test]
fn two_models_are_compared_on_the_same_images_by_group_and_where_they_disagree() {
    let sandbox = Sandbox::new();
    write(&sandbox, "good", "", &[1], 0.1, 0.8);
    write(&sandbox, "bad", SUM, &[1], 0.9, 0.7);
    let report = report(&sandbox, &["--compare", "bad-s1", "good-s1"]);
    let two = &report["compared"];
    assert_eq!(two["names"], serde_json::json!(["bad-s1", "good-s1"]));
    // Errors 0.91 and 0.11 on each image.
    assert!((two["differences"][1]["difference"].as_f64().unwrap() - 0.8).abs() < 1e-9);
    assert_eq!(two["closer"], serde_json::json!([0, 24]));
    assert_eq!(two["disagreements"].as_array().unwrap().len(), 12);
    for disagreement in two["disagreements"].as_array().unwrap() {
        for prediction in disagreement["predictions"].as_array().unwrap() {
            let digits = prediction.to_string().len();
            assert!(digits <= "4.8333335".len(), "{prediction} has more digits than a prediction");
        }
    }
    let rows = csv_rows(&sandbox.path("r.compare-by-group.csv"));
    let women = rows.iter().find(|row| row["subset"] == "female").unwrap();
    let close = |key: &str, expected: f64| {
        assert!((women[key].parse::<f64>().unwrap() - expected).abs() < 1e-9, "{key}");
    };
    close("mae_difference", 0.8);
    close("bias_first", 0.91);
    close("bias_second", 0.11);
    assert!(women["mae_difference_lo"].parse::<f64>().is_ok());
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("good-s1 on 24.") && page.contains("Largest disagreements"), "{page}");
    let wrong = ["report", "good-s1", "bad-s1", "-o", "r.html", "--compare", "good-s1", "gone"];
    let (_, error) = sandbox.fails(&wrong);
    assert!(error.contains("name two models of one leaderboard: good-s1, bad-s1"), "{error}");
}

/// Writes a sweep of this many points.
fn write_sweep(sandbox: &Sandbox, points: usize) {
    for point in 0..points {
        let set = format!(
            "train.optimizer.lr={:.6} model.head.dropout={}",
            1e-5 * 1.7f64.powi(point as i32),
            0.02 * ((point * 3) % points) as f64
        );
        let test = grouped(0.1 + point as f64 / 50.0);
        let folder = format!("sweep/runs/lr={point},seed=1");
        Run { set: &set, seed: 1, val: &VAL, test: Some(&test) }.write(sandbox, &folder);
        let path = sandbox.path(&format!("{folder}/metrics.jsonl"));
        let lines = fs::read_to_string(&path).unwrap();
        let pc = format!("\"pc\":{}", 0.9 - 0.03 * point as f64);
        fs::write(path, lines.replace("\"pc\":0.2", &pc)).unwrap();
    }
}

#[test]
fn a_search_is_shown_with_the_importance_of_its_axes_and_its_budget() {
    let sandbox = Sandbox::new();
    write_sweep(&sandbox, 8);
    let stopped = sandbox.path("sweep/runs/lr=7,seed=1");
    fs::remove_file(stopped.join("summary.json")).unwrap();
    let report = sandbox.json(&["report", "sweep", "-o", "r.html", "--no-images", "--json"]);
    let search = &report["searches"][0];
    assert_eq!(search["axes"][0]["key"], "train.optimizer.lr");
    assert!(search["axes"][0]["importance"].as_f64().unwrap() > 0.7, "{search:#}");
    assert!(search["axes"][1]["importance"].as_f64().unwrap() < 0.5, "{search:#}");
    assert_eq!((&search["epochs"], &search["all_epochs"]), (&16.into(), &24.into()));
    assert_eq!((&search["finished"], &search["points"][0]["epochs"]), (&7.into(), &2.into()));
    let page = fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.contains("8 runs trained 16 of 24 epochs (67 %): 7 are finished."), "{page}");
    // A logarithmic axis has powers of ten.
    assert!(page.contains(">1e−5</text>") || page.contains(">1e−4</text>"), "{page}");
}
