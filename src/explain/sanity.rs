//! Sanity checks for attribution maps (Adebayo et al., arXiv 1810.03292): a map that does not
//! change when the weights are randomized shows the image, not what the model learned.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::evaluate::{PerImage, is_constant, map_values};
use super::figure::ExplainedImage;
use super::input_image::InputImage;
use super::maps::{Explanation, explain, scale_maps};
use super::options::{ExplainOptions, branches};
use crate::config::{Branch, Config};
use crate::data::random_stream::RandomStream;
use crate::data::{ImageDataset, Loader, LoaderOptions};
use crate::eval::correlation::spearman;
use crate::eval::evaluate::values;
use crate::models::images::upload;
use crate::models::{BeautyNet, Images};
use crate::run::explanations::{MapSimilarity, RandomizationStage, SanityCheck};

/// Modules that are randomized together.
struct Stage {
    names: Vec<String>,
    /// The modules' parameters, as indices into the list sorted by name.
    parameters: Vec<usize>,
}

impl Stage {
    /// Returns the name of this branch's module, or of the module above both branches.
    fn label(&self, branch: Branch) -> &str {
        let prefix = format!("{}.", branch.name());
        match &self.names[..] {
            [name] => name.strip_prefix(&prefix).unwrap_or(name),
            names => names.iter().find_map(|name| name.strip_prefix(&prefix)).unwrap_or_default(),
        }
    }
}

/// Splits the network's parameters into stages from the top down: head, fusion, the last block of
/// both branches with the norm and the neck after it, the blocks below, and the embeddings. A
/// branch with fewer blocks is finished first. No stage has the scale of the scores.
fn stages(net: &BeautyNet, parameters: &[String]) -> Vec<Stage> {
    let deepest = branches(net).map(|(_, shape)| shape.depth).max().unwrap_or(0);
    // Per stage, its modules with the prefixes of their parameters.
    let mut modules: Vec<Vec<(String, Vec<String>)>> = vec![
        vec![("head".into(), vec!["head.layers.".into()])],
        vec![("fusion".into(), vec!["fusion.".into()])],
    ];
    for above in 0..deepest {
        let blocks =
            branches(net).filter(|(_, shape)| above < shape.depth).map(|(branch, shape)| {
                let (blocks, above_blocks): (_, &[&str]) = match branch {
                    Branch::Vit => ("vit.blocks", &["vit.norm."]),
                    Branch::Mamba => {
                        ("mamba.layers", &["mamba.norm_f.", "mamba.neck.", "mamba.norm_neck."])
                    }
                };
                let name = format!("{blocks}.{}", shape.depth - above - 1);
                let mut prefixes = vec![format!("{name}.")];
                if above == 0 {
                    prefixes.extend(above_blocks.iter().map(ToString::to_string));
                }
                (name, prefixes)
            });
        modules.push(blocks.collect());
    }
    let keys = branches(net).map(|(branch, _)| branch.name());
    // What is left of each branch.
    modules.push(keys.map(|key| (format!("{key}.embeddings"), vec![format!("{key}.")])).collect());
    let mut left: Vec<usize> = (0..parameters.len()).collect();
    let stages = modules.into_iter().map(|modules| {
        let mut stage = Stage { names: Vec::new(), parameters: Vec::new() };
        for (name, prefixes) in modules {
            let belongs = |at: &usize| prefixes.iter().any(|p| parameters[*at].starts_with(p));
            let (own, others): (Vec<usize>, Vec<usize>) = left.iter().partition(|at| belongs(at));
            left = others;
            stage.names.extend((!own.is_empty()).then_some(name));
            stage.parameters.extend(own);
        }
        stage
    });
    stages.filter(|stage| !stage.parameters.is_empty()).collect()
}

