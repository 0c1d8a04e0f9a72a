//! `vmbeauty summary`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::output::{print, print_json, say, table, thousands};
use crate::config::{Branch, Config};
use crate::models::summary::summarize;

/// Print a model's layers, parameters, multiply-adds and activation memory
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(&args.config, &args.set)?;
    config.warnings().iter().for_each(|warning| say(&format!("warning: {warning}")));
    let summary = summarize(&config)?;
    let batch_bytes = summary.batch_size as i64 * summary.activation_bytes;
    if args.json {
        print_json(&json!({
            "name": config.name,
            "vit": config.shape(Branch::Vit)?, "mamba": config.shape(Branch::Mamba)?,
            "published": {
                "vit": config.model.vit.published(), "mamba": config.model.mamba.published(),
            },
            "layers": summary.layers,
            "parameters": summary.parameters,
            "multiply_adds": summary.multiply_adds,
            "flops": 2 * summary.multiply_adds,
            "activation_bytes": summary.activation_bytes,
            "batch_size": summary.batch_size,
            "batch_activation_bytes": batch_bytes,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |name: &str, [a, b, c]: [i64; 3]| {
        [name.to_string(), thousands(a), thousands(b), thousands(c)]
    };
    let layers = summary.layers.iter().map(|layer| {
        row(&layer.name, [layer.parameters, layer.multiply_adds, layer.activation_bytes])
    });
    let total = [summary.parameters, summary.multiply_adds, summary.activation_bytes];
    let header = ["layer", "parameters", "multiply-adds per image", "activation bytes per image"];
    print(&format!(
        "{}{} FLOPs per image forward; in training a batch of {} images keeps {:.1} MiB of \
         activations in float32, on a CPU only those of the slices in progress (train.slice), on a \
         GPU up to two thirds more of a ViT's\n",
        table(&header, layers.chain([row("total", total)])),
        thousands(2 * summary.multiply_adds),
        summary.batch_size,
        batch_bytes as f64 / f64::from(1 << 20),
    ))?;
    Ok(ExitCode::SUCCESS)
}
