//! The options of the training recipe, each by what it changes in a run of the program: one that
//! were ignored would change nothing.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;
use crate::sandbox::run::{self, largest_difference, tensors, train_arguments};

/// Trains `small.yaml` in the folder `run`, for as long as `set` says.
fn train(sandbox: &Sandbox, run: &str, set: &[&str]) -> String {
    sandbox.train(run, &[set, &["train.tensorboard=false"]].concat())
}

/// The largest difference of a weight.
fn difference(sandbox: &Sandbox, runs: [&str; 2]) -> f64 {
    let [a, b] = runs.map(|run| sandbox.path(run));
    largest_difference([&a, &b])
}

fn epochs(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    run::epochs(&sandbox.path(run))
}

fn summary(sandbox: &Sandbox, run: &str) -> Value {
    sandbox.read_json(&format!("{run}/summary.json"))
}

#[test]
fn each_option_of_the_recipe_changes_the_weights() {
    let sandbox = Sandbox::new();
    // An option, and what it is compared with.
    for (i, (option, than)) in [
        ("train.loss=huber", "train.loss=mse"),
        ("train.loss=l1", "train.loss=mse"),
        ("train.loss=pearson", "train.loss=mse"),
        ("train={loss: huber, huber_delta: 0.1}", "train={loss: huber, huber_delta: 1}"),
        (
            "train={loss: label_distribution, label_distribution: {range: [0, 10]}}",
            "train.loss=label_distribution",
        ),
        (
            "train={loss: label_distribution, label_distribution: {expectation_weight: 0}}",
            "train.loss=label_distribution",
        ),
        ("train.optimizer.name=sgd", "train.optimizer.name=adamw"),
        ("train.optimizer.name=lion", "train.optimizer.name=adamw"),
        ("train.optimizer={name: lion, betas: [0.5, 0.5]}", "train.optimizer.name=lion"),
        ("train.optimizer={name: sgd, momentum: 0}", "train.optimizer.name=sgd"),
        ("train.optimizer={name: sgd, nesterov: true}", "train.optimizer.name=sgd"),
        ("train.optimizer={name: sgd, weight_decay: 10}", "train.optimizer.name=sgd"),
        ("train.accumulate=2", "train.accumulate=1"),
        (
            "train={branch_loss: 1, optimizer: {name: sgd}, gradient_modulation: 0.5}",
            "train={branch_loss: 1, optimizer: {name: sgd}, gradient_modulation: 0.1}",
        ),
        ("model.fusion.branch_dropout=0.5", "model.fusion.branch_dropout=0"),
        ("train={optimizer: {name: sgd}, clip_grad_norm: 0.01}", "train.optimizer.name=sgd"),
        ("train.ema_decay=0.5", "train.ema_decay=null"),
        ("train.precision=bf16", "train.precision=float32"),
        ("train.schedule.warmup_epochs=2", "train.schedule.warmup_epochs=0"),
    ]
    .into_iter()
    .enumerate()
    {
        let runs = [format!("{i}-a"), format!("{i}-b")];
        for (run, set) in runs.iter().zip([option, than]) {
            train(&sandbox, run, &[set, "train.epochs=2"]);
        }
        let changed = difference(&sandbox, [&runs[0], &runs[1]]);
        assert!(changed > 1e-6, "{option} changes no more than {changed}");
    }
}

/// The rates at the ends of four epochs with this schedule.
fn rates(sandbox: &Sandbox, run: &str, schedule: &str) -> Vec<f64> {
    let schedule = format!("train.schedule={{{schedule}}}");
    train(sandbox, run, &[&schedule, "train.epochs=4"]);
    let lines = epochs(sandbox, run);
    lines.iter().map(|line| line["lr"].as_f64().unwrap()).collect()
}

