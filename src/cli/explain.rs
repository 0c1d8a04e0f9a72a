//! `vmbeauty explain`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::features::read_input;
use super::output::{interval, metric, print, print_json, say, table};
use super::predict::listed;
use crate::config::Cache;
use crate::data::preview::save;
use crate::data::{self, Frame, ImageDataset, Sample, Source, Split};
use crate::eval::evaluate::Walk;
use crate::eval::statistics::Mean;
use crate::explain::{
    self, Evaluation, ExplainOptions, Explanation, FigureWriter, InputImage, Sanity, branches,
    evaluate, explain, explained_images, sanity,
};
use crate::files::write_json;
use crate::models::{BeautyNet, Images};
use crate::run::Run;

/// Images that go through the model at once, at most.
const BATCH: usize = 16;
/// Images whose maps `--sanity` draws.
const STRIPS: usize = 4;

/// Draw what each branch of a trained model looks at in images
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// Images, or folders of images
    #[arg(required_unless_present_any = ["input_tensor", "evaluate"], value_name = "IMAGE_OR_DIR")]
    images: Vec<PathBuf>,
    /// Instead of images: a safetensors file with `input` (batch, 3, height, width), normalized
    /// already
    #[arg(long, conflicts_with = "images", value_name = "FILE")]
    input_tensor: Option<PathBuf>,
    /// The folder for figures, maps and contact sheets; with --evaluate, for explain_evaluate.json
    /// and the strips of --sanity
    #[arg(long, short, value_name = "DIR", required_unless_present = "evaluate")]
    output: Option<PathBuf>,
    /// Instead of drawing, measure the maps of train, val or test; explain_SPLIT.json in the run
    /// directory keeps the result
    #[arg(long, value_name = "SPLIT", value_parser = parse_split, conflicts_with_all = ["images", "input_tensor"])]
    evaluate: Option<Split>,
    /// Measure too how the maps change while the model's weights are drawn anew, from the head down
    /// (Adebayo et al., arXiv 1810.03292)
    #[arg(long, requires = "evaluate", conflicts_with_all = ["images", "input_tensor"])]
    sanity: bool,
    /// Of the split to measure, only the first images
    #[arg(long, value_name = "N", requires = "evaluate", conflicts_with_all = ["images", "input_tensor"], value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// grad-cam, grad-cam++, eigen-cam, layer-cam, integrated-gradients or occlusion; of the ViT
    /// also attention-rollout, of the Mamba also hidden-attention. One for each branch: --method
    /// vit=M --method mamba=M
    #[arg(long = "method", value_name = "[BRANCH=]M", default_value = "grad-cam")]
    methods: Vec<String>,
    /// The block to look into: its index from 0, its name in the weights (vit.blocks.11,
    /// mamba.layers.23), or all; may be repeated. The last one where it is left out
    #[arg(long = "layer", value_name = "[BRANCH=]LAYER")]
    layers: Vec<String>,
    /// Print one JSON object: scores, branch weights and figures
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand: 1 where an image could not be read, after the others have been explained.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut run = Run::open(&args.run, &[])?;
    run.config.data.cache = Cache::None; // each image is looked at once
    let request = ExplainOptions::parse(&run.net, &args.methods, &args.layers)?;
    if let Some(split) = args.evaluate {
        return measure(args, &run, &request, split);
    }
    let folder = args.output.as_deref().context("--output is missing")?;
    let mut output = Output { gallery: FigureWriter::create(folder)?, request, rows: Vec::new() };
    let left_out = match &args.input_tensor {
        Some(path) => explain_tensor(&run, path, &mut output)?,
        None => explain_files(&run, &args.images, &mut output)?,
    };
    let count = output.gallery.finish()?;
    ensure!(
        count > 0,
        "there is no image to look at: {left_out} files were found, none can be read"
    );
    say(&format!("wrote {count} figures to {}", folder.display()));
    if args.json {
        print_json(&json!({
            "method": request.describe(&run.net),
            "images": output.rows,
        }))?;
    }
    Ok(ExitCode::from(u8::from(left_out > 0)))
}

