//! Runs that are killed or stopped and resume end as uninterrupted ones.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::sandbox::Sandbox;
use crate::sandbox::run::{CHECKPOINT, progress, tensors, train_arguments};

/// Everything that has a state: EMA weights, a branch that is unfrozen during the run, dropout,
/// augmentation, worker threads, and a checkpoint after every step.
const SETTINGS: [&str; 5] = [
    "train.epochs=40",
    "train.ema_decay=0.9",
    "train.freeze={vit: all, epochs: 5}",
    "model.vit.drop_path=0.2",
    "train.checkpoint_minutes=0.00001",
];

fn start(sandbox: &Sandbox, arguments: &[&str]) -> Child {
    let program = sandbox.command(arguments);
    // Under nohup the tests ignore SIGHUP, and what they start would too.
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(program.get_current_dir().unwrap());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// A file's lines of JSON without what a clock says.
fn without_times(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let mut lines: Vec<Value> = match serde_json::from_str(&text) {
        Ok(whole) => vec![whole],
        Err(_) => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    };
    for line in &mut lines {
        for clock in ["seconds", "images_per_second", "data_wait"] {
            line.as_object_mut().unwrap().remove(clock);
        }
    }
    lines
}

/// All that a run leaves behind is the same: files byte by byte where no clock is in them.
fn assert_same(run: &Path, whole: &Path, what: &str) {
    for file in [
        "best.safetensors",
        "last.safetensors",
        "predictions_val.csv",
        "predictions_test.csv",
        "config.yaml",
    ] {
        let [a, b] = [run, whole].map(|root| fs::read(root.join(file)).unwrap());
        assert!(a == b, "{what}: {file}");
    }
    for file in ["metrics.jsonl", "summary.json"] {
        assert_eq!(without_times(&run.join(file)), without_times(&whole.join(file)), "{what}");
    }
    let [a, b] = [run, whole].map(|root| tensors(&root.join(CHECKPOINT)));
    assert!(a.len() > 50 && a == b, "{what}: the checkpoint's tensors");
    for folder in [run.to_path_buf(), run.join("state")] {
        for entry in fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_string_lossy().starts_with('.'), "{what}: {name:?} is left");
        }
    }
}

/// The model computes every kind of layer; the interruption is in the middle of an epoch.
#[test]
fn a_run_stopped_within_an_epoch_ends_as_a_whole_one() {
    check_stopped_and_resumed(&Sandbox::new(), &SETTINGS);
}

/// It trains on views of which the features are cached.
#[test]
fn a_run_on_frozen_features_stopped_within_an_epoch_ends_as_a_whole_one() {
    let settings = [
        "train.epochs=40",
        "train.ema_decay=0.9",
        "train.freeze={vit: all, mamba: all, views: 2}",
        "train.checkpoint_minutes=0.00001",
        "data.synthetic={train: 96, val: 16, test: 16}",
    ];
    check_stopped_and_resumed(&Sandbox::new(), &settings);
}

#[test]
fn on_a_gpu_a_deterministic_run_stopped_within_an_epoch_ends_as_a_whole_one() {
    if let Some(sandbox) = Sandbox::on_a_gpu() {
        check_stopped_and_resumed(&sandbox, &SETTINGS);
    }
}

fn check_stopped_and_resumed(sandbox: &Sandbox, settings: &[&str]) {
    let arguments = |run| train_arguments(run, settings);
    sandbox.done(&arguments("whole"));
    let mut child = start(sandbox, &arguments("stopped"));
    wait_for("a checkpoint within an epoch", || {
        let checkpoint = sandbox.path("stopped").join(CHECKPOINT);
        checkpoint.exists() && progress(&sandbox.path("stopped"))["within"]["batches"] != 0
    });
    kill(&mut child);
    sandbox.done(&[&arguments("stopped")[..], &["--resume"]].concat());
    assert_same(&sandbox.path("stopped"), &sandbox.path("whole"), "stopped");
}

