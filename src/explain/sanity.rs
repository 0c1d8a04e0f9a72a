//! Whether maps show what was learned (Adebayo et al., "Sanity checks for saliency maps", arXiv
//! 1810.03292): a map that stays as it is while the weights are drawn anew shows the image, not the
//! model.

use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use tch::Tensor;

use super::evaluate::{Columns, is_flat, rows};
use super::figure::{Explained, LabeledMap};
use super::maps::{Explanation, explain};
use super::originals::Original;
use super::request::{Request, key, present, title};
use super::scale::scaled;
use super::ssim::ssim;
use crate::config::{BackboneKind, Config};
use crate::data::draws::Draws;
use crate::data::{ImageDataset, Loader, LoaderOptions, Pass};
use crate::eval::evaluate::{Walk, pixels, values};
use crate::eval::metrics::spearman;
use crate::eval::statistics::{Bootstrap, Mean};
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
    let depth = |branch: BackboneKind| net.branch(branch).map_or(0, |shape| shape.depth);
    let deepest = present(net).map(depth).max().unwrap_or(0);
    let mut prefixes: Vec<Vec<(String, Vec<String>)>> = vec![
        vec![("head".into(), vec!["head.layers.".into()])],
        vec![("fusion".into(), vec!["fusion.".into()])],
    ];
    for above in 0..deepest {
        let blocks = present(net).filter_map(|branch| {
            let (blocks, norm) = match branch {
                BackboneKind::Vit => ("vit.blocks", "vit.norm."),
                BackboneKind::Vim => ("mamba.layers", "mamba.norm_f."),
            };
            let name = format!("{blocks}.{}", depth(branch).checked_sub(above + 1)?);
            let mut of = vec![format!("{name}.")];
            of.extend((above == 0).then(|| norm.to_string()));
            (above < depth(branch)).then_some((name, of))
        });
        prefixes.push(blocks.collect());
    }
    let whole = present(net).map(key);
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
    request: &Request,
    walk: Walk,
    shown: usize,
) -> Result<(Sanity, Vec<Explained>)> {
    let seed = (Draws::new(config.seed, 0, 0, "sanity").unit() * (1u64 << 53) as f64) as i64;
    let trial = BeautyNet::without_pretrained(config, net.device())?;
    tch::manual_seed(seed);
    let fresh = BeautyNet::without_pretrained(config, net.device())?;
    let (names, trained): (Vec<String>, Vec<Tensor>) = net.parameters().into_iter().unzip();
    let tensors = |net: &BeautyNet| net.parameters().into_iter().map(|(_, t)| t).collect();
    let (mut trial_tensors, fresh): (Vec<Tensor>, Vec<Tensor>) = (tensors(&trial), tensors(&fresh));
    let parts = parts(net, &names);
    let mut columns = Columns::default();
    let mut figures: Vec<Explained> = Vec::new();
    let options = LoaderOptions::new(Pass::Evaluate, walk.batch_size, walk.workers);
    for batch in Loader::new(Arc::clone(images), options)? {
        let batch = batch?;
        let x = pixels(&batch, net.device())?;
        let before = explain(net, Images::Pixels(&x), request)?;
        let originals = batch.indices.iter().take(shown - figures.len());
        let originals = originals.map(|&index| Original::read(images, index));
        let originals: Vec<Original> = originals.collect::<Result<_>>()?;
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
        maps: present(net)
            .map(|branch| {
                let mean = |what| mean(&columns, stage, branch, what);
                Similarity { map: key(branch), rank_correlation: mean("rank"), ssim: mean("ssim") }
            })
            .collect(),
        randomized: part.names,
    });
    let stages = stages.collect();
    Ok((Sanity { seed, stages }, figures))
}

fn column(stage: usize, branch: BackboneKind, what: &str) -> String {
    format!("{stage} {} {what}", key(branch))
}

fn mean(columns: &Columns, stage: usize, branch: BackboneKind, what: &str) -> Mean {
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
    for branch in present(net) {
        let (Some(before), Some(after)) = (before.branch(branch), after.branch(branch)) else {
            continue;
        };
        let side = before.side;
        let (before, after) = (before.last()?, after.last()?);
        let alike = values(&ssim(&scaled(&before, side)?, &scaled(&after, side)?)?)?;
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
    request: &Request,
    originals: &[Original],
    before: &Explanation,
) -> Result<Vec<Explained>> {
    let scores = values(&before.score)?;
    let method = format!("{}; weights drawn anew from the top down", request.describe(net));
    let strips = originals.iter().zip(scores).enumerate();
    strips
        .map(|(row, (original, score))| {
            let mut strip = Explained {
                name: original.name.clone(),
                image: original.image.clone(),
                score,
                weights: None,
                method: method.clone(),
                maps: present(net).map(|b| (title(b).into(), Vec::new())).collect(),
                fused: None,
            };
            let trained = |_: BackboneKind| "trained".to_string();
            push_maps(&mut strip, net, original, before, row as i64, &trained)?;
            Ok(strip)
        })
        .collect()
}

/// Adds a stage's maps, each with what was drawn anew in its branch, or above it.
fn add_maps(
    strip: &mut Explained,
    net: &BeautyNet,
    part: &Part,
    original: &Original,
    after: &Explanation,
    row: i64,
) -> Result<()> {
    let label = |branch: BackboneKind| {
        let own = format!("{}.", key(branch));
        let name = match &part.names[..] {
            [name] => name.as_str(),
            names => names.iter().find(|name| name.starts_with(&own)).map_or("", String::as_str),
        };
        name.strip_prefix(&own).unwrap_or(name).to_string()
    };
    push_maps(strip, net, original, after, row, &label)
}

fn push_maps(
    strip: &mut Explained,
    net: &BeautyNet,
    original: &Original,
    explanation: &Explanation,
    row: i64,
    label: &dyn Fn(BackboneKind) -> String,
) -> Result<()> {
    for (branch, (_, maps)) in present(net).zip(&mut strip.maps) {
        if let Some(of) = explanation.branch(branch) {
            let map = scaled(&of.last()?.narrow(0, row, 1), of.side)?.squeeze_dim(0);
            let labeled: LabeledMap = (label(branch), original.placed(&map)?);
            maps.push(labeled);
        }
    }
    Ok(())
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
}
