//! `vmbeauty export`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::output::print;
use crate::export::{Layout, export};
use crate::run::Run;

/// Write a trained model's weights under the names of timm and Vim, and a model card
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// How to write the backbones
    #[arg(long, value_enum, default_value_t = Layout::Safetensors)]
    format: Layout,
    /// The output folder, created if necessary; existing files of the same names are replaced
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let run = Run::open(&args.run, &["device=auto".to_string()])?;
    let files = export(&run, args.format, &args.output)?;
    let names: Vec<String> = files.iter().map(|file| format!("{}\n", file.display())).collect();
    print(&names.concat())?;
    Ok(ExitCode::SUCCESS)
}
