//! Whether maps show what was learned (Adebayo et al., "Sanity checks for saliency maps", arXiv
//! 1810.03292): a map that stays as it is while the weights are drawn anew shows the image, not the
//! model.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::Serialize;
use tch::{Kind, Tensor};

use super::evaluate::{Columns, is_flat, rows};
use super::figure::{ExplainedImage, LabeledMap};
use super::heatmap::InputImage;
use super::maps::{Explanation, explain, scale_maps};
use super::options::{ExplainOptions, branches};
use crate::config::{Branch, Config};
use crate::data::random_stream::RandomStream;
use crate::data::{ImageDataset, Loader, LoaderOptions, Mode};
use crate::eval::correlation::spearman;
use crate::eval::evaluate::{Walk, values};
use crate::eval::statistics::{Bootstrap, Mean};
use crate::models::images::upload;
use crate::models::{BeautyNet, Images};

/// How alike a branch's maps are to those of the trained model.
#[derive(Debug, Serialize)]
pub struct Similarity {
    /// `vit` or `mamba`.
    pub map: &'static str,
    /// Spearman's correlation over patches; no map has negative values. A map that is the same
    /// everywhere has none.
    pub rank_correlation: Mean,
    /// Structural similarity of the maps over the image, each from 0 to 1; of images on which the
    /// trained model's map is not empty.
    pub ssim: Mean,
}

/// The model with one more part drawn anew.
#[derive(Debug, Serialize)]
pub struct Stage {
    /// That part, as the weights name it: `head`, `fusion`, `vit.blocks.2` and `mamba.layers.3`,
    /// `vit.embeddings` for what is below its blocks. All stages before are drawn anew as well.
    pub randomized: Vec<String>,
    /// By branch.
    pub maps: Vec<Similarity>,
}

/// What [`sanity`] finds.
#[derive(Debug, Serialize)]
pub struct Sanity {
    /// Of the new weights.
    pub seed: i64,
    /// From the head down.
    pub stages: Vec<Stage>,
}

/// A part of the network that is drawn anew at once.
struct Part {
    names: Vec<String>,
    /// Of the parameters, in their order by name.
    indices: Vec<usize>,
}

/// The network's parts from the top down: head, fusion, the last block of both branches with the
/// norm after it, the blocks before, and the embeddings. A branch with fewer blocks is done first.
/// The scale of the scores is none of them.
fn parts(net: &BeautyNet, names: &[String]) -> Vec<Part> {
    let depth = |branch: Branch| net.branch(branch).map_or(0, |shape| shape.depth);
    let deepest = branches(net).map(|(branch, _)| branch).map(depth).max().unwrap_or(0);
    let mut prefixes: Vec<Vec<(String, Vec<String>)>> = vec![
        vec![("head".into(), vec!["head.layers.".into()])],
        vec![("fusion".into(), vec!["fusion.".into()])],
    ];
    for above in 0..deepest {
        let blocks = branches(net).map(|(branch, _)| branch).filter_map(|branch| {
            let (blocks, norm) = match branch {
                Branch::Vit => ("vit.blocks", "vit.norm."),
                Branch::Mamba => ("mamba.layers", "mamba.norm_f."),
            };
            let name = format!("{blocks}.{}", depth(branch).checked_sub(above + 1)?);
            let mut of = vec![format!("{name}.")];
            of.extend((above == 0).then(|| norm.to_string()));
            (above < depth(branch)).then_some((name, of))
        });
        prefixes.push(blocks.collect());
    }
    let whole = branches(net).map(|(branch, _)| branch).map(Branch::name);
    let whole = whole.map(|key| (format!("{key}.embeddings"), vec![format!("{key}.")]));
    prefixes.push(whole.collect());
    let mut left: Vec<usize> = (0..names.len()).collect();
    let parts = prefixes.into_iter().map(|named| {
        let mut part = Part { names: Vec::new(), indices: Vec::new() };
        for (name, prefixes) in named {
            let is_of = |&at: &usize| prefixes.iter().any(|p| names[at].starts_with(p));
            let (mine, others): (Vec<usize>, Vec<usize>) = left.iter().partition(|at| is_of(at));
            left = others;
            part.names.extend((!mine.is_empty()).then_some(name));
            part.indices.extend(mine);
        }
        part
    });
    parts.filter(|part| !part.indices.is_empty()).collect()
}

