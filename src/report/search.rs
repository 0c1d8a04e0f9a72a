//! The search of a sweep: what was tried, what came of it, and what it cost.

use std::path::Path;

use anyhow::Result;
use indexmap::{IndexMap, IndexSet};
use serde::Serialize;

use super::config_keys::differences;
use super::sources::{FoundRun, SourceKind, folder_name};
use crate::config::Config;

/// Fewer points show no search.
const MIN_POINTS: usize = 4;
/// Maximum number of bins of a numeric axis.
const MAX_BINS: usize = 4;
/// An axis of positive numbers is logarithmic if the largest is this many times the smallest.
const LOG_RANGE: f64 = 20.0;

/// The runs of a sweep as points of a search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchOverview {
    /// Name of the sweep's folder.
    pub name: String,
    /// Epochs that the runs have trained, and those of training each to the end.
    pub epochs: usize,
    pub all_epochs: usize,
    pub finished: usize,
    /// Number of runs that the search stopped.
    pub paused: usize,
    pub points: Vec<SearchPoint>,
    /// The keys that vary, the most important first.
    pub axes: Vec<SearchAxis>,
}

/// A run of a search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchPoint {
    pub name: String,
    /// PC on the validation images at the best epoch so far.
    pub val_pc: f64,
    pub epochs: usize,
    /// Whether the run was trained to its end.
    pub finished: bool,
}

/// A key that varies in a search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchAxis {
    pub key: String,
    /// The value of each point.
    #[serde(skip)]
    pub values: Vec<String>,
    /// The values as numbers, if all are.
    #[serde(skip)]
    pub numbers: Option<Vec<f64>>,
    /// Fraction of the variance of the points' PC that the axis explains; `None` if it cannot be
    /// estimated.
    pub importance: Option<f64>,
    /// The value of the point with the highest PC.
    pub best: String,
}

impl SearchAxis {
    /// Returns the different values, sorted.
    pub fn distinct(&self) -> Vec<&str> {
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// Whether the numbers are spread over orders of magnitude.
    pub fn is_logarithmic(&self) -> bool {
        let Some(numbers) = &self.numbers else { return false };
        let min = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        min > 0.0 && numbers.iter().any(|value| *value >= LOG_RANGE * min)
    }
}

/// Returns the search of each sweep among the runs. Returns an error if a path in a config is not
/// Unicode.
pub(super) fn searches(runs: &[FoundRun]) -> Result<Vec<SearchOverview>> {
    let mut by_source: IndexMap<&Path, Vec<&FoundRun>> = IndexMap::new();
    for run in runs.iter().filter(|run| run.kind == SourceKind::Sweep) {
        by_source.entry(&run.source).or_default().push(run);
    }
    by_source.into_values().filter_map(|runs| search(runs).transpose()).collect()
}

fn search(runs: Vec<&FoundRun>) -> Result<Option<SearchOverview>> {
    let best = |run: &FoundRun| {
        let best = run.epochs.iter().rev().find(|epoch| epoch.best)?;
        Some(best.val.pc).filter(|pc| pc.is_finite())
    };
    let tried = runs.iter().filter_map(|run| Some((*run, run.config.as_ref()?, best(run)?)));
    let tried: Vec<(&FoundRun, &Config, f64)> = tried.collect();
    let configs: Vec<&Config> = tried.iter().map(|(_, config, _)| *config).collect();
    let different = differences(&configs)?;
    if tried.len() < MIN_POINTS || different.is_empty() {
        return Ok(None);
    }
    let pcs: Vec<f64> = tried.iter().map(|(_, _, pc)| *pc).collect();
    let winner = (0..pcs.len()).max_by(|&a, &b| pcs[a].total_cmp(&pcs[b])).unwrap_or(0);
    let axis = |(key, values): (String, Vec<String>)| {
        let numbers: Option<Vec<f64>> = values.iter().map(|value| value.parse().ok()).collect();
        let bins = numbers.as_deref().map_or_else(|| labels(&values), rank_bins);
        let best = values[winner].clone();
        SearchAxis { key, importance: explained(&bins, &pcs), numbers, values, best }
    };
    let mut axes: Vec<SearchAxis> = different.into_iter().map(axis).collect();
    axes.sort_by(|a, b| b.importance.unwrap_or(-1.0).total_cmp(&a.importance.unwrap_or(-1.0)));
    let point = |&(run, _, val_pc): &(&FoundRun, &Config, f64)| SearchPoint {
        name: run.name.clone(),
        val_pc,
        epochs: run.epochs.len(),
        finished: run.summary().is_some(),
    };
    let started = || runs.iter().filter_map(|run| Some((run, run.config.as_ref()?)));
    Ok(Some(SearchOverview {
        name: folder_name(&runs[0].source),
        epochs: started().map(|(run, _)| run.epochs.len()).sum(),
        all_epochs: started().map(|(_, config)| config.train.epochs).sum(),
        finished: runs.iter().filter(|run| run.summary().is_some()).count(),
        paused: runs.iter().filter(|run| run.status.is_paused()).count(),
        points: tried.iter().map(point).collect(),
        axes,
    }))
}

/// Numbers equal values alike, from 0.
fn labels(values: &[String]) -> Vec<usize> {
    let mut known = IndexSet::new();
    values.iter().map(|value| known.insert_full(value).0).collect()
}

/// Divides numbers into bins of about equally many by rank, equal numbers in one bin; few different
/// numbers each have their own.
fn rank_bins(values: &[f64]) -> Vec<usize> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut distinct = sorted.clone();
    distinct.dedup();
    if distinct.len() <= MAX_BINS {
        return values.iter().map(|value| distinct.partition_point(|x| x < value)).collect();
    }
    let bins = (values.len() / 3).clamp(2, MAX_BINS);
    let bin = |value: &f64| sorted.partition_point(|x| x < value) * bins / sorted.len();
    values.iter().map(bin).collect()
}

