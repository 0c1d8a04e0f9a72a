//! `vmbeauty export`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::WrongUsage;
use super::output::print;
use crate::export::{Layout, export};
use crate::models::onnx::{InputType, OnnxOptions, ScanForm};
use crate::run::Run;

/// Write a trained model as ONNX, as a web page, or as weights for timm and Vim, with a model card
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// How to write the model
    #[arg(long, value_enum, default_value_t = Layout::Safetensors)]
    format: Layout,
    /// The output folder, created if necessary; existing files of the same names are replaced
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// How to write the selective scan, with --format onnx [default: loop]
    #[arg(long, value_enum, value_name = "FORM")]
    scan: Option<ScanForm>,
    /// The type of the input images, with --format onnx [default: uint8]
    #[arg(long, value_enum, value_name = "TYPE")]
    input: Option<InputType>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    for (name, given) in [("--scan", args.scan.is_some()), ("--input", args.input.is_some())] {
        let wrong = || WrongUsage(format!("{name} applies to --format onnx only: remove it"));
        ensure!(!given || args.format == Layout::Onnx, wrong());
    }
    let options = OnnxOptions {
        scan: args.scan.unwrap_or_default(),
        input: args.input.unwrap_or_default(),
        ..OnnxOptions::default()
    };
    let run = Run::open(&args.run, &["device=auto".to_string()])?;
    let files = export(&run, args.format, options, &args.output)?;
    let names: Vec<String> = files.iter().map(|file| format!("{}\n", file.display())).collect();
    print(&names.concat())?;
    Ok(ExitCode::SUCCESS)
}
