//! `vmbeauty summary`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::output::{print, print_json, table, thousands};
use crate::config::Config;
use crate::models::summary::summarise;

/// Print a model's layers, parameters and multiply-adds
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(&args.config, &args.set)?;
    let summary = summarise(&config)?;
    if args.json {
        print_json(&json!({
            "name": config.name,
            "vit": config.vit_shape()?, "mamba": config.mamba_shape()?,
            "layers": summary.layers,
            "parameters": summary.parameters,
            "multiply_adds": summary.multiply_adds,
            "flops": 2 * summary.multiply_adds,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |name: &str, parameters: i64, multiply_adds: i64| {
        vec![
            name.to_string(),
            thousands(parameters),
            thousands(multiply_adds),
        ]
    };
    let mut rows: Vec<_> = summary
        .layers
        .iter()
        .map(|layer| row(&layer.name, layer.parameters, layer.multiply_adds))
        .collect();
    rows.push(row("total", summary.parameters, summary.multiply_adds));
    print(&table(
        &["layer", "parameters", "multiply-adds per image"],
        &rows,
    ))?;
    Ok(ExitCode::SUCCESS)
}