#[test]
fn each_schedule_has_its_own_rates() {
    let sandbox = Sandbox::new();
    let rates = |name: &str, schedule: &str| {
        let schedule = format!("warmup_epochs: 0, min_lr: 1e-5, {schedule}");
        rates(&sandbox, name, &schedule)
    };
    let close = |found: Vec<f64>, expected: [f64; 4]| {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
    };
    // At the last step of each of the 4 epochs of 3 steps; the full rate is 1e-3.
    close(rates("constant", "name: constant"), [1e-3; 4]);
    let line = [0.25, 0.5, 0.75, 1.0].map(|part| 1e-5 + (1e-3 - 1e-5) * (1.0 - part));
    close(rates("linear", "name: linear"), line);
    let every = "name: step, step_epochs: 2, gamma: 0.5";
    close(rates("step", every), [1e-3, 1e-3, 5e-4, 5e-4]);
    let milestones = "name: step, step_epochs: 2, gamma: 0.05, milestones: [1, 3]";
    close(rates("milestones", milestones), [1e-3, 5e-5, 5e-5, 1e-5]);
}

#[test]
fn the_rate_rises_in_a_line_while_it_warms_up() {
    let sandbox = Sandbox::new();
    let rates = |name: &str, warmup: &str| {
        let schedule = format!("name: constant, warmup_epochs: {warmup}");
        rates(&sandbox, name, &schedule)
    };
    assert_eq!(rates("cold", "0"), [1e-3; 4]);
    let warm = rates("warm", "3");
    // At the end of each epoch a third more of the full rate than of the one before; a step more or
    // less.
    for (epoch, rate) in warm[..2].iter().enumerate() {
        let line = 1e-3 * (epoch + 1) as f64 / 3.0;
        assert!((rate - line).abs() <= 1e-3 / 9.0 + 1e-12, "{warm:?}");
    }
    assert!((warm[1] - warm[0] - 1e-3 / 3.0).abs() < 1e-12, "{warm:?}");
    assert_eq!(warm[3], 1e-3);
}

/// 40 images are two batches of 16 and one of 8, or ten of 4: the last optimizer step has two
/// micro-batches instead of four.
const STILL: [&str; 7] = [
    "train.branch_loss=0.5",
    "data.synthetic.train=40",
    "model.head.dropout=0",
    "model.vit.drop_path=0",
    "model.mamba.drop_path=0",
    "train.optimizer.lr=1e-4",
    "train.epochs=2",
];

#[test]
fn four_micro_batches_are_the_batch() {
    let sandbox = Sandbox::new();
    for loss in ["mse", "huber", "l1"] {
        let runs = [format!("{loss}-batch"), format!("{loss}-parts")];
        let loss = format!("train.loss={loss}");
        for (run, [size, accumulate]) in runs.iter().zip([[16, 1], [4, 4]]) {
            let size = format!("train={{batch_size: {size}, accumulate: {accumulate}}}");
            train(&sandbox, run, &[&STILL[..], &[&loss, &size]].concat());
        }
        let apart = difference(&sandbox, [&runs[0], &runs[1]]);
        println!("{loss}: the largest difference of a weight is {apart:.1e}");
        assert!(apart < 1e-5, "{loss}: {apart}");
        let [batch, parts] = [&runs[0], &runs[1]].map(|run| epochs(&sandbox, run));
        for (batch, parts) in batch.iter().zip(&parts) {
            assert_eq!(batch["step"], parts["step"]);
            assert_eq!(batch["lr"], parts["lr"]);
            let loss = |line: &Value| line["train_loss"].as_f64().unwrap();
            assert!((loss(batch) - loss(parts)).abs() < 1e-4);
        }
    }
}

