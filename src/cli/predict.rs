//! `vmbeauty predict`.

use std::iter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Error, Result, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::output::{print, print_json, say, table};
use crate::config::DataConfig;
use crate::data::{self, ImageDataset, Sample, Source, csv_cell, read_image};
use crate::eval::evaluate::predict;
use crate::eval::predictions::Predictions;
use crate::run::Run;

/// Predict the rating of images
///
/// Crop the faces as those of the training images are: the whole image is resized to the model's
/// input, and a face that fills less of it is rated wrongly.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// Images, or folders of images
    #[arg(required = true, value_name = "IMAGE_OR_DIR")]
    images: Vec<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// Runs the subcommand. The exit code is 1 if an image could not be read; the others are predicted.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let run = Run::open(&args.run, &[])?;
    run.config.check_image_sizes()?;
    let (images, unread) = open_images(&args.images, &run.config.data)?;
    let predictions = predict(&run.net, &Arc::new(images), &run.config, &mut |_| Ok(()))?;
    match args.format {
        Format::Table => print(&as_table(&predictions))?,
        Format::Csv => print(&as_csv(&predictions)?)?,
        Format::Json => print_json(&as_json(&predictions))?,
    }
    Ok(ExitCode::from(u8::from(unread > 0)))
}

/// Returns the images that can be read, and the number of those that cannot: each of them is
/// reported on stderr.
pub(super) fn open_images(paths: &[PathBuf], config: &DataConfig) -> Result<(ImageDataset, usize)> {
    let mut samples = image_samples(paths)?;
    let found = samples.len();
    let warn = |error: &Error| say(&format!("skipped: {error:#}"));
    samples.retain(|sample| match &sample.source {
        Source::File(path) => read_image(path).inspect_err(warn).is_ok(),
        Source::Synthetic(_) => true,
    });
    ensure!(!samples.is_empty(), none_readable(found, paths));
    let unread = found - samples.len();
    if unread > 1 {
        say(&format!("{unread} of {found} images were skipped"));
    }
    Ok((ImageDataset::new(samples, config)?, unread))
}

/// Says that no image is left after each was reported.
pub(super) fn none_readable(found: usize, paths: &[PathBuf]) -> String {
    let first = paths.first().map_or("no file".into(), |path| path.display().to_string());
    match found {
        0 => format!("there is no image in {first}"),
        1 => "the image cannot be read".to_string(),
        _ => format!("none of the {found} images can be read"),
    }
}

/// Returns files, and the images of folders sorted by name, without those in subfolders.
pub(super) fn image_samples(paths: &[PathBuf]) -> Result<Vec<Sample>> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(if path.is_dir() { data::image_files(path)? } else { vec![path.clone()] });
    }
    // The target scores are unknown, and not printed.
    let sample =
        |file: PathBuf| Sample::new(file.display().to_string(), Source::File(file), 0.0, None);
    Ok(files.into_iter().map(sample).collect())
}

/// The columns of numbers: the score and the fusion weights.
fn columns(predictions: &Predictions) -> Vec<(&str, &[f64])> {
    let extra = predictions.extra.iter().map(|(name, values)| (name.as_str(), values.as_slice()));
    iter::once(("score", predictions.predictions.as_slice())).chain(extra).collect()
}

/// Returns the header of a table, and its rows with numbers as `format` writes them.
fn cells(predictions: &Predictions, format: fn(f64) -> String) -> (Vec<&str>, Vec<Vec<String>>) {
    let columns = columns(predictions);
    let header = iter::once("image").chain(columns.iter().map(|(name, _)| *name)).collect();
    let row = |(row, image): (usize, &String)| {
        let numbers = columns.iter().map(|(_, values)| format(values[row]));
        iter::once(image.clone()).chain(numbers).collect()
    };
    (header, predictions.images.iter().enumerate().map(row).collect())
}

fn as_table(predictions: &Predictions) -> String {
    let (header, rows) = cells(predictions, |number| format!("{number:.3}"));
    table(&header, rows)
}

fn as_csv(predictions: &Predictions) -> Result<String> {
    let (header, rows) = cells(predictions, |number| number.to_string());
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(header)?;
    for row in rows {
        csv.write_record(row.iter().map(|cell| csv_cell(cell).into_owned()))?;
    }
    Ok(String::from_utf8(csv.into_inner()?)?)
}

fn as_json(predictions: &Predictions) -> Value {
    let columns = columns(predictions);
    let object = |(row, image): (usize, &String)| {
        let mut object = Map::from_iter([("image".to_string(), json!(image))]);
        object.extend(columns.iter().map(|(name, values)| (name.to_string(), json!(values[row]))));
        Value::Object(object)
    };
    let objects: Vec<Value> = predictions.images.iter().enumerate().map(object).collect();
    json!({ "predictions": objects })
}
