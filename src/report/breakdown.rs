//! A model's errors by part of the population and by range of the score.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::eval::comparison::RankedModel;
use crate::eval::metrics::{Metric, ScoredImages};
use crate::eval::predictions::Predictions;
use crate::eval::statistics::{Bootstrap, Interval, MetricOverSeeds};

/// Fewer images have no intervals and no correlation, for they would say nothing.
pub const LEAST: usize = 10;
/// About so many ranges of the score.
const RANGES: usize = 5;

/// A value with its 95 % interval over images.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// `None` where it is not defined.
    pub value: Option<f64>,
    /// `None` where it is not defined, or from too few images.
    pub ci: Option<Interval>,
}

/// Some of the images.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The group, or the range.
    pub label: String,
    /// Images.
    pub images: usize,
    /// Pearson correlation within the part, mean over seeds.
    pub pc: Estimate,
    /// Mean absolute error.
    pub mae: Estimate,
    /// Mean of prediction minus target: above 0 where images are rated too high.
    pub bias: Estimate,
}

/// The images in parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Breakdown {
    /// `group`, `sex`, `ethnicity` or `score range`.
    pub by: &'static str,
    /// In order.
    pub parts: Vec<Part>,
}

/// By group; where groups are called as `female/asian`, also by sex and by ethnicity. Empty where
/// no image has a group.
///
/// # Errors
/// Those of the bootstrap.
pub fn by_group(judged: &RankedModel) -> Result<Vec<Breakdown>> {
    let Some(groups) = judged.predictions.iter().map(|set| &set.groups).find(|g| !g.is_empty())
    else {
        return Ok(Vec::new());
    };
    let named = || groups.iter().flatten();
    let two = |group: &String| {
        let (sex, ethnicity) = group.split_once('/')?;
        let known = matches!(sex, "female" | "male") && !ethnicity.is_empty();
        known.then(|| [sex.to_string(), ethnicity.to_string()])
    };
    let mut ways: Vec<(&'static str, Vec<Option<String>>)> = vec![("group", groups.clone())];
    if named().next().is_some() && named().all(|group| two(group).is_some()) {
        for (at, by) in ["sex", "ethnicity"].into_iter().enumerate() {
            let part = |group: &Option<String>| Some(two(group.as_ref()?)?[at].clone());
            ways.push((by, groups.iter().map(part).collect()));
        }
    }
    ways.into_iter()
        .map(|(by, labels)| {
            let mut rows: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (row, label) in labels.into_iter().enumerate() {
                let label = label.unwrap_or_else(|| "(none)".to_string());
                rows.entry(label).or_default().push(row);
            }
            let parts = rows.into_iter().map(|(label, rows)| part(judged, label, &rows));
            Ok(Breakdown { by, parts: parts.collect::<Result<_>>()? })
        })
        .collect()
}

/// By the score that people gave, in about five ranges of equal width with round ends; ranges
/// without images are left out.
///
/// # Errors
/// Those of the bootstrap.
pub fn by_score(judged: &RankedModel) -> Result<Breakdown> {
    let targets = judged.predictions.first().map_or(&[][..], |set| &set.targets);
    let ends = ends(targets);
    let mut parts = Vec::new();
    for (at, pair) in ends.windows(2).enumerate() {
        let last = at + 2 == ends.len();
        let inside = |score: f64| pair[0] <= score && (score < pair[1] || last);
        let rows: Vec<usize> = (0..targets.len()).filter(|&row| inside(targets[row])).collect();
        if !rows.is_empty() {
            let label = format!("{} to {}", short(pair[0]), short(pair[1]));
            parts.push(part(judged, label, &rows)?);
        }
    }
    Ok(Breakdown { by: "score range", parts })
}

fn part(judged: &RankedModel, label: String, rows: &[usize]) -> Result<Part> {
    let bootstrap = Bootstrap::default();
    let enough = rows.len() >= LEAST;
    let pick = |set: &Predictions| -> Result<ScoredImages> {
        let of = |column: &[f64]| rows.iter().map(|&row| column[row]).collect::<Vec<f64>>();
        ScoredImages::new(&of(&set.predictions), &of(&set.targets))
    };
    let bias: Vec<f64> = judged.errors(|error| error);
    let bias: Vec<f64> = rows.iter().map(|&row| bias[row]).collect();
    let (mut pc, mut mae) = (Estimate::default(), Estimate::default());
    if enough {
        let samples: Vec<ScoredImages> =
            judged.predictions.iter().map(pick).collect::<Result<_>>()?;
        let distributions = bootstrap.resample(&samples)?;
        for (metric, estimate) in [(Metric::Pc, &mut pc), (Metric::Mae, &mut mae)] {
            let over = MetricOverSeeds::new(&distributions, metric);
            *estimate = Estimate { value: over.mean, ci: over.ci_over_images };
        }
    } else {
        let errors = judged.errors(f64::abs);
        let sum: f64 = rows.iter().map(|&row| errors[row]).sum();
        mae.value = Some(sum / rows.len() as f64).filter(|mae| mae.is_finite());
    }
    let bias = bootstrap.mean(&bias);
    Ok(Part {
        label,
        images: rows.len(),
        pc,
        mae,
        bias: Estimate { value: bias.mean, ci: bias.ci.filter(|_| enough) },
    })
}

/// Ends of the ranges: multiples of a round width, the first at or below the least score, the last
/// above the greatest.
fn ends(scores: &[f64]) -> Vec<f64> {
    let finite = || scores.iter().copied().filter(|score| score.is_finite());
    let (lo, hi) =
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if lo > hi {
        return Vec::new();
    }
    let width = round_step((hi - lo) / RANGES as f64);
    let first = (lo / width).floor();
    let count = (hi / width).ceil().max(first + 1.0) - first;
    (0..=count as usize).map(|at| (first + at as f64) * width).collect()
}

/// The least of 1, 2, 2.5 and 5 times a power of ten that is at least so much.
pub fn round_step(least: f64) -> f64 {
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    let enough = steps.into_iter().find(|step| *step >= least * (1.0 - 1e-9));
    enough.unwrap_or(10.0 * power)
}

/// A number without digits that it does not need, three at most behind the point.
pub fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".to_string(),
        text => text.to_string(),
    }
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

    #[test]
    fn steps_are_round() {
        for (least, step) in [(0.8, 1.0), (1.1, 2.0), (2.2, 2.5), (0.03, 0.05), (600.0, 1000.0)] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
        assert_eq!(
            (short(2.50), short(-0.0), short(0.125)),
            ("2.5".into(), "0".into(), "0.125".into())
        );
    }
}
