//! `vmbeauty export`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use super::output::print;
use crate::export::{Layout, export};
use crate::run::Run;

/// Write a trained model's weights under the names of timm and Vim, and a model card
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// How to write the backbones
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    format: Format,
    /// The output folder, created if necessary; existing files of the same names are replaced
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A .safetensors file for each backbone under its published names, and the complete model
    Safetensors,
    /// A folder for timm with the ViT, and a .pth checkpoint for Vim's code with the Vision
    /// Mamba
    Timm,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    let run = Run::open(&args.run, &["device=auto".to_string()])?;
    let layout = match args.format {
        Format::Safetensors => Layout::Safetensors,
        Format::Timm => Layout::Timm,
    };
    let files = export(&run, layout, &args.output)?;
    let names: Vec<String> = files.iter().map(|file| format!("{}\n", file.display())).collect();
    print(&names.concat())?;
    Ok(ExitCode::SUCCESS)
}
