//! `vmbeauty explain`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::data_root;
use super::features::read_input;
use super::inputs::{image_paths, none_readable};
use super::output::{interval, metric, print_json, print_result, say, table};
use super::parse_split;
use crate::config::Cache;
use crate::data::preview::save;
use crate::data::{ImageDataset, LoaderOptions, Sample, Source, Split};
use crate::eval::statistics::Mean;
use crate::explain::{
    ExplainOptions, FigureOptions, FigureWriter, Method, draw_figure, evaluate, sanity_check,
};
use crate::run::explanations::MapMetrics;
use crate::run::{Run, content_hash};

/// Images that `--sanity` draws a figure of.
const SANITY_FIGURES: usize = 4;

/// Draw attribution maps: what each branch of a trained model attends to
///
/// Crop the faces as those of the training images are: the model resizes the whole image to its
/// input.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run directory, or a weights file in one
    run: PathBuf,
    /// Images, folders, which are searched with their subfolders, or - for a list on stdin
    #[arg(required_unless_present_any = ["input_tensor", "evaluate"], value_name = "IMAGE_OR_DIR")]
    images: Vec<PathBuf>,
    /// Instead of images, a safetensors file with `input` (batch, 3, height, width), already
    /// normalized
    #[arg(long, conflicts_with = "images", value_name = "FILE")]
    input_tensor: Option<PathBuf>,
    /// The folder for figures, maps and contact sheets; with --evaluate, for explain_evaluate.json
    /// and the figures of --sanity
    #[arg(long, short, value_name = "DIR", required_unless_present = "evaluate")]
    output: Option<PathBuf>,
    /// Instead of drawing, evaluate the maps on train, val or test; explain_SPLIT.json in the run
    /// directory keeps the result
    #[arg(
        long, value_name = "SPLIT", value_parser = parse_split,
        conflicts_with_all = ["images", "input_tensor"]
    )]
    evaluate: Option<Split>,
    /// Folder of the dataset, if it has moved since the run
    #[arg(long, value_name = "DIR", requires = "evaluate")]
    data_root: Option<PathBuf>,
    /// Also measure how the maps change when the model's weights are randomized, from the head down
    /// (Adebayo et al., arXiv 1810.03292)
    #[arg(long, requires = "evaluate", conflicts_with_all = ["images", "input_tensor"])]
    sanity: bool,
    /// Evaluate only the first N images of the split
    #[arg(
        long, value_name = "N", requires = "evaluate",
        conflicts_with_all = ["images", "input_tensor"],
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: Option<u32>,
    /// layer-cam, grad-cam, grad-cam++, eigen-cam, integrated-gradients or occlusion; for the ViT
    /// also attention-rollout, for the Mamba also hidden-attention. To choose one for each branch:
    /// --method vit=M --method mamba=M. On synthetic faces layer-cam, integrated-gradients and
    /// occlusion pass the checks of --evaluate where the score depends on the branch, and grad-cam
    /// at the last block does not
    #[arg(long = "method", value_name = "[BRANCH=]M", default_value = Method::DEFAULT.name())]
    methods: Vec<String>,
    /// The block to explain: its index from 0, its name in the weights (vit.blocks.11,
    /// mamba.layers.23), or all; may be repeated. Default: the last block
    #[arg(long = "layer", value_name = "[BRANCH=]LAYER")]
    layers: Vec<String>,
    /// The long side of a figure's panels in pixels; the text grows with it [default: 288; for
    /// several maps per branch 112, and at most 320]
    #[arg(
        long, value_name = "PIXELS", conflicts_with = "evaluate",
        value_parser = clap::value_parser!(u32).range(64..=1024)
    )]
    size: Option<u32>,
    /// Also write each figure as SVG, for papers: text stays text, panels have --size
    #[arg(long, conflicts_with = "evaluate")]
    svg: bool,
    /// Print one JSON object: scores, branch weights and figure files, or metrics
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand. The exit code is 1 if an image could not be read; the others are explained.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut run = data_root::open(&args.run, args.data_root.as_deref())?;
    run.config.data.cache = Cache::None; // each image is read once
    let options = ExplainOptions::parse(&run.net, &args.methods, &args.layers)?;
    match args.evaluate {
        Some(split) => evaluate_split(args, &run, &options, split),
        None => write_figures(args, &run, &options),
    }
}

