//! `vmbeauty data`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::output::{print, print_json, say};
use super::{crop, parse_split};
use crate::config::Config;
use crate::data::{self, ImageDataset, Split, check, preview};

/// The subcommands of `vmbeauty data`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Check(CheckArgs),
    Preview(PreviewArgs),
    Crop(crop::Args),
}

/// Count a dataset's images, and list what is missing, unreadable, repeated, or in two splits
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The output format; html is a page with images, to be redirected to a file
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Print one JSON object: short for --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// List every finding in the table; without it, the first 20 of each kind
    #[arg(long)]
    all: bool,
    /// Write each file's split, name, score, group, content hash and size to this CSV file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

/// Render a grid of what the network sees: each row an image with its name and score, first without
/// augmentation, then augmented as in the first epochs
#[derive(Debug, clap::Args)]
pub(super) struct PreviewArgs {
    /// The experiment, a YAML file
    config: PathBuf,
    /// The image to write, .png or .jpg
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The split: train, val or test
    #[arg(long, default_value = "train", value_parser = parse_split)]
    split: Split,
    /// Rows of the grid
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    images: u16,
    /// Epochs of augmentation in each row
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..))]
    epochs: u16,
    /// Also render each augmentation alone, on synthetic faces, as images in this folder
    #[arg(long, value_name = "DIR")]
    gallery: Option<PathBuf>,
}

/// The output format of a check.
#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
    Html,
}

/// Runs the subcommand. A check succeeds whether or not problems are found, unless no image can be
/// used.
pub(super) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Check(args) => run_check(args),
        Command::Preview(args) => run_preview(args),
        Command::Crop(args) => crop::run(args),
    }
}

fn run_check(args: &CheckArgs) -> Result<ExitCode> {
    let config = Config::load(&args.config, &args.set)?;
    let report = check::check(&config.data, config.seed)?;
    if let Some(manifest) = &args.manifest {
        report.write_manifest(manifest)?;
    }
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Table if args.json => print_json(&report)?,
        Format::Table => print(&report.to_text(args.all))?,
        Format::Html => {
            let root = config.data.root.display();
            print(&report.to_html(&format!("{} {root}", config.data.dataset)))?;
        }
    }
    let (usable, rows) = report.usable_rows();
    ensure!(usable > 0, "none of the {rows} images can be used");
    Ok(ExitCode::SUCCESS)
}

/// Pixels a side of the gallery's images.
const GALLERY_SIZE: i64 = 112;

fn run_preview(args: &PreviewArgs) -> Result<ExitCode> {
    let config = Config::load(&args.config, &args.set)?;
    let (mut samples, _) = data::load_split(&config.data, config.seed, args.split)?;
    samples.truncate(args.images.into());
    let images = ImageDataset::new(samples, &config.data)?;
    let epochs = args.epochs.into();
    let sheet = preview::sheet(&images, args.images.into(), epochs, config.seed)?;
    preview::save(&sheet, &args.output)?;
    say(&format!("wrote {}", args.output.display()));
    if let Some(folder) = &args.gallery {
        preview::save_gallery(folder, GALLERY_SIZE, epochs)?;
        say(&format!("wrote {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}
