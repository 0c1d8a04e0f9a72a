//! Explanations as numbers, over a whole split.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::Serialize;
use tch::{Kind, Tensor};

use super::maps::explain;
use super::maps::scale_maps;
use super::options::ExplainOptions;
use crate::config::Branch;
use crate::data::random_stream::RandomStream;
use crate::data::synthetic::{Face, Region};
use crate::data::{ImageDataset, Loader, LoaderOptions, Mode, Source};
use crate::eval::correlation::spearman;
use crate::eval::evaluate::{Walk, values};
use crate::eval::statistics::{Bootstrap, Mean};
use crate::models::images::upload;
use crate::models::{BeautyNet, ForwardContext, Images};

/// Points of a deletion or insertion curve between its ends.
const STEPS: usize = 9;
/// The part of the patches that counts as the top of a map.
const TOP: f64 = 0.2;

/// How much alike the two branches' maps are.
#[derive(Debug, Serialize)]
pub struct Agreement {
    /// Spearman's correlation of the two maps of an image, over patches.
    pub spearman: Mean,
    /// The part of one map's top 20 % of patches that is in the other's; ties count by their
    /// chance.
    pub top20_overlap: Mean,
    /// The same of two random maps.
    pub top20_overlap_by_chance: f64,
}

/// What the model says of images of which a map's patches are shown or hidden first (RISE, arXiv
/// 1806.07421): areas under the curve of the score over the part of patches, in score units.
#[derive(Debug, Serialize)]
pub struct Curves {
    /// `vit`, `mamba` or `fused`.
    pub map: String,
    /// Patches appear on an image of its own mean color: more is better.
    pub insertion: Mean,
    /// The same minus that of patches in random order.
    pub insertion_over_random: Mean,
    /// Patches give way to the image's mean color: less is better.
    pub deletion: Mean,
    /// The same minus that of patches in random order.
    pub deletion_over_random: Mean,
}

/// Of synthetic faces, how much of a map lies on a part that the score is made of.
#[derive(Debug, Serialize)]
pub struct PartShare {
    /// `vit`, `mamba` or `fused`.
    pub map: String,
    /// `eyes`, `nose`, `mouth`, all three as `features`, or `head`.
    pub part: &'static str,
    /// The part of the map's mass.
    pub mass: Mean,
    /// The part of the image's area, which is what a map without preference has.
    pub area: Mean,
    /// Mass minus area.
    pub over_chance: Mean,
}

/// What [`evaluate`] finds.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    /// How the maps were made.
    pub method: String,
    /// Images looked at.
    pub images: usize,
    /// Of models with two branches on the same grid of patches.
    pub agreement: Option<Agreement>,
    /// By map.
    pub curves: Vec<Curves>,
    /// Of synthetic faces; empty for others.
    pub parts: Vec<PartShare>,
}

/// Values by map and figure, one for each image.
#[derive(Default)]
pub(super) struct Columns(Vec<(String, Vec<f64>)>);

impl Columns {
    pub fn push(&mut self, name: String, values: impl IntoIterator<Item = f64>) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, column)) => column.extend(values),
            None => self.0.push((name, values.into_iter().collect())),
        }
    }

    pub fn of(&self, name: &str) -> &[f64] {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or(&[], |(_, column)| column)
    }

    fn minus(&self, a: &str, b: &str) -> Vec<f64> {
        let pairs = self.of(a).iter().zip(self.of(b));
        pairs.map(|(a, b)| a - b).collect()
    }
}

/// Explains all images and measures their maps. A map that is the same everywhere has no order and
/// no mass, and its image does not count.
///
/// # Errors
/// As [`explain`], an image that cannot be read, or branches with different grids of patches.
pub fn evaluate(
    net: &BeautyNet,
    images: &Arc<ImageDataset>,
    request: &ExplainOptions,
    walk: Walk,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let grids: Vec<i64> =
        Branch::ALL.iter().filter_map(|&branch| Some(net.branch(branch)?.grid())).collect();
    ensure!(
        grids.windows(2).all(|pair| pair[0] == pair[1]),
        "the branches have {grids:?} patches a side: maps on different grids are not compared"
    );
    let mut columns = Columns::default();
    let mut maps_of: Vec<String> = Vec::new();
    let options = LoaderOptions::new(Mode::Eval, walk.batch_size, walk.workers);
    for batch in Loader::new(Arc::clone(images), options)? {
        let batch = batch?;
        let x = upload(&batch, net.device())?;
        let explanation = explain(net, Images::Pixels(&x), request)?;
        let mut maps: Vec<(String, Tensor)> = Vec::new();
        for &branch in Branch::ALL {
            if let Some(of) = explanation.branch(branch) {
                maps.push((branch.name().to_string(), of.last()?));
            }
        }
        if let [(_, vit), (_, mamba)] = &maps[..] {
            agreement(&mut columns, vit, mamba)?;
            let fused = match &explanation.weights {
                Some(weights) => {
                    let of = |branch: i64| weights.select(1, branch).view([-1, 1, 1]);
                    vit * of(0) + mamba * of(1)
                }
                None => (vit + mamba) * 0.5,
            };
            maps.push(("fused".to_string(), fused));
        }
        curves(&mut columns, net, &x, &maps, &batch.indices)?;
        let faces: Option<Vec<Face>> = batch
            .indices
            .iter()
            .map(|&index| match images.samples()[index].source {
                Source::Synthetic(seed) => Some(Face::sample(seed)),
                Source::File(_) => None,
            })
            .collect();
        if let Some(faces) = faces {
            parts(&mut columns, &maps, &faces, batch.size)?;
        }
        maps_of = maps.into_iter().map(|(name, _)| name).collect();
        progress(batch.len);
    }
    Ok(summarize(&columns, &maps_of, request.describe(net), images.len()))
}

