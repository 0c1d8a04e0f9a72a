//! Monitoring of a run: TensorBoard's files, console output and provenance records.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use protobuf::Message;
use serde_json::Value;
use tensorboard_proto::api::Status;
use tensorboard_proto::plugin_hparams::HParamsPluginData;

use crate::sandbox::Sandbox;
use crate::sandbox::events::{events, values};
use crate::sandbox::run::{epochs, largest_difference, progress, train_arguments};

const SHORT: &str = "train.epochs=2";

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Parses the lines of stderr, each of which must be an object with `event` and `time`.
fn json_lines(output: &Output) -> Vec<Value> {
    let lines: Vec<Value> = errors(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line} is not JSON")))
        .collect();
    for line in &lines {
        assert!(line["event"].is_string() && line["time"].is_f64(), "{line}");
    }
    lines
}

fn named(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[test]
fn tensorboard_has_images_histograms_and_hyperparameters() {
    let sandbox = Sandbox::new();
    sandbox.train("run", &[SHORT, "train.accumulate=2"]);
    let run = sandbox.path("run");
    let events = events(&run);
    let last_step = epochs(&run)[1]["step"].as_i64().unwrap();
    let ends = vec![last_step / 2, last_step];
    let steps = |tag: &str| -> Vec<i64> {
        let values = values(&events, tag);
        values.iter().map(|(step, _)| *step).collect()
    };

    let first = values(&events, "train/first_batch");
    let (step, grid) = &first[0];
    assert_eq!((first.len(), *step), (1, 1));
    // 16 images of 32 pixels in rows of eight.
    let grid = image::load_from_memory(grid.get_image().get_encoded_image_string()).unwrap();
    assert_eq!((grid.width(), grid.height()), (8 * 36 + 4, 2 * 36 + 4));
    let colors: BTreeSet<[u8; 3]> = grid.to_rgb8().pixels().map(|pixel| pixel.0).collect();
    assert!(colors.len() > 500, "{} colors", colors.len());
    assert_eq!(steps("val/predicted_vs_true"), ends);
    // By default every tenth epoch, and the last one.
    assert_eq!(steps("val/largest_errors"), [last_step]);
    for tag in ["train/epoch_loss", "val/loss", "val/pc", "system/images_per_second"] {
        assert_eq!(steps(tag), ends, "{tag}");
    }
    let (_, text) = &values(&events, "run/data")[0];
    let text = String::from_utf8_lossy(&text.get_tensor().get_string_val()[0]).into_owned();
    assert!(text.contains("| training images | 48 |"), "{text}");
    let tags = events.iter().flat_map(|event| event.get_summary().get_value());
    let groups: BTreeSet<&str> =
        tags.filter_map(|value| Some(value.get_tag().split_once('/')?.0)).collect();
    let expected = "_hparams_ fusion gradients lr run system test train val weights";
    assert_eq!(groups, expected.split(' ').collect());

    for module in ["vit.blocks.0", "mamba.layers.0", "mamba.patch_embed", "fusion", "head"] {
        for kind in ["weights", "gradients"] {
            assert_eq!(steps(&format!("{kind}/{module}")), ends, "{kind}/{module}");
        }
    }
    let weights = |epoch: usize| values(&events, "weights/head")[epoch].1.clone();
    let [first, second] = [weights(0), weights(1)];
    assert_ne!(first.get_histo(), second.get_histo());
    // 16 x 16 and 16 of the hidden layer, 16 and 1 of the last.
    assert_eq!(first.get_histo().get_num(), 289.0);

    let hparams = |name: &str| {
        let found = values(&events, &format!("_hparams_/{name}"));
        assert_eq!(found.len(), 1, "{name}");
        let plugin = found[0].1.get_metadata().get_plugin_data();
        assert_eq!(plugin.get_plugin_name(), "hparams");
        HParamsPluginData::parse_from_bytes(plugin.get_content()).unwrap()
    };
    let start = hparams("session_start_info");
    let start = start.get_session_start_info().get_hparams();
    assert_eq!(start["train.optimizer.lr"].get_number_value(), 1e-3);
    assert_eq!(start["train.loss"].get_string_value(), "mse");
    // The metrics by which runs are compared.
    for split in ["val", "test"] {
        for metric in ["pc", "mae", "rmse", "srcc"] {
            let tag = if split == "val" { "val/best_" } else { "test/" };
            let tag = format!("{tag}{metric}");
            assert_eq!(steps(&tag), [last_step], "{tag}");
        }
    }
    let end = hparams("session_end_info");
    let status = end.get_session_end_info().get_status();
    assert_eq!(status, Status::STATUS_SUCCESS);
}

#[test]
fn a_tensorboard_folder_that_cannot_be_written_causes_one_warning() {
    let sandbox = Sandbox::new();
    sandbox.train("plain", &[SHORT]);
    fs::create_dir(sandbox.path("run")).unwrap();
    fs::write(sandbox.path("run/tensorboard"), "in the way").unwrap();
    let errors = sandbox.log(&[&train_arguments("run", &[SHORT])[..], &["--quiet"]].concat());
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for words in ["warning: TensorBoard is off", "run/tensorboard"] {
        assert!(errors.contains(words), "{errors}");
    }
    let runs = ["plain", "run"].map(|run| sandbox.path(run));
    assert_eq!(largest_difference([&runs[0], &runs[1]]), 0.0);
}

/// Requires `unshare` and permission to mount; without them the test reports it and is skipped.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_tensorboard_folder_causes_one_warning() {
    use std::process::Command;

    let sandbox = Sandbox::new();
    let folder = sandbox.path("run/tensorboard");
    fs::create_dir_all(&folder).unwrap();
    // A run writes about 200 KB.
    let mount =
        format!("mount -t tmpfs -o size=16k tmpfs {} || exit 99; exec \"$@\"", folder.display());
    let train = sandbox.command(&[&train_arguments("run", &[SHORT])[..], &["--quiet"]].concat());
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &mount, "sh"])
        .arg(train.get_program())
        .args(train.get_args())
        .current_dir(sandbox.path("."))
        .output();
    let Some(output) = output.ok().filter(|output| {
        let code = output.status.code();
        code != Some(99) && !errors(output).starts_with("unshare: ")
    }) else {
        eprintln!("not tested: no file system can be mounted here");
        return;
    };
    let errors = errors(&output);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("TensorBoard is off from now on"), "{errors}");
    assert!(sandbox.path("run/summary.json").exists());
}

