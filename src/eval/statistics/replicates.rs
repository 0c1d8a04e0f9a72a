//! The bootstrap: metrics of the images that were drawn, drawn again.

use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

use super::interval::{Interval, Spread};
use super::metric::Metric;
use super::sample::{Sample, Scratch};
use crate::data::draws::Draws;

/// How images are drawn again (Efron and Tibshirani, "An introduction to the bootstrap", 1993).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Resamples.
    pub resamples: usize,
    /// Of the draws; the same seed gives the same intervals, whatever the number of threads.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 10_000, seed: 0 }
    }
}

/// A set of metrics, and what becomes of it when images are drawn again and when each is left out.
/// Means and differences of replicates that were drawn together are replicates again.
#[derive(Debug, Clone)]
pub struct Replicates {
    /// By [`Metric`].
    estimate: [f64; 4],
    resampled: Vec<[f64; 4]>,
    left_out: Vec<[f64; 4]>,
}

impl Bootstrap {
    /// Draws the images again, the same ones for all samples: item i of each must be the same
    /// image.
    ///
    /// # Errors
    /// Samples of different lengths.
    pub fn replicate(&self, samples: &[Sample]) -> Result<Vec<Replicates>> {
        let n = samples.first().map_or(0, Sample::len);
        ensure!(
            samples.iter().all(|sample| sample.len() == n),
            "predictions for different numbers of images cannot be resampled together"
        );
        let metrics = |counts: &[u32], scratch: &mut Scratch| -> Vec<[f64; 4]> {
            let of_each = samples.iter().map(|sample| sample.metrics(counts, scratch));
            of_each.collect()
        };
        let start = || (vec![0; n], Scratch::default());
        let resampled: Vec<Vec<[f64; 4]>> = (0..self.resamples)
            .into_par_iter()
            .map_init(start, |(counts, scratch), index| {
                let mut draws = Draws::new(self.seed, 0, index as u64, "images");
                counts.fill(0);
                (0..n).for_each(|_| counts[draws.below(n)] += 1);
                metrics(counts, scratch)
            })
            .collect();
        let left_out: Vec<Vec<[f64; 4]>> = (0..n)
            .into_par_iter()
            .map_init(start, |(counts, scratch), index| {
                counts.fill(1);
                counts[index] = 0;
                metrics(counts, scratch)
            })
            .collect();
        let estimates = metrics(&vec![1; n], &mut Scratch::default());
        let of =
            |rows: &[Vec<[f64; 4]>], sample: usize| rows.iter().map(|row| row[sample]).collect();
        Ok(estimates
            .into_iter()
            .enumerate()
            .map(|(sample, estimate)| Replicates {
                estimate,
                resampled: of(&resampled, sample),
                left_out: of(&left_out, sample),
            })
            .collect())
    }
}

impl Replicates {
    /// The metric on the images as they are.
    pub fn estimate(&self, metric: Metric) -> f64 {
        self.estimate[metric as usize]
    }

    /// The mean of replicates that were drawn together: over seeds, for example.
    ///
    /// # Errors
    /// There are none.
    pub fn mean(of: &[Replicates]) -> Result<Replicates> {
        let Some((first, rest)) = of.split_first() else {
            bail!("there are no metrics to take the mean of");
        };
        let sum = rest.iter().fold(first.clone(), |sum, next| sum.with(next, |a, b| a + b));
        let n = of.len() as f64;
        Ok(sum.with(&sum, |a, _| a / n))
    }

    /// These minus others that were drawn together with them.
    pub fn minus(&self, other: &Replicates) -> Replicates {
        self.with(other, |a, b| a - b)
    }

    fn with(&self, other: &Replicates, f: impl Fn(f64, f64) -> f64) -> Replicates {
        let each = |a: &[f64; 4], b: &[f64; 4]| std::array::from_fn(|i| f(a[i], b[i]));
        let rows =
            |a: &[[f64; 4]], b: &[[f64; 4]]| a.iter().zip(b).map(|(a, b)| each(a, b)).collect();
        Replicates {
            estimate: each(&self.estimate, &other.estimate),
            resampled: rows(&self.resampled, &other.resampled),
            left_out: rows(&self.left_out, &other.left_out),
        }
    }

    /// The 95 % interval of a metric; `None` where it is not defined.
    pub fn interval(&self, metric: Metric) -> Option<Interval> {
        self.spread(metric)?.interval(0.95)
    }

    /// The two-sided p of the metric being 0 in the population, of use for differences: it is 0.05
    /// where the 95 % interval ends at 0. It is never 0: the least is 2 / (resamples + 1), before
    /// the interval's corrections.
    pub fn p_value(&self, metric: Metric) -> Option<f64> {
        self.spread(metric)?.p_value()
    }

    /// The standard deviation over resamples: the standard error of the metric from the choice of
    /// images.
    pub fn standard_error(&self, metric: Metric) -> Option<f64> {
        self.spread(metric)?.standard_deviation()
    }

    fn spread(&self, metric: Metric) -> Option<Spread> {
        let column = |rows: &[[f64; 4]]| rows.iter().map(|row| row[metric as usize]).collect();
        Spread::new(self.estimate(metric), column(&self.resampled), column(&self.left_out))
    }
}
