//! `vmbeauty init`.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use serde_yaml::Value;

use super::output::{print, print_json};
use crate::config::names::is_plain;
use crate::config::{Config, CsvConfig, DataConfig, DatasetName, Overlap, yaml_value};
use crate::data::{self, Dataset, Finding, Guess, Split, guess};
use crate::files::printable_lines;
use crate::report::text_table;

/// Write a config for a table of rated images, or for the folder of a known dataset
///
/// The table may be a CSV file with any delimiter, decimal commas or a line sep=;, or an .xlsx
/// file. The known datasets are MEBeauty, SCUT-FBP5500 and folders that are named for the score of
/// their images.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The table, or the folder of a dataset
    #[arg(value_name = "TABLE_OR_FOLDER")]
    path: PathBuf,
    /// The config to write; an existing file is kept [default: NAME.yaml after the table or folder]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Folder of the images, where it is not found next to the table
    #[arg(long, value_name = "DIR")]
    image_dir: Option<PathBuf>,
    /// Print what was understood as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let name = experiment_name(&args.path);
    let output = args.output.clone().unwrap_or_else(|| format!("{name}.yaml").into());
    let exists = || format!("{} exists already: name another file with --output", output.display());
    ensure!(!output.exists(), exists());
    let mut guess = guess(&args.path, args.image_dir.as_deref())?;
    let dataset = list(&mut guess)?;
    let text = config_text(&name, &output, &guess, &dataset);
    // What is written is a config that loads.
    Config::from_yaml(&text, &output.display().to_string(), &[])?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(&output).map_err(
        |error| match error.kind() {
            ErrorKind::AlreadyExists => anyhow::anyhow!(exists()),
            _ => anyhow::Error::from(error).context(format!("cannot write {}", output.display())),
        },
    )?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", output.display()))?;
    if args.json {
        let findings = guess.findings.iter().map(|finding| {
            json!({"what": finding.what, "found": finding.found, "unsure": finding.unsure})
        });
        let findings: Vec<_> = findings.collect();
        let images = Split::ALL.map(|split| (split.name(), dataset.samples(split).len()));
        let images: serde_json::Map<_, _> =
            images.into_iter().map(|(split, count)| (split.to_string(), count.into())).collect();
        print_json(&json!({"config": output, "found": findings, "images": images}))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&summary(&guess.findings, &output))?;
    Ok(ExitCode::SUCCESS)
}

/// Lists the images of the guessed dataset without decoding them, and adds their numbers to what
/// was found. Where images are in two splits, those of train are dropped.
fn list(guess: &mut Guess) -> Result<Dataset> {
    let seed = Config::default().seed;
    let load = |data: &DataConfig| data::load(&DataConfig { verify: false, ..data.clone() }, seed);
    let (dataset, unsure) = match load(&guess.data) {
        Err(error) if format!("{error:#}").contains("data.overlap") => {
            guess.data.overlap = Overlap::Drop;
            let unsure = "images that are in two splits are dropped from train (data.overlap)";
            (load(&guess.data)?, unsure.to_string())
        }
        loaded => (loaded?, String::new()),
    };
    let counts = Split::ALL.map(|split| format!("{} {split}", dataset.samples(split).len()));
    let skipped = dataset.skipped.len();
    let unsure = match skipped {
        0 => unsure,
        _ => format!("{skipped} rows are skipped: `vmbeauty data check` lists them; {unsure}"),
    };
    let unsure = unsure.trim_end_matches("; ").to_string();
    guess.findings.push(Finding { what: "images", found: counts.join(", "), unsure });
    Ok(dataset)
}

