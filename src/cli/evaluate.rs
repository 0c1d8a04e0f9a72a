//! `vmbeauty evaluate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::output::{interval, metric, print_result, say, table};
use super::predict::{self, parse_level};
use super::{WrongUsage, data_root};
use crate::config::DataConfig;
use crate::data::synthetic::FaceSeed;
use crate::data::{ImageDataset, Sample, Source, Split, load_split};
use crate::eval::conformal::Coverage;
use crate::eval::ensemble::mean_predictions;
use crate::eval::evaluate;
use crate::eval::metrics::Metric;
use crate::eval::predictions::Predictions;
use crate::eval::statistics::MetricsWithCi;
use crate::run::{Run, RunDir, calibrate, data_differences};

/// Evaluate a trained model on a split of its dataset
///
/// Several runs, such as seeds, are evaluated on the same images, each and the mean of their
/// predictions.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run directories, or weights files in them
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Images to evaluate on
    #[arg(long, default_value = "test", value_parser =
        PossibleValuesParser::new(["train", "val", "test"]).try_map(|name| name.parse::<Split>()))]
    split: Split,
    /// Folder of the dataset, if it has moved since the run
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Also write each image's prediction to a CSV file, of several runs the mean; `vmbeauty
    /// report` reads RUN/predictions_SPLIT.csv
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Also measure the interval of `predict --interval` on the test images: how many of their
    /// ratings it covers
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    interval: Option<f64>,
    /// Also write into each run how the features of its training images are distributed, so that
    /// `predict` recognizes images unlike them; training does this itself
    #[arg(long)]
    feature_distribution: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let runs = open_runs(args)?;
    let conformal = args.interval.map(|level| calibrate(&runs, level)).transpose()?;
    if args.feature_distribution {
        runs.iter().try_for_each(write_feature_distribution)?;
    }
    let (samples, skipped) = data_root::load_split(&runs[0], args.split)?;
    check_same_images(args, &runs)?;
    let predictions = predict_each(&runs, &samples)?;
    let named = args.runs.iter().zip(&runs).zip(&predictions);
    let metrics = named.map(|((name, run), predictions)| RunMetrics::new(name, run, predictions));
    let of_runs = metrics.collect::<Result<Vec<_>>>()?;
    let mean = (runs.len() > 1).then(|| mean_predictions(&predictions));
    match (&args.predictions, &mean) {
        (None, _) => {}
        (Some(file), None) => runs[0].write_predictions(&predictions[0], args.split, file)?,
        (Some(file), Some(mean)) => mean.write(file)?,
    }
    let (split, skipped) = (args.split.name(), skipped.len());
    if skipped > 0 {
        say(&format!("{skipped} rows of the split were skipped: `vmbeauty data check` lists them"));
    }
    let evaluation = Evaluation {
        split,
        skipped,
        interval: conformal.map(|of| of.coverage(&predictions)),
        mean: mean.as_ref().map(MetricsWithCi::new).transpose()?,
        runs: of_runs,
    };
    match (&evaluation.mean, &evaluation.runs[..]) {
        (None, [run]) => {
            let Evaluation { split, skipped, interval, .. } = evaluation;
            let alone = EvaluationOfOne { run, split, skipped, interval };
            print_result(args.json, &alone, || alone.text())?;
        }
        _ => print_result(args.json, &evaluation, || evaluation.text())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_feature_distribution(run: &Run) -> Result<()> {
    ensure!(
        run.is_best(),
        WrongUsage(format!(
            "--feature-distribution is of a run's best weights: name the run directory of {}",
            run.weights.display()
        ))
    );
    let [(train, _), (val, _)] =
        [data_root::load_split(run, Split::Train)?, data_root::load_split(run, Split::Val)?];
    run.write_feature_distribution([&train, &val])
}

/// Opens the runs, in the order of the arguments.
fn open_runs(args: &Args) -> Result<Vec<Run>> {
    let wrong = "--interval is measured on --split test: it is calibrated on the other images";
    let measured = args.interval.is_none() || args.split == Split::Test;
    ensure!(measured, WrongUsage(wrong.to_string()));
    let runs = predict::open_runs(&args.runs, args.data_root.as_deref())?;
    runs.iter().try_for_each(|run| run.config.check_image_sizes())?;
    args.predictions.as_ref().map_or(Ok(()), |file| check_predictions_file(args, file, &runs))?;
    Ok(runs)
}

/// Refuses a file in which a run keeps other predictions: those of one run, another run, another
/// split, or its best weights.
fn check_predictions_file(args: &Args, file: &Path, runs: &[Run]) -> Result<()> {
    let Some(path) = canonical(file) else {
        return Ok(()); // it cannot be written, which is said then
    };
    let folder = path.with_file_name("");
    let of_split = |split: &Split| path == RunDir::predictions_in(&folder, *split);
    let split = Split::ALL.into_iter().find(of_split);
    let Some(split) = split.filter(|_| RunDir::holds_run(&folder)) else {
        return Ok(());
    };
    let of_run = |run: &Run| Path::new(".").join(run.weights.with_file_name(""));
    let is_own = |run: &Run| canonical(&of_run(run)) == canonical(&folder);
    let wrong = match runs {
        [run] if is_own(run) && split == args.split && run.is_best() => return Ok(()),
        [run] if is_own(run) && split == args.split => {
            "the run's best weights: name the run directory, or another file".to_string()
        }
        [run] if is_own(run) => format!(
            "{split} images: add --split {split}, or name {} for those of {} images",
            RunDir::predictions_in(&run.weights.with_file_name(""), args.split).display(),
            args.split
        ),
        [_] => "another run, the one in its folder: name another file".to_string(),
        _ => "one run: name another file for the mean of several".to_string(),
    };
    bail!(WrongUsage(format!("{} is for the predictions of {wrong}", file.display())))
}

/// Returns the canonical path of a file, which need not exist; `None` if its folder does not.
fn canonical(file: &Path) -> Option<PathBuf> {
    let in_folder = || {
        let folder = fs::canonicalize(Path::new(".").join(file.parent()?)).ok()?;
        Some(folder.join(file.file_name()?))
    };
    fs::canonicalize(file).ok().or_else(in_folder)
}

/// Predicts the same samples with each run. Runs in a row that read images alike share those that
/// are kept in memory.
fn predict_each(runs: &[Run], samples: &[Sample]) -> Result<Vec<Predictions>> {
    let mut last: Option<(&DataConfig, Arc<ImageDataset>)> = None;
    let predict = |run| {
        let Run { config, net, .. }: &Run = run;
        let images = match last.take() {
            Some((of, images)) if *of == config.data => images,
            _ => Arc::new(ImageDataset::new(samples.to_vec(), &config.data)?),
        };
        last = Some((&config.data, Arc::clone(&images)));
        evaluate::predict(net, &images, config, &mut |_| Ok(()))
    };
    runs.iter().map(predict).collect()
}

/// Returns an error that names the keys if a run's split has other images or ratings than that of
/// the first run.
fn check_same_images(args: &Args, runs: &[Run]) -> Result<()> {
    let images = |run: &Run| -> Result<Vec<(String, f32, Option<FaceSeed>)>> {
        // The lists are compared, not the files.
        let config = DataConfig { verify: false, ..run.config.data.clone() };
        let (samples, _) = load_split(&config, run.config.seed, args.split)?;
        let face = |source| match source {
            Source::Synthetic(face) => Some(face),
            Source::File(_) => None,
        };
        let of = |sample: Sample| (sample.id, sample.score, face(sample.source));
        Ok(samples.into_iter().map(of).collect())
    };
    let mut first = None;
    for (run, path) in runs.iter().zip(&args.runs).skip(1) {
        let changes = data_differences(&runs[0].config, &run.config)?;
        if changes.is_empty() {
            continue;
        }
        let first = match &first {
            Some(first) => first,
            None => &*first.insert(images(&runs[0])?),
        };
        let keys: Vec<String> = changes.iter().map(ToString::to_string).collect();
        ensure!(
            images(run)? == *first,
            "several runs are evaluated on the same images: {} has other {} images than {}: {}",
            path.display(),
            args.split,
            args.runs[0].display(),
            keys.join("; ")
        );
    }
    Ok(())
}

/// The metrics of a run, by the argument that names it.
#[derive(Serialize)]
struct RunMetrics {
    run: PathBuf,
    weights: PathBuf,
    #[serde(flatten)]
    metrics: MetricsWithCi,
}

impl RunMetrics {
    fn new(name: &Path, run: &Run, predictions: &Predictions) -> Result<Self> {
        let (weights, metrics) = (run.weights.clone(), MetricsWithCi::new(predictions)?);
        Ok(Self { run: name.to_path_buf(), weights, metrics })
    }
}

/// The output of `--json` for several runs.
#[derive(Serialize)]
struct Evaluation {
    split: &'static str,
    skipped: usize,
    runs: Vec<RunMetrics>,
    /// Metrics of the mean of the runs' predictions.
    #[serde(rename = "ensemble")]
    mean: Option<MetricsWithCi>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<Coverage>,
}

impl Evaluation {
    fn text(&self) -> String {
        let row = |name: String, metrics: &MetricsWithCi| {
            let metrics = Metric::ALL.map(|of| metric(of.of(&metrics.metrics)));
            [name].into_iter().chain(metrics)
        };
        let runs = self.runs.iter().map(|run| row(run.run.display().to_string(), &run.metrics));
        let ensemble = format!("mean of {} runs", self.runs.len());
        let rows = runs.chain(self.mean.as_ref().map(|mean| row(ensemble, mean)));
        let mut text = table(&[self.split, "PC", "MAE", "RMSE", "SRCC"], rows);
        if let Some(mean) = &self.mean {
            text += "95 % intervals of the mean's metrics:";
            for of in Metric::ALL {
                let name = of.name().to_uppercase();
                text += &format!("  {name} {}", interval(mean.interval(of)));
            }
            text += &format!("\n{} images\n", mean.metrics.n);
        }
        text + &coverage_text(self.interval.as_ref())
    }
}

/// The output of `--json` for one run.
#[derive(Serialize)]
struct EvaluationOfOne<'a> {
    #[serde(flatten)]
    run: &'a RunMetrics,
    split: &'static str,
    skipped: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<Coverage>,
}

impl EvaluationOfOne<'_> {
    fn text(&self) -> String {
        let metrics = &self.run.metrics;
        let row = |which: Metric| {
            let (value, ci) = (which.of(&metrics.metrics), metrics.interval(which));
            [which.name().to_uppercase(), metric(value), interval(ci)]
        };
        let text = table(&[self.split, "", "95 % interval"], Metric::ALL.map(row));
        let images = format!("{} images\n", metrics.metrics.n);
        text + &images + &coverage_text(self.interval.as_ref())
    }
}

fn coverage_text(coverage: Option<&Coverage>) -> String {
    let text = |of: &Coverage| {
        format!(
            "the interval of level {} covers {:.1} % of the ratings; its mean width is {:.3} \
             ({}, calibrated on {} images)\n",
            of.level,
            100.0 * of.coverage,
            of.mean_width,
            of.method,
            of.calibration_images
        )
    };
    coverage.map(text).unwrap_or_default()
}