#[test]
fn the_monitored_metric_chooses_the_best_epoch() {
    let sandbox = Sandbox::new();
    for (monitor, place, sign) in [
        ("pc", "/val/pc", 1.0),
        ("srcc", "/val/srcc", 1.0),
        ("mae", "/val/mae", -1.0),
        ("rmse", "/val/rmse", -1.0),
        ("train_loss", "/train_loss", -1.0),
    ] {
        let set =
            [&format!("train.monitor={monitor}"), "train.epochs=6", "train.optimizer.lr=1e-2"];
        let printed = train(&sandbox, monitor, &set);
        let lines = epochs(&sandbox, monitor);
        let metric = |line: &Value| line.pointer(place).unwrap().as_f64().unwrap_or(f64::NAN);
        let mut best = (0, f64::NEG_INFINITY);
        for (i, line) in lines.iter().enumerate() {
            let score = sign * metric(line);
            let better = score > best.1 || i == 0;
            assert_eq!(line["best"], better, "{monitor}: {line}");
            if better {
                best = (i + 1, score);
            }
        }
        let summary = summary(&sandbox, monitor);
        assert_eq!(summary["best_epoch"], best.0, "{monitor}");
        assert_eq!(summary["monitor"], monitor);
        assert_eq!(summary["stopped_early"], false);
        let said = monitor.replace("train_loss", "loss").to_uppercase();
        let last = printed.lines().last().unwrap().to_uppercase();
        assert!(last.contains(&said) && !last.contains("STOPPED"), "{last}");
    }
}

#[test]
fn without_the_monitored_metric_the_smallest_mae_chooses_the_best_epoch() {
    let sandbox = Sandbox::new();
    let set =
        ["data.synthetic={train: 16, val: 1, test: 4}", "train={epochs: 4, optimizer: {lr: 0.01}}"];
    let [table, errors] = sandbox.succeeds(&train_arguments("run", &set));
    let warnings: Vec<&str> =
        errors.lines().filter(|line| line.starts_with("warning: train.monitor: ")).collect();
    assert!(matches!(warnings[..], [line] if line.contains("one validation image")), "{errors}");
    let epochs = epochs(&sandbox, "run");
    let mae = |epoch: &Value| epoch["val"]["mae"].as_f64().unwrap();
    let best = epochs.iter().min_by(|a, b| mae(a).total_cmp(&mae(b))).unwrap();
    let summary = summary(&sandbox, "run");
    assert_eq!((&summary["best_epoch"], &summary["monitor"]), (&best["epoch"], &"mae".into()));
    let line = format!("best of 4 epochs by validation MAE: {}", best["epoch"]);
    assert!(table.contains(&line), "{table}");
}

#[test]
fn a_run_that_gets_no_better_stops_early_and_stays_so_when_resumed() {
    let sandbox = Sandbox::new();
    // No epoch can be better by as much.
    let set = ["train.early_stopping={patience: 2, min_delta: 100}", "train.epochs=50"];
    let printed = train(&sandbox, "run", &set);
    assert!(printed.contains("best of 3 epochs") && printed.contains("stopped early"), "{printed}");
    let stopped = summary(&sandbox, "run");
    assert_eq!(stopped["stopped_early"], true);
    assert_eq!(stopped["epochs"], 3);
    // Its end is found again from what the run has written.
    let before = fs::read(sandbox.path("run/last.safetensors")).unwrap();
    sandbox.done(&["train", "run/config.yaml", "--output", "run", "--resume"]);
    assert_eq!(epochs(&sandbox, "run").len(), 3);
    assert!(before == fs::read(sandbox.path("run/last.safetensors")).unwrap());

    let patient = ["train.early_stopping={patience: 4, min_delta: 100}", "train.epochs=4"];
    train(&sandbox, "patient", &patient);
    assert_eq!(summary(&sandbox, "patient")["stopped_early"], false);
}

#[test]
fn test_images_can_be_left_unread_until_the_choice_is_made() {
    let sandbox = Sandbox::new();
    let set = ["train.evaluate_test=false", "train.epochs=1"];
    let printed = train(&sandbox, "run", &set);
    assert!(!printed.contains("test"), "{printed}");
    assert_eq!(summary(&sandbox, "run")["test"], Value::Null);
    assert!(!sandbox.path("run/predictions_test.csv").exists());
    let test = sandbox.json(&["evaluate", "run", "--split", "test", "--json"]);
    train(&sandbox, "read", &["train.epochs=1"]);
    // The training has one thread, and evaluate all: matrix products add up in another order.
    let mae = |metrics: &Value| metrics["mae"].as_f64().unwrap();
    let (later, at_once) = (mae(&test), mae(&summary(&sandbox, "read")["test"]));
    assert!((later - at_once).abs() < 1e-6, "{later} is not {at_once}");
}

