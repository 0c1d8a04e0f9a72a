//! Configs that add to others, and the subcommands of `vmbeauty config`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sandbox::Sandbox;

#[test]
fn show_prints_the_resolved_config_and_where_each_value_comes_from() {
    let sandbox = Sandbox::new();
    let text =
        "base: small.yaml\nname: mine\ndata: {root: faces}\ntrain:\n  epochs: ${env:EPOCHS}\n";
    fs::write(sandbox.path("mine.yaml"), text).unwrap();
    let shown = |arguments: &[&str]| {
        let mut command = sandbox.command(&[&["config", "show", "mine.yaml"], arguments].concat());
        let output = command.env("EPOCHS", "7").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let yaml = shown(&["--set", "seed=3"]);
    let root = sandbox.path("faces").canonicalize().unwrap_or(sandbox.path("faces"));
    for line in [
        "name: mine  # mine.yaml:2\n",
        "seed: 3  # --set\n",
        &format!("  root: {}  # mine.yaml:3\n", root.display()),
        "  epochs: 7  # mine.yaml:5, environment EPOCHS\n",
        "  image_size: 32  # small.yaml:4\n",
        "  accumulate: 1  # default\n",
    ] {
        assert!(yaml.contains(line), "{line} is not in\n{yaml}");
    }
    let json: serde_json::Value = serde_json::from_str(&shown(&["--json"])).unwrap();
    assert_eq!(json["train.epochs"]["value"], 7);
    assert_eq!(json["train.accumulate"]["source"], "default");
    let (code, error) = sandbox.fails(&["config", "show", "mine.yaml"]);
    assert_eq!(code, 2);
    let words = "mine.yaml:5: train.epochs: the environment variable EPOCHS is not set";
    assert!(error.contains(words), "{error}");
}

#[test]
fn keys_are_listed_by_their_beginning_or_else_by_a_word_in_them() {
    let sandbox = Sandbox::new();
    let listed = sandbox.done(&["config", "keys", "train.schedule"]);
    assert!(listed.contains("train.schedule.gamma: number (default 0.1)\n    Factor of"));
    assert!(!listed.contains("train.epochs"), "{listed}");
    let listed = sandbox.done(&["config", "keys", "backbone_lr"]);
    assert!(listed.contains("train.optimizer.backbone_lr: number | null (default null)"));
    let listed = sandbox.done(&["config", "keys", "learning rate"]);
    assert!(listed.contains("train.optimizer.lr: number"), "{listed}");
    let keys = sandbox.json(&["config", "keys", "--json"]);
    assert!(keys["keys"].as_array().unwrap().len() > 100);
    let (_, error) = sandbox.fails(&["config", "keys", "epcohs"]);
    assert!(error.contains("did you mean train.epochs?"), "{error}");
}

#[test]
fn diff_lists_the_keys_in_which_two_runs_or_configs_differ() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("b.yaml"), "base: small.yaml\nseed: 5\n").unwrap();
    fs::create_dir(sandbox.path("run")).unwrap();
    let set = "data.normalize={mean: [0, 0, 0], std: [1, 1, 1]}";
    let config = sandbox.done(&["config", "show", "b.yaml", "--set", set]);
    fs::write(sandbox.path("run/config.yaml"), config).unwrap();
    assert_eq!(sandbox.done(&["config", "diff", "b.yaml", "b.yaml"]), "no key differs\n");
    let table = sandbox.done(&["config", "diff", "small.yaml", "run"]);
    assert!(table.contains("seed") && table.contains("7"), "{table}");
    let json = sandbox.json(&["config", "diff", "small.yaml", "run", "--json"]);
    assert_eq!(json["keys"]["seed"], serde_json::json!({"a": 7, "b": 5}));
    let keys: Vec<&String> = json["keys"].as_object().unwrap().keys().collect();
    assert!(keys.iter().all(|key| key.starts_with("data.normalize") || *key == "seed"), "{keys:?}");
    let (_, error) = sandbox.fails(&["config", "diff", "small.yaml", "."]);
    assert!(error.contains("is no run directory"), "{error}");
}

#[test]
fn a_preset_for_larger_images_is_warned_about_once() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("big.yaml"), "data: {image_size: 64}\n").unwrap();
    let sweep = "name: s\nbase: big.yaml\naxes: {train.optimizer.lr: [1e-3, 2e-3]}\n";
    fs::write(sandbox.path("sweep.yaml"), sweep).unwrap();
    for arguments in [["config", "show", "big.yaml"], ["sweep", "sweep.yaml", "--dry-run"]] {
        let errors = String::from_utf8(sandbox.run(&arguments).stderr).unwrap();
        for branch in ["vit: vit", "mamba: vim"] {
            let words = format!("warning: model.{branch}_tiny_patch16_224 cuts an image of 64");
            assert_eq!(errors.matches(&words).count(), 1, "{errors}");
        }
    }
}