fn summarize(columns: &Columns, maps: &[String], method: String, images: usize) -> Evaluation {
    let bootstrap = Bootstrap::default();
    let mean = |name: &str| bootstrap.mean(columns.of(name));
    let curves = maps.iter().map(|map| {
        let over_random = |way: &str| {
            let random = format!("random {way}");
            bootstrap.mean(&columns.minus(&format!("{map} {way}"), &random))
        };
        Curves {
            map: map.clone(),
            insertion: mean(&format!("{map} insertion")),
            insertion_over_random: over_random("insertion"),
            deletion: mean(&format!("{map} deletion")),
            deletion_over_random: over_random("deletion"),
        }
    });
    let mut parts = Vec::new();
    for map in maps {
        for (part, _) in PARTS {
            let (mass, area) = (format!("{map} mass {part}"), format!("area {part}"));
            if !columns.of(&mass).is_empty() {
                parts.push(PartShare {
                    map: map.clone(),
                    part,
                    mass: mean(&mass),
                    area: mean(&area),
                    over_chance: bootstrap.mean(&columns.minus(&mass, &area)),
                });
            }
        }
    }
    Evaluation {
        method,
        images,
        agreement: (!columns.of("spearman").is_empty()).then(|| Agreement {
            spearman: mean("spearman"),
            top20_overlap: mean("overlap"),
            top20_overlap_by_chance: TOP,
        }),
        curves: curves.collect(),
        parts,
    }
}

/// Each image's map (b, g, g) as values.
pub(super) fn rows(maps: &Tensor) -> Result<Vec<Vec<f64>>> {
    (0..maps.size3()?.0).map(|row| values(&maps.get(row).reshape([-1]))).collect()
}

pub(super) fn is_flat(map: &[f64]) -> bool {
    map.windows(2).all(|pair| pair[0] == pair[1])
}

fn agreement(columns: &mut Columns, vit: &Tensor, mamba: &Tensor) -> Result<()> {
    for (vit, mamba) in rows(vit)?.iter().zip(rows(mamba)?) {
        columns.push("spearman".into(), [spearman(vit, &mamba)]);
        let overlap = if is_flat(vit) || is_flat(&mamba) { f64::NAN } else { overlap(vit, &mamba) };
        columns.push("overlap".into(), [overlap]);
    }
    Ok(())
}

/// The part of a map's top patches that is expected in the other's, with ties broken at random.
fn overlap(a: &[f64], b: &[f64]) -> f64 {
    let wanted = (TOP * a.len() as f64).round().max(1.0);
    // Each patch's probability to be among the top ones.
    let top = |map: &[f64]| -> Vec<f64> {
        let mut sorted = map.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let least = sorted[wanted as usize - 1];
        let above = map.iter().filter(|v| **v > least).count() as f64;
        let equal = map.iter().filter(|v| **v == least).count() as f64;
        let chance = |v: &f64| match *v {
            v if v > least => 1.0,
            v if v == least => (wanted - above) / equal,
            _ => 0.0,
        };
        map.iter().map(chance).collect()
    };
    let both: f64 = top(a).iter().zip(top(b)).map(|(a, b)| a * b).sum();
    both / wanted
}