fn write_figures(args: &Args, run: &Run, options: &ExplainOptions) -> Result<ExitCode> {
    let folder = args.output.as_deref().context("--output is missing")?;
    let (method, blocks) = (options.describe(&run.net), options.describe_blocks(&run.net)?);
    let measured = MapMetrics::of_method(&run.weights, &method, &blocks)?;
    let checked = measured.as_ref().map_or("not checked on this model".into(), MapMetrics::verdict);
    let figures = FigureOptions { side: args.size, svg: args.svg, checked: checked.clone() };
    let mut writer = FigureWriter::create(folder, &run.net, options, figures)?;
    let mut skipped = 0;
    if let Some(path) = &args.input_tensor {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        writer
            .explain_tensor(&read_input(path)?, &name)
            .with_context(|| path.display().to_string())?;
    } else {
        run.config.check_image_sizes()?;
        // The target scores are unknown, and not shown.
        let sample =
            |file: PathBuf| Sample::new(file.display().to_string(), Source::File(file), 0.0, None);
        let samples = image_paths(&args.images)?.into_iter().map(sample).collect();
        let images = ImageDataset::new(samples, &run.config.data)?;
        writer.explain_dataset(&images, run.config.train.batch_size, |error| {
            say(&format!("skipped: {error:#}"));
            skipped += 1;
        })?;
    }
    let entries = writer.finish()?;
    ensure!(!entries.is_empty(), none_readable(skipped, &args.images));
    say(&format!("wrote {} figures to {}", entries.len(), folder.display()));
    say(&match measured {
        Some(_) => format!("{method}: {checked}"),
        None => format!(
            "{method} is not checked on this model: `vmbeauty explain {} --evaluate val` says \
             whether its maps show what the score depends on",
            args.run.display()
        ),
    });
    if args.json {
        let checked = measured.map(|metrics| {
            let passed = metrics.verdicts();
            json!({ "split": metrics.split, "images": metrics.images, "passed": passed })
        });
        print_json(&json!({
            "method": method, "blocks": blocks, "checked": checked, "images": entries
        }))?;
    }
    Ok(ExitCode::from(u8::from(skipped > 0)))
}

fn evaluate_split(
    args: &Args,
    run: &Run,
    options: &ExplainOptions,
    split: Split,
) -> Result<ExitCode> {
    run.config.check_image_sizes()?;
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    let (mut samples, _) = data_root::load_split(run, split)?;
    samples.truncate(args.limit.map_or(usize::MAX, |limit| limit as usize));
    ensure!(!samples.is_empty(), "the split {split} has no images");
    let images = Arc::new(ImageDataset::new(samples, &run.config.data)?);
    let loading = LoaderOptions::for_evaluation(&run.config);
    let mut metrics = evaluate(&run.net, &images, split, options, loading)?;
    metrics.weights = content_hash(&run.weights)?;
    let mut figures = Vec::new();
    if args.sanity {
        let (net, config) = (&run.net, &run.config);
        let (result, explained) =
            sanity_check(net, config, &images, options, loading, SANITY_FIGURES)?;
        metrics.sanity = Some(result);
        metrics.passed = metrics.verdicts();
        figures = explained;
    }
    // A read-only run can be evaluated too.
    if let Err(error) = metrics.save_in_run(run.weights.parent().unwrap_or(Path::new("."))) {
        say(&format!("not saved in the run directory: {error:#}"));
    }
    if let Some(folder) = &args.output {
        metrics.save(folder)?;
        for (at, figure) in figures.iter().enumerate() {
            save(
                &draw_figure(figure, None).to_image(),
                &folder.join(format!("sanity_{}.png", at + 1)),
            )?;
        }
    }
    print_result(args.json, &metrics, || as_table(&metrics))?;
    Ok(ExitCode::SUCCESS)
}

fn as_table(metrics: &MapMetrics) -> String {
    let row = |name: String, mean: &Mean| {
        let value = mean.mean.unwrap_or(f64::NAN);
        vec![name, metric(value), interval(mean.ci), mean.n.to_string()]
    };
    let mut rows = Vec::new();
    if let Some(agreement) = &metrics.agreement {
        rows.push(row("ViT and Mamba: rank correlation".into(), &agreement.spearman));
        let overlap = "ViT and Mamba: overlap of top 20 % (by chance 0.2)";
        rows.push(row(overlap.into(), &agreement.top20_overlap));
    }
    for curves in &metrics.curves {
        let over = |curve: &str| format!("{}: {curve} over random", curves.map);
        rows.push(row(over("insertion"), &curves.insertion_over_random));
        rows.push(row(over("deletion"), &curves.deletion_over_random));
    }
    for region in &metrics.regions {
        let of = |what: &str| format!("{}: {what} {}", region.map, region.region);
        rows.push(row(of("attribution in"), &region.attribution));
        rows.push(row(of("attribution over area of"), &region.over_chance));
    }
    for stage in metrics.sanity.iter().flat_map(|sanity| &sanity.stages) {
        let randomized = stage.randomized.join(", ");
        for map in &stage.maps {
            let of = |what: &str| format!("{}: {what}, {randomized} randomized", map.map);
            rows.push(row(of("rank correlation"), &map.rank_correlation));
            rows.push(row(of("SSIM"), &map.ssim));
        }
    }
    let table = table(&[metrics.method.as_str(), "mean", "95 % interval", "images"], rows);
    let failed = metrics
        .passed
        .iter()
        .flat_map(|verdict| verdict.failed.iter().map(|why| format!("{}: {why}\n", verdict.map)));
    table + &failed.collect::<String>() + &metrics.verdict() + "\n"
}
