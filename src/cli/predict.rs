//! `vmbeauty predict`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::output::{print, print_json, say, table};
use crate::config::DataConfig;
use crate::data::{ImageDataset, Sample, Source, read_image};
use crate::eval::evaluate::{Walk, predict};
use crate::eval::predictions::Predictions;
use crate::run::Run;

/// Endings of the files that are taken from a folder.
const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Predict the rating of images
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// Images, or folders of images
    #[arg(required = true, value_name = "IMAGE_OR_DIR")]
    images: Vec<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// Runs the subcommand: 1 where an image could not be read, after the others have been predicted.
pub fn run(args: &Args) -> Result<ExitCode> {
    let run = Run::open(&args.run, &[])?;
    run.config.check_image_sizes()?;
    let (images, unread) = open_images(&args.images, &run.config.data)?;
    let walk = Walk { batch_size: run.config.train.batch_size, workers: run.config.data.workers };
    let predictions = predict(&run.net, &Arc::new(images), walk, &mut |_| Ok(()))?;
    match args.format {
        Format::Table => print(&as_table(&predictions))?,
        Format::Csv => print(&as_csv(&predictions)?)?,
        Format::Json => print_json(&json!({"predictions": as_json(&predictions)}))?,
    }
    Ok(ExitCode::from(u8::from(unread > 0)))
}

/// The images that can be read, and how many could not: each of those is reported on stderr.
///
/// # Errors
/// No image can be read, or a folder cannot be listed.
pub fn open_images(paths: &[PathBuf], config: &DataConfig) -> Result<(ImageDataset, usize)> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(listed(path)?);
    }
    let found = files.len();
    files.retain(|file| match read_image(file) {
        Ok(_) => true,
        Err(error) => {
            say(&format!("left out: {error:#}"));
            false
        }
    });
    ensure!(
        !files.is_empty(),
        "there is no image to look at: {found} files were found, none can be read"
    );
    let unread = found - files.len();
    let samples = files
        .into_iter()
        .map(|file| {
            let id = file.display().to_string();
            // The score is not known, and not printed.
            Sample::new(id, Source::File(file), 0.0, None)
        })
        .collect();
    Ok((ImageDataset::new(samples, config)?, unread))
}

/// A file itself; of a folder, the images in it by name, not those in folders below it.
pub(super) fn listed(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries =
        std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.with_context(|| format!("cannot list {}", path.display()))?.path();
        let ending = file.extension().map(|e| e.to_string_lossy().to_lowercase());
        if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn as_table(predictions: &Predictions) -> String {
    let mut header = vec!["image", "score"];
    header.extend(predictions.extra.iter().map(|(name, _)| name.as_str()));
    let rows: Vec<Vec<String>> = (0..predictions.images.len())
        .map(|row| {
            let mut cells = vec![
                predictions.images[row].clone(),
                format!("{:.3}", predictions.predictions[row]),
            ];
            cells.extend(predictions.extra.iter().map(|(_, values)| format!("{:.3}", values[row])));
            cells
        })
        .collect();
    table(&header, &rows)
}

fn as_csv(predictions: &Predictions) -> Result<String> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let extra = || predictions.extra.iter();
    csv.write_record(["image", "score"].into_iter().chain(extra().map(|(name, _)| name.as_str())))?;
    for row in 0..predictions.images.len() {
        let mut record =
            vec![predictions.images[row].clone(), predictions.predictions[row].to_string()];
        record.extend(extra().map(|(_, values)| values[row].to_string()));
        csv.write_record(&record)?;
    }
    Ok(String::from_utf8(csv.into_inner()?)?)
}

fn as_json(predictions: &Predictions) -> Vec<Value> {
    (0..predictions.images.len())
        .map(|row| {
            let mut object = Map::new();
            object.insert("image".into(), json!(predictions.images[row]));
            object.insert("score".into(), json!(predictions.predictions[row]));
            for (name, values) in &predictions.extra {
                object.insert(name.clone(), json!(values[row]));
            }
            Value::Object(object)
        })
        .collect()
}
