//! The bootstrap over images: metrics recomputed on images sampled with replacement.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::interval::{Interval, Resampled};
use crate::data::random_stream::{RandomStream, mix};
use crate::eval::metrics::{Metric, Metrics, RankBuffers, ScoredImages};
use crate::eval::predictions::Predictions;

/// The confidence level of every interval.
const CONFIDENCE: f64 = 0.95;
/// The least number of seeds for a claim about a model rather than its trained weights.
pub const MIN_SEEDS: usize = 3;

/// How images are resampled (Efron and Tibshirani, "An introduction to the bootstrap", 1993).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Seed of the resampling, which determines the intervals for any number of threads.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 10_000, seed: 0 }
    }
}

/// [`Metric::ALL`] on the images as they are, on each resample of them, and with each image
/// removed.
///
/// Means and differences of distributions over the same resamples are distributions again.
#[derive(Debug, Clone)]
pub struct BootstrapDistribution {
    estimate: [f64; 4],
    resampled: Vec<[f64; 4]>,
    jackknife: Vec<[f64; 4]>,
}

impl Bootstrap {
    /// Resamples the images, for all predictions the same ones: item i of each must be the same
    /// image. Equal numbers of images and an equal seed give the same resamples in another call.
    pub fn resample(&self, predictions: &[ScoredImages]) -> Result<Vec<BootstrapDistribution>> {
        let n = predictions.first().map_or(0, ScoredImages::len);
        ensure!(
            predictions.iter().all(|images| images.len() == n),
            "predictions for different numbers of images cannot be resampled together"
        );
        let metrics = |counts: &[u32], buffers: &mut RankBuffers| -> Vec<[f64; 4]> {
            predictions.iter().map(|images| images.metrics(|i| counts[i], buffers)).collect()
        };
        let start = || (vec![0; n], RankBuffers::default());
        let resampled: Vec<Vec<[f64; 4]>> = (0..self.resamples)
            .into_par_iter()
            .map_init(start, |(counts, buffers), index| {
                let mut stream = self.stream(index);
                counts.fill(0);
                (0..n).for_each(|_| counts[stream.below(n)] += 1);
                metrics(counts, buffers)
            })
            .collect();
        let jackknife: Vec<Vec<[f64; 4]>> = (0..n)
            .into_par_iter()
            .map_init(start, |(counts, buffers), index| {
                counts.fill(1);
                counts[index] = 0;
                metrics(counts, buffers)
            })
            .collect();
        let estimates = metrics(&vec![1; n], &mut RankBuffers::default());
        let column = |rows: &[Vec<[f64; 4]>], i: usize| rows.iter().map(|row| row[i]).collect();
        Ok(estimates
            .into_iter()
            .enumerate()
            .map(|(i, estimate)| BootstrapDistribution {
                estimate,
                resampled: column(&resampled, i),
                jackknife: column(&jackknife, i),
            })
            .collect())
    }

    /// Returns the mean of the distributions of a model's seeds, over images and seeds: to the mean
    /// on each resample of the images comes the deviation of as many seeds, sampled with
    /// replacement, from the mean of all. Models with the same `seeds` have the same ones, so that
    /// their difference is paired. `None` of none; of fewer than [`MIN_SEEDS`] the mean over images
    /// alone, for they do not show how much seeds vary.
    ///
    /// A few seeds vary less than all that could have been, and by how much is uncertain: each
    /// deviation is multiplied by √(n / χ²) for a sampled χ² of n - 1 degrees of freedom, with
    /// which the mean of n normal values has Student's t distribution.
    pub fn over_seeds(
        &self,
        of: &[BootstrapDistribution],
        seeds: &[u64],
    ) -> Option<BootstrapDistribution> {
        let mut mean = BootstrapDistribution::mean(of)?;
        let n = of.len();
        if n < MIN_SEEDS {
            return Some(mean);
        }
        let estimate = mean.estimate;
        let key = seeds.iter().fold(n as u64, |key, seed| mix(key, *seed));
        for (resample, row) in mean.resampled.iter_mut().enumerate() {
            let mut stream = RandomStream::new(self.seed, key, resample as u64, "seeds");
            let sampled: Vec<usize> = (0..n).map(|_| stream.below(n)).collect();
            let chi_square: f64 = (1..n).map(|_| stream.normal().powi(2)).sum();
            let scale = (n as f64 / chi_square.max(f64::MIN_POSITIVE)).sqrt();
            for (metric, value) in row.iter_mut().enumerate() {
                let sum: f64 = sampled.iter().map(|&seed| of[seed].estimate[metric]).sum();
                *value += scale * (sum / n as f64 - estimate[metric]);
            }
        }
        Some(mean)
    }

    /// Computes the mean of those values that are finite, one for each image.
    pub fn mean(&self, values: &[f64]) -> Mean {
        let values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let (n, total) = (values.len(), values.iter().sum::<f64>());
        if n == 0 {
            return Mean { mean: None, ci: None, n };
        }
        let mean = total / n as f64;
        let resampled = (0..self.resamples).map(|index| {
            let mut stream = self.stream(index);
            (0..n).map(|_| values[stream.below(n)]).sum::<f64>() / n as f64
        });
        let jackknife = values.iter().map(|v| (total - v) / (n as f64 - 1.0));
        let ci = Resampled::new(mean, resampled.collect(), jackknife.collect());
        let ci = ci.filter(|_| n > 1).map(|resampled| resampled.interval(CONFIDENCE));
        Mean { mean: Some(mean), ci, n }
    }

    /// Returns the random stream of one resample.
    fn stream(&self, resample: usize) -> RandomStream {
        RandomStream::new(self.seed, 0, resample as u64, "images")
    }
}