/// Returns the fraction of the variance of `values` between bins, adjusted for their number: ε²
/// (Kelley, "An unbiased correlation ratio measure", 1935), and 0 where it is negative. `None` for
/// one bin, as many bins as values, or equal values.
fn explained(bins: &[usize], values: &[f64]) -> Option<f64> {
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let squares = |of: &[f64]| of.iter().map(|value| (value - mean(of)).powi(2)).sum::<f64>();
    let count = bins.iter().max()? + 1;
    let members = |bin: usize| -> Vec<f64> {
        bins.iter().zip(values).filter(|(own, _)| **own == bin).map(|(_, value)| *value).collect()
    };
    let groups: Vec<Vec<f64>> = (0..count).map(members).filter(|of| !of.is_empty()).collect();
    let (total, within) = (squares(values), groups.iter().map(|of| squares(of)).sum::<f64>());
    let (n, k) = (values.len(), groups.len());
    if k < 2 || n <= k || total <= 0.0 {
        return None;
    }
    let within_mean = within / (n - k) as f64;
    Some((1.0 - within_mean * (n - 1) as f64 / total).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_is_1_of_an_axis_that_decides_and_0_of_one_that_does_not() {
        let bins = [0, 0, 0, 1, 1, 1];
        assert_eq!(explained(&bins, &[0.1, 0.1, 0.1, 0.9, 0.9, 0.9]), Some(1.0));
        assert_eq!(explained(&bins, &[0.1, 0.5, 0.9, 0.1, 0.5, 0.9]), Some(0.0));
        // By hand: total 0.13, within 0.04, ε² = 1 − (0.04 / 2) / (0.13 / 3).
        let half = explained(&[0, 0, 1, 1], &[0.2, 0.4, 0.5, 0.7]).unwrap();
        assert!((half - (1.0 - 0.02 / (0.13 / 3.0))).abs() < 1e-12, "{half}");
        for (bins, values) in [(&[0, 0], [0.1, 0.2]), (&[0, 1], [0.1, 0.2]), (&[0, 0], [0.1, 0.1])]
        {
            assert_eq!(explained(bins, &values), None);
        }
    }

    #[test]
    fn numbers_are_binned_by_rank_and_few_different_ones_apart() {
        let many: Vec<f64> = (0..12).map(|i| 10f64.powi(-i)).collect();
        let bins = rank_bins(&many);
        assert_eq!((bins[0], bins[11], bins.iter().max()), (3, 0, Some(&3)));
        assert_eq!(rank_bins(&[5.0, 1.0, 5.0, 2.0]), [2, 0, 2, 1]);
        assert_eq!(labels(&["b", "a", "b"].map(str::to_string)), [0, 1, 0]);
    }

    #[test]
    fn an_axis_over_orders_of_magnitude_is_logarithmic() {
        let axis = |numbers: &[f64]| SearchAxis {
            key: String::new(),
            values: Vec::new(),
            numbers: Some(numbers.to_vec()),
            importance: None,
            best: String::new(),
        };
        assert!(axis(&[1e-5, 1e-3]).is_logarithmic());
        assert!(!axis(&[0.0, 0.5]).is_logarithmic() && !axis(&[1.0, 5.0]).is_logarithmic());
    }
}
