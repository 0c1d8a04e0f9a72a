//! `vmbeauty evaluate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::data_root;
use super::output::{interval, metric, print_result, say, table};
use crate::data::{ImageDataset, Split};
use crate::eval::evaluate::predict;
use crate::eval::metrics::Metric;
use crate::eval::statistics::MetricsWithCi;

/// Evaluate a trained model on a split of its dataset
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// Images to evaluate on
    #[arg(long, default_value = "test", value_parser =
        PossibleValuesParser::new(["train", "val", "test"]).try_map(|name| name.parse::<Split>()))]
    split: Split,
    /// Folder of the dataset, if it has moved since the run
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Also write each image's prediction to a CSV file; `vmbeauty report` reads
    /// RUN/predictions_SPLIT.csv
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let run = data_root::open(&args.run, args.data_root.as_deref())?;
    run.config.check_image_sizes()?;
    let (samples, skipped) = data_root::load_split(&run, args.split)?;
    let images = Arc::new(ImageDataset::new(samples, &run.config.data)?);
    let predictions = predict(&run.net, &images, &run.config, &mut |_| Ok(()))?;
    let metrics = MetricsWithCi::new(&predictions)?;
    if let Some(file) = &args.predictions {
        run.write_predictions(&predictions, args.split, file)?;
    }
    let (split, skipped) = (args.split.name(), skipped.len());
    if skipped > 0 {
        say(&format!("{skipped} rows of the split were skipped: `vmbeauty data check` lists them"));
    }
    let row = |which: Metric| {
        let (value, ci) = (which.of(&metrics.metrics), metrics.interval(which));
        [which.name().to_uppercase(), metric(value), interval(ci)]
    };
    let text = || {
        let text = table(&[split, "", "95 % interval"], Metric::ALL.map(row));
        format!("{text}{} images\n", metrics.metrics.n)
    };
    let (run, weights) = (&args.run, &run.weights);
    print_result(args.json, &Evaluation { run, weights, split, skipped, metrics }, text)?;
    Ok(ExitCode::SUCCESS)
}

/// The output of `--json`.
#[derive(Serialize)]
struct Evaluation<'a> {
    run: &'a Path,
    weights: &'a Path,
    split: &'a str,
    skipped: usize,
    #[serde(flatten)]
    metrics: MetricsWithCi,
}
