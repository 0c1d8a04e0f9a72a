//! The model card (arXiv 1810.03993) of an export: what the model is, what it was trained on, how
//! well it does, what it is for.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Layout;
use crate::config::{BackboneConfig, BackboneShape, Branch, Config, DatasetName, Stem};
use crate::eval::baselines::Baselines;
use crate::run::{BEST_FILE, Run, SUMMARY_FILE};

const METRICS: [(&str, &str); 4] =
    [("PC", "pc"), ("MAE", "mae"), ("RMSE", "rmse"), ("SRCC", "srcc")];

const LIMITS: &str = "\
The model predicts how a certain group of raters, at one time and place, would on average rate an image. Ratings are opinions; they
are not a property of a face. It is meant for research on such ratings and on the model itself: comparing architectures, studying
what raters agree and disagree on, measuring bias.

It must not be used to judge, rank, select or identify people, nor shown to them as a verdict.

- It repeats the taste and the prejudices of its raters. Its error can differ between groups of people; look at the error by group
  before drawing any conclusion.
- It was measured on images like those it was trained on. Other cameras, crops, ages, expressions or groups of people may be rated
  badly, and nothing in the output says so.
- Images of SCUT-FBP5500 and MEBeauty are for non-commercial research only, which extends to weights trained on them.
";

/// The card as Markdown.
///
/// # Errors
/// The config does not fit, or the run's `summary.json` is damaged.
pub fn markdown(run: &Run, layout: Layout) -> Result<String> {
    let config = &run.config;
    let summary = summary(run)?;
    let mut card = format!("# {}\n\n", config.name);
    card += "VM-BeautyNet (arXiv 2510.16220): a Vision Transformer and a bidirectional Vision Mamba see the same face, a fusion weighs \
             their features, and a head predicts the mean rating. Trained with vm-beautynet";
    if let Some(text) = summary.as_ref().and_then(provenance) {
        write!(card, " {text}")?;
    }
    card += ".\n\n## Model\n\n";
    card += &model(run)?;
    card += "\n## Data\n\n";
    card += &data(config, summary.as_ref());
    card += "\n## Results\n\n";
    card += &match &summary {
        Some(summary) => results(summary),
        None => {
            "No metrics: the run has not finished, or these are not its best weights.\n".to_string()
        }
    };
    card += "\n## Intended use and limits\n\n";
    card += LIMITS;
    card += "\n## Files\n\n";
    card += &files(config, layout);
    write!(card, "\n## Config\n\n```yaml\n{}```\n", config.to_yaml()?)?;
    Ok(card)
}

/// The metrics of the best weights; `None` for other weights or before the run's end.
fn summary(run: &Run) -> Result<Option<Value>> {
    let best = run.weights.file_name().is_some_and(|name| name == BEST_FILE);
    let path = run.weights.with_file_name(SUMMARY_FILE);
    if !best || !path.exists() {
        return Ok(None);
    }
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let summary = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a run's summary", path.display()))?;
    Ok(Some(summary))
}

fn provenance(summary: &Value) -> Option<String> {
    Some(format!(
        "{} (commit {}) in {:.0} s on {}",
        summary["version"].as_str()?,
        summary["commit"].as_str()?,
        summary["seconds"].as_f64()?,
        summary["device"].as_str()?,
    ))
}

fn model(run: &Run) -> Result<String> {
    let config = &run.config;
    let mut text = String::new();
    for &branch in Branch::ALL {
        if let Some(shape) = config.shape(branch)? {
            text += &branch_line(branch, config.model.backbone(branch), &shape);
        }
    }
    let fusion = &config.model.fusion;
    writeln!(text, "- Fusion: `{}`, width {}", fusion.strategy, fusion.dim)?;
    let parameters = run.net.parameters();
    let trained = parameters.iter().filter(|(_, p)| p.requires_grad());
    let count: usize = trained.map(|(_, p)| p.numel()).sum();
    writeln!(text, "- {:.2} M parameters", count as f64 / 1e6)?;
    if let Some(decay) = config.train.ema_decay {
        writeln!(text, "- The weights are a moving average (decay {decay})")?;
    }
    Ok(text)
}