impl BootstrapDistribution {
    /// Returns the metric on the images as they are.
    pub fn estimate(&self, metric: Metric) -> f64 {
        self.estimate[metric as usize]
    }

    /// Returns the mean of distributions over the same resamples; `None` of none.
    pub fn mean(of: &[BootstrapDistribution]) -> Option<BootstrapDistribution> {
        let (first, rest) = of.split_first()?;
        let sum = rest.iter().fold(first.clone(), |sum, next| sum.zip(next, |a, b| a + b));
        let n = of.len() as f64;
        Some(sum.zip(&sum, |a, _| a / n))
    }

    /// Returns the distribution of this minus another over the same resamples.
    pub fn minus(&self, other: &BootstrapDistribution) -> BootstrapDistribution {
        self.zip(other, |a, b| a - b)
    }

    fn zip(
        &self,
        other: &BootstrapDistribution,
        f: impl Fn(f64, f64) -> f64,
    ) -> BootstrapDistribution {
        let each = |a: &[f64; 4], b: &[f64; 4]| std::array::from_fn(|i| f(a[i], b[i]));
        let rows =
            |a: &[[f64; 4]], b: &[[f64; 4]]| a.iter().zip(b).map(|(a, b)| each(a, b)).collect();
        BootstrapDistribution {
            estimate: each(&self.estimate, &other.estimate),
            resampled: rows(&self.resampled, &other.resampled),
            jackknife: rows(&self.jackknife, &other.jackknife),
        }
    }

    /// Returns the 95 % interval of a metric; `None` where it is undefined.
    pub fn interval(&self, metric: Metric) -> Option<Interval> {
        self.resampled(metric).map(|resampled| resampled.interval(CONFIDENCE))
    }

    /// Returns the two-sided p of the metric being 0 in the population, for differences: 0.05 where
    /// the 95 % interval ends at 0. It is never 0: the least is 2 / (resamples + 1), before the
    /// interval's corrections. `None` where the metric is undefined.
    pub fn p_value(&self, metric: Metric) -> Option<f64> {
        self.resampled(metric).map(|resampled| resampled.p_value())
    }

    fn resampled(&self, metric: Metric) -> Option<Resampled> {
        let column = |rows: &[[f64; 4]]| rows.iter().map(|row| row[metric as usize]).collect();
        Resampled::new(self.estimate(metric), column(&self.resampled), column(&self.jackknife))
    }
}

/// The mean of a number that each image has, with its interval over images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// `None` where no image has the number.
    pub mean: Option<f64>,
    /// 95 % interval over images; `None` for fewer than two.
    pub ci: Option<Interval>,
    /// Images that have the number.
    pub n: usize,
}

/// The metrics of one set of predictions, with 95 % intervals over images. In JSON one object of
/// both: `pc`, …, `n`, `pc_ci`, ….
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MetricsWithCi {
    /// The metrics.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Interval of the Pearson correlation.
    pub pc_ci: Option<Interval>,
    /// Interval of the mean absolute error.
    pub mae_ci: Option<Interval>,
    /// Interval of the root mean square error.
    pub rmse_ci: Option<Interval>,
    /// Interval of Spearman's rank correlation.
    pub srcc_ci: Option<Interval>,
}

impl MetricsWithCi {
    /// Computes the metrics of predictions and their intervals, which depend on nothing else, not
    /// on the order of the rows either: every place that shows them shows the same digits.
    pub fn new(predictions: &Predictions) -> Result<Self> {
        let predictions = predictions.sorted();
        let images = ScoredImages::new(&predictions.predictions, &predictions.targets)?;
        let distributions = Bootstrap::default().resample(&[images])?;
        let distribution = distributions.first().context("the bootstrap returned nothing")?;
        let [pc_ci, mae_ci, rmse_ci, srcc_ci] = Metric::ALL.map(|m| distribution.interval(m));
        Ok(Self { metrics: predictions.metrics()?, pc_ci, mae_ci, rmse_ci, srcc_ci })
    }

    /// Returns the interval of one metric; `None` where it is undefined.
    pub fn interval(&self, metric: Metric) -> Option<Interval> {
        [self.pc_ci, self.mae_ci, self.rmse_ci, self.srcc_ci][metric as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_intervals_do_not_depend_on_the_order_of_the_rows() {
        let mut stream = RandomStream::new(1, 0, 0, "test");
        let mut column = || -> Vec<f64> { (0..40).map(|_| 1.0 + 4.0 * stream.unit()).collect() };
        let rows = Predictions {
            images: (0..40).map(|row| format!("{}.png", row / 2)).collect(), // each twice
            targets: column(),
            predictions: column(),
            ..Predictions::default()
        };
        let reversed = Predictions {
            images: rows.images.iter().rev().cloned().collect(),
            targets: rows.targets.iter().rev().copied().collect(),
            predictions: rows.predictions.iter().rev().copied().collect(),
            ..Predictions::default()
        };
        let metrics = MetricsWithCi::new(&rows).unwrap();
        assert!(metrics.pc_ci.is_some());
        assert_eq!(metrics, MetricsWithCi::new(&reversed).unwrap());
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let Mean { mean, ci, n } = Bootstrap::default().mean(&values);
        let ci = ci.unwrap();
        assert_eq!((mean, n), (Some(9.5), 400));
        let error = (399.0_f64 / 12.0).sqrt() / 20.0; // of 20 equally likely numbers
        assert!((ci.hi - 9.5 - 1.96 * error).abs() < 0.03, "{ci:?}");
        assert!((9.5 - ci.lo - 1.96 * error).abs() < 0.03, "{ci:?}");
        assert_eq!(Bootstrap::default().mean(&[f64::NAN]).mean, None);
    }
}