/// Draws the weights anew from the top down, part by part, and compares each branch's maps with
/// those of the trained model, which stays as it is. New weights are those of a fresh model of this
/// config, by a seed that comes from the config's (and is not the training's). The first `shown`
/// images are given back with all their maps.
///
/// # Errors
/// As [`explain`], or an image that cannot be read.
pub fn sanity(
    net: &BeautyNet,
    config: &Config,
    images: &Arc<ImageDataset>,
    request: &ExplainOptions,
    walk: Walk,
    shown: usize,
) -> Result<(Sanity, Vec<ExplainedImage>)> {
    let seed = (RandomStream::new(config.seed, 0, 0, "sanity").unit() * (1u64 << 53) as f64) as i64;
    let trial = BeautyNet::without_pretrained(config, net.device())?;
    tch::manual_seed(seed);
    let fresh = BeautyNet::without_pretrained(config, net.device())?;
    let (names, trained): (Vec<String>, Vec<Tensor>) = net.parameters().into_iter().unzip();
    let tensors = |net: &BeautyNet| net.parameters().into_iter().map(|(_, t)| t).collect();
    let (mut trial_tensors, fresh): (Vec<Tensor>, Vec<Tensor>) = (tensors(&trial), tensors(&fresh));
    let parts = parts(net, &names);
    let mut columns = Columns::default();
    let mut figures: Vec<ExplainedImage> = Vec::new();
    let options = LoaderOptions::new(Mode::Eval, walk.batch_size, walk.workers);
    for batch in Loader::new(Arc::clone(images), options)? {
        let batch = batch?;
        let x = upload(&batch, net.device())?;
        let before = explain(net, Images::Pixels(&x), request)?;
        let originals = batch.indices.iter().take(shown - figures.len());
        let originals = originals.map(|&index| InputImage::read(images, index));
        let originals: Vec<InputImage> = originals.collect::<Result<_>>()?;
        let mut strips = strips(net, request, &originals, &before)?;
        copy(&mut trial_tensors, &trained, 0..trained.len())?;
        for (stage, part) in parts.iter().enumerate() {
            copy(&mut trial_tensors, &fresh, part.indices.iter().copied())?;
            let after = explain(&trial, Images::Pixels(&x), request)?;
            compare(&mut columns, net, stage, &before, &after)?;
            for (row, (original, strip)) in originals.iter().zip(&mut strips).enumerate() {
                add_maps(strip, net, part, original, &after, row as i64)?;
            }
        }
        figures.extend(strips);
    }
    let stages = parts.into_iter().enumerate().map(|(stage, part)| Stage {
        maps: branches(net)
            .map(|(branch, _)| branch)
            .map(|branch| {
                let mean = |what| mean(&columns, stage, branch, what);
                Similarity {
                    map: branch.name(),
                    rank_correlation: mean("rank"),
                    ssim: mean("ssim"),
                }
            })
            .collect(),
        randomized: part.names,
    });
    let stages = stages.collect();
    Ok((Sanity { seed, stages }, figures))
}

fn column(stage: usize, branch: Branch, what: &str) -> String {
    format!("{stage} {} {what}", branch.name())
}