/// Measures the maps of a split.
fn measure(args: &Args, run: &Run, request: &ExplainOptions, split: Split) -> Result<ExitCode> {
    run.config.check_image_sizes()?;
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let (mut samples, _) = data::load_split(&run.config.data, run.config.seed, split)?;
    samples.truncate(args.limit.map_or(usize::MAX, |limit| limit as usize));
    ensure!(!samples.is_empty(), "the split {split} has no images");
    let images = Arc::new(ImageDataset::new(samples, &run.config.data)?);
    let walk = Walk { batch_size: run.config.train.batch_size, workers: run.config.data.workers };
    let evaluation = evaluate(&run.net, &images, request, walk, &mut |_| {})?;
    let (sanity, strips) = if args.sanity {
        let (net, config) = (&run.net, &run.config);
        let (sanity, strips) = sanity(net, config, &images, request, walk, STRIPS)?;
        (Some(sanity), strips)
    } else {
        (None, Vec::new())
    };
    let measured = Measured { split: split.name(), evaluation, sanity };
    let folder = run.weights.parent().unwrap_or(Path::new("."));
    let file = folder.join(format!("explain_{split}.json"));
    // A run that may only be read can be measured all the same.
    if let Err(error) = write_json(&file, &measured) {
        say(&format!("not kept: {error:#}"));
    }
    if let Some(folder) = &args.output {
        write_json(&folder.join("explain_evaluate.json"), &measured)?;
        for (at, strip) in strips.iter().enumerate() {
            let file = format!("sanity_{}.png", at + 1);
            save(&explain::draw_figure(strip), &folder.join(file))?;
        }
    }
    if args.json {
        print_json(&measured)?
    } else {
        print(&as_table(&measured))?
    }
    Ok(ExitCode::SUCCESS)
}

/// What `--evaluate` finds, as JSON: the form that other programs read.
#[derive(Serialize)]
struct Measured {
    /// `train`, `val` or `test`.
    split: &'static str,
    #[serde(flatten)]
    evaluation: Evaluation,
    /// With `--sanity`.
    sanity: Option<Sanity>,
}

fn as_table(measured: &Measured) -> String {
    let evaluation = &measured.evaluation;
    let row = |name: String, mean: &Mean| {
        let value = mean.mean.unwrap_or(f64::NAN);
        vec![name, metric(value), interval(mean.ci), mean.n.to_string()]
    };
    let mut rows = Vec::new();
    if let Some(agreement) = &evaluation.agreement {
        rows.push(row("ViT and Mamba: rank correlation".into(), &agreement.spearman));
        let overlap = "ViT and Mamba: overlap of top 20 % (by chance 0.2)";
        rows.push(row(overlap.into(), &agreement.top20_overlap));
    }
    for curves in &evaluation.curves {
        let over = |way: &str| format!("{}: {way} over random", curves.map);
        rows.push(row(over("insertion"), &curves.insertion_over_random));
        rows.push(row(over("deletion"), &curves.deletion_over_random));
    }
    for share in &evaluation.parts {
        let of = |what: &str| format!("{}: {what} {}", share.map, share.part);
        rows.push(row(of("mass on"), &share.mass));
        rows.push(row(of("mass over area of"), &share.over_chance));
    }
    for stage in measured.sanity.iter().flat_map(|sanity| &sanity.stages) {
        let anew = stage.randomized.join(", ");
        for map in &stage.maps {
            let of = |what: &str| format!("{}: {what} after {anew} anew", map.map);
            rows.push(row(of("rank correlation"), &map.rank_correlation));
            rows.push(row(of("SSIM"), &map.ssim));
        }
    }
    let header = [evaluation.method.as_str(), "mean", "95 % interval", "images"];
    table(&header, &rows)
}

fn parse_split(text: &str) -> Result<Split, String> {
    text.parse().map_err(|error| format!("{error:#}"))
}

