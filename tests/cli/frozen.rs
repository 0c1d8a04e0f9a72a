//! Frozen backbones, whose features are computed once.

use std::fs;
use std::path::{Path, PathBuf};

use vm_beautynet::eval::predictions::Predictions;

use crate::sandbox::Sandbox;
use crate::sandbox::run::{epochs, largest_difference, tensors, train_arguments};

const FROZEN: &str = "train.freeze={vit: all, mamba: all}";
const NOT_AUGMENTED: &str = "data.augment={horizontal_flip: 0, rotation: 0, random_resized_crop: \
                             null, color_jitter: [0, 0, 0, 0]}";

/// Runs a training that must succeed, and returns stderr.
fn train(sandbox: &Sandbox, run: &str, set: &[&str]) -> String {
    sandbox.log(&train_arguments(run, set))
}

/// The files of cached features.
fn shards(sandbox: &Sandbox) -> Vec<PathBuf> {
    let folder = sandbox.path(".cache/vm-beautynet/features");
    let list = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = list(&folder).flat_map(|folder| list(&folder).collect::<Vec<_>>());
    files.filter(|file| file.extension().is_some_and(|ending| ending == "rows")).collect()
}

fn assert_near(a: &[f64], b: &[f64], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 1e-5, "{what}: {difference}");
}

#[test]
fn training_on_cached_features_is_training_on_the_images() {
    let sandbox = Sandbox::new();
    let drops = ["model.vit.drop_path=0.5", "model.mamba.drop_path=0.5"];
    for (strategy, flips) in [
        ("gated", "true"),
        ("cross_attention", "false"),
        ("score", "true"),
        ("mamba_only", "false"),
    ] {
        let strategy_key = format!("model.fusion.strategy={strategy}");
        let flip_key = format!("data.test_time_flip={flips}");
        let common = [NOT_AUGMENTED, &strategy_key, &flip_key, FROZEN, drops[0], drops[1]];
        let run = |cache: &str| {
            let name = format!("{strategy}_{cache}");
            let key = format!("train.freeze.cache={cache}");
            let errors = train(&sandbox, &name, &[&common[..], &[&key]].concat());
            assert_eq!(errors.contains("rows computed in"), cache == "true", "{errors}");
            sandbox.path(&name)
        };
        let [images, features] = ["false", "true"].map(run);
        let apart = largest_difference([&images, &features]);
        assert!(apart < 1e-5, "{strategy}: {apart}");
        for split in ["val", "test"] {
            let file = format!("predictions_{split}.csv");
            let read = |run: &PathBuf| Predictions::read(&run.join(&file)).unwrap();
            let (a, b) = (read(&images), read(&features));
            assert_near(&a.predictions, &b.predictions, strategy);
            for ((name, a), (_, b)) in a.extra.iter().zip(&b.extra) {
                assert_near(a, b, name);
            }
        }
        let losses = |run: &Path| -> Vec<f64> {
            epochs(run).iter().map(|epoch| epoch["train_loss"].as_f64().unwrap()).collect()
        };
        assert_near(&losses(&images), &losses(&features), strategy);
        let [a, b] = ["false", "true"]
            .map(|cache| sandbox.read_json(&format!("{strategy}_{cache}/summary.json")));
        assert_eq!([&a["baselines"], &a["parameters"]], [&b["baselines"], &b["parameters"]]);
        // What is trained has an optimizer's state, and what is frozen has none.
        let state = tensors(&features.join("state/checkpoint.safetensors"));
        let of = |prefix: &str| state.keys().filter(|name| name.starts_with(prefix)).count();
        assert!(of("optimizer.exp_avg.") > 0 && of("optimizer.exp_avg.mamba.") == 0);
        assert!(of("model.head.") > 0 && of("model.mamba.") == 0);
        assert!(tensors(&features.join("state/frozen.safetensors")).len() > 20);
    }
}

