//! Typical mistakes in a config: each is reported before data are read, with its line and remedy.

use std::fs;

use crate::sandbox::Sandbox;

/// A config with a mistake, its line, and what is said about it.
struct Mistake {
    text: &'static str,
    line: usize,
    words: &'static str,
}

const fn mistake(text: &'static str, line: usize, words: &'static str) -> Mistake {
    Mistake { text, line, words }
}

const MISTAKES: [Mistake; 20] = [
    mistake("train:\n  epoch: 3", 3, "unknown key train.epoch; did you mean train.epochs?"),
    mistake("train: {lr: 1e-3}", 2, "unknown key train.lr; did you mean train.optimizer.lr?"),
    mistake("train.epochs: 3", 2, "train.epochs: a file has nested keys; dots are for --set"),
    mistake("train: {loss: rmse}", 2, "train.loss must be one of mse, huber, l1, pearson"),
    mistake("train: {precision: 16-mixed}", 2, "is 16-mixed; did you mean fp16?"),
    mistake("train:\n  batch_size: 16.5", 3, "train.batch_size must be a whole number, is 16.5"),
    mistake("train: {epochs: 0}", 2, "train.epochs must be at least 1, is 0"),
    mistake("train:\n\tepochs: 3", 3, "a tab indents the line; YAML indents with spaces"),
    mistake("data:\n  image_size: 100", 3, "is 100; the nearest that fits is 96 or 112"),
    mistake(
        "model:\n  fusion:\n",
        3,
        "model.fusion is empty; give it keys (strategy, dim, branch_dropout)",
    ),
    mistake("model: {fusion: gated}", 2, "is gated; did you mean model.fusion.strategy?"),
    mistake("model: {vit: {name: vim_tiny_patch16_224}}", 2, "model.vit.name must be one of vit_"),
    mistake("device: gpu", 2, "device must be auto, cpu, cuda or cuda:N, is gpu"),
    mistake("data: {dataset: csv}", 2, "data.root is missing: the dataset csv needs its CSV file"),
    mistake("data:\n  split: fold_6_of_5", 3, "must be fold_K_of_N with K from 1 to N"),
    mistake(
        "data: {dataset: csv, root: gone.csv}\ntrain: {loss: label_distribution}",
        3,
        "name the raters' columns in data.csv.votes_columns",
    ),
    mistake(
        "train: {optimizer: {lr: 1e-7}}",
        2,
        "train.schedule.min_lr must be at most train.optimizer.lr, 0.0000001",
    ),
    mistake(
        "data: {dataset: csv}\n\nbase: gone.yaml",
        4,
        "base: cannot read the config gone.yaml: there is no such file",
    ),
    mistake(
        "data:\n  dataset: csv\n  root: ${env:VMB_NOT_SET}/r.csv",
        4,
        "the environment variable VMB_NOT_SET is not set: set it (export VMB_NOT_SET=...), or",
    ),
    mistake(
        "data: {dataset: csv, root: ${env:VMB_NOT_SET}/r.csv}",
        2,
        "a value with ${env:NAME} needs quotes within {...} and [...]",
    ),
];

#[test]
fn twenty_typical_mistakes_are_named_with_line_and_remedy_before_data_are_read() {
    let sandbox = Sandbox::new();
    for Mistake { text, line, words } in MISTAKES {
        fs::write(sandbox.path("mine.yaml"), format!("name: mine\n{text}\n")).unwrap();
        let (code, error) = sandbox.fails(&["train", "mine.yaml", "--output", "run"]);
        assert_eq!(code, 2, "{text}: {error}");
        let place = format!("error: mine.yaml:{line}: ");
        assert!(error.starts_with(&place) && error.contains(words), "{text}\n{error}");
        assert_eq!(error.lines().count(), 1, "{text}\n{error}");
        assert!(!sandbox.path("run").exists());
    }
}

#[test]
fn a_key_in_place_of_an_option_gets_the_hint_of_set() {
    let sandbox = Sandbox::new();
    for argument in ["epochs=3", "train.epochs=3", "--train.epochs=3"] {
        let (code, error) = sandbox.fails(&["train", "small.yaml", argument]);
        assert_eq!(code, 2);
        assert!(
            error.contains("tip: a key of the config is set with '--set train.epochs="),
            "{error}"
        );
    }
}