/// Where explained images go.
struct Output {
    gallery: FigureWriter,
    request: ExplainOptions,
    rows: Vec<Value>,
}

/// Batch by batch; how many could not be read.
fn explain_files(run: &Run, paths: &[PathBuf], output: &mut Output) -> Result<usize> {
    run.config.check_image_sizes()?;
    let mut files = Vec::new();
    for path in paths {
        files.extend(listed(path)?);
    }
    let samples = files.iter().map(|file| {
        let source = Source::File(file.clone());
        Sample::new(file.display().to_string(), source, 0.0, None)
    });
    let images = ImageDataset::new(samples.collect(), &run.config.data)?;
    let indices: Vec<usize> = (0..files.len()).collect();
    let mut left_out = 0;
    for part in indices.chunks(BATCH.min(run.config.train.batch_size.max(1))) {
        let read: Vec<Result<InputImage>> =
            part.par_iter().map(|&index| InputImage::read(&images, index)).collect();
        let mut originals = Vec::new();
        for result in read {
            match result {
                Ok(original) => originals.push(original),
                Err(error) => {
                    say(&format!("left out: {error:#}"));
                    left_out += 1;
                }
            }
        }
        if originals.is_empty() {
            continue;
        }
        let pixels = InputImage::batch(&originals, images.size(), run.net.device())?;
        let explanation = explain(&run.net, Images::Pixels(&pixels), &output.request)?;
        output.add(&run.net, originals, &explanation)?;
    }
    Ok(left_out)
}

/// The images of a tensor, shown as the model's normalization has made them.
fn explain_tensor(run: &Run, path: &Path, output: &mut Output) -> Result<usize> {
    let input = read_input(path)?;
    let (count, channels, height, width) = input.size4().with_context(|| {
        format!(
            "{}: input must have the shape (batch, 3, height, width), it has {:?}",
            path.display(),
            input.size()
        )
    })?;
    ensure!(channels == 3, "{}: input has {channels} channels, an image has 3", path.display());
    let shape = branches(&run.net).map(|(_, shape)| shape).next();
    let shape = shape.context("the model has no branch")?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let channel = |of: [f32; 3]| Tensor::from_slice(&of).view([1, 3, 1, 1]);
    let (mean, std) = (channel(shape.mean), channel(shape.std));
    for start in (0..count).step_by(BATCH) {
        let part = input.narrow(0, start, (BATCH as i64).min(count - start)).to_kind(Kind::Float);
        let explanation = explain(
            &run.net,
            Images::Normalized(&part.to_device(run.net.device())),
            &output.request,
        )?;
        let shown = ((part * &std + &mean) * 255.0).round().clamp(0.0, 255.0);
        let shown = shown.permute([0, 2, 3, 1]).contiguous();
        let mut originals = Vec::new();
        for row in 0..shown.size()[0] {
            let bytes = Vec::<u8>::try_from(&shown.get(row).reshape([-1]).to_kind(Kind::Uint8))?;
            let image = RgbImage::from_raw(width as u32, height as u32, bytes);
            originals.push(InputImage {
                name: format!("{stem}_{}", start + row),
                image: image.context("an image of the tensor has no pixels")?,
                frame: Frame { left: 0.0, top: 0.0, width: width as f64, height: height as f64 },
                pixels: Vec::new(),
            });
        }
        output.add(&run.net, originals, &explanation)?;
    }
    Ok(0)
}

impl Output {
    fn add(
        &mut self,
        net: &BeautyNet,
        originals: Vec<InputImage>,
        explanation: &Explanation,
    ) -> Result<()> {
        let pieces = explained_images(net, &self.request, originals, explanation)?;
        let figures = self.gallery.add(&pieces)?;
        for ((explained, _), figure) in pieces.iter().zip(figures) {
            self.rows.push(json!({
                "image": explained.name,
                "score": explained.score,
                "weight_vit": explained.weights.map(|w| w[0]),
                "weight_mamba": explained.weights.map(|w| w[1]),
                "figure": figure,
            }));
        }
        Ok(())
    }
}
