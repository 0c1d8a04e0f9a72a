//! `vmbeauty benchmark data`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::benchmark::data::{DataBenchmark, DataBenchmarkSettings, benchmark_data};
use crate::cli::output::{print_result, say, table};
use crate::config::{Config, DataConfig};

/// Time decoding, augmenting and batching of generated JPEGs (224 and 1024 pixels), and optionally
/// of your own images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder of images to measure as well
    folder: Option<PathBuf>,
    /// Take image size and augmentations from this config
    #[arg(long, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Worker threads whose throughput is compared with that of one
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Seconds of a round; each of the five measurements of a set has three rounds, and one with
    /// few files if this is 0
    #[arg(long, default_value_t = 1.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Watch the memory while loading N images with the training transform
    #[arg(long, value_name = "N", default_value_t = 0)]
    memory_images: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    seconds
        .filter(|seconds| (0.0..=600.0).contains(seconds))
        .ok_or_else(|| "seconds from 0 to 600".to_string())
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = match &args.config {
        Some(path) => Config::load(path, &args.set)?.data,
        None => DataConfig::default(),
    };
    let settings = DataBenchmarkSettings {
        config,
        folder: args.folder.clone(),
        round: Duration::from_secs_f64(args.seconds),
        workers: args.workers.into(),
        memory_images: args.memory_images,
    };
    let report = benchmark_data(&settings, say)?;
    print_result(args.json, &report, || text(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn text(report: &DataBenchmark) -> String {
    let rows = report.sets.iter().map(|set| {
        [
            set.name.clone(),
            set.files.to_string(),
            format!("{:.0}", set.decode_images_per_second_per_core),
            format!("{:.0}", set.train_images_per_second_per_core),
            format!("{:.0}", set.eval_images_per_second_per_core),
            format!("{:.2}", set.scaling),
        ]
    });
    let header = ["images", "files", "decode", "train", "eval", "scaling"];
    let mut text = table(&header, rows);
    text += &format!(
        "images per second and core to {0}x{0} pixels; scaling: {1} threads to one, training\n",
        report.image_size, report.workers
    );
    if let Some(memory) = &report.memory {
        text += &format!(
            "{} images: {:.0} MiB after a tenth, {:.0} MiB at the end\n",
            memory.images, memory.early_mib, memory.late_mib
        );
    }
    text
}
