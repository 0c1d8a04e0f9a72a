//! Two processes over loopback train what one does; a rank that dies or disagrees ends all. `make
//! test-distributed` runs these.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::sandbox::Sandbox;
use crate::sandbox::run::largest_difference;

/// A command of one rank of a job of two.
fn rank(sandbox: &Sandbox, rank: usize, port: u16, arguments: &[&str]) -> Command {
    let mut command = sandbox.command(arguments);
    command
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", "2")
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("GLOO_SOCKET_IFNAME", "lo")
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Both ranks, started with their own arguments.
fn start(sandbox: &Sandbox, arguments: [&[&str]; 2]) -> [Child; 2] {
    let port = free_port();
    [0, 1].map(|i| rank(sandbox, i, port, arguments[i]).spawn().unwrap())
}

/// What both came to, which must be within a minute.
fn ended(children: [Child; 2]) -> [Output; 2] {
    let deadline = Instant::now() + Duration::from_secs(60);
    children.map(|mut child| {
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("a rank hangs: {:?}", child.wait_with_output());
            }
            sleep(Duration::from_millis(50));
        }
        child.wait_with_output().unwrap()
    })
}

fn errors(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    errors
}

/// 72 images are 4 batches of 16 and one of 8: 5 steps an epoch, 20 in all, with dropout,
/// stochastic depth and augmentation.
const STEPS: [&str; 8] = [
    "--set",
    "data.synthetic.train=72",
    "--set",
    "train.epochs=4",
    "--set",
    "train.optimizer.lr=1e-4",
    "--set",
    "train.threads=1",
];

fn with<'a>(first: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [first, rest].concat()
}

#[test]
fn two_processes_with_batch_8_are_one_with_batch_16() {
    check_two_processes(&Sandbox::new());
}

/// NCCL refuses two ranks on one GPU, so that Gloo connects them.
#[test]
fn on_a_gpu_two_processes_with_batch_8_are_one_with_batch_16() {
    if let Some(sandbox) = Sandbox::on_a_gpu() {
        check_two_processes(&sandbox);
    }
}

fn check_two_processes(sandbox: &Sandbox) {
    let one = with(&["train", "small.yaml", "--output", "one"], &STEPS);
    sandbox.done(&with(&one, &["--set", "train.batch_size=16"]));
    let two = with(&["train", "small.yaml", "--output", "two"], &STEPS);
    let two = with(&two, &["--set", "train.batch_size=8"]);
    for output in ended(start(sandbox, [&two, &two])) {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
    }
    let difference = largest_difference([&sandbox.path("one"), &sandbox.path("two")]);
    println!("largest difference of a weight after 20 steps: {difference:.2e}");
    assert!(difference < 1e-5, "{difference}");
    let last = |run: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    };
    let (one, two) = (last("one"), last("two"));
    assert_eq!(one["step"], 20);
    assert_eq!(two["step"], 20);
    for key in ["pc", "mae", "rmse"] {
        let metric = |record: &serde_json::Value| record["val"][key].as_f64().unwrap();
        assert!((metric(&one) - metric(&two)).abs() < 1e-4, "{key}");
    }
    assert_eq!(one["val"]["n"], two["val"]["n"]);
}

#[test]
fn two_processes_are_one_with_each_loss_and_with_accumulation() {
    let sandbox = Sandbox::new();
    // The last step of an epoch has one batch of 8. SGD, for AdamW would blow up the rounding in
    // gradients that are 0: PC does not depend on the last bias.
    let accumulate = |size: usize| {
        let balance = "branch_loss: 0.5, gradient_modulation: 0.3";
        format!("train={{batch_size: {size}, accumulate: 2, {balance}}}")
    };
    for loss in ["pearson", "label_distribution"] {
        let name = format!("train.loss={loss}");
        let arguments = |run: &str, size: usize| -> Vec<String> {
            let first = ["train", "small.yaml", "--output", run, "--set", &name, "--set"];
            let mut arguments: Vec<String> = first.map(str::to_string).to_vec();
            arguments.push(accumulate(size));
            arguments.extend(STEPS.map(str::to_string));
            let optimizer = "train.optimizer={name: sgd, lr: 0.02}";
            let dropout = "model.fusion.branch_dropout=0.4";
            arguments.extend(["--set", optimizer, "--set", dropout].map(str::to_string));
            arguments
        };
        let runs = [format!("{loss}-one"), format!("{loss}-two")];
        let (one, two) = (arguments(&runs[0], 16), arguments(&runs[1], 8));
        let [one, two] =
            [&one, &two].map(|list| -> Vec<&str> { list.iter().map(String::as_str).collect() });
        sandbox.done(&one);
        for output in ended(start(&sandbox, [&two, &two])) {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
        }
        let [one, two] = runs.map(|run| sandbox.path(&run));
        let difference = largest_difference([&one, &two]);
        println!("{loss}: largest difference of a weight {difference:.2e}");
        assert!(difference < 1e-5, "{loss}: {difference}");
    }
}

