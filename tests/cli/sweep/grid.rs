//! Tests of `vmbeauty sweep`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::sandbox;

/// A grid of four points with two seeds each.
const GRID: &str = "
name: grid
base: small.yaml
set: {train.epochs: 2, train.tensorboard: false}
axes:
  model.fusion.strategy: [gated, vit_only]
  train.optimizer.lr: [1e-3, 3e-3]
seeds: [1, 2]
";

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Returns when each finished run's weights were written.
fn finished(sweep: &Path) -> BTreeMap<String, SystemTime> {
    let Ok(runs) = fs::read_dir(sweep.join("runs")) else {
        return BTreeMap::new();
    };
    runs.map(|run| run.unwrap().path())
        .filter(|run| run.join("summary.json").exists())
        .map(|run| {
            let name = run.file_name().unwrap().to_string_lossy().into_owned();
            let weights = fs::metadata(run.join("best.safetensors")).unwrap();
            (name, weights.modified().unwrap())
        })
        .collect()
}

#[test]
fn a_grid_has_a_folder_per_run_and_a_point_per_combination() {
    let sandbox = sandbox(GRID);
    let results =
        sandbox.json(&["sweep", "sweep.yaml", "--output", "out", "--jobs", "2", "--json"]);
    let out = sandbox.path("out");
    let expected: Vec<String> = ["gated", "vit_only"]
        .iter()
        .flat_map(|strategy| ["0.001", "0.003"].map(|lr| format!("strategy={strategy},lr={lr}")))
        .flat_map(|point| [1, 2].map(|seed| format!("{point},seed={seed}")))
        .collect();
    assert_eq!(names(&out.join("runs")), expected);
    assert_eq!(results, sandbox.read_json("out/results.json"));

    let points = results["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for point in points {
        let name = point["name"].as_str().unwrap();
        assert_eq!(
            (&point["seeds"], &point["images"]),
            (&serde_json::json!([1, 2]), &Value::from(16))
        );
        let rmse = [1, 2].map(|seed| {
            let summary = format!("out/runs/{name},seed={seed}/summary.json");
            let summary = sandbox.read_json(&summary);
            assert_eq!(summary["parameters"], point["parameters"]);
            summary["test"]["rmse"].as_f64().unwrap()
        });
        let metric = &point["metrics"]["rmse"];
        let close = |key: &str, expected: f64| {
            let value = metric[key].as_f64().unwrap();
            assert!((value - expected).abs() < 1e-9, "{name} {key}: {value} is not {expected}");
        };
        close("mean", (rmse[0] + rmse[1]) / 2.0);
        close("sd_over_seeds", (rmse[0] - rmse[1]).abs() / 2f64.sqrt());
        assert_eq!(metric["ci_over_images"].as_array().unwrap().len(), 2);
        assert!(point["flops"].as_i64().unwrap() > 0);
    }
    let pc = |point: &Value| point["val_pc"].as_f64().unwrap();
    assert!(points.windows(2).all(|pair| pc(&pair[0]) >= pc(&pair[1])));
    // Six pairs of points, four metrics.
    let comparisons = results["comparisons"].as_array().unwrap();
    assert_eq!(comparisons.len(), 24);
    for comparison in comparisons {
        let (p, holm) = (comparison["p"].as_f64().unwrap(), comparison["p_holm"].as_f64().unwrap());
        assert!(0.0 < p && p <= holm && holm <= 1.0);
    }

    let mut csv = csv::Reader::from_path(out.join("results.csv")).unwrap();
    let header = csv.headers().unwrap().clone();
    assert_eq!(&header[2], "model.fusion.strategy");
    let rows: Vec<csv::StringRecord> = csv.records().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), 8);
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    for row in &rows {
        let [value, lo, hi]: [f64; 3] = ["test_mae", "test_mae_lo", "test_mae_hi"]
            .map(|name| row[column(name)].parse().unwrap());
        assert!(lo < value && value < hi);
    }
    // Runs of different seeds were evaluated on the same images.
    let targets = |run: &str| -> Vec<String> {
        let text =
            fs::read_to_string(out.join("runs").join(run).join("predictions_test.csv")).unwrap();
        let first_two = |line: &str| line.splitn(3, ',').take(2).collect::<Vec<_>>().join(",");
        text.lines().map(first_two).collect()
    };
    assert_eq!(targets(&expected[0]), targets(&expected[1]));
}