/// Randomizes a copy of the model from the top down, stage by stage, and compares each branch's
/// maps with the trained model's. The random weights are those of a new model of this config, with
/// a seed derived from the config's. Also returns the first `shown` images with the maps of all
/// stages. Returns an error as [`explain`] does, and if an image cannot be read.
pub fn sanity_check(
    net: &BeautyNet,
    config: &Config,
    images: &Arc<ImageDataset>,
    options: &ExplainOptions,
    loading: LoaderOptions,
    shown: usize,
) -> Result<(SanityCheck, Vec<ExplainedImage>)> {
    let seed = (RandomStream::new(config.seed, 0, 0, "sanity").unit() * (1u64 << 53) as f64) as i64;
    let randomized = BeautyNet::without_pretrained(config, net.device())?;
    tch::manual_seed(seed);
    let random = BeautyNet::without_pretrained(config, net.device())?;
    let (names, trained): (Vec<String>, Vec<Tensor>) = net.parameters().into_iter().unzip();
    let (_, mut parameters): (Vec<String>, Vec<Tensor>) =
        randomized.parameters().into_iter().unzip();
    let (_, random): (Vec<String>, Vec<Tensor>) = random.parameters().into_iter().unzip();
    let stages = stages(net, &names);
    let mut per_image = PerImage::default();
    let mut figures: Vec<ExplainedImage> = Vec::new();
    for batch in Loader::new(Arc::clone(images), loading)? {
        let batch = batch?;
        let x = upload(&batch, net.device())?;
        let before = explain(net, Images::Pixels(&x), options)?;
        let inputs = batch.indices.iter().take(shown - figures.len());
        let inputs = inputs.map(|&index| InputImage::read(images, index));
        let inputs: Vec<InputImage> = inputs.collect::<Result<_>>()?;
        let mut batch_figures = figures_of(net, options, &inputs, &before)?;
        copy(&mut parameters, &trained, 0..trained.len())?;
        for (number, stage) in stages.iter().enumerate() {
            copy(&mut parameters, &random, stage.parameters.iter().copied())?;
            let after = explain(&randomized, Images::Pixels(&x), options)?;
            compare(&mut per_image, number, &before, &after)?;
            for (row, (input, figure)) in inputs.iter().zip(&mut batch_figures).enumerate() {
                add_heatmaps(figure, input, &after, row, |branch| stage.label(branch))?;
            }
        }
        figures.extend(batch_figures);
    }
    let stages = stages.into_iter().enumerate().map(|(number, stage)| RandomizationStage {
        maps: branches(net)
            .map(|(branch, _)| MapSimilarity {
                map: branch.name().to_string(),
                rank_correlation: per_image.mean(&metric(number, branch, "rank")),
                ssim: per_image.mean(&metric(number, branch, "ssim")),
            })
            .collect(),
        randomized: stage.names,
    });
    Ok((SanityCheck { seed, stages: stages.collect() }, figures))
}

fn metric(stage: usize, branch: Branch, name: &str) -> String {
    format!("{stage} {} {name}", branch.name())
}

fn copy(
    to: &mut [Tensor],
    from: &[Tensor],
    indices: impl IntoIterator<Item = usize>,
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    for at in indices {
        to[at].f_copy_(&from[at])?;
    }
    Ok(())
}

/// Adds the similarity of each image's maps before and after a stage.
fn compare(
    per_image: &mut PerImage,
    stage: usize,
    before: &Explanation,
    after: &Explanation,
) -> Result<()> {
    for (branch, before) in before.branches() {
        let after = after.branch(branch).context("the randomized model lacks a branch")?;
        let side = before.side;
        let (before, after) = (before.last()?, after.last()?);
        let similarity = ssim(&scale_maps(&before, side)?, &scale_maps(&after, side)?)?;
        let (before, after) = (map_values(&before)?, map_values(&after)?);
        let ranks = before.iter().zip(&after).map(|(b, a)| spearman(b, a));
        per_image.extend(metric(stage, branch, "rank"), ranks);
        let similarity = values(&similarity)?.into_iter().zip(&before).map(|(value, before)| {
            // A constant map has nothing to preserve.
            if is_constant(before) { f64::NAN } else { value }
        });
        per_image.extend(metric(stage, branch, "ssim"), similarity);
    }
    Ok(())
}