#[test]
fn quiet_prints_only_the_table_and_errors() {
    let sandbox = Sandbox::new();
    let arguments = train_arguments("run", &["train.epochs=1"]);
    let output = sandbox.run(&[&arguments[..], &["--quiet"]].concat());
    assert!(output.status.success());
    assert_eq!(errors(&output), "");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("split") && table.contains("linear model"));
    // Without --quiet there is the same table, and a line per epoch.
    let loud = sandbox.run(&train_arguments("loud", &["train.epochs=1"]));
    assert_eq!(String::from_utf8_lossy(&loud.stdout), table);
    assert!(errors(&loud).contains("epoch   1/1  loss "));
    // Intervals of the model on each split.
    assert_eq!(table.lines().filter(|line| line.contains("95 % interval from")).count(), 2);

    let (code, text) = sandbox.fails(&[&arguments[..], &["-q"]].concat());
    assert_eq!(code, 1);
    assert!(text.starts_with("error: run holds a run already"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn a_log_has_lines_within_an_epoch_at_the_rate_that_is_asked_for() {
    let sandbox = Sandbox::new();
    let arguments = train_arguments("run", &[SHORT]);
    let output = sandbox.run(&[&arguments[..], &["--log-every", "0"]].concat());
    let text = errors(&output);
    let within: Vec<&str> = text.lines().filter(|line| line.contains("  step ")).collect();
    // 48 images in batches of 16.
    assert_eq!(within.len(), 2 * 3, "{text}");
    for words in ["epoch   2/2  step 2/3  loss ", "  lr ", " images/s  ", " s left"] {
        assert!(within[4].contains(words), "{text}");
    }
    assert!(text.starts_with("device cpu (1 thread), float32"), "{text}");
    // By default a run of seconds has a line for each epoch only.
    let quick = errors(&sandbox.run(&train_arguments("quick", &[SHORT])));
    assert!(!quick.contains("  step "), "{quick}");

    let json = ["--log-format", "json", "--log-every", "0"];
    let output = sandbox.run(&[&train_arguments("json", &["train.epochs=1"])[..], &json].concat());
    let lines = json_lines(&output);
    assert_eq!(named(&lines), ["start", "step", "step", "step", "epoch", "end"]);
    assert_eq!((&lines[3]["epoch"], &lines[3]["step"]), (&1.into(), &3.into()));
    assert!(lines[3]["loss"].is_f64() && lines[3]["seconds_left"].is_f64(), "{}", lines[3]);
}

#[test]
fn a_json_log_has_one_object_per_line() {
    let sandbox = Sandbox::new();
    let json = ["--log-format", "json"];
    let arguments = [&train_arguments("run", &[SHORT])[..], &json].concat();
    let output = sandbox.run(&arguments);
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"split"));
    let lines = json_lines(&output);
    assert_eq!(named(&lines), ["start", "epoch", "epoch", "end"]);
    assert_eq!(lines[0]["run"], "run");
    assert_eq!(lines[0]["seed"], 7);
    assert_eq!(lines[0]["images"]["train"], 48);
    // An epoch's line has the values of its line of metrics.jsonl.
    for (line, epoch) in lines[1..].iter().zip(epochs(&sandbox.path("run"))) {
        for (key, value) in epoch.as_object().unwrap() {
            assert_eq!(&line[key], value, "{key}");
        }
    }
    assert_eq!((&lines[3]["status"], &lines[3]["epochs"]), (&"finished".into(), &2.into()));
    assert!(lines[3]["test"]["mae"].is_f64());

    // Failures and warnings are lines too, even with --quiet.
    for (arguments, code) in [
        (&train_arguments("run", &[SHORT])[..], 1),
        (&["train", "small.yaml", "--set", "train.epochs=0"][..], 2),
    ] {
        let output = sandbox.run(&[arguments, &json, &["--quiet"]].concat()[..]);
        assert_eq!(output.status.code(), Some(code));
        let lines = json_lines(&output);
        assert_eq!(named(&lines), ["end"]);
        let found = (&lines[0]["status"], &lines[0]["exit_code"]);
        assert_eq!(found, (&"failed".into(), &code.into()));
        assert!(lines[0]["message"].as_str().unwrap().len() > 10);
    }
    fs::create_dir(sandbox.path("warned")).unwrap();
    fs::write(sandbox.path("warned/tensorboard"), "").unwrap();
    let arguments = train_arguments("warned", &["train.epochs=1"]);
    let output = sandbox.run(&[&arguments[..], &json, &["--quiet"]].concat());
    let lines = json_lines(&output);
    assert_eq!(named(&lines), ["warning"]);
    assert!(lines[0]["message"].as_str().unwrap().contains("TensorBoard"));
}