#[test]
fn a_resumed_sweep_repeats_no_finished_run_and_ends_with_the_same_weights() {
    // Long enough that some runs are finished and some are running at any moment.
    let sweep = GRID.replace("train.epochs: 2", "train.epochs: 25");
    let sandbox = sandbox(&sweep);
    let out = sandbox.path("out");
    let arguments = ["sweep", "sweep.yaml", "--output", "out", "--jobs", "2"];
    let mut before = BTreeMap::new();
    for at_least in [1, 4] {
        let mut child = sandbox
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while finished(&out).len() < at_least && begun.elapsed() < Duration::from_secs(120) {
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(30));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = finished(&out);
        assert!(now.len() >= at_least, "only {} runs were done in time", now.len());
        assert!(now.len() < 8, "the sweep was done before it was killed");
        for (run, written) in &before {
            assert_eq!(now.get(run), Some(written), "{run} was run again");
        }
        before = now;
    }
    let results = sandbox.json(&[&arguments[..], &["--json"]].concat());
    let after = finished(&out);
    assert_eq!(after.len(), 8);
    for (run, written) in &before {
        assert_eq!(after.get(run), Some(written), "{run} was run again");
    }
    let runs = results["runs"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["status"] == "finished"));

    // The stopped and resumed runs are equal to those of an uninterrupted sweep, one at a time.
    sandbox.done(&["sweep", "sweep.yaml", "--output", "uninterrupted"]);
    for run in after.keys() {
        for file in ["predictions_test.csv", "last.safetensors"] {
            let of = |sweep: &str| {
                fs::read(sandbox.path(sweep).join("runs").join(run).join(file)).unwrap()
            };
            assert!(of("out") == of("uninterrupted"), "{run}/{file}");
        }
    }
}

#[test]
fn the_runs_of_a_killed_sweep_end_with_it() {
    let sandbox = sandbox(&GRID.replace("train.epochs: 2", "train.epochs: 100000"));
    let arguments = ["sweep", "sweep.yaml", "--output", "out"];
    let command = &mut sandbox.command(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let metrics = sandbox.path("out/runs/strategy=gated,lr=0.001,seed=1/metrics.jsonl");
    let wait = |until: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !until() && begun.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(20));
        }
        assert!(until());
    };
    wait(&|| metrics.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    // Its lock is free: the process that held it is gone.
    let lock = fs::File::open(metrics.with_file_name("state/lock")).unwrap();
    wait(&|| lock.try_lock().is_ok());
}