#[test]
fn weights_image_range_count() {
    let sandbox = Sandbox::new();
    let image =
        |shade: u8| image::RgbImage::from_pixel(32, 32, image::Rgb([shade, 90, 200 - shade]));
    let table = |name: &str, weight: &dyn Fn(usize) -> f64| {
        let mut rows = String::from("image,score,split,weight\n");
        for i in 0..24 {
            image(i as u8 * 8).save(sandbox.path(&format!("{i}.png"))).unwrap();
            let split = if i % 4 == 0 { "val" } else { "train" };
            rows += &format!("{i}.png,{},{split},{}\n", 1.0 + (i % 5) as f64, weight(i));
        }
        fs::write(sandbox.path(name), rows).unwrap();
        let root = format!("data.root={name}");
        let run = name.trim_end_matches(".csv");
        train(&sandbox, run, &["data.dataset=csv", "data.overlap=allow", &root, "train.epochs=2"]);
    };
    table("ones.csv", &|_| 1.0);
    table("threes.csv", &|_| 3.0);
    table("some.csv", &|i| if i % 2 == 0 { 4.0 } else { 0.25 });
    assert!(difference(&sandbox, ["ones", "threes"]) < 1e-5);
    assert!(difference(&sandbox, ["ones", "some"]) > 1e-5);
}

#[test]
fn a_model_that_learns_from_votes_gives_their_distribution_to_every_command() {
    let sandbox = Sandbox::new();
    let set =
        ["train.loss=label_distribution", "train.label_distribution.bins=7", "train.ema_decay=0.5"];
    train(&sandbox, "run", &set);
    let weights = tensors(&sandbox.path("run/last.safetensors"));
    assert_eq!(weights["head.layers.1.bias"].size(), [7]);
    let bins = Vec::<f64>::try_from(weights["head.score_bins"].to_kind(tch::Kind::Double)).unwrap();
    assert!(bins.windows(2).all(|pair| pair[0] < pair[1]), "{bins:?}");
    // The same metrics from the weights alone, and predictions between the ratings.
    let summary = summary(&sandbox, "run");
    let evaluated = sandbox.json(&["evaluate", "run", "--json"]);
    let [a, b] = [&summary["test"], &evaluated].map(|metrics| metrics["mae"].as_f64().unwrap());
    assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    let predictions = fs::read_to_string(sandbox.path("run/predictions_test.csv")).unwrap();
    for line in predictions.lines().skip(1) {
        let score: f64 = line.split(',').nth(2).unwrap().parse().unwrap();
        assert!(bins[0] <= score && score <= bins[6], "{line}");
    }
    // A resumed run has its distribution, too.
    let resumed = ["train", "run/config.yaml", "--output", "run", "--resume"];
    let before = fs::read(sandbox.path("run/last.safetensors")).unwrap();
    sandbox.done(&resumed);
    assert!(before == fs::read(sandbox.path("run/last.safetensors")).unwrap());
}

#[test]
fn batches_of_one_image_train() {
    let sandbox = Sandbox::new();
    let one = ["train.batch_size=1", "data.synthetic.train=4", "train.epochs=1"];
    for (index, set) in [
        &[][..],
        &["train.optimizer.name=sgd"],
        &["train.optimizer.name=lion"],
        &["train.accumulate=2"],
        &["model.fusion.strategy=vit_only"],
        &["model.fusion.strategy=mamba_only"],
        &["data.synthetic.train=1", "train.batch_size=8"],
    ]
    .into_iter()
    .enumerate()
    {
        train(&sandbox, &format!("run{index}"), &[&one[..], set].concat());
    }
    let pretrain = ["pretrain", "small.yaml", "--output", "p", "--set", "pretrain.batch_size=1"];
    sandbox.done(
        &[&pretrain[..], &["--set", "pretrain.epochs=1", "--set", "data.synthetic.train=3"]]
            .concat(),
    );
}