#[test]
fn runs_killed_at_twenty_random_moments_end_as_one_that_was_not() {
    let sandbox = Sandbox::new();
    let asked = Instant::now();
    sandbox.train("whole", &SETTINGS);
    let whole_time = asked.elapsed();
    // Other moments on every run: what they hit depends on the machine's pace anyway.
    let mut random = ChaCha8Rng::seed_from_u64(std::process::id().into());
    let (mut kills, mut runs, mut within) = (0, 0, 0);
    while kills < 20 {
        runs += 1;
        let name = format!("run{runs}");
        let run = sandbox.path(&name);
        let first = train_arguments(&name, &SETTINGS);
        let mut moments = Vec::new();
        loop {
            let goes_on = run.join("config.yaml").exists();
            let resume: &[&str] = if goes_on { &["--resume"] } else { &[] };
            let mut child = start(&sandbox, &[&first, resume].concat());
            sleep(whole_time.mul_f64(random.random_range(0.02..0.6)));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{:?}", child.wait_with_output());
                break;
            }
            kill(&mut child);
            kills += 1;
            // Whatever stands under a final name is whole.
            for file in ["best.safetensors", "last.safetensors", CHECKPOINT] {
                let file = run.join(file);
                assert!(!file.exists() || !tensors(&file).is_empty());
            }
            if run.join(CHECKPOINT).exists() {
                let progress = progress(&run);
                let batches = progress["within"]["batches"].as_u64().unwrap();
                within += usize::from(batches > 0);
                moments.push(format!("{}.{batches}", progress["epochs"]));
            }
        }
        assert_same(&run, &sandbox.path("whole"), &format!("killed after {}", moments.join(", ")));
    }
    assert!(within > 0, "no kill found a checkpoint within an epoch");
}

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Ends a process by SIGTERM, which it must obey, and returns stderr.
fn terminated(child: Child) -> String {
    send("-TERM", &child);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(143), "{errors}");
    errors
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let asked = Instant::now();
    while !there() {
        assert!(asked.elapsed() < Duration::from_secs(60), "{what} did not come");
        sleep(Duration::from_millis(5));
    }
}

/// Starts a run, sends the signal once there is a checkpoint, and returns exit code and stderr.
fn stopped(
    sandbox: &Sandbox,
    arguments: &[&str],
    run: &str,
    signal: &str,
) -> (Option<i32>, String) {
    let child = start(sandbox, arguments);
    let checkpoint = sandbox.path(run).join(CHECKPOINT);
    wait_for("a checkpoint", || checkpoint.exists());
    send(signal, &child);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn signals_end_a_run_after_its_step_with_a_checkpoint() {
    let sandbox = Sandbox::new();
    sandbox.train("whole", &SETTINGS);
    for (signal, name, code) in [
        ("-INT", "SIGINT", 130),
        ("-TERM", "SIGTERM", 143),
        ("-HUP", "SIGHUP", 129),
        ("-USR2", "SIGUSR2", 140),
        ("-XCPU", "SIGXCPU", 152),
    ] {
        let first = train_arguments(name, &SETTINGS);
        let (found, errors) = stopped(&sandbox, &first, name, signal);
        assert_eq!(found, Some(code), "{errors}");
        let message = errors.lines().last().unwrap();
        assert!(message.starts_with(&format!("stopped by {name} after ")), "{errors}");
        // The command that it names resumes the run.
        let (_, command) = message.split_once("vmbeauty ").unwrap();
        sandbox.done(&command.split(' ').collect::<Vec<_>>());
        assert_same(&sandbox.path(name), &sandbox.path("whole"), name);
    }
}

/// A run that ends only when it is stopped, and writes no checkpoint within an epoch by itself.
const ENDLESS: [&str; 3] = [
    "data.synthetic={train: 100000, val: 16, test: 16}",
    "train.checkpoint_minutes=null",
    "train.tensorboard=false",
];

/// Waits until a run has made its first step.
fn wait_for_first_step(sandbox: &Sandbox, run: &str) {
    let provenance = sandbox.path(run).join("provenance.jsonl");
    wait_for("the start", || provenance.exists());
    sleep(Duration::from_millis(300));
}

#[test]
fn a_second_signal_of_a_closed_terminal_does_not_cost_the_checkpoint() {
    let sandbox = Sandbox::new();
    let child = start(&sandbox, &train_arguments("run", &ENDLESS));
    wait_for_first_step(&sandbox, "run");
    // The shell sends both before the run has ended.
    let twice = format!("kill -HUP {0}; sleep 0.001; kill -HUP {0}", child.id());
    assert!(Command::new("sh").args(["-c", &twice]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(129), "{output:?}");
    assert!(sandbox.path("run").join(CHECKPOINT).exists(), "{output:?}");
}

#[test]
fn usr1_asks_for_a_checkpoint_and_the_run_continues() {
    let sandbox = Sandbox::new();
    let child = start(&sandbox, &train_arguments("run", &ENDLESS));
    wait_for_first_step(&sandbox, "run");
    let run = sandbox.path("run");
    let mut steps = 0;
    for _ in 0..2 {
        let earlier = steps;
        send("-USR1", &child);
        wait_for("a checkpoint", || {
            let checkpoint = run.join(CHECKPOINT);
            steps = if checkpoint.exists() { progress(&run)["steps"].as_u64().unwrap() } else { 0 };
            steps > earlier
        });
    }
    let errors = terminated(child);
    assert_eq!(errors.lines().filter(|line| line.ends_with("as SIGUSR1 asked")).count(), 2);
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let sandbox = Sandbox::new();
    let arguments = train_arguments("run", &ENDLESS).join("' '");
    let program = env!("CARGO_BIN_EXE_vmbeauty");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("trap '' HUP; exec '{program}' '{arguments}'")]);
    command.current_dir(sandbox.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_for_first_step(&sandbox, "run");
    send("-HUP", &child);
    sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "SIGHUP ended it");
    assert!(!sandbox.path("run").join(CHECKPOINT).exists());
    terminated(child);
}

