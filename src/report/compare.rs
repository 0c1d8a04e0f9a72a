//! Two models compared in depth, on the same images.

use anyhow::{Context, Result};
use serde::Serialize;

use super::breakdown::{Estimate, MIN_IMAGES, partition_by_score, partitions_by_group};
use crate::data::single;
use crate::eval::comparison::{Leaderboard, RankedModel, compare_two};
use crate::eval::statistics::{Bootstrap, Difference};

/// Images with the largest disagreements that are shown.
const DISAGREEMENTS: usize = 12;

/// Two models of one leaderboard, compared on its images. Errors and predictions are means over
/// each model's seeds.
#[derive(Debug, Serialize)]
pub struct TwoModels {
    /// The leaderboard, and the models' places there.
    #[serde(skip)]
    pub board: usize,
    #[serde(skip)]
    pub places: [usize; 2],
    pub names: [String; 2],
    /// The first model's metrics minus the second's, in the order of the metrics.
    pub differences: [Difference; 4],
    /// Number of images on which either model is closer to the true score.
    pub closer: [usize; 2],
    /// Number of images.
    pub images: usize,
    pub subsets: Vec<SubsetOfTwo>,
    pub disagreements: Vec<Disagreement>,
}

/// Both models' errors on a subset of the images.
#[derive(Debug, Serialize)]
pub struct SubsetOfTwo {
    /// What divides the images, as in [`Breakdown`](super::breakdown::Breakdown).
    pub by: &'static str,
    pub label: String,
    pub images: usize,
    pub mae: [Option<f64>; 2],
    /// The first model's MAE minus the second's.
    pub mae_difference: Estimate,
    pub bias: [Option<f64>; 2],
}

/// An image that the models rate differently.
#[derive(Debug, Serialize)]
pub struct Disagreement {
    pub image: String,
    pub target: f64,
    pub predictions: [f64; 2],
}

/// Compares the two models of these names in depth. Returns an error if a leaderboard has not both.
pub(super) fn compare(boards: &[Leaderboard], names: &[String; 2]) -> Result<TwoModels> {
    let place = |board: &Leaderboard, name: &String| {
        board.models.iter().position(|model| model.name == *name)
    };
    let both = |(at, board): (usize, &Leaderboard)| {
        Some((at, [place(board, &names[0])?, place(board, &names[1])?]))
    };
    let (board, places) = boards.iter().enumerate().find_map(both).with_context(|| {
        let known = boards.iter().map(|board| {
            let names = board.models.iter().map(|model| model.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        });
        let known = known.collect::<Vec<_>>().join("; on other images: ");
        format!("--compare {} {}: name two models of one leaderboard: {known}", names[0], names[1])
    })?;
    let models = places.map(|place| &boards[board].models[place]);
    let errors = models.map(|model| model.errors(|error| error));
    let absolute = models.map(|model| model.errors(f64::abs));
    let better = |a: usize, b: usize| {
        absolute[a].iter().zip(&absolute[b]).filter(|(ours, theirs)| ours < theirs).count()
    };
    Ok(TwoModels {
        board,
        places,
        names: names.clone(),
        differences: compare_two(models[0], models[1])?,
        closer: [better(0, 1), better(1, 0)],
        images: models[0].images,
        subsets: subsets(models[0], &errors, &absolute),
        disagreements: disagreements(models[0], &errors),
    })
}

fn subsets(
    ranked: &RankedModel,
    errors: &[Vec<f64>; 2],
    absolute: &[Vec<f64>; 2],
) -> Vec<SubsetOfTwo> {
    let partitions = partitions_by_group(&ranked.predictions).into_iter();
    let partitions = partitions.chain([partition_by_score(&ranked.predictions)]);
    let mut all = Vec::new();
    for partition in partitions {
        for (label, rows) in partition.subsets {
            let mean = |column: &Vec<f64>| {
                let sum: f64 = rows.iter().map(|&row| column[row]).sum();
                Some(sum / rows.len() as f64).filter(|mean| mean.is_finite())
            };
            let pairs = rows.iter().map(|&row| absolute[0][row] - absolute[1][row]);
            let found = Bootstrap::default().mean(&pairs.collect::<Vec<_>>());
            let ci = found.ci.filter(|_| rows.len() >= MIN_IMAGES);
            all.push(SubsetOfTwo {
                by: partition.by,
                label,
                images: rows.len(),
                mae: [mean(&absolute[0]), mean(&absolute[1])],
                mae_difference: Estimate { value: found.mean, ci },
                bias: [mean(&errors[0]), mean(&errors[1])],
            });
        }
    }
    all
}

/// Returns the images with the largest differences of the predictions, the largest first.
fn disagreements(ranked: &RankedModel, errors: &[Vec<f64>; 2]) -> Vec<Disagreement> {
    let Some(set) = ranked.predictions.first() else {
        return Vec::new();
    };
    let apart = |row: usize| (errors[0][row] - errors[1][row]).abs();
    let mut rows: Vec<usize> =
        (0..ranked.images).filter(|&row| apart(row).is_finite() && apart(row) > 0.0).collect();
    rows.sort_by(|&a, &b| apart(b).total_cmp(&apart(a)));
    rows.truncate(DISAGREEMENTS);
    let of = |row: usize| Disagreement {
        image: set.images[row].clone(),
        target: set.targets[row],
        predictions: [0, 1].map(|model: usize| single(set.targets[row] + errors[model][row])),
    };
    rows.into_iter().map(of).collect()
}
