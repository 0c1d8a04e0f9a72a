//! Tests of searches that stop runs: successive halving and the median rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::sandbox;
use crate::sandbox::Sandbox;
use crate::sandbox::run::{epochs, tensors, train_arguments};

/// Seven points, of which two are promoted to the second rung and one is trained to the end.
const ASHA: &str = "
name: asha
base: small.yaml
set: {train.epochs: 6, train.tensorboard: false}
axes:
  train.optimizer.lr: {log_uniform: [1e-5, 1e-2]}
  model.fusion.strategy: [gated, sum]
search: {name: asha, max_runs: 7, min_epochs: 1, metric: rmse}
";
const RUN: [&str; 3] = ["sweep", "sweep.yaml", "--output"];

/// The epochs of each run in a sweep's folder; each is there once, in order.
fn trained(sweep: &Path) -> BTreeMap<String, usize> {
    let runs = fs::read_dir(sweep.join("runs")).into_iter().flatten();
    let runs = runs.map(|run| run.unwrap().path());
    let trained = runs.filter(|run| run.join("metrics.jsonl").exists()).map(|run| {
        let records = epochs(&run);
        for (record, epoch) in records.iter().zip(1..) {
            assert_eq!(record["epoch"], epoch, "{}", run.display());
        }
        (run.file_name().unwrap().to_string_lossy().into_owned(), records.len())
    });
    trained.collect()
}

fn run_named<'a>(results: &'a Value, name: &str) -> &'a Value {
    let mut runs = results["runs"].as_array().unwrap().iter();
    runs.find(|run| run["name"] == name).unwrap()
}

#[test]
fn a_run_that_stops_after_an_epoch_and_resumes_ends_as_one_that_did_not() {
    let sandbox = Sandbox::new();
    let whole = train_arguments("whole", &["train.ema_decay=0.9"]);
    sandbox.done(&whole);
    let part = train_arguments("part", &["train.ema_decay=0.9"]);
    for epoch in ["1", "2", "2", "3"] {
        let resume: &[&str] = if sandbox.path("part").exists() { &["--resume"] } else { &[] };
        let errors = sandbox.log(&[&part[..], resume, &["--stop-after", epoch]].concat());
        assert_eq!(epochs(&sandbox.path("part")).len().to_string(), epoch);
        let resume = format!(
            "stopped after epoch {epoch} of 3; resume with: vmbeauty train part/config.yaml \
             --output part --resume"
        );
        assert_eq!(errors.lines().any(|line| line == resume), epoch != "3", "{errors}");
        assert_eq!(sandbox.path("part/summary.json").exists(), epoch == "3");
    }
    for file in ["best.safetensors", "last.safetensors", "state/checkpoint.safetensors"] {
        let [a, b] = ["whole", "part"].map(|run| tensors(&sandbox.path(run).join(file)));
        assert!(a.len() > 20 && a == b, "{file}");
    }
    let predictions = ["whole", "part"]
        .map(|run| fs::read_to_string(sandbox.path(run).join("predictions_test.csv")).unwrap());
    assert_eq!(predictions[0], predictions[1]);
}

#[test]
fn asha_trains_the_best_to_the_end_with_the_weights_of_a_grid_and_ranks_those_alone() {
    let sandbox = sandbox(ASHA);
    let listed = sandbox.done(&[&RUN[..], &["asha", "--dry-run"]].concat());
    let forecast = "asha trains 14 of 42 epochs; with several jobs it may train some more";
    assert!(listed.lines().any(|line| line == forecast), "{listed}");
    let results = sandbox.json(&[&RUN[..], &["asha", "--json", "--jobs", "2"]].concat());
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 7);
    let trained = trained(&sandbox.path("asha"));
    let of = |name: &str| runs.iter().filter(|run| run["status"] == name).count();
    assert_eq!((of("finished") + of("paused"), of("finished") >= 1), (7, true));
    for run in runs {
        let epochs = trained[run["name"].as_str().unwrap()];
        assert_eq!(run["epochs"], epochs, "{run}");
        let (rung, ended) = match epochs {
            1 => (1, "paused at rung 1 of 3, epoch 1"),
            3 => (2, "paused at rung 2 of 3, epoch 3"),
            _ => (3, "trained to the end"),
        };
        assert_eq!((&run["rung"], &run["ended"]), (&rung.into(), &ended.into()), "{run}");
    }
    let search = &results["search"];
    assert_eq!(search["rungs"], serde_json::json!([1, 3, 6]));
    assert_eq!(search["epochs"], trained.values().sum::<usize>());
    assert_eq!((&search["all_epochs"], &search["paused"]), (&42.into(), &of("paused").into()));
    assert_eq!(results["points"].as_array().unwrap().len(), of("finished"));

    // The run that was paused twice is, bit for bit, the one that was not.
    let best = results["points"][0]["name"].as_str().unwrap();
    let config = format!("asha/configs/{best}.yaml");
    sandbox.done(&["train", &config, "--output", "whole"]);
    let run = sandbox.path("asha/runs").join(best);
    for file in ["best.safetensors", "last.safetensors"] {
        let [a, b] = [&run, &sandbox.path("whole")].map(|run| tensors(&run.join(file)));
        assert!(a.len() > 20 && a == b, "{file}");
    }

    // Nothing is left, and the table says what is ranked.
    let text = sandbox.done(&[&RUN[..], &["asha", "--quiet"]].concat());
    let words = "search: asha with eta 3 and rungs at epochs 1, 3, 6, by validation RMSE: ";
    assert!(text.contains(words), "{text}");
    assert!(text.contains("only points with all of their runs trained to the end are"), "{text}");
    let csv = fs::read_to_string(sandbox.path("asha/results.csv")).unwrap();
    assert!(csv.lines().next().unwrap().contains(",epochs,rung,ended,best_epoch,"), "{csv}");
    let count_left = || {
        let listed = sandbox.json(&[&RUN[..], &["asha", "--dry-run", "--json"]].concat());
        listed["left"].as_u64().unwrap() as usize
    };
    assert_eq!(count_left(), 0);
    // A grid over the same folder trains what was paused to the end.
    let longer =
        ASHA.replace("asha, max_runs: 7, min_epochs: 1, metric: rmse", "random, budget: 7");
    fs::write(sandbox.path("sweep.yaml"), longer).unwrap();
    assert_eq!(count_left(), of("paused"));
    let results = sandbox.json(&[&RUN[..], &["asha", "--json", "--jobs", "2"]].concat());
    assert_eq!(results["search"]["epochs"], 42);
    assert_eq!(results["points"].as_array().unwrap().len(), 7);
    let one = run_named(&results, best);
    assert_eq!((&one["ended"], one.get("rung")), (&"trained to the end".into(), None));
}

