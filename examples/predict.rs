//! Predicts the rating of image files with a trained run.
//!
//! ```sh
//! cargo run --release --example predict -- runs/example face.png
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use vm_beautynet::data::{ImageDataset, Sample, Source};
use vm_beautynet::eval::evaluate::predict;
use vm_beautynet::eval::predictions::Predictions;
use vm_beautynet::run::Run;

/// Predicts `images` with the best weights of the run directory `run`.
pub(crate) fn run(run: &Path, images: &[PathBuf]) -> Result<Predictions> {
    let run = Run::open(run, &[])?;
    // The score of these images is unknown: 0 stands for it, and nothing reads it.
    let samples = images
        .iter()
        .map(|file| Sample::new(file.display().to_string(), Source::File(file.clone()), 0.0, None));
    let images = ImageDataset::new(samples.collect(), &run.config.data)?;
    predict(&run.net, &Arc::new(images), &run.config, &mut |_| Ok(()))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let directory = arguments.next().context("usage: predict RUN_DIRECTORY IMAGE...")?;
    let predictions = run(&directory, &arguments.collect::<Vec<_>>())?;
    for (image, score) in predictions.images.iter().zip(&predictions.predictions) {
        println!("{image}: {score:.3}");
    }
    Ok(())
}
