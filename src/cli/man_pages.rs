//! `vmbeauty man-pages`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

/// Write a manual page for each command into a folder
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder, created if necessary
    folder: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let context = || format!("cannot write manual pages into {}", args.folder.display());
    fs::create_dir_all(&args.folder).with_context(context)?;
    clap_mangen::generate_to(super::Cli::command(), &args.folder).with_context(context)?;
    Ok(ExitCode::SUCCESS)
}