#[test]
fn features_are_computed_once_for_all_runs_and_again_where_files_are_damaged() {
    let sandbox = Sandbox::new();
    // The weights are a file: random ones depend on the seed and on the strategy.
    sandbox.train_one_epoch("backbones");
    let weights = "model={vit: {weights: vit.safetensors}, mamba: {weights: mamba.safetensors}}";
    sandbox.done(&["export", "backbones", "--output", "."]);
    let set = |strategy: &str, seed: &str| {
        let keys = [format!("model.fusion.strategy={strategy}"), format!("seed={seed}")];
        [keys.to_vec(), [NOT_AUGMENTED, FROZEN, weights, "data.seed=7"].map(String::from).to_vec()]
            .concat()
    };
    let run = |name: &str, strategy: &str, seed: &str| {
        let set = set(strategy, seed);
        train(&sandbox, name, &set.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // 48 training, 16 validation and 16 test images, in two branches.
    let first = run("first", "gated", "1");
    assert!(first.contains("160 of 160 rows computed"), "{first}");
    let kinds = "one of each branch, one of the baselines' pixels, two of pixel statistics";
    assert_eq!(shards(&sandbox).len(), 5, "{kinds}");
    for (name, strategy, seed) in [("other", "concat", "2"), ("vit", "vit_only", "1")] {
        let errors = run(name, strategy, seed);
        assert!(errors.contains("features of the frozen backbones: 0 of "), "{errors}");
    }
    // Tokens are others, and hold the feature vectors.
    let tokens = run("tokens", "cross_attention", "1");
    assert!(tokens.contains("160 of 160 rows computed"), "{tokens}");
    for file in shards(&sandbox).iter().filter(|file| fs::metadata(file).unwrap().len() < 20_000) {
        fs::remove_file(file).unwrap();
    }
    let copied = run("copied", "gated", "1");
    assert!(copied.contains(" 0 of 160 rows computed"), "{copied}");
    assert_eq!(largest_difference([&sandbox.path("first"), &sandbox.path("copied")]), 0.0);
    for (damage, file) in shards(&sandbox).into_iter().enumerate() {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 255;
        bytes.truncate(bytes.len() - damage);
        fs::write(&file, bytes).unwrap();
    }
    let again = run("again", "gated", "1");
    assert!(again.contains("160 of 160 rows computed"), "{again}");
    assert_eq!(largest_difference([&sandbox.path("first"), &sandbox.path("again")]), 0.0);
    // Other weights, and other pixels, are other features.
    let changed = train(&sandbox, "changed", &[NOT_AUGMENTED, FROZEN, "data.resize=crop"]);
    assert!(changed.contains("160 of 160 rows computed"), "{changed}");
}

#[test]
fn two_jobs_of_a_sweep_share_the_features() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("backbones");
    sandbox.done(&["export", "backbones", "--output", "."]);
    let sweep = format!(
        "name: shared\nbase: small.yaml\nset:\n  train.epochs: 1\n  model.vit.weights: \
         vit.safetensors\n  model.mamba.weights: mamba.safetensors\n  data.seed: 7\n  {}\n  {}\naxes: \
         {{model.fusion.strategy: [concat, sum, gmu]}}\nseeds: [1, 2]\n",
        NOT_AUGMENTED.replace('=', ": "),
        FROZEN.replace('=', ": ")
    );
    fs::write(sandbox.path("sweep.yaml"), sweep).unwrap();
    let swept = sandbox.json(&["sweep", "sweep.yaml", "--jobs", "2", "--json", "-o", "out"]);
    assert_eq!(swept["runs"].as_array().unwrap().len(), 6);
    let mut computed = 0;
    for run in fs::read_dir(sandbox.path("out/runs")).unwrap() {
        let log = fs::read_to_string(run.unwrap().path().join("train.log")).unwrap();
        let (_, rest) = log.split_once("frozen backbones: ").unwrap();
        computed += rest.split(' ').next().unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(computed, 160);
    let rows: u64 = shards(&sandbox).iter().map(|file| fs::read(file).unwrap()[16] as u64).sum();
    let others = "those of the baselines, and pixel statistics of training and validation images";
    assert_eq!(rows, 160 + 80 + 64, "each row once, with {others}");
}

#[test]
fn augmented_images_are_cached_where_views_say_how_many() {
    let sandbox = Sandbox::new();
    let plain = train(&sandbox, "plain", &[FROZEN]);
    let says = "train.freeze.views: 8 would encode 9 views of each image once";
    assert!(plain.contains(says) && !plain.contains("rows computed"), "{plain}");
    let views = |run: &str, count: &str| {
        let key = format!("train.freeze.views={count}");
        train(&sandbox, run, &[FROZEN, &key, "train.epochs=4"])
    };
    let text = views("three", "3");
    assert!(text.contains("448 of 448 rows computed"), "{text}"); // 2 (4 · 48 + 16 + 16)
    let text = views("two", "2");
    assert!(text.contains(" 0 of 352 rows computed"), "{text}");
    let text = views("none", "0");
    assert!(text.contains(" 0 of 160 rows computed"), "{text}");
    let apart = |a: &str, b: &str| largest_difference([&sandbox.path(a), &sandbox.path(b)]);
    assert!(apart("three", "two") > 1e-5 && apart("two", "none") > 1e-5);
    for (set, words) in [
        (&["train.freeze.vit=all"][..], "are of backbones that are frozen for the entire run"),
        (&[FROZEN, "train.freeze.epochs=2"], "train.freeze.epochs to null"),
        (&[FROZEN, "train.freeze.cache=false"], "set train.freeze.cache to true"),
        (
            &[FROZEN, "data.augment.mixup=0.2"],
            "set data.augment.mixup and data.augment.cutmix to 0",
        ),
    ] {
        let set = [set, &["train.freeze.views=2"]].concat();
        let (code, error) = sandbox.fails(&train_arguments("refused", &set));
        assert!(code == 2 && error.contains(words), "{error}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_leaves_the_features_in_memory() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "").unwrap();
    let errors = train(&sandbox, "run", &[NOT_AUGMENTED, FROZEN, "data.cache_dir=file"]);
    let says = "the features of the frozen backbones are kept in memory only: cannot create";
    assert!(errors.contains(says), "{errors}");
    assert!(errors.contains("160 of 160 rows computed"), "{errors}");
}
