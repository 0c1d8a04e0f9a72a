//! Statistics of the scores of a dataset.

use serde::Serialize;

/// Statistics of scores, on the dataset's own scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ScoreSummary {
    /// The lowest score.
    pub min: f64,
    /// The highest score.
    pub max: f64,
    /// The mean score.
    pub mean: f64,
    /// The sample standard deviation (n - 1); 0 for one score.
    pub sd: f64,
}

impl ScoreSummary {
    pub(super) fn new(scores: &[f64]) -> Option<Self> {
        if scores.is_empty() {
            return None;
        }
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
        Some(Self {
            min: scores.iter().copied().fold(f64::INFINITY, f64::min),
            max: scores.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mean,
            sd: (squares / (scores.len() - 1).max(1) as f64).sqrt(),
        })
    }
}

/// Returns the bounds of ten bins of equal width over all usable scores; none if all are equal.
pub(super) fn score_bins(usable: &[f64]) -> Vec<f64> {
    const BINS: usize = 10;
    match ScoreSummary::new(usable) {
        Some(ScoreSummary { min, max, .. }) if min < max => {
            (0..=BINS).map(|bound| min + (max - min) * bound as f64 / BINS as f64).collect()
        }
        _ => Vec::new(),
    }
}

pub(super) fn histogram(scores: &[f64], bounds: &[f64]) -> Vec<usize> {
    let mut counts = vec![0; bounds.len().saturating_sub(1)];
    let Some(last) = counts.len().checked_sub(1) else {
        return counts;
    };
    for score in scores {
        let bin = bounds[1..].partition_point(|bound| bound <= score);
        counts[bin.min(last)] += 1;
    }
    counts
}