#[test]
fn a_failed_run_is_recorded_with_its_error_and_the_others_continue() {
    let sandbox = sandbox(
        "
name: weights
base: small.yaml
set: {train.epochs: 1, train.tensorboard: false}
axes: {model.vit.weights: [absent.safetensors, null]}
",
    );
    let arguments = ["sweep", "sweep.yaml", "--output", "out", "--json"];
    let output = sandbox.run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("FAILED") && errors.contains("absent.safetensors"), "{errors}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let states = |results: &Value| {
        let runs = results["runs"].as_array().unwrap().clone();
        runs.iter().map(|run| run["status"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(states(&results), ["failed", "finished"]);
    let error = results["runs"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("model.vit.weights: there is no file absent.safetensors"), "{error}");
    assert_eq!(results["points"].as_array().unwrap().len(), 1);

    // It is not run again until --retry-failed.
    let log = sandbox.path("out/runs/weights=absent.safetensors/train.log");
    let length = |path: &Path| fs::metadata(path).unwrap().len();
    let before = length(&log);
    assert_eq!(sandbox.run(&arguments).status.code(), Some(1));
    assert_eq!(length(&log), before);
    assert_eq!(sandbox.run(&[&arguments[..], &["--retry-failed"]].concat()).status.code(), Some(1));
    assert!(length(&log) > before);
}

#[test]
fn a_dry_run_lists_the_runs_and_estimates_their_time() {
    let sandbox = sandbox(GRID);
    let dry = ["sweep", "sweep.yaml", "--output", "out", "--dry-run"];
    let text = sandbox.done(&dry);
    let last = ["strategy=vit_only,lr=0.003,seed=2", "pending"];
    let listed = |line: &str| line.split_whitespace().take(3).eq([last[0], last[1], "about"]);
    assert!(text.lines().any(listed), "{text}");
    // Learning rates and seeds cost nothing: two configurations are measured.
    assert!(text.contains("8 of 8 runs are left: about "), "{text}");
    assert!(text.contains("of each of 2 configurations"), "{text}");
    assert_eq!(names(&sandbox.path("")), ["small.yaml", "sweep.yaml"]);
    sandbox.done(&["sweep", "sweep.yaml", "--output", "out", "--shard", "1/4"]);
    let listed = sandbox.json(&[&dry[..], &["--json", "--jobs", "3"]].concat());
    assert_eq!((&listed["left"], &listed["measured"]), (&6.into(), &2.into()));
    let runs = listed["runs"].as_array().unwrap();
    let seconds = |run: &Value| run["seconds"].as_f64().unwrap();
    let done: Vec<&Value> = runs.iter().filter(|run| run["status"] == "finished").collect();
    // Both finished runs are of one point, whose other runs there are none of.
    assert_eq!(done.len(), 2);
    let open = runs.iter().filter(|run| run["status"] == "pending");
    let sum: f64 = open.map(seconds).sum();
    assert!((listed["seconds_left"].as_f64().unwrap() - sum / 3.0).abs() < 1e-9);
}

#[test]
fn the_shards_together_are_the_sweep() {
    let sandbox = sandbox(GRID);
    let out = sandbox.path("out");
    for (shard, done) in [("1/3", 3), ("3/3", 5), ("2/3", 8)] {
        sandbox.done(&["sweep", "sweep.yaml", "--output", "out", "--shard", shard]);
        assert_eq!(finished(&out).len(), done, "{shard}");
    }
    assert_eq!(sandbox.read_json("out/results.json")["points"].as_array().unwrap().len(), 4);
}

#[test]
fn folds_are_pooled_before_points_are_compared() {
    let sandbox = sandbox(
        "
name: folds
base: small.yaml
set: {train.epochs: 1, train.tensorboard: false}
axes: {model.fusion.strategy: [sum, mamba_only]}
folds: 2
",
    );
    let results = sandbox.json(&["sweep", "sweep.yaml", "--output", "out", "--json"]);
    assert_eq!(results["points"][0]["images"], 48 + 16 + 16);
    assert_eq!(results["comparisons"].as_array().unwrap().len(), 4);
    assert_eq!(
        names(&sandbox.path("out/runs")),
        [
            "strategy=mamba_only,fold=1of2",
            "strategy=mamba_only,fold=2of2",
            "strategy=sum,fold=1of2",
            "strategy=sum,fold=2of2",
        ]
    );
}

#[test]
fn a_folder_of_another_sweep_and_a_wrong_sweep_are_refused() {
    let sandbox = sandbox(GRID);
    let arguments = ["sweep", "sweep.yaml", "--output", "out", "--shard", "1/8"];
    sandbox.done(&arguments);
    fs::write(sandbox.path("sweep.yaml"), GRID.replace("train.epochs: 2", "train.epochs: 3"))
        .unwrap();
    let (code, errors) = sandbox.fails(&arguments);
    assert_eq!(code, 1);
    assert!(
        errors.contains("strategy=gated,lr=0.001,seed=1") && errors.contains("--output"),
        "{errors}"
    );

    for (from, to, words) in [
        ("gated, ", "gatd, ", "did you mean gated?"),
        ("train.optimizer.lr", "train.optimizer.lrs", "did you mean train.optimizer.lr?"),
        ("small.yaml", "absent.yaml", "absent.yaml"),
        ("axes:", "axis:", "sweep.yaml:"),
    ] {
        fs::write(sandbox.path("sweep.yaml"), GRID.replacen(from, to, 1)).unwrap();
        let (code, errors) = sandbox.fails(&["sweep", "sweep.yaml", "--output", "other"]);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains(words), "{errors}");
    }
    assert!(!sandbox.path("other").exists());
    assert_eq!(sandbox.fails(&["sweep", "sweep.yaml", "--shard", "3/2"]).0, 2);
    assert_eq!(sandbox.fails(&["sweep", "sweep.yaml", "--jobs", "0"]).0, 2);
}

#[test]
fn a_run_that_another_sweep_has_started_is_in_use_and_has_not_failed() {
    let sandbox = sandbox(
        "name: s\nbase: small.yaml\nset: {train.epochs: 1, train.tensorboard: false}\n\
         seeds: [1, 2]\n",
    );
    // Another sweep's run holds the lock before its process has made the run directory.
    let run = sandbox.path("out/runs/seed=1");
    fs::create_dir_all(&run).unwrap();
    let log = fs::File::create(run.join("train.log")).unwrap();
    log.lock().unwrap();
    let [results, errors] = sandbox.succeeds(&["sweep", "sweep.yaml", "--output", "out", "--json"]);
    assert!(errors.contains("seed=1  skipped: another process is training it"), "{errors}");
    assert!(!run.join("failed.json").exists());
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(
        (&results["runs"][0]["status"], &results["runs"][1]["status"]),
        (&"pending".into(), &"finished".into())
    );
}

#[test]
fn names_that_are_too_long_for_a_folder_end_in_a_hash() {
    let axes: String = (1..=6)
        .map(|n| format!("  data.synthetic.{}: [{n}]\n", ["train", "val", "test"][n % 3]))
        .take(3)
        .collect();
    let long = format!("[{}]", ["0.123456789012345"; 4].join(", "));
    let sandbox = sandbox(&format!(
        "name: s\nbase: small.yaml\nset: {{train.epochs: 1, train.tensorboard: false}}\naxes:\n\
         {axes}  data.augment.color_jitter: [{long}]\n  data.augment.horizontal_flip: \
         [0.12345678901234567]\n  train.optimizer.weight_decay: [0.12345678901234567]\n  \
         train.optimizer.lr: [0.00012345678901234567]\n  model.head.dropout: \
         [0.12345678901234567]\n  model.vit.drop_path: [0.12345678901234567]\n  \
         model.mamba.drop_path: [0.12345678901234567]\nseeds: [18446744073709551615]\n"
    ));
    sandbox.done(&["sweep", "sweep.yaml", "--output", "out", "--quiet"]);
    let names = names(&sandbox.path("out/runs"));
    assert!(names[0].len() < 200 && names[0].ends_with(",seed=18446744073709551615"), "{names:?}");
}
