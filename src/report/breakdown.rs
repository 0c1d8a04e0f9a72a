//! Breakdowns of a model's errors by group and by score range.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::axis::{finite_range, round_step, short};
use crate::eval::ensemble::mean_errors;
use crate::eval::metrics::{Metric, ScoredImages};
use crate::eval::predictions::Predictions;
use crate::eval::statistics::{Bootstrap, Interval, MetricOverSeeds};

/// Subsets of fewer images have neither a correlation nor intervals, which would be meaningless.
pub(super) const MIN_IMAGES: usize = 10;
/// Approximate number of score ranges.
const RANGES: usize = 5;

/// A metric with its 95 % interval over images.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Estimate {
    pub value: Option<f64>,
    /// `None` if it is not defined, or if there are too few images.
    pub ci: Option<Interval>,
}

/// A model's errors on a subset of the images; means over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subset {
    pub label: String,
    pub images: usize,
    pub pc: Estimate,
    pub mae: Estimate,
    /// Mean of prediction minus target: positive if images are rated too high.
    pub bias: Estimate,
}

/// A model's errors on disjoint subsets of the images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Breakdown {
    /// `group`, `sex`, `ethnicity` or `score range`.
    pub by: &'static str,
    pub subsets: Vec<Subset>,
}

/// Images divided into disjoint subsets: their indices by label.
pub(super) struct Partition {
    /// As in [`Breakdown`].
    pub by: &'static str,
    pub subsets: Vec<(String, Vec<usize>)>,
}

/// Divides the images by group and, if groups are like `female/asian`, by each attribute.
pub(super) fn partitions_by_group(predictions: &[Predictions]) -> Vec<Partition> {
    let Some(groups) = predictions.iter().map(|set| &set.groups).find(|g| !g.is_empty()) else {
        return Vec::new();
    };
    let split = |group: &str| {
        let (sex, ethnicity) = group.split_once('/')?;
        let known = matches!(sex, "female" | "male") && !ethnicity.is_empty();
        known.then(|| [sex.to_string(), ethnicity.to_string()])
    };
    let mut labelings: Vec<(&'static str, Vec<Option<String>>)> = vec![("group", groups.clone())];
    let mut named = groups.iter().flatten().peekable();
    if named.peek().is_some() && named.all(|group| split(group).is_some()) {
        for (i, by) in ["sex", "ethnicity"].into_iter().enumerate() {
            let label = |group: &Option<String>| Some(split(group.as_ref()?)?[i].clone());
            labelings.push((by, groups.iter().map(label).collect()));
        }
    }
    let partition = |(by, labels): (&'static str, Vec<Option<String>>)| {
        let mut rows: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (row, label) in labels.into_iter().enumerate() {
            rows.entry(label.unwrap_or_else(|| "(none)".to_string())).or_default().push(row);
        }
        Partition { by, subsets: rows.into_iter().collect() }
    };
    labelings.into_iter().map(partition).collect()
}

/// Divides the images by true score, in ranges with round ends; empty ones are omitted.
pub(super) fn partition_by_score(predictions: &[Predictions]) -> Partition {
    let targets = predictions.first().map_or(&[][..], |set| &set.targets);
    let ends = ends(targets);
    let mut subsets = Vec::new();
    for (i, pair) in ends.windows(2).enumerate() {
        let last = i + 2 == ends.len();
        let inside = |score: f64| pair[0] <= score && (score < pair[1] || last);
        let rows: Vec<usize> = (0..targets.len()).filter(|&row| inside(targets[row])).collect();
        if !rows.is_empty() {
            subsets.push((format!("{} to {}", short(pair[0]), short(pair[1])), rows));
        }
    }
    Partition { by: "score range", subsets }
}

/// Breaks a model's errors down by the subsets of a partition.
pub(super) fn breakdown(predictions: &[Predictions], partition: Partition) -> Result<Breakdown> {
    let subsets = partition.subsets.into_iter();
    let subsets = subsets.map(|(label, rows)| subset(predictions, label, &rows));
    Ok(Breakdown { by: partition.by, subsets: subsets.collect::<Result<_>>()? })
}

/// Breaks a model's errors down by group from each seed's predictions, as [`partitions_by_group`]
/// divides the images.
pub(crate) fn by_group(predictions: &[Predictions]) -> Result<Vec<Breakdown>> {
    let partitions = partitions_by_group(predictions).into_iter();
    partitions.map(|partition| breakdown(predictions, partition)).collect()
}

/// Breaks a model's errors down by true score, as [`partition_by_score`] divides the images.
pub(super) fn by_score(predictions: &[Predictions]) -> Result<Breakdown> {
    breakdown(predictions, partition_by_score(predictions))
}

fn subset(predictions: &[Predictions], label: String, rows: &[usize]) -> Result<Subset> {
    let bootstrap = Bootstrap::default();
    let enough = rows.len() >= MIN_IMAGES;
    let pick = |column: &[f64]| rows.iter().map(|&row| column[row]).collect::<Vec<f64>>();
    let (mut pc, mut mae) = (Estimate::default(), Estimate::default());
    if enough {
        let sample =
            |set: &Predictions| ScoredImages::new(&pick(&set.predictions), &pick(&set.targets));
        let samples: Vec<ScoredImages> = predictions.iter().map(sample).collect::<Result<_>>()?;
        let distributions = bootstrap.resample(&samples)?;
        for (metric, estimate) in [(Metric::Pc, &mut pc), (Metric::Mae, &mut mae)] {
            let over = MetricOverSeeds::new(&distributions, metric);
            *estimate = Estimate { value: over.mean, ci: over.ci_over_images };
        }
    } else {
        let sum: f64 = pick(&mean_errors(predictions, f64::abs)).iter().sum();
        mae.value = Some(sum / rows.len() as f64).filter(|mae| mae.is_finite());
    }
    let bias = bootstrap.mean(&pick(&mean_errors(predictions, |error| error)));
    let bias = Estimate { value: bias.mean, ci: bias.ci.filter(|_| enough) };
    Ok(Subset { label, images: rows.len(), pc, mae, bias })
}

/// Returns the ends of the score ranges: multiples of a round width that enclose all scores.
fn ends(scores: &[f64]) -> Vec<f64> {
    let Some((min, max)) = finite_range(scores.iter().copied()) else {
        return Vec::new();
    };
    let width = round_step((max - min) / RANGES as f64);
    let first = (min / width).floor();
    let count = (max / width).ceil().max(first + 1.0) - first;
    (0..=count as usize).map(|i| (first + i as f64) * width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_round_ends_and_hold_every_score() {
        assert_eq!(ends(&[1.2, 4.9, 3.0]), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(ends(&[2.0]), [2.0, 3.0]);
        assert_eq!(ends(&[]), [0.0; 0]);
        let ends = ends(&[-0.31, 0.2]);
        assert!(ends[0] <= -0.31 && *ends.last().unwrap() >= 0.2, "{ends:?}");
    }
}