/// Creates a figure for each image, with the maps of the trained model.
fn figures_of(
    net: &BeautyNet,
    options: &ExplainOptions,
    inputs: &[InputImage],
    explanation: &Explanation,
) -> Result<Vec<ExplainedImage>> {
    let scores = values(&explanation.score)?;
    let method = format!("{}; weights randomized from the top down", options.describe(net));
    let heatmaps = branches(net).map(|(branch, _)| (branch.title().into(), Vec::new()));
    let heatmaps: Vec<_> = heatmaps.collect();
    let mut figures = Vec::new();
    for (row, (input, score)) in inputs.iter().zip(scores).enumerate() {
        let mut figure = ExplainedImage {
            name: input.name.clone(),
            image: input.image.clone(),
            score,
            weights: None,
            method: method.clone(),
            checked: String::new(),
            heatmaps: heatmaps.clone(),
            fused: None,
        };
        add_heatmaps(&mut figure, input, explanation, row, |_| "trained")?;
        figures.push(figure);
    }
    Ok(figures)
}

fn add_heatmaps<'a>(
    figure: &mut ExplainedImage,
    input: &InputImage,
    explanation: &Explanation,
    row: usize,
    label: impl Fn(Branch) -> &'a str,
) -> Result<()> {
    for ((branch, maps), (_, heatmaps)) in explanation.branches().zip(&mut figure.heatmaps) {
        let map = scale_maps(&maps.last()?.narrow(0, row as i64, 1), maps.side)?.squeeze_dim(0);
        heatmaps.push((label(branch).to_string(), input.heatmap(&map)?));
    }
    Ok(())
}

/// The side of the SSIM window in pixels, and its standard deviation.
const WINDOW: i64 = 11;
const DEVIATION: f64 = 1.5;
/// (K₁L)² and (K₂L)² of the paper, for values that span L = 1.
const STABLE: [f64; 2] = [1e-4, 9e-4];

/// Computes the mean structural similarity (SSIM; Wang et al., IEEE TIP 13, 2004) of pairs of maps
/// (b, h, w) with values from 0 to 1: (b), at most 1. The window is a Gaussian of 11 pixels per
/// side, or smaller to fit the maps; only positions with the complete window inside the map count.
/// Returns an error if the maps differ in shape or have no pixels.
pub fn ssim(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (_, height, width) = a.size3()?;
    let least = height.min(width);
    ensure!(
        a.size() == b.size() && least > 0,
        "maps of the shapes {:?} and {:?} cannot be compared",
        a.size(),
        b.size()
    );
    let side = WINDOW.min(least - (least + 1) % 2); // odd
    let window = window(side).to_device(a.device());
    let [a, b] = [a, b].map(|maps| maps.to_kind(Kind::Float).unsqueeze(1));
    let mean = |x: &Tensor| x.f_conv2d(&window, None::<Tensor>, 1, 0, 1, 1);
    let (mean_a, mean_b) = (mean(&a)?, mean(&b)?);
    let square = |x: &Tensor| x * x;
    let variance_a = mean(&square(&a))? - square(&mean_a);
    let variance_b = mean(&square(&b))? - square(&mean_b);
    let covariance = mean(&(&a * &b))? - &mean_a * &mean_b;
    let [light, contrast] = STABLE;
    let above = (&mean_a * &mean_b * 2.0 + light) * (covariance * 2.0 + contrast);
    let below = (square(&mean_a) + square(&mean_b) + light) * (variance_a + variance_b + contrast);
    Ok((above / below).f_mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)?)
}