#[test]
fn asha_killed_at_ten_random_moments_repeats_no_epoch_loses_none_and_decides_alike() {
    let sandbox = sandbox(ASHA);
    let begun = Instant::now();
    let whole = sandbox.json(&[&RUN[..], &["whole", "--json"]].concat());
    let time = begun.elapsed();
    let epochs_of = trained(&sandbox.path("whole"));
    let mut random = ChaCha8Rng::seed_from_u64(std::process::id().into());
    let (mut kills, mut sweeps) = (0, 0);
    while kills < 10 {
        sweeps += 1;
        let name = format!("killed{sweeps}");
        let folder = sandbox.path(&name);
        let mut before = BTreeMap::new();
        loop {
            let command = &mut sandbox.command(&[&RUN[..], &[name.as_str()]].concat());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            if kills >= 10 {
                assert!(child.wait().unwrap().success());
            } else {
                sleep(time.mul_f64(random.random_range(0.05..0.3)));
                child.kill().unwrap();
                kills += usize::from(child.wait().unwrap().code().is_none());
            }
            let now = trained(&folder);
            for (run, epochs) in &before {
                assert!(now[run] >= *epochs, "{run} lost epochs");
            }
            before = now;
            if folder.join("results.json").exists() {
                break;
            }
        }
        assert_eq!(trained(&folder), epochs_of, "killed {kills} times");
        let results: Value =
            serde_json::from_slice(&fs::read(folder.join("results.json")).unwrap()).unwrap();
        for run in whole["runs"].as_array().unwrap() {
            let name = run["name"].as_str().unwrap();
            let again = run_named(&results, name);
            for key in ["status", "epochs", "rung", "ended", "best_epoch", "val", "test"] {
                assert_eq!(again[key], run[key], "{name}: {key}");
            }
            // A run says each epoch that it has finished: none was trained twice.
            let log = fs::read_to_string(folder.join("runs").join(name).join("train.log")).unwrap();
            for epoch in 1..=epochs_of[name] {
                let start = format!("epoch {epoch:>3}/6");
                let line = |line: &&str| line.starts_with(&start) && line.contains("MAE");
                assert!(log.lines().filter(line).count() <= 1, "{name}: {log}");
            }
        }
        let [first, whole] = [&results, &whole].map(|results| &results["points"][0]);
        assert_eq!((&first["name"], &first["metrics"]), (&whole["name"], &whole["metrics"]));
    }
}

#[test]
fn the_median_rule_stops_a_run_and_says_so() {
    let sandbox = sandbox(
        "
name: median
base: small.yaml
set: {train.epochs: 40, train.tensorboard: false, train.schedule.min_lr: 0}
axes: {train.optimizer.lr: [3e-3, 2e-3, 4e-3, 1e-9]}
search: {name: grid, metric: train_loss, median_stop: {margin: 0.05, min_epochs: 5}}
",
    );
    let results = sandbox.json(&[&RUN[..], &["out", "--json"]].concat());
    let last = run_named(&results, "lr=1e-9");
    assert_eq!(last["status"], "stopped by median rule", "{last}");
    let ended = last["ended"].as_str().unwrap();
    assert!(ended.starts_with("stopped by the median rule after epoch "), "{ended}");
    assert!(ended.contains(": training loss ") && ended.contains(", median "), "{ended}");
    assert!((5..40).contains(&last["epochs"].as_u64().unwrap()), "{last}");
    assert_eq!(results["points"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&results["search"]["paused"], &results["search"]["finished"]),
        (&1.into(), &3.into())
    );
    let listed = sandbox.done(&["runs", "out"]);
    assert!(listed.contains("stopped by median rule"), "{listed}");
    // It stays stopped, and is trained to the end without the rule.
    let again = sandbox.json(&[&RUN[..], &["out", "--json"]].concat());
    assert_eq!(run_named(&again, "lr=1e-9"), last);
    let sweep = fs::read_to_string(sandbox.path("sweep.yaml")).unwrap();
    let (without, _) = sweep.split_once("search:").unwrap();
    fs::write(sandbox.path("sweep.yaml"), without).unwrap();
    let finished = sandbox.json(&[&RUN[..], &["out", "--json"]].concat());
    assert_eq!(run_named(&finished, "lr=1e-9")["epochs"], 40);
}

#[test]
fn each_shard_of_asha_trains_its_best_to_the_end() {
    let sandbox = sandbox(ASHA);
    for shard in ["1/2", "2/2"] {
        sandbox.done(&[&RUN[..], &["out", "--shard", shard]].concat());
    }
    let trained = trained(&sandbox.path("out"));
    // Brackets of four and of three points.
    let mut counts: Vec<usize> = trained.values().copied().collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 1, 1, 1, 6, 6]);
}
