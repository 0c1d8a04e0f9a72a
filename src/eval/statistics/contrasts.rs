//! Variation over seeds, differences between models on the same images, and the correction for many
//! tests.

use serde::{Deserialize, Serialize};

use super::bootstrap::BootstrapDistribution;
use super::interval::Interval;
use crate::eval::metrics::Metric;

/// One metric of a model that was trained with several seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MetricOverSeeds {
    /// Mean over the seeds.
    pub mean: Option<f64>,
    /// Standard deviation over the seeds (n - 1), on the same images; `None` for one seed.
    pub sd_over_seeds: Option<f64>,
    /// 95 % interval of the mean over images, with the seeds as they are.
    pub ci_over_images: Option<Interval>,
    /// Number of seeds.
    pub seeds: usize,
}

impl MetricOverSeeds {
    /// Summarizes distributions over the same resamples, one for each seed.
    pub fn new(seeds: &[BootstrapDistribution], metric: Metric) -> Self {
        let values: Vec<f64> = seeds.iter().map(|seed| seed.estimate(metric)).collect();
        let (mean, sd) = mean_and_sd(&values);
        Self {
            mean,
            sd_over_seeds: sd,
            ci_over_images: BootstrapDistribution::mean(seeds).and_then(|m| m.interval(metric)),
            seeds: values.len(),
        }
    }
}

/// Returns the mean and the standard deviation (n - 1) of values, `None` where it is undefined.
pub fn mean_and_sd(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let sd = (squares / (n - 1.0)).sqrt();
    (finite(mean), finite(sd))
}

/// How much one model's metric exceeds another's on the same images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The first model's metric minus the second's.
    pub difference: Option<f64>,
    /// 95 % interval of the difference, over what was resampled: images, and seeds if there are
    /// enough of them.
    pub ci: Option<Interval>,
    /// Two-sided p of no difference.
    pub p: Option<f64>,
}

impl Difference {
    /// Compares two models by the paired bootstrap: their distributions over the same resamples.
    pub fn new(a: &BootstrapDistribution, b: &BootstrapDistribution, metric: Metric) -> Self {
        let difference = a.minus(b);
        Self {
            difference: finite(difference.estimate(metric)),
            ci: difference.interval(metric),
            p: difference.p_value(metric),
        }
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Returns Holm's adjusted p-values, in the order of the given ones: among all whose adjusted p is
/// at most 0.05, the probability that any is wrong is at most 0.05 (Holm, "A simple sequentially
/// rejective multiple test procedure", 1979). A `None` is no test and stays.
pub fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let tests = p_values.iter().enumerate();
    let mut tests: Vec<(usize, f64)> = tests.filter_map(|(i, p)| Some((i, (*p)?))).collect();
    tests.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut adjusted = vec![None; p_values.len()];
    let mut largest = 0.0f64;
    for (smaller, &(index, p)) in tests.iter().enumerate() {
        largest = largest.max((p * (tests.len() - smaller) as f64).min(1.0));
        adjusted[index] = Some(largest);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_p_values_are_statsmodels() {
        // statsmodels: multipletests(..., method="holm").
        let adjusted = holm(&[0.04, 0.001, 0.03, 0.2, 0.012, 0.5].map(Some));
        for (value, expected) in adjusted.iter().zip([0.12, 0.006, 0.12, 0.4, 0.06, 0.5]) {
            assert!((value.unwrap() - expected).abs() < 1e-12, "{adjusted:?}");
        }
    }

    #[test]
    fn one_test_needs_no_correction_and_a_missing_one_does_not_count() {
        assert_eq!(holm(&[Some(0.03)]), [Some(0.03)]);
        assert!(holm(&[]).is_empty());
        assert_eq!(holm(&[None, Some(0.02), Some(0.9)]), [None, Some(0.04), Some(0.9)]);
    }

    #[test]
    fn the_standard_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_sd(&[1.0, 2.0, 3.0, 4.0]), (Some(2.5), Some((5.0f64 / 3.0).sqrt())));
        assert_eq!(mean_and_sd(&[1.0]), (Some(1.0), None));
        assert_eq!(mean_and_sd(&[1.0, f64::NAN]), (None, None));
    }
}