#[test]
fn cross_validations_and_sweeps_have_quiet_and_json_logs() {
    let sandbox = Sandbox::new();
    let sweep = "
name: two
base: small.yaml
set: {train.epochs: 1}
axes: {train.optimizer.lr: [1.0e-3, 2.0e-3]}
";
    fs::write(sandbox.path("two.yaml"), sweep).unwrap();
    let folds = ["cross-validate", "small.yaml", "--folds", "2", "--set", "train.epochs=1"];
    let fold_events = ["start", "epoch", "start", "epoch", "end"];
    let run_events = ["start", "run", "run", "run", "run", "end"];
    for (arguments, expected) in
        [(&folds[..], &fold_events[..]), (&["sweep", "two.yaml"][..], &run_events[..])]
    {
        let output = |extra: &[&str]| {
            let name = format!("{}-{}", arguments[0], extra.len());
            let output = ["--output", name.as_str()];
            sandbox.run(&[arguments, extra, &output].concat())
        };
        let quiet = output(&["--quiet"]);
        assert!(quiet.status.success() && !quiet.stdout.is_empty());
        assert_eq!(errors(&quiet), "");
        let lines = json_lines(&output(&["--log-format", "json"]));
        assert_eq!(named(&lines), expected);
        assert_eq!(lines.last().unwrap()["status"], "finished");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_a_bar_with_step_loss_learning_rate_speed_and_time_left() {
    let sandbox = Sandbox::new();
    let many = "data.synthetic={train: 600, val: 16, test: 16}";
    for (name, extra, drawn) in [("bar", "", true), ("quiet", "--quiet", false)] {
        let arguments =
            format!("train small.yaml --set '{many}' --set {SHORT} --output {name} {extra}");
        let Some(output) = sandbox.run_in_terminal(160, &arguments) else { return };
        assert!(output.status.success(), "{output:?}");
        let shown = String::from_utf8_lossy(&output.stdout);
        let bar = |line: &str| {
            ["epoch ", "/38", "images/s", " left", "loss ", "lr "]
                .iter()
                .all(|part| line.contains(part))
        };
        let bars = shown.split(['\r', '\n']).any(bar);
        assert_eq!(bars, drawn, "{shown}");
    }
}

#[test]
fn every_start_and_every_weights_file_records_its_provenance() {
    let sandbox = Sandbox::new();
    sandbox.train("run", &[SHORT]);
    sandbox.done(&["train", "run/config.yaml", "--output", "run", "--resume"]);
    let run = sandbox.path("run");
    let text = fs::read_to_string(run.join("provenance.jsonl")).unwrap();
    let starts: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(starts.len(), 2);
    assert_eq!(
        (&starts[0]["steps_done"], &starts[1]["steps_done"]),
        (&0.into(), &epochs(&run)[1]["step"])
    );
    let summary = sandbox.read_json("run/summary.json");
    let best = vm_beautynet::models::weights::WeightsFile::open(&run.join("best.safetensors"));
    let best = best.unwrap().metadata();
    let best: Value = serde_json::from_str(&best["run"]).unwrap();
    let checkpoint = progress(&run)["run"].clone();
    for file in [&best, &checkpoint] {
        assert_eq!(file["seed"], 7);
        let config = file["config"].as_str().unwrap();
        assert_eq!(config, fs::read_to_string(run.join("config.yaml")).unwrap());
    }
    for origin in [&starts[0], &summary, &best["provenance"], &checkpoint["provenance"]] {
        for key in ["version", "libtorch", "host", "system", "device"] {
            let text = origin[key].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{key} is missing in {origin}");
        }
        assert_eq!(origin["commit"].as_str(), source_commit::COMMIT);
        assert_eq!(origin["threads"], 1);
        // The sandbox is no git repository.
        assert!(origin["working_tree"].is_null());
    }
}

#[cfg(unix)]
#[test]
fn training_runs_no_other_program() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let (bin, trace) = (sandbox.path("bin"), sandbox.path("trace"));
    fs::create_dir_all(&bin).unwrap();
    // Each leaves a file when it is run.
    for name in ["git", "hostname", "sh", "uname"] {
        let program = bin.join(name);
        fs::write(&program, format!("#!/bin/sh\necho {name} >> '{}'\n", trace.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // A repository whose settings name a program for git to run.
    fs::create_dir_all(sandbox.path(".git/refs/heads")).unwrap();
    let hash = "0123456789abcdef".repeat(3)[..40].to_string();
    fs::write(sandbox.path(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(sandbox.path(".git/refs/heads/main"), &hash).unwrap();
    fs::write(sandbox.path(".git/config"), "[core]\n\tfsmonitor = git\n").unwrap();
    let mut command = sandbox.command(&train_arguments("run", &[SHORT]));
    let output = command.env("PATH", &bin).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert!(!trace.exists(), "{:?}", fs::read_to_string(&trace));
    let summary = sandbox.read_json("run/summary.json");
    assert_eq!(summary["working_tree"], hash[..12]);
    assert_eq!(summary["commit"].as_str(), source_commit::COMMIT);
}