fn branch_line(branch: Branch, backbone: &BackboneConfig, shape: &BackboneShape) -> String {
    let start = match &backbone.weights {
        Some(path) => {
            // The folder is the trainer's own affair.
            let name = path.file_name().unwrap_or(path.as_os_str());
            format!("starting from `{}`", name.to_string_lossy())
        }
        None => "starting from random weights".to_string(),
    };
    let stem = match shape.stem {
        Stem::Patchify => "",
        Stem::Conv => "a convolutional stem, ",
    };
    format!(
        "- {}: `{}`, {stem}{} blocks of width {}, patches of {} px every {} px, images of {} px, mean {:?}, std {:?}; {start}\n",
        branch.title(),
        backbone.name,
        shape.depth,
        shape.embed_dim,
        shape.patch_size,
        shape.stride,
        shape.image_size,
        shape.mean,
        shape.std
    )
}

fn data(config: &Config, summary: Option<&Value>) -> String {
    let data = &config.data;
    let name = match data.dataset {
        DatasetName::Synthetic => {
            "Faces drawn by the program itself (`synthetic`): no images of people"
        }
        DatasetName::Mebeauty => "MEBeauty, release of 2021 (`mebeauty`)",
        DatasetName::ScutFbp5500 => "SCUT-FBP5500 v2 (`scut_fbp5500`)",
        DatasetName::Csv => "Images of the trainer's own (`csv`)",
        DatasetName::Folder => "Images of the trainer's own (`folder`)",
    };
    let mut text = format!("{name}, split `{}`.", data.split);
    let counts = summary.and_then(|summary| summary["images"].as_array());
    if let Some([train, val, test]) = counts.map(Vec::as_slice) {
        text += &format!(" {train} images to train, {val} to validate, {test} to test.");
    }
    text + "\n"
}

/// Each metric with its 95 % interval, where the summary has one, beside the baselines.
fn results(summary: &Value) -> String {
    let mut text = String::from(
        "| split | model | n | PC | MAE | RMSE | SRCC |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for split in ["val", "test"] {
        let baselines: Option<Baselines> =
            serde_json::from_value(summary["baselines"][split].clone()).ok();
        let mut rows = vec![("this model", summary[split].clone())];
        let named = baselines.iter().flat_map(Baselines::named);
        rows.extend(named.map(|(name, metrics)| (name, json!(metrics))));
        for (model, metrics) in &rows {
            if metrics.is_object() {
                let cells = METRICS.map(|(_, key)| cell(metrics, key));
                text +=
                    &format!("| {split} | {model} | {} | {} |\n", metrics["n"], cells.join(" | "));
            }
        }
    }
    let intervals = METRICS.iter().any(|(_, key)| summary["val"][format!("{key}_ci")].is_array());
    text + if intervals {
        "\nIn brackets 95 % intervals over the images of the split, for these weights; another seed varies more.\n"
    } else {
        "\nOne run; no intervals were computed.\n"
    }
}

fn cell(metrics: &Value, key: &str) -> String {
    let number = |value: &Value| value.as_f64().map(|value| format!("{value:.4}"));
    let metric = number(&metrics[key]).unwrap_or_else(|| "–".to_string());
    match metrics[format!("{key}_ci")].as_array().map(Vec::as_slice) {
        Some([low, high]) => match (number(low), number(high)) {
            (Some(low), Some(high)) => format!("{metric} [{low}, {high}]"),
            _ => metric,
        },
        _ => metric,
    }
}

/// What each file is, and what opens it.
fn files(config: &Config, layout: Layout) -> String {
    let strategy = config.model.fusion.strategy;
    let mut text = String::new();
    match layout {
        Layout::Safetensors => {
            if strategy.uses(Branch::Vit) {
                text += "- `vit.safetensors`: the ViT under timm's names, without a classifier\n";
            }
            if strategy.uses(Branch::Mamba) {
                text += "- `mamba.safetensors`: the Vision Mamba under Vim's names, without a classifier\n";
            }
            text += "- `model.safetensors`, `config.yaml`: the whole network, for `vmbeauty predict model.safetensors IMAGE`\n";
        }
        Layout::Timm => {
            if strategy.uses(Branch::Vit) {
                text += "- `vit/`: the ViT's features by `timm.create_model(\"local-dir:vit\", pretrained=True)`\n";
            }
            if strategy.uses(Branch::Mamba) {
                text += "- `mamba/model.pth`: a checkpoint for Vim's code, `model.load_state_dict(torch.load(path)[\"model\"], strict=False)`; \
                         only `head` is missing\n";
            }
        }
    }
    text
}
