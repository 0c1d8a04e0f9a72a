//! `vmbeauty report`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::output::{print_result, say};
use crate::data::Split;
use crate::report::{EmbeddedImages, ReportOptions, RunReport, check_name, write};

/// Write a report on runs: one self-contained HTML page, and its tables as Markdown, CSV and LaTeX
///
/// Runs that differ only in seed and fold are grouped as one model. Shards of a sweep that ran on
/// several machines are merged.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run directories, and folders of sweeps and cross-validations
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The HTML page; with report.html come report.md, report.tex and report.csv
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The split on which the models are compared, val or test; with val, nothing about the test
    /// images is read or shown [default: test, or val if a run has no test images]
    #[arg(long, value_name = "SPLIT", value_parser = parse_split)]
    split: Option<Split>,
    /// The split whose PC ranks the models, val or test; ranked by test, the first model's test
    /// metrics are too good [default: val]
    #[arg(long, value_name = "SPLIT", value_parser = parse_split)]
    rank_by: Option<Split>,
    /// Compare two models in depth, by their names in the leaderboard: the same images, the largest
    /// disagreements, errors by group
    #[arg(long, num_args = 2, value_names = ["MODEL", "MODEL"])]
    compare: Option<Vec<String>>,
    /// A folder with figures that `vmbeauty explain` wrote; may be repeated. explain/ in a run
    /// directory is always included
    #[arg(long, value_name = "DIR")]
    explain: Vec<PathBuf>,
    /// The folder of the dataset, if it is not the one in the runs' configs
    #[arg(long, value_name = "DIR", conflicts_with = "no_images")]
    data_root: Option<PathBuf>,
    /// Show the images' names only: the license of a dataset may require it if the report is
    /// shared
    #[arg(long)]
    no_images: bool,
    /// The title of the report [default: the folders' names]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    check_name(&args.output)?;
    let report = RunReport::new(&ReportOptions {
        folders: args.folders.clone(),
        split: args.split,
        rank_by: args.rank_by,
        compare: args.compare.clone().and_then(|names| names.try_into().ok()),
        explain: args.explain.clone(),
        title: args.title.clone(),
    })?;
    let images = EmbeddedImages { names_only: args.no_images, data_root: args.data_root.clone() };
    let files = write(&report, &args.output, &images)?;
    for note in &report.notes {
        say(&format!("note: {note}"));
    }
    let unfinished = report.runs.iter().filter(|run| run.summary().is_none()).count();
    print_result(args.json, &report.to_json(&files), || {
        format!("{}{} runs, {unfinished} not finished\n", report.to_text(), report.runs.len())
    })?;
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    say(&format!("wrote {}", files.join(", ")));
    Ok(ExitCode::SUCCESS)
}

fn parse_split(text: &str) -> Result<Split, String> {
    match text.parse() {
        Ok(split @ (Split::Val | Split::Test)) => Ok(split),
        _ => Err(format!("must be val or test, is {text}")),
    }
}
