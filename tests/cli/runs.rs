//! Tests of `vmbeauty runs`.

use std::fs;
use std::time::Instant;

use serde_json::Value;

use crate::sandbox::Sandbox;
use crate::sandbox::run::train_arguments;

const SHORT: [&str; 2] = ["train.epochs=1", "train.tensorboard=false"];

fn with_key<'a>(run: &'a str, key: &'a str) -> Vec<&'a str> {
    train_arguments(run, &[&SHORT[..], &[key]].concat())
}

fn named<'a>(listed: &'a Value, name: &str) -> &'a Value {
    let runs = listed["runs"].as_array().unwrap();
    runs.iter().find(|run| run["name"] == name).unwrap_or_else(|| panic!("{name}: {listed}"))
}

#[test]
fn runs_below_a_folder_are_listed_with_status_metrics_and_what_differs() {
    let sandbox = Sandbox::new();
    sandbox.done(&with_key("all/first", "train.optimizer.lr=2e-3"));
    sandbox.done(&with_key("all/deep/second", "train.early_stopping.patience=1"));
    // A run that ends with an error is no stopped one, until it is resumed.
    let broken = with_key("all/broken", "train.optimizer.lr=1e30");
    let (_, errors) = sandbox.fails(&broken);
    let listed = sandbox.json(&["runs", "all", "--json"]);
    let names: Vec<&Value> =
        listed["runs"].as_array().unwrap().iter().map(|run| &run["name"]).collect();
    assert_eq!(names, ["broken", "deep/second", "first"], "the newest comes first");
    let first = named(&listed, "first");
    assert_eq!(
        (&first["status"], &first["epoch"], &first["epochs"]),
        (&"finished".into(), &1.into(), &1.into())
    );
    let summary = sandbox.read_json("all/first/summary.json");
    assert_eq!((&first["monitor"], &first["best"]), (&"pc".into(), &summary["val"]["pc"]));
    assert_eq!(first["test"]["pc"], summary["test"]["pc"]);
    assert_eq!(first["seconds"], summary["seconds"]);
    assert_eq!(first["differs"]["lr"], "0.002");
    assert_eq!(named(&listed, "deep/second")["differs"]["patience"], "1");
    let failed = named(&listed, "broken");
    assert_eq!(failed["status"], "failed");
    let error = failed["error"].as_str().unwrap();
    assert!(errors.contains(error), "{error}");

    let text = sandbox.done(&["runs", "all", "--sort", "name"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("run ") && lines[0].contains("val PC"), "{text}");
    assert!(lines[1].starts_with("broken") && lines[2].starts_with("deep/second"), "{text}");
    assert!(lines[3].contains(" lr=0.002"), "{text}");
    assert_eq!(lines[4], "3 runs: 1 failed, 2 finished");
    assert!(lines[5].starts_with("failed: broken: "), "{text}");
    assert!(sandbox.done(&["runs", "all/first"]).contains("1 run: 1 finished"));

    let (code, errors) = sandbox.fails(&["runs", "absent"]);
    assert_eq!(code, 1);
    assert!(errors.contains("absent (is it a folder with runs in it?)"), "{errors}");
    assert!(sandbox.fails(&["runs", "all", "--watch"]).1.contains("--watch refreshes a terminal"));
}

#[test]
fn a_run_whose_process_was_killed_is_stopped_and_a_live_one_running() {
    let sandbox = Sandbox::new();
    let endless = "train.epochs=100000";
    let mut child = sandbox
        .command(&train_arguments("runs/a", &[endless, SHORT[1]]))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = || sandbox.json(&["runs", "runs", "--json"])["runs"][0].clone();
    let begun = Instant::now();
    while !sandbox.path("runs/a/metrics.jsonl").exists() && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let running = status();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(running["status"], "running");
    assert!(running["seconds_left"].as_f64().unwrap() > 0.0, "{running}");
    let stopped = status();
    assert_eq!(stopped["status"], "stopped");
    assert!(stopped["epoch"].as_u64().unwrap() >= 1 && stopped["seconds_left"].is_null());
}

#[test]
fn five_hundred_runs_are_listed_in_seconds_and_a_damaged_one_does_not_hide_the_others() {
    let sandbox = Sandbox::new();
    sandbox.done(&with_key("runs/0", "seed=1"));
    let files = ["config.yaml", "summary.json", "metrics.jsonl"];
    for n in 1..500 {
        let run = sandbox.path(&format!("runs/{n}"));
        fs::create_dir_all(run.join("state")).unwrap();
        for file in files {
            fs::copy(sandbox.path("runs/0").join(file), run.join(file)).unwrap();
        }
    }
    fs::write(sandbox.path("runs/7/summary.json"), "{").unwrap();
    let begun = Instant::now();
    let text = sandbox.done(&["runs", "runs"]);
    // A second in an optimized build.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    assert!(text.contains("500 runs: 499 finished, 1 unreadable"), "{text}");
    assert!(text.contains("unreadable: 7: ") && text.contains("summary.json"), "{text}");
}

#[test]
fn a_dry_run_of_a_training_measures_steps_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path("cache");
    let keys = ["data.cache=disk", "data.cache_dir=cache", "train.early_stopping.patience=2"];
    let arguments = [&train_arguments("run", &keys)[..], &["--dry-run"]].concat();
    let text = sandbox.done(&arguments);
    assert!(
        text.starts_with(
            "small: 48 images to train, 16 to validate, 16 to test; 3 epochs\nat most about "
        ),
        "{text}"
    );
    for words in
        [" an epoch (", " of validation)", " steps of 16 images", "assumes that nothing else"]
    {
        assert!(text.contains(words), "{text}");
    }
    assert!(!cache.exists() && !sandbox.path("run").exists());
    let errors = sandbox.log(&[&arguments[..], &["--log-format", "json"]].concat());
    let event: Value = serde_json::from_str(errors.lines().last().unwrap()).unwrap();
    assert_eq!(event["event"], "estimate");
    assert!(
        event["seconds"].as_f64().unwrap() > 0.0 && event["estimate"]["steps"].as_u64() > Some(0)
    );
    // What a training would refuse, it refuses.
    sandbox.train_one_epoch("run");
    assert!(sandbox.fails(&arguments).1.contains("holds a run already"));
    let frozen = ["train.freeze={vit: all, mamba: all, views: 2}"];
    let frozen = [&train_arguments("frozen", &frozen)[..], &["--dry-run"]].concat();
    assert!(sandbox.done(&frozen).contains("the features of frozen backbones, once"));
}