fn mean(columns: &Columns, stage: usize, branch: Branch, what: &str) -> Mean {
    Bootstrap::default().mean(columns.of(&column(stage, branch, what)))
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

/// Adds how alike each image's maps are.
fn compare(
    columns: &mut Columns,
    net: &BeautyNet,
    stage: usize,
    before: &Explanation,
    after: &Explanation,
) -> Result<()> {
    for branch in branches(net).map(|(branch, _)| branch) {
        let (Some(before), Some(after)) = (before.branch(branch), after.branch(branch)) else {
            continue;
        };
        let side = before.side;
        let (before, after) = (before.last()?, after.last()?);
        let alike = values(&ssim(&scale_maps(&before, side)?, &scale_maps(&after, side)?)?)?;
        let (before, after) = (rows(&before)?, rows(&after)?);
        let ranks = before.iter().zip(&after).map(|(b, a)| spearman(b, a));
        columns.push(column(stage, branch, "rank"), ranks);
        let alike = alike.into_iter().zip(&before).map(|(alike, before)| {
            // Of an empty map there is nothing to keep.
            if is_flat(before) { f64::NAN } else { alike }
        });
        columns.push(column(stage, branch, "ssim"), alike);
    }
    Ok(())
}

/// A strip for each image, with the maps of the trained model.
fn strips(
    net: &BeautyNet,
    request: &ExplainOptions,
    originals: &[InputImage],
    before: &Explanation,
) -> Result<Vec<ExplainedImage>> {
    let scores = values(&before.score)?;
    let method = format!("{}; weights drawn anew from the top down", request.describe(net));
    let strips = originals.iter().zip(scores).enumerate();
    strips
        .map(|(row, (original, score))| {
            let mut strip = ExplainedImage {
                name: original.name.clone(),
                image: original.image.clone(),
                score,
                weights: None,
                method: method.clone(),
                maps: branches(net)
                    .map(|(branch, _)| branch)
                    .map(|b| (b.title().into(), Vec::new()))
                    .collect(),
                fused: None,
            };
            let trained = |_: Branch| "trained".to_string();
            push_maps(&mut strip, net, original, before, row as i64, &trained)?;
            Ok(strip)
        })
        .collect()
}

/// Adds a stage's maps, each with what was drawn anew in its branch, or above it.
fn add_maps(
    strip: &mut ExplainedImage,
    net: &BeautyNet,
    part: &Part,
    original: &InputImage,
    after: &Explanation,
    row: i64,
) -> Result<()> {
    let label = |branch: Branch| {
        let own = format!("{}.", branch.name());
        let name = match &part.names[..] {
            [name] => name.as_str(),
            names => names.iter().find(|name| name.starts_with(&own)).map_or("", String::as_str),
        };
        name.strip_prefix(&own).unwrap_or(name).to_string()
    };
    push_maps(strip, net, original, after, row, &label)
}

fn push_maps(
    strip: &mut ExplainedImage,
    net: &BeautyNet,
    original: &InputImage,
    explanation: &Explanation,
    row: i64,
    label: &dyn Fn(Branch) -> String,
) -> Result<()> {
    for (branch, (_, maps)) in branches(net).map(|(branch, _)| branch).zip(&mut strip.maps) {
        if let Some(of) = explanation.branch(branch) {
            let map = scale_maps(&of.last()?.narrow(0, row, 1), of.side)?.squeeze_dim(0);
            let labeled: LabeledMap = (label(branch), original.placed(&map)?);
            maps.push(labeled);
        }
    }
    Ok(())
}

/// Pixels a side of the window, and its standard deviation.
const WINDOW: i64 = 11;
const DEVIATION: f64 = 1.5;
/// (K₁L)² and (K₂L)² of the paper, for values that span L = 1.
const STABLE: [f64; 2] = [1e-4, 9e-4];

/// The mean structural similarity (Wang et al., IEEE TIP 13, 2004) of two maps each, (b, h, w) with
/// values from 0 to 1: (b), at most
/// 1. The window is a Gaussian of 11 pixels a side, smaller where the maps are; only places where
///    it lies inside count.
///
/// # Errors
/// Maps of different shapes, or without pixels.
pub fn ssim(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (_, height, width) = a.size3()?;
    let least = height.min(width);
    ensure!(
        a.size() == b.size() && least > 0,
        "maps of the shapes {:?} and {:?} are not compared",
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

/// (1, 1, side, side), with the sum of 1.
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

    fn parts_of(yaml: &str) -> (Vec<Vec<String>>, usize, Vec<String>) {
        let config = Config::from_yaml(yaml, "small", &[]).unwrap();
        let net = BeautyNet::without_pretrained(&config, Device::Cpu).unwrap();
        let names: Vec<String> = net.parameters().into_iter().map(|(name, _)| name).collect();
        let parts = parts(&net, &names);
        let mut taken: Vec<usize> = parts.iter().flat_map(|p| p.indices.clone()).collect();
        taken.sort_unstable();
        let count = taken.len();
        taken.dedup();
        assert_eq!(taken.len(), count, "a parameter stands in two parts");
        let kept = (0..names.len()).filter(|at| !taken.contains(at));
        let kept = kept.map(|at| names[at].clone()).collect();
        (parts.into_iter().map(|part| part.names).collect(), count, kept)
    }

    #[test]
    fn parts_are_all_parameters_from_the_head_down_but_the_scale_of_the_scores() {
        let small = "data: {image_size: 32}, model: {vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 1}, mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 2}";
        let (names, count, kept) = parts_of(&format!("{{{small}, fusion: {{dim: 16}}}}}}"));
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
        let (names, _, _) = parts_of(&format!("{{{small}, fusion: {{strategy: mamba_only}}}}}}"));
        assert_eq!(names, [["head"], ["mamba.layers.1"], ["mamba.layers.0"], ["mamba.embeddings"]]);
        // The branches' own regressors are the fusion.
        let (names, _, _) = parts_of(&format!("{{{small}, fusion: {{strategy: score}}}}}}"));
        assert_eq!(names[0], ["fusion"]);
    }

    /// `structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    /// data_range=1)` of scikit-image 0.26.0.
    const SCIKIT: f64 = 0.66152108;

    /// Two maps of a formula each.
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
    fn values_are_those_of_scikit_image() {
        let [a, b] = maps(32, 24);
        let both = Tensor::cat(&[&a, &a], 0);
        let with = Tensor::cat(&[&b, &a], 0);
        let found = Vec::<f64>::try_from(ssim(&both, &with).unwrap().to_kind(Kind::Double));
        let found = found.unwrap();
        assert!((found[0] - SCIKIT).abs() < 1e-5, "{found:?}");
        assert!((found[1] - 1.0).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn small_maps_have_a_small_window_and_different_shapes_are_refused() {
        let [a, b] = maps(4, 6);
        assert!(ssim(&a, &b).unwrap().double_value(&[0]) < 1.0);
        assert!(ssim(&a, &maps(4, 5)[0]).is_err());
    }
}