#[test]
fn a_sweeps_signals_reach_its_runs() {
    let sandbox = Sandbox::new();
    let set = ENDLESS.map(|set| set.replacen('=', ": ", 1)).join(", ");
    let sweep = format!("name: s\nbase: small.yaml\nset: {{{set}}}\nseeds: [1, 2, 3]\n");
    fs::write(sandbox.path("sweep.yaml"), sweep).unwrap();
    let child = start(&sandbox, &["sweep", "sweep.yaml", "--output", "out", "--jobs", "2"]);
    let runs = [1, 2, 3].map(|seed| format!("out/runs/seed={seed}"));
    let has = |run: &String| sandbox.path(run).join(CHECKPOINT).exists();
    runs[..2].iter().for_each(|run| wait_for_first_step(&sandbox, run));
    send("-USR1", &child);
    wait_for("checkpoints", || runs[..2].iter().all(has));
    let before = progress(&sandbox.path(&runs[0]))["steps"].as_u64();
    let errors = terminated(child);
    let message = "stopped by SIGTERM; continue with: vmbeauty sweep sweep.yaml --output out \
                   --jobs 2";
    assert_eq!(errors.lines().last(), Some(message));
    let left = "0 of 3 runs are finished, 0 failed, 2 stopped with a checkpoint, 1 not started";
    assert!(errors.lines().any(|line| line == left), "{errors}");
    for run in &runs[..2] {
        let log = fs::read_to_string(sandbox.path(run).join("train.log")).unwrap();
        assert!(log.contains("stopped by SIGTERM after "), "{log}");
    }
    assert!(progress(&sandbox.path(&runs[0]))["steps"].as_u64() > before);
    assert!(!sandbox.path(&runs[2]).exists());
}