#[test]
fn a_resumed_job_ends_as_one_that_was_not_interrupted() {
    let sandbox = Sandbox::new();
    let whole = ["train", "small.yaml", "--output", "whole"];
    for output in ended(start(&sandbox, [&whole, &whole])) {
        assert!(output.status.success());
    }
    let stopped = ["train", "small.yaml", "--output", "stopped"];
    let [mut first, second] = start(&sandbox, [&stopped, &stopped]);
    let checkpoint = sandbox.path("stopped/state/checkpoint.safetensors");
    while !checkpoint.exists() && first.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    first.kill().unwrap();
    ended([first, second]);
    let resumed = with(&stopped, &["--resume"]);
    for output in ended(start(&sandbox, [&resumed, &resumed])) {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
    }
    let last = |run: &str| std::fs::read(sandbox.path(run).join("last.safetensors")).unwrap();
    assert!(last("whole") == last("stopped"));
    // One process alone would go through other batches.
    let (_, error) = sandbox.fails(&resumed);
    assert!(error.contains("was started with 2 processes, not 1"), "{error}");
}

/// A job that runs until something ends it.
fn start_endless(sandbox: &Sandbox, run: &str) -> [Child; 2] {
    let arguments = ["train", "small.yaml", "--output", run, "--set", "train.epochs=100000"];
    let children = start(sandbox, [&arguments, &arguments]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !sandbox.path(run).join("metrics.jsonl").exists() {
        assert!(Instant::now() < deadline, "the job does not start");
        sleep(Duration::from_millis(20));
    }
    children
}

#[test]
fn a_rank_that_is_killed_ends_the_others_with_an_error() {
    let sandbox = Sandbox::new();
    for killed in [0, 1] {
        let mut children = start_endless(&sandbox, &format!("killed-{killed}"));
        children[killed].kill().unwrap();
        let outputs = ended(children);
        let errors = errors(&outputs[1 - killed]);
        assert!(errors.contains("another rank is gone"), "{errors}");
    }
}

#[test]
fn a_rank_that_is_stopped_ends_the_others_with_an_error() {
    let sandbox = Sandbox::new();
    let [first, second] = start_endless(&sandbox, "stopped");
    let stop = Command::new("kill").args(["-STOP", &second.id().to_string()]).status();
    assert!(stop.unwrap().success());
    let mut second = second;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut first = first;
    while first.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            first.kill().unwrap();
            break;
        }
        sleep(Duration::from_millis(50));
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let errors = errors(&first.wait_with_output().unwrap());
    assert!(errors.contains("rank 1 has not been heard of"), "{errors}");
}

#[test]
fn ranks_that_disagree_all_end_with_the_reason() {
    let sandbox = Sandbox::new();
    let base = ["train", "small.yaml", "--output"];
    for (i, (key, expected)) in [
        ("train.optimizer.lr=0.01", "the ranks disagree about the config"),
        ("data.synthetic.train=40", "the ranks disagree about the"),
        ("model.fusion.dim=8", "the ranks disagree about the"),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = format!("run-{i}");
        let first = with(&base, &[&folder]);
        let second = with(&first, &["--set", key]);
        for output in ended(start(&sandbox, [&first, &second])) {
            let errors = errors(&output);
            assert!(errors.contains(expected), "{errors}");
        }
    }
}

#[test]
fn a_rank_that_fails_tells_the_others_why() {
    let sandbox = Sandbox::new();
    let base = ["train", "small.yaml", "--output", "run"];
    let second = with(&base, &["--set", "train.epoch=3"]);
    let outputs = ended(start(&sandbox, [&base, &second]));
    let first = errors(&outputs[0]);
    assert!(first.contains("rank 1 failed") && first.contains("epoch"), "{first}");
    assert_eq!(outputs[1].status.code(), Some(2));
    // Where only rank 0 knows: there is a run in the folder already.
    sandbox.train_one_epoch("taken");
    let base = ["train", "small.yaml", "--output", "taken"];
    for output in ended(start(&sandbox, [&base, &base])) {
        let errors = errors(&output);
        assert!(errors.contains("holds a run already"), "{errors}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let sandbox = Sandbox::new();
    let mut command = rank(&sandbox, 0, free_port(), &["train", "small.yaml"]);
    let output = command.env("VMB_JOIN_TIMEOUT", "2").output().unwrap();
    let errors = errors(&output);
    assert!(errors.contains("rank 1 has not joined"), "{errors}");
}
