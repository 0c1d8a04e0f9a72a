//! `vmbeauty features`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use super::console::{Console, ConsoleArgs};
use super::downloads::Downloads;
use super::inputs::{Unread, image_paths, none_readable};
use super::output::say;
use crate::config::{Config, names_config};
use crate::data::{EvalTransform, FileLoader};
use crate::models::images::upload_pixels;
use crate::models::weights::{self, WeightsFile};
use crate::models::{BeautyNet, Images, Output, Slicer, device};
use crate::run::Run;

/// Images of an input tensor in a forward pass.
const BATCH: i64 = 32;

/// Write the branches' feature vectors of images
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A config (with pretrained or random weights), a run directory, or a weights file in one
    #[arg(value_name = "CONFIG_OR_RUN")]
    model: PathBuf,
    /// Images, folders, which are searched with their subfolders, or - for a list on stdin
    #[arg(required_unless_present = "input_tensor", value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Instead of images: a safetensors file with `input` (batch, 3, height, width), normalized
    /// already
    #[arg(long, conflicts_with = "images", value_name = "FILE")]
    input_tensor: Option<PathBuf>,
    /// The safetensors file to write: vit (batch, d_vit), mamba (batch, d_mamba), fused and score
    /// (batch)
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (config, net) = open_model(&args.model, &args.set)?;
    let mut batches = Vec::new();
    let mut metadata = HashMap::new();
    let mut code = 0;
    let slicer = Slicer::new(config.train.slice, net.device())?;
    if let Some(path) = &args.input_tensor {
        let input = read_input(path)?;
        let (count, _, _, _) = input.size4().with_context(|| {
            let (file, size) = (path.display(), input.size());
            format!("{file}: `input` must have the shape (batch, 3, height, width), has {size:?}")
        })?;
        for start in (0..count).step_by(BATCH as usize) {
            let batch = input.narrow(0, start, BATCH.min(count - start)).to_device(net.device());
            batches.push(net.infer(Images::Normalized(&batch), &slicer)?);
        }
    } else {
        config.check_image_sizes()?;
        let files = image_paths(&args.images)?;
        let (names, unread) = infer_files(&files, &config, &net, &slicer, &mut batches)?;
        ensure!(!names.is_empty(), none_readable(files.len(), &args.images));
        code = u8::from(unread > 0);
        metadata.insert("images".to_string(), serde_json::to_string(&names)?);
    }
    weights::save(&args.output, &columns(Output::concatenate(batches)?), metadata)?;
    say(&format!("wrote {}", args.output.display()));
    Ok(ExitCode::from(code))
}

/// Appends the outputs for image files to `batches`. Returns the names of those that could be read,
/// and the number of the others, which are reported on stderr.
fn infer_files(
    files: &[PathBuf],
    config: &Config,
    net: &BeautyNet,
    slicer: &Slicer,
    batches: &mut Vec<Output>,
) -> Result<(Vec<String>, usize)> {
    let transform = EvalTransform::new(&config.data)?;
    let (size, workers) = (transform.size(), rayon::current_num_threads());
    let batch_size = config.train.batch_size;
    let paths = Vec::from(files).into_iter().map(Ok);
    let loader = FileLoader::new(paths, vec![transform], batch_size, workers)?;
    let (mut names, mut unread) = (Vec::new(), Unread::default());
    for batch in loader {
        let batch = batch?;
        for (file, read) in &batch.files {
            match read {
                Ok(()) => names.push(file.display().to_string()),
                Err(error) => unread.add(file, error),
            }
        }
        if batch.len > 0 {
            let pixels = upload_pixels(&batch.views[0], batch.len, size, net.device())?;
            batches.push(net.infer(Images::Pixels(&pixels), slicer)?);
        }
    }
    Ok((names, unread.finish(files.len())))
}

/// Opens a run with its weights, or a config with the weights that it names.
pub(super) fn open_model(path: &Path, overrides: &[String]) -> Result<(Config, BeautyNet)> {
    if !names_config(path) {
        let run = Run::open(path, overrides)?;
        return Ok((run.config, run.net));
    }
    let config = Config::load(path, overrides)?;
    config.model.check_weights()?;
    let mut downloads = Downloads::new(&Console::from(ConsoleArgs::default()));
    weights::download(&config.model, &mut |download| {
        downloads.show(download);
        Ok(())
    })?;
    tch::manual_seed(config.seed as i64);
    let net = BeautyNet::new(&config, device::select(&config)?)?;
    net.notes().iter().for_each(|note| say(&note.to_string()));
    Ok((config, net))
}

/// Reads the tensor `input` of a safetensors file.
pub(super) fn read_input(path: &Path) -> Result<Tensor> {
    let mut file = WeightsFile::open(path)?;
    let names: Vec<String> = file.shapes().into_keys().collect();
    ensure!(
        names.iter().any(|name| name == "input"),
        "{} must hold a tensor `input` of shape (batch, 3, height, width); it holds {}",
        path.display(),
        names[..names.len().min(20)].join(", ")
    );
    file.tensor("input").with_context(|| format!("cannot read {}", path.display()))
}

/// Returns the outputs by name; a branch that the model lacks is skipped.
fn columns(output: Output) -> Vec<(String, Tensor)> {
    let Output { vit, mamba, fused, score, .. } = output;
    [("vit", vit), ("mamba", mamba), ("fused", Some(fused)), ("score", Some(score))]
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.to_string(), tensor?)))
        .collect()
}