#[test]
fn a_stopped_run_with_tensorboard_ends_as_a_whole_one_without() {
    let sandbox = Sandbox::new();
    let off = [&SETTINGS[..], &["train.tensorboard=false"]].concat();
    sandbox.train("whole", &off);
    let first = train_arguments("run", &SETTINGS);
    let (code, errors) = stopped(&sandbox, &first, "run", "-TERM");
    assert_eq!(code, Some(143), "{errors}");
    sandbox.done(&[&first[..], &["--resume"]].concat());
    let [run, whole] = ["run", "whole"].map(|run| sandbox.path(run));
    assert!(run.join("tensorboard").exists() && !whole.join("tensorboard").exists());
    for file in ["best.safetensors", "last.safetensors", CHECKPOINT] {
        let [a, b] = [&run, &whole].map(|root| tensors(&root.join(file)));
        assert!(a.len() > 20 && a == b, "{file}");
    }
    for file in ["predictions_val.csv", "predictions_test.csv"] {
        let [a, b] = [&run, &whole].map(|root| fs::read(root.join(file)).unwrap());
        assert!(a == b, "{file}");
    }
}

#[test]
fn a_signal_while_validating_keeps_the_epochs_steps() {
    let sandbox = Sandbox::new();
    let set = [
        "data.synthetic={train: 32, val: 2000, test: 16}",
        "train.ema_decay=0.9",
        "train.epochs=2",
    ];
    sandbox.train("whole", &set);
    let first = train_arguments("run", &[&set[..], &["train.checkpoint_minutes=0.00001"]].concat());
    let child = start(&sandbox, &first);
    let run = sandbox.path("run");
    wait_for("the first epoch's last step", || {
        run.join(CHECKPOINT).exists() && progress(&run)["within"]["batches"] == 2
    });
    sleep(Duration::from_millis(50));
    terminated(child);
    let progress = progress(&run);
    assert_eq!((&progress["epochs"], &progress["within"]["batches"]), (&0.into(), &2.into()));
    assert!(!run.join("metrics.jsonl").exists());
    sandbox.done(&[&first[..], &["--resume"]].concat());
    for file in ["best.safetensors", "last.safetensors"] {
        let [a, b] = [&run, &sandbox.path("whole")].map(|root| tensors(&root.join(file)));
        assert!(a == b, "{file}");
    }
}

#[test]
fn checkpoints_within_an_epoch_come_as_often_as_the_config_says() {
    let sandbox = Sandbox::new();
    let long = "data.synthetic={train: 100000, val: 16, test: 16}";
    for (minutes, expected) in [("0.001", true), ("null", false), ("10", false)] {
        let every = format!("train.checkpoint_minutes={minutes}");
        let name = format!("run{minutes}");
        let mut child = start(&sandbox, &train_arguments(&name, &[long, &every]));
        let log = sandbox.path(&name).join("tensorboard");
        wait_for("the first step", || log.exists());
        sleep(Duration::from_millis(1500));
        kill(&mut child);
        assert_eq!(sandbox.path(&name).join(CHECKPOINT).exists(), expected, "{minutes}");
    }
}

#[test]
fn a_run_stopped_before_a_last_batch_of_one_image_resumes() {
    let sandbox = Sandbox::new();
    let set = [
        "data.synthetic={train: 3, val: 4, test: 4}",
        "train.batch_size=2",
        "train.epochs=100000",
        "train.tensorboard=false",
    ];
    let run = sandbox.path("run");
    let arguments = train_arguments("run", &set);
    let resumed = [&arguments[..], &["--resume"]].concat();
    // Every second step ends before such a batch; each try stops after the step that a random
    // moment falls into.
    let found = (0..20).any(|attempt| {
        let child = start(&sandbox, if attempt == 0 { &arguments } else { &resumed });
        let epochs =
            || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        let before = epochs();
        wait_for("an epoch", || epochs() > before);
        sleep(Duration::from_millis(37 * attempt % 50));
        terminated(child);
        progress(&run)["within"]["batches"] == 1
    });
    assert!(found, "no stop fell before a batch of one image");
    let mut child = start(&sandbox, &resumed);
    let file = run.join("metrics.jsonl");
    let lines = || fs::read_to_string(&file).unwrap().lines().count();
    let before = lines();
    wait_for("the next epochs", || lines() > before + 2 || child.try_wait().unwrap().is_some());
    assert!(lines() > before + 2, "{:?}", child.wait_with_output().unwrap());
    kill(&mut child);
}