/// Returns the Gaussian window (1, 1, side, side), which sums to 1.
fn window(side: i64) -> Tensor {
    let weight = |at: i64| (-0.5 * ((at - side / 2) as f64 / DEVIATION).powi(2)).exp();
    let line: Vec<f64> = (0..side).map(weight).collect();
    let line = Tensor::from_slice(&line);
    let window = line.outer(&line);
    (&window / window.sum(Kind::Double)).to_kind(Kind::Float).view([1, 1, side, side])
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Returns the stages' modules, the number of their parameters, and the other parameters.
    fn stages_of(yaml: &str) -> (Vec<Vec<String>>, usize, Vec<String>) {
        let config = Config::from_yaml(yaml, "small", &[]).unwrap();
        let net = BeautyNet::without_pretrained(&config, Device::Cpu).unwrap();
        let names: Vec<String> = net.parameters().into_iter().map(|(name, _)| name).collect();
        let stages = stages(&net, &names);
        let mut randomized: Vec<usize> =
            stages.iter().flat_map(|stage| stage.parameters.clone()).collect();
        randomized.sort_unstable();
        let count = randomized.len();
        randomized.dedup();
        assert_eq!(randomized.len(), count, "a parameter is in two stages");
        let kept = (0..names.len()).filter(|at| !randomized.contains(at));
        let kept = kept.map(|at| names[at].clone()).collect();
        (stages.into_iter().map(|stage| stage.names).collect(), count, kept)
    }

    #[test]
    fn stages_have_every_parameter_from_the_head_down_except_the_scale_of_the_scores() {
        let small = "data: {image_size: 32}, model: {\
            vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 1}, \
            mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 2}";
        let (names, count, kept) = stages_of(&format!("{{{small}, fusion: {{dim: 16}}}}}}"));
        assert_eq!(
            names,
            [
                vec!["head"],
                vec!["fusion"],
                vec!["vit.blocks.0", "mamba.layers.1"],
                vec!["mamba.layers.0"],
                vec!["vit.embeddings", "mamba.embeddings"],
            ]
        );
        assert!(count > 20);
        assert_eq!(kept, ["head.score_mean", "head.score_std"]);
        let (names, _, _) = stages_of(&format!("{{{small}, fusion: {{strategy: mamba_only}}}}}}"));
        assert_eq!(names, [["head"], ["mamba.layers.1"], ["mamba.layers.0"], ["mamba.embeddings"]]);
        // The fusion holds the branches' regressors.
        let (names, _, _) = stages_of(&format!("{{{small}, fusion: {{strategy: score}}}}}}"));
        assert_eq!(names[0], ["fusion"]);
    }

    #[test]
    fn a_mamba_regs_neck_is_randomized_with_the_last_block() {
        let yaml = "{data: {image_size: 32}, model: {fusion: {strategy: mamba_only}, \
            mamba: {name: mambar_small_patch16_224, patch_size: 8, embed_dim: 24, depth: 2}}}";
        let config = Config::from_yaml(yaml, "small", &[]).unwrap();
        let net = BeautyNet::without_pretrained(&config, Device::Cpu).unwrap();
        let names: Vec<String> = net.parameters().into_iter().map(|(name, _)| name).collect();
        let stages = stages(&net, &names);
        let of = |wanted: &str| {
            let has = |stage: &Stage| stage.parameters.iter().any(|&at| names[at] == wanted);
            stages.iter().find(|stage| has(stage)).map(|stage| stage.names.join(" "))
        };
        for (parameter, stage) in [
            ("mamba.neck.weight", "mamba.layers.1"),
            ("mamba.norm_neck.weight", "mamba.layers.1"),
            ("mamba.pos_embed_cls", "mamba.embeddings"),
        ] {
            assert_eq!(of(parameter).as_deref(), Some(stage), "{parameter}");
        }
    }

    /// `structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    /// data_range=1)` of scikit-image 0.26.0.
    const SCIKIT: f64 = 0.66152108;

    /// Returns two smooth maps.
    fn maps(height: i64, width: i64) -> [Tensor; 2] {
        let map = |value: &dyn Fn(f64, f64) -> f64| {
            let values: Vec<f32> = (0..height * width)
                .map(|at| value((at / width) as f64, (at % width) as f64) as f32)
                .collect();
            Tensor::from_slice(&values).view([1, height, width])
        };
        [
            map(&|y, x| 0.5 + 0.5 * (0.3 * x + 0.1 * y).sin()),
            map(&|y, x| 0.5 + 0.4 * (0.3 * x + 0.13 * y).sin()),
        ]
    }

    #[test]
    fn ssim_equals_scikit_image() {
        let [a, b] = maps(32, 24);
        let both = Tensor::cat(&[&a, &a], 0);
        let with = Tensor::cat(&[&b, &a], 0);
        let found = Vec::<f64>::try_from(ssim(&both, &with).unwrap().to_kind(Kind::Double));
        let found = found.unwrap();
        assert!((found[0] - SCIKIT).abs() < 1e-5, "{found:?}");
        assert!((found[1] - 1.0).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn small_maps_have_a_small_window_and_different_shapes_are_errors() {
        let [a, b] = maps(4, 6);
        assert!(ssim(&a, &b).unwrap().double_value(&[0]) < 1.0);
        assert!(ssim(&a, &maps(4, 5)[0]).is_err());
    }
}