/// Areas under the curves of each map and of a random order, image by image.
fn curves(
    columns: &mut Columns,
    net: &BeautyNet,
    x: &Tensor,
    maps: &[(String, Tensor)],
    indices: &[usize],
) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let (b, _, side, _) = x.size4()?;
    let Some(grid) = maps.first().map(|(_, map)| map.size()[1]) else {
        return Ok(());
    };
    let cells = (grid * grid) as usize;
    let random: Vec<f32> = indices
        .iter()
        .flat_map(|&index| {
            let mut draws = RandomStream::new(0, 0, index as u64, "order");
            (0..cells).map(move |_| draws.unit() as f32)
        })
        .collect();
    let noise = Tensor::from_slice(&random).view([b, cells as i64]);
    let noise = noise.to_device(x.device());
    let empty =
        x.to_kind(Kind::Float).mean_dim([2i64, 3].as_slice(), true, Kind::Float).expand_as(x);
    let score = |shown: &Tensor| -> Result<Tensor> {
        // shown: (b, 1, s, s), 1 where the image is.
        let mixed: Tensor = shown * x + (1.0 - shown) * &empty;
        let pixels = mixed.round().to_kind(Kind::Uint8);
        Ok(net.forward(Images::Pixels(&pixels), ForwardContext::eval())?.score)
    };
    let whole = score(&Tensor::ones([1, 1, 1, 1], (Kind::Float, x.device())))?;
    let none = score(&Tensor::zeros([1, 1, 1, 1], (Kind::Float, x.device())))?;
    let orders = maps.iter().map(|(name, map)| {
        let flat = map.reshape([b, cells as i64]);
        // Equal patches stand in random order; a map without an order does not count.
        let flat_map = flat.amax([1], false).eq_tensor(&flat.amin([1], false));
        (name.as_str(), flat + &noise * 1e-6, flat_map)
    });
    let no_flat = Tensor::zeros([b], (Kind::Bool, x.device()));
    for (name, order, flat) in orders.chain([("random", noise.shallow_clone(), no_flat)]) {
        // 0 for the patch that comes first.
        let rank = order.argsort(1, true).argsort(1, false);
        let ends = (&whole + &none) * 0.5;
        let (mut insertion, mut deletion) = (ends.copy(), ends);
        for step in 1..=STEPS {
            let count = (cells as f64 * step as f64 / (STEPS + 1) as f64).round() as i64;
            let first = rank.lt(count).to_kind(Kind::Float).view([b, 1, grid, grid]);
            let first = first.upsample_nearest2d([side, side], None, None);
            insertion += score(&first)?;
            deletion += score(&(1.0 - first))?;
        }
        let steps = (STEPS + 1) as f64;
        for (way, sum) in [("insertion", insertion), ("deletion", deletion)] {
            let area = (sum / steps).masked_fill(&flat, f64::NAN);
            columns.push(format!("{name} {way}"), values(&area)?);
        }
    }
    Ok(())
}

/// The parts of a synthetic face, and the regions that each is made of.
const PARTS: [(&str, &[&str]); 5] = [
    ("eyes", &["left_eye", "right_eye"]),
    ("nose", &["nose"]),
    ("mouth", &["mouth"]),
    ("features", &["left_eye", "right_eye", "nose", "mouth"]),
    ("head", &["head"]),
];

fn parts(
    columns: &mut Columns,
    maps: &[(String, Tensor)],
    faces: &[Face],
    size: usize,
) -> Result<()> {
    let images: Vec<(&str, Vec<Vec<f64>>)> = maps
        .iter()
        .map(|(name, map)| Ok((name.as_str(), rows(&scale_maps(map, size as i64)?)?)))
        .collect::<Result<_>>()?;
    for (row, face) in faces.iter().enumerate() {
        let regions = face.scored_regions(size as u32);
        for (part, names) in PARTS {
            let of: Vec<&Region> = regions.iter().filter(|r| names.contains(&r.name)).collect();
            let inside: Vec<bool> = (0..size * size)
                .map(|at| {
                    let (x, y) = ((at % size) as f32 + 0.5, (at / size) as f32 + 0.5);
                    of.iter().any(|region| region.contains(x, y))
                })
                .collect();
            let area = inside.iter().filter(|inside| **inside).count() as f64;
            columns.push(format!("area {part}"), [area / inside.len() as f64]);
            for (name, map) in &images {
                let total: f64 = map[row].iter().sum();
                let pairs = map[row].iter().zip(&inside);
                let on: f64 = pairs.filter(|(_, i)| **i).map(|(v, _)| v).sum();
                columns.push(format!("{name} mass {part}"), [on / total]); // NaN for a map of nothing
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_those_of_the_top_fifth_and_ties_count_by_chance() {
        let rising: Vec<f64> = (0..10).map(f64::from).collect();
        let falling: Vec<f64> = rising.iter().rev().copied().collect();
        assert_eq!(overlap(&rising, &rising), 1.0);
        assert_eq!(overlap(&rising, &falling), 0.0);
        let mut one = vec![0.0; 10];
        one[9] = 1.0;
        // The second of its top two is any of nine.
        assert!((overlap(&rising, &one) - (1.0 + 1.0 / 9.0) / 2.0).abs() < 1e-12);
    }
}