fn summary(findings: &[Finding], output: &Path) -> String {
    let rows = findings.iter().map(|Finding { what, found, unsure }| {
        let mark = if unsure.is_empty() { "" } else { "?" };
        vec![what.to_string(), printable_lines(found), format!("{mark} {unsure}").trim().into()]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let unsure = findings.iter().filter(|finding| !finding.unsure.is_empty()).count();
    let check = match unsure {
        0 => String::new(),
        1 => "one guess is uncertain (?): check it in the config\n".into(),
        _ => format!("{unsure} guesses are uncertain (?): check them in the config\n"),
    };
    let output = output.display();
    format!(
        "{}{check}wrote {output}\n  vmbeauty data check {output}\n  vmbeauty train {output}\n",
        text_table(&["", "found", ""], &rows, |_| true)
    )
}

/// Returns the name of the experiment for a table or a folder.
fn experiment_name(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or(path.to_path_buf());
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if is_plain(c) { c } else { '_' };
    let name: String = name.chars().map(plain).take(60).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "experiment".to_string() } else { name.to_string() }
}

/// How the images are read, and a model that trains from scratch on a CPU: that of
/// configs/mebeauty_micro.yaml.
const MODEL: &str = "  \
  image_size: 64    # 224 for published weights: docs/pretrained.md
  cache: memory    # decoded images stay in memory
  test_time_flip: true    # scores are means over an image and its mirror image
model:
  # Small enough to train from scratch on a CPU.
  vit: {name: vit_micro_patch8_64, patch_size: 16, stem: conv}
  mamba: {name: vim_micro_patch8_64, patch_size: 16, stem: conv}
  fusion: {strategy: gated, dim: 96}
  head: {hidden: [64], dropout: 0.2}
train:
  epochs: 60
  batch_size: 32
  optimizer: {lr: 3.0e-4, backbone_lr: 1.0e-3}
  schedule: {warmup_epochs: 3, min_lr: 1.0e-5}
  ema_decay: 0.998
";

/// Returns the text of the config: what was found, and a model.
fn config_text(name: &str, output: &Path, guess: &Guess, dataset: &Dataset) -> String {
    let data = &guess.data;
    let output = printable_lines(&output.display().to_string()).replace('\n', " ");
    let root = yaml_value(&data.root.to_string_lossy().as_ref().into());
    let mut lines = vec![
        "# Written by vmbeauty init. `vmbeauty config keys` lists all keys.".to_string(),
        format!("#   vmbeauty train {output}"),
        format!("name: {}\ndata:\n  dataset: {}", yaml_value(&name.into()), data.dataset),
        format!("  root: {root}    # relative to the working folder"),
    ];
    if data.split != "official" {
        let splits = data.dataset.splits().join(", ");
        lines.push(format!("  split: {}    # one of {splits}", data.split));
    }
    if data.dataset == DatasetName::Csv {
        lines.push("  csv:".to_string());
        lines.extend(csv_lines(&data.csv));
    }
    if data.overlap == Overlap::Drop {
        lines.push("  overlap: drop    # images in two splits are dropped from train".to_string());
    }
    let [train, val, test] = Split::ALL.map(|split| dataset.samples(split).len());
    lines.push(format!(
        "  # {train} images for training, {val} for validation, {test} for the test."
    ));
    if let Some([low, high]) = guess.scores {
        lines.push(format!(
            "  # Scores are from {low} to {high}; the model reports in these units."
        ));
    }
    let mut text = lines.join("\n") + "\n" + MODEL;
    if !data.csv.votes_columns.is_empty() {
        text +=
            "  # loss: label_distribution    # trains on the raters' votes, not on their mean\n";
    }
    text
}

/// Returns the lines of `data.csv`, of the keys that are not their defaults.
fn csv_lines(csv: &CsvConfig) -> Vec<String> {
    let default = CsvConfig::default();
    let path = csv.image_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
    let is_relative = csv.image_dir.as_ref().is_some_and(|path| path.is_relative());
    let counts_from = if is_relative { "    # relative to the table" } else { "" };
    let votes: Vec<Value> = csv.votes_columns.iter().map(|name| name.as_str().into()).collect();
    let column = |name: &String, default: &String| (name != default).then(|| name.as_str().into());
    let keys: [(&str, Option<Value>, &str); 9] = [
        // Stated even where they are the defaults: they are what a user looks for.
        ("image_column", Some(csv.image_column.as_str().into()), ""),
        ("image_dir", path.map(Value::from), counts_from),
        ("score_column", Some(csv.score_column.as_str().into()), ""),
        ("votes_columns", (!votes.is_empty()).then_some(Value::Sequence(votes)), ""),
        ("split_column", column(&csv.split_column, &default.split_column), ""),
        (
            "fold_column",
            column(&csv.fold_column, &default.fold_column),
            "    # cross-validate --folds column",
        ),
        (
            "person_column",
            column(&csv.person_column, &default.person_column),
            "    # stays in one split",
        ),
        (
            "group_column",
            column(&csv.group_column, &default.group_column),
            "    # results by group",
        ),
        ("weight_column", column(&csv.weight_column, &default.weight_column), ""),
    ];
    let line = |(key, value, note): (&str, Option<Value>, &str)| {
        Some(format!("    {key}: {}{note}", yaml_value(&value?)))
    };
    keys.into_iter().filter_map(line).collect()
}
