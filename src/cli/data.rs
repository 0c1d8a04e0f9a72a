//! `vmbeauty data`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::output::{print, print_json};
use crate::config::Config;
use crate::data::check;

/// The subcommands of `vmbeauty data`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Check(CheckArgs),
}

/// Count a data set's pictures, and list what is missing, unreadable, repeated, or in two splits
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand. It ends with 0 whether or not there are problems: they are its result.
pub fn run(command: &Command) -> Result<ExitCode> {
    let Command::Check(args) = command;
    let config = Config::load(&args.config, &args.set)?;
    let report = check::check(&config.data, config.seed)?;
    match args.json {
        true => print_json(&report)?,
        false => print(&report.to_string())?,
    }
    Ok(ExitCode::SUCCESS)
}