#[test]
fn a_run_is_evaluated_from_another_folder() {
    let sandbox = Sandbox::new();
    let rows = (0..8u8).map(|i| {
        sandbox.image(&format!("{i}.png"), i * 30);
        let split = ["train", "train", "val", "test"][usize::from(i % 4)];
        format!("{i}.png,{},{split}\n", i % 5)
    });
    let table = format!("image,score,split\n{}", rows.collect::<String>());
    fs::write(sandbox.path("ratings.csv"), table).unwrap();
    let set = "data={dataset: csv, root: ratings.csv}";
    sandbox.done(&["train", "small.yaml", "--output", "run", "--set", set]);
    let elsewhere = sandbox.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut command = sandbox.command(&["evaluate", "../run", "--json"]);
    let output = command.current_dir(elsewhere).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Relative paths count from the folder that the run is resumed in.
    sandbox.done(&["train", "small.yaml", "--output", "run", "--set", set, "--resume"]);
}

fn is_sweep(text: &str) -> bool {
    let own = |line: &str| ["axes:", "seeds:", "folds:"].iter().any(|key| line.starts_with(key));
    text.lines().any(own)
}

/// Returns the YAML files of the project's configs, or of its sweeps.
fn shipped(sweeps: bool) -> Vec<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![project.join("configs")];
    let experiments = fs::read_dir(project.join("experiments")).unwrap();
    folders.extend(experiments.map(|entry| entry.unwrap().path()));
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let files = files.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|ending| ending == "yaml"))
        .filter(|file| is_sweep(&fs::read_to_string(file).unwrap()) == sweeps)
        .collect();
    files.sort();
    files
}

/// Validates YAML files, given on stdin, with Python's jsonschema: the problems of each, or `None`
/// where it is not installed.
fn validate(schema: &str, files: &[(String, String)]) -> Option<Vec<String>> {
    const PROGRAM: &str = "\
import json, sys
try:
    import jsonschema
except ImportError:
    sys.exit(99)
given = json.load(sys.stdin)
jsonschema.Draft7Validator.check_schema(given['schema'])
validator = jsonschema.Draft7Validator(given['schema'])
print(json.dumps([[error.message for error in validator.iter_errors(f)] for f in given['files']]))
";
    let given: Vec<serde_json::Value> =
        files.iter().map(|(_, text)| serde_yaml::from_str(text).unwrap()).collect();
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    let given = serde_json::json!({"schema": schema, "files": given});
    let mut python = Command::new("python3");
    let python = python.args(["-W", "ignore", "-c", PROGRAM]).stdin(Stdio::piped());
    let mut child = python.stdout(Stdio::piped()).spawn().ok()?;
    serde_json::to_writer(child.stdin.take().unwrap(), &given).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(99) {
        eprintln!("skipped: Python's jsonschema is not installed");
        return None;
    }
    assert!(output.status.success());
    let errors: Vec<Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    Some(errors.into_iter().map(|errors| errors.join("; ")).collect())
}

#[test]
fn every_shipped_config_and_sweep_fits_the_schema_and_mistakes_do_not() {
    let sandbox = Sandbox::new();
    let read = |file: &PathBuf| (file.display().to_string(), fs::read_to_string(file).unwrap());
    for (sweeps, flag, least) in [(false, None, 4), (true, Some("--sweep"), 4)] {
        let mut arguments = vec!["config", "schema"];
        arguments.extend(flag);
        let schema = sandbox.done(&arguments);
        let files: Vec<_> = shipped(sweeps).iter().map(read).collect();
        assert!(files.len() >= least, "{files:?}");
        for ((name, _), errors) in files.iter().zip(validate(&schema, &files).unwrap_or_default()) {
            assert_eq!(errors, "", "{name}");
        }
    }
    let sweeps = [
        "axes: {train.optimizer.lr: {log_uniform: [1e-5, 1e-3]}}\nsearch: {name: asha, max_runs: 9}",
        "axes: {train.optimizer: [{name: sgd, lr: {uniform: [0.1, 1]}}, {name: lion}]}",
        "search: {name: grid, median_stop: {margin: 0.1}}",
        "search: {name: bayes}",
        "search: {name: asha, et: 3}",
        "axes: {train.optimizer.lr: {lognormal: [1, 2]}}",
        "axes: {train.optimizer: [{name: sgd, lr: {int: [0.5, 1]}}]}",
    ];
    let files = sweeps.map(|text| (String::new(), format!("name: s\nbase: b.yaml\n{text}\n")));
    let schema = sandbox.done(&["config", "schema", "--sweep"]);
    for (index, errors) in validate(&schema, &files).unwrap_or_default().iter().enumerate() {
        assert_eq!(errors.is_empty(), index < 3, "{index}: {errors}");
    }
    let schema = sandbox.done(&["config", "schema"]);
    let resolved = sandbox.done(&["config", "show", "small.yaml"]);
    let variable = "train: {epochs: '${env:N}', loss: '${env:LOSS:mse}'}\nbase: a.yaml\n";
    let good = [resolved.as_str(), variable, "model: {vit: {depth: null}}"];
    let bad = [
        "train: {epoch: 3}",
        "train: {loss: rmse}",
        "train: {epochs: many}",
        "seed: -1",
        "data: {augment: {color_jitter: [1, 2]}}",
        "model: {fusion: gated}",
        "device: gpu",
    ];
    let files = good.iter().chain(&bad).map(|text| (String::new(), text.to_string()));
    let Some(errors) = validate(&schema, &files.collect::<Vec<_>>()) else { return };
    for (index, errors) in errors.iter().enumerate() {
        assert_eq!(errors.is_empty(), index < good.len(), "{index}: {errors}");
    }
}
