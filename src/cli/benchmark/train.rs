//! `vmbeauty benchmark train`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::benchmark::train::{TrainBenchmark, benchmark_train};
use crate::cli::output::{print_result, say, table};
use crate::config::Config;
use crate::ops::{self, Path};

/// The default config: the tiny ensemble on synthetic faces.
const TINY: &str = "
name: tiny
data: {dataset: synthetic, image_size: 224, workers: 1, synthetic: {train: 64, val: 8, test: 8}}
model:
  vit: {name: vit_tiny_patch16_224}
  mamba: {name: vim_tiny_patch16_224}
train: {batch_size: 8}
";

/// Time training steps and forward passes of a model, and the phases of a step
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The experiment, a YAML file; default: ViT-Ti and Vim-Ti, 224 pixels, 8 images per step
    config: Option<PathBuf>,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Number of timed steps
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = match &args.config {
        Some(path) => Config::load(path, &args.set)?,
        None => Config::from_yaml(TINY, "the benchmark's config", &args.set)?,
    };
    let found = benchmark_train(&config, args.steps.into(), &mut say)?;
    let threads = tch::get_num_threads();
    let mut json = json!(found);
    json["name"] = json!(config.name);
    json["threads"] = json!(threads);
    json["path"] = json!(Path::best());
    json["version"] = json!(env!("CARGO_PKG_VERSION"));
    json["libtorch"] = json!(ops::libtorch_version());
    print_result(args.json, &json, || {
        format!(
            "{}\n{}\n{} images per step, medians of {} steps, {} kernels, {threads} threads\n",
            step_table(&found),
            throughput(&found),
            found.batch_size,
            found.steps,
            Path::best()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn step_table(found: &TrainBenchmark) -> String {
    let step = &found.step;
    let rows = [
        ("data", step.data_ms),
        ("forward", step.forward_ms),
        ("backward", step.backward_ms),
        ("optimizer", step.optimizer_ms),
        ("step", step.total_ms()),
    ]
    .map(|(name, milliseconds)| {
        let percent = 100.0 * milliseconds / step.total_ms();
        [name.to_string(), format!("{milliseconds:.1}"), format!("{percent:.1} %")]
    });
    table(&["phase", "ms", "of the step"], rows)
}

fn throughput(found: &TrainBenchmark) -> String {
    let launches = match &found.launches {
        Some(launches) => format!("\n{} CUDA kernels per step on a GPU, counted", launches.total),
        None => String::new(),
    };
    let peak = match found.peak_bytes {
        Some(bytes) => format!("{:.2} GB at the peak", bytes as f64 / 1e9),
        None => "peak memory unknown".to_string(),
    };
    format!(
        "{:.2} images/s training, {:.2} images/s inference, {peak}\n\
         {:.0} GFLOP/s in training, {:.0} % of the {:.0} GFLOP/s of one matrix product{launches}",
        found.train_images_per_second,
        found.infer_images_per_second,
        found.train_gflops,
        100.0 * found.gemm_fraction,
        found.gemm_gflops
    )
}
