//! `vmbeauty report`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::output::{interval, metric, print, print_json, say, table};
use crate::data::Split;
use crate::eval::metrics::Metric;
use crate::report::{EmbeddedImages, Report, Request, check_name, write};

/// Write a report on runs: one page that needs no other file, and its tables as Markdown, CSV and
/// LaTeX beside it
///
/// Runs that differ in nothing but seed and fold are one model. Parts of a sweep that ran on
/// several machines are joined.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run directories, sweeps' and cross-validations' folders
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The page; report.md, report.tex and report.csv go beside report.html
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Which images the models are judged on, val or test; with val, nothing of the test images is
    /// read or shown [default: test, or val where a run has no test images]
    #[arg(long, value_name = "SPLIT", value_parser = parse_split)]
    split: Option<Split>,
    /// A folder that `vmbeauty explain` wrote, for its figures; may be repeated. explain/ in a run
    /// directory is found by itself
    #[arg(long, value_name = "DIR")]
    explain: Vec<PathBuf>,
    /// Where the data set is, if it is not where the runs' configs say
    #[arg(long, value_name = "DIR", conflicts_with = "no_images")]
    data_root: Option<PathBuf>,
    /// Show no face, only names: the licenses of data sets may ask for it where a report is passed
    /// on
    #[arg(long)]
    no_images: bool,
    /// What the report is called [default: the folders' names]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    check_name(&args.output)?;
    let report = Report::new(&Request {
        folders: args.folders.clone(),
        split: args.split,
        explain: args.explain.clone(),
        title: args.title.clone(),
    })?;
    let images = EmbeddedImages { left_out: args.no_images, data_root: args.data_root.clone() };
    let files = write(&report, &args.output, &images)?;
    for note in &report.notes {
        say(&format!("note: {note}"));
    }
    if args.json {
        let mut value = report.to_json();
        value["files"] = json!(files);
        print_json(&value)?;
    } else {
        print(&leaderboards(&report))?
    }
    let others: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    say(&format!("wrote {}", others.join(", ")));
    Ok(ExitCode::SUCCESS)
}

fn parse_split(text: &str) -> Result<Split, String> {
    match text.parse() {
        Ok(split @ (Split::Val | Split::Test)) => Ok(split),
        _ => Err(format!("must be val or test, is {text}")),
    }
}

/// The models in short.
fn leaderboards(report: &Report) -> String {
    let mut text = String::new();
    for board in &report.boards {
        let rows: Vec<Vec<String>> = board
            .models
            .iter()
            .map(|judged| {
                let value = |of: Metric| metric(judged.metric(of).mean.unwrap_or(f64::NAN));
                vec![
                    judged.name.clone(),
                    judged.seeds.len().to_string(),
                    judged.images.to_string(),
                    value(Metric::Pc),
                    interval(judged.metric(Metric::Pc).ci_over_images),
                    value(Metric::Mae),
                    value(Metric::Rmse),
                    value(Metric::Srcc),
                ]
            })
            .collect();
        let header = [
            "model",
            "seeds",
            report.split.name(),
            "PC",
            "95 % over images",
            "MAE",
            "RMSE",
            "SRCC",
        ];
        text += &(table(&header, &rows) + "\n");
    }
    let open = report.runs.iter().filter(|run| run.outcome().is_none()).count();
    text + &format!("{} runs, of which {open} are not done\n", report.runs.len())
}
