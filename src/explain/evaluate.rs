//! Metrics of attribution maps over a split.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::maps::{explain, scale_maps};
use super::options::{ExplainOptions, branches};
use crate::data::random_stream::RandomStream;
use crate::data::synthetic::{Face, Region};
use crate::data::{ImageDataset, Loader, LoaderOptions, Source, Split};
use crate::eval::correlation::spearman;
use crate::eval::evaluate::values;
use crate::eval::statistics::{Bootstrap, Mean};
use crate::models::images::upload;
use crate::models::{BeautyNet, Images, Slicer};
use crate::run::explanations::{Agreement, InsertionDeletion, MapMetrics, RegionAttribution};

/// Points of a deletion or insertion curve between its ends.
const STEPS: usize = 9;
/// The fraction of patches that counts as the top of a map.
const TOP: f64 = 0.2;
/// The regions of a synthetic face, and the scored regions that each one joins.
const REGIONS: [(&str, &[&str]); 5] = [
    ("eyes", &["left_eye", "right_eye"]),
    ("nose", &["nose"]),
    ("mouth", &["mouth"]),
    ("features", &["left_eye", "right_eye", "nose", "mouth"]),
    ("head", &["head"]),
];

/// Maps (b, g, g) by name: `vit`, `mamba`, `fused`.
type NamedMaps = Vec<(&'static str, Tensor)>;

/// Values by metric name, one for each image.
#[derive(Default)]
pub(super) struct PerImage(HashMap<String, Vec<f64>>);

impl PerImage {
    pub(super) fn extend(&mut self, metric: String, values: impl IntoIterator<Item = f64>) {
        self.0.entry(metric).or_default().extend(values);
    }

    pub(super) fn mean(&self, metric: &str) -> Mean {
        Bootstrap::default().mean(self.values(metric))
    }

    fn mean_difference(&self, a: &str, b: &str) -> Mean {
        let pairs = self.values(a).iter().zip(self.values(b));
        Bootstrap::default().mean(&pairs.map(|(a, b)| a - b).collect::<Vec<f64>>())
    }

    fn values(&self, metric: &str) -> &[f64] {
        self.0.get(metric).map_or(&[], Vec::as_slice)
    }
}

/// Explains all images of a split and evaluates their maps. A constant map has no ranking and no
/// attribution; its image is not counted. If the branches have different patch grids, the maps of
/// the coarser one are resized to the finer. Returns an error as [`explain`] does, and if an image
/// cannot be read.
pub fn evaluate(
    net: &BeautyNet,
    images: &Arc<ImageDataset>,
    split: Split,
    options: &ExplainOptions,
    loading: LoaderOptions,
) -> Result<MapMetrics> {
    let finest = branches(net).map(|(_, shape)| shape.grid()).max().unwrap_or(0);
    let slicer = Slicer::new(None, net.device())?;
    let mut per_image = PerImage::default();
    let mut names = Vec::new();
    for batch in Loader::new(Arc::clone(images), loading)? {
        let batch = batch?;
        let x = upload(&batch, net.device())?;
        let explanation = explain(net, Images::Pixels(&x), options)?;
        let mut maps: NamedMaps = explanation
            .branches()
            .map(|(branch, maps)| {
                let map = maps.last()?;
                let is_finest = map.size()[1] == finest;
                Ok((branch.name(), if is_finest { map } else { scale_maps(&map, finest)? }))
            })
            .collect::<Result<_>>()?;
        if let [(_, vit), (_, mamba)] = &maps[..] {
            agreement(&mut per_image, vit, mamba)?;
            let fused = explanation.fuse(vit, mamba);
            maps.push(("fused", fused));
        }
        insertion_and_deletion(&mut per_image, (net, &slicer), &x, &maps, &batch.indices)?;
        let faces: Option<Vec<Face>> = batch
            .indices
            .iter()
            .map(|&index| match images.samples()[index].source {
                Source::Synthetic(seed) => Some(Face::sample(seed)),
                Source::File(_) => None,
            })
            .collect();
        if let Some(faces) = faces {
            attribution_by_region(&mut per_image, &maps, &faces, batch.size)?;
        }
        names = maps.into_iter().map(|(name, _)| name).collect();
    }
    let mut metrics = MapMetrics {
        split,
        method: options.describe(net),
        blocks: options.describe_blocks(net)?,
        weights: String::new(),
        images: images.len(),
        agreement: (names.len() > 1).then(|| Agreement {
            spearman: per_image.mean("spearman"),
            top20_overlap: per_image.mean("overlap"),
            top20_overlap_by_chance: TOP,
        }),
        curves: names.iter().map(|map| summarize_curves(&per_image, map)).collect(),
        regions: names.iter().flat_map(|map| summarize_regions(&per_image, map)).collect(),
        sanity: None,
        passed: Vec::new(),
    };
    metrics.passed = metrics.verdicts();
    Ok(metrics)
}

fn summarize_curves(per_image: &PerImage, map: &str) -> InsertionDeletion {
    let mean = |curve: &str| per_image.mean(&format!("{map} {curve}"));
    let over_random = |curve: &str| {
        per_image.mean_difference(&format!("{map} {curve}"), &format!("random {curve}"))
    };
    InsertionDeletion {
        map: map.to_string(),
        insertion: mean("insertion"),
        insertion_over_random: over_random("insertion"),
        deletion: mean("deletion"),
        deletion_over_random: over_random("deletion"),
    }
}

fn summarize_regions(per_image: &PerImage, map: &str) -> Vec<RegionAttribution> {
    let regions = REGIONS.iter().filter_map(|(region, _)| {
        let (attribution, area) = (format!("{map} in {region}"), format!("area of {region}"));
        (!per_image.values(&attribution).is_empty()).then(|| RegionAttribution {
            map: map.to_string(),
            region: region.to_string(),
            attribution: per_image.mean(&attribution),
            area: per_image.mean(&area),
            over_chance: per_image.mean_difference(&attribution, &area),
        })
    });
    regions.collect()
}

/// Returns the values of each image's map (b, g, g).
pub(super) fn map_values(maps: &Tensor) -> Result<Vec<Vec<f64>>> {
    (0..maps.size3()?.0).map(|row| values(&maps.get(row).reshape([-1]))).collect()
}

pub(super) fn is_constant(map: &[f64]) -> bool {
    map.windows(2).all(|pair| pair[0] == pair[1])
}

fn agreement(per_image: &mut PerImage, vit: &Tensor, mamba: &Tensor) -> Result<()> {
    for (vit, mamba) in map_values(vit)?.iter().zip(map_values(mamba)?) {
        per_image.extend("spearman".into(), [spearman(vit, &mamba)]);
        let constant = is_constant(vit) || is_constant(&mamba);
        let overlap = if constant { f64::NAN } else { top_overlap(vit, &mamba) };
        per_image.extend("overlap".into(), [overlap]);
    }
    Ok(())
}

/// Computes the expected fraction of one map's top patches that is in the other's top, with ties
/// broken at random.
fn top_overlap(a: &[f64], b: &[f64]) -> f64 {
    let count = (TOP * a.len() as f64).round().max(1.0);
    // The probability of each patch to be among the top ones.
    let top = |map: &[f64]| -> Vec<f64> {
        let mut sorted = map.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let threshold = sorted[count as usize - 1];
        let above = map.iter().filter(|v| **v > threshold).count() as f64;
        let equal = map.iter().filter(|v| **v == threshold).count() as f64;
        let probability = |v: &f64| match *v {
            v if v > threshold => 1.0,
            v if v == threshold => (count - above) / equal,
            _ => 0.0,
        };
        map.iter().map(probability).collect()
    };
    let both: f64 = top(a).iter().zip(top(b)).map(|(a, b)| a * b).sum();
    both / count
}

/// Computes the areas under the insertion and deletion curves of each map and of a random order,
/// image by image.
fn insertion_and_deletion(
    per_image: &mut PerImage,
    (net, slicer): (&BeautyNet, &Slicer),
    x: &Tensor,
    maps: &NamedMaps,
    indices: &[usize],
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let (b, _, side, _) = x.size4()?;
    let (_, first_map) = maps.first().context("the model has no branch")?;
    let grid = first_map.size3()?.1;
    let patches = grid * grid;
    let random: Vec<f32> = indices
        .iter()
        .flat_map(|&index| {
            let mut stream = RandomStream::new(0, 0, index as u64, "order");
            (0..patches).map(move |_| stream.unit() as f32)
        })
        .collect();
    let noise = Tensor::from_slice(&random).view([b, patches]).to_device(x.device());
    let mean_color =
        x.to_kind(Kind::Float).mean_dim([2i64, 3].as_slice(), true, Kind::Float).expand_as(x);
    // `shown` (b, 1, s, s) is 1 where the image is visible.
    let score = |shown: &Tensor| -> Result<Tensor> {
        let mixed: Tensor = shown * x + (1.0 - shown) * &mean_color;
        let pixels = mixed.round().to_kind(Kind::Uint8);
        Ok(net.infer(Images::Pixels(&pixels), slicer)?.score)
    };
    let intact = score(&Tensor::ones([1, 1, 1, 1], (Kind::Float, x.device())))?;
    let hidden = score(&Tensor::zeros([1, 1, 1, 1], (Kind::Float, x.device())))?;
    let orders = maps.iter().map(|(name, map)| {
        let flat = map.reshape([b, patches]);
        let constant = flat.amax([1], false).eq_tensor(&flat.amin([1], false));
        // The noise orders equal patches at random.
        (*name, flat + &noise * 1e-6, constant)
    });
    let none_constant = Tensor::zeros([b], (Kind::Bool, x.device()));
    let random = [("random", noise.shallow_clone(), none_constant)];
    for (name, order, constant) in orders.chain(random) {
        let rank = order.argsort(1, true).argsort(1, false); // 0 is the first patch
        let ends = (&intact + &hidden) * 0.5;
        let (mut insertion, mut deletion) = (ends.copy(), ends);
        for step in 1..=STEPS {
            let count = (patches as f64 * step as f64 / (STEPS + 1) as f64).round() as i64;
            let first = rank.lt(count).to_kind(Kind::Float).view([b, 1, grid, grid]);
            let first = first.upsample_nearest2d([side, side], None, None);
            insertion += score(&first)?;
            deletion += score(&(1.0 - first))?;
        }
        let steps = (STEPS + 1) as f64;
        for (curve, sum) in [("insertion", insertion), ("deletion", deletion)] {
            let area = (sum / steps).masked_fill(&constant, f64::NAN);
            per_image.extend(format!("{name} {curve}"), values(&area)?);
        }
    }
    Ok(())
}

/// Computes the fraction of each map's attribution, and of the area, inside the regions of
/// synthetic faces.
fn attribution_by_region(
    per_image: &mut PerImage,
    maps: &NamedMaps,
    faces: &[Face],
    size: usize,
) -> Result<()> {
    let maps: Vec<(&str, Vec<Vec<f64>>)> = maps
        .iter()
        .map(|(name, map)| Ok((*name, map_values(&scale_maps(map, size as i64)?)?)))
        .collect::<Result<_>>()?;
    for (row, face) in faces.iter().enumerate() {
        let scored = face.scored_regions(size as u32);
        for (region, names) in REGIONS {
            let joined: Vec<&Region> = scored.iter().filter(|r| names.contains(&r.name)).collect();
            let inside: Vec<bool> = (0..size * size)
                .map(|at| {
                    let (x, y) = ((at % size) as f32 + 0.5, (at / size) as f32 + 0.5);
                    joined.iter().any(|region| region.contains(x, y))
                })
                .collect();
            let area = inside.iter().filter(|inside| **inside).count() as f64;
            per_image.extend(format!("area of {region}"), [area / inside.len() as f64]);
            for (name, map) in &maps {
                let total: f64 = map[row].iter().sum();
                let pairs = map[row].iter().zip(&inside);
                let sum: f64 = pairs.filter(|(_, inside)| **inside).map(|(v, _)| v).sum();
                // NaN for a map of zeros.
                per_image.extend(format!("{name} in {region}"), [sum / total]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlap_is_of_the_top_fifth_and_ties_count_in_expectation() {
        let rising: Vec<f64> = (0..10).map(f64::from).collect();
        let falling: Vec<f64> = rising.iter().rev().copied().collect();
        assert_eq!(top_overlap(&rising, &rising), 1.0);
        assert_eq!(top_overlap(&rising, &falling), 0.0);
        let mut one = vec![0.0; 10];
        one[9] = 1.0;
        // The second of its top two is any of nine.
        assert!((top_overlap(&rising, &one) - (1.0 + 1.0 / 9.0) / 2.0).abs() < 1e-12);
    }
}
