//! Confidence intervals and p-values from the resampled values of one metric.

use std::f64::consts::SQRT_2;

use serde::{Deserialize, Serialize};

/// A confidence interval; in JSON `[lo, hi]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// The lower end.
    pub lo: f64,
    /// The upper end.
    pub hi: f64,
}

impl Interval {
    /// Returns whether `value` lies in the interval, ends included.
    pub fn contains(self, value: f64) -> bool {
        self.lo <= value && value <= self.hi
    }
}

impl From<[f64; 2]> for Interval {
    fn from([lo, hi]: [f64; 2]) -> Self {
        Self { lo, hi }
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.lo, interval.hi]
    }
}

/// The fraction of the resamples in which a metric may be undefined (all images with one target,
/// for example) and still have an interval.
const MAX_UNDEFINED: f64 = 0.01;

/// The estimate of one metric, with its resampled and jackknife values.
#[derive(Debug)]
pub(super) struct Resampled {
    estimate: f64,
    /// Sorted.
    resampled: Vec<f64>,
    jackknife: Vec<f64>,
}

impl Resampled {
    /// Returns `None` where the metric is undefined, or is so in more than 1 % of the resamples.
    pub(super) fn new(estimate: f64, resampled: Vec<f64>, jackknife: Vec<f64>) -> Option<Self> {
        let resamples = resampled.len();
        let mut resampled: Vec<f64> = resampled.into_iter().filter(|x| x.is_finite()).collect();
        let undefined = (resamples - resampled.len()) as f64;
        let too_few = resampled.len() < 2 || undefined > MAX_UNDEFINED * resamples as f64;
        if !estimate.is_finite() || too_few {
            return None;
        }
        resampled.sort_by(f64::total_cmp);
        let jackknife = jackknife.into_iter().filter(|x| x.is_finite()).collect();
        Some(Self { estimate, resampled, jackknife })
    }

    /// Returns the interval with percentiles corrected for bias and skew (BCa: Efron, "Better
    /// bootstrap confidence intervals", JASA 82, 1987). Chosen by measured coverage of the four
    /// metrics for normal scores and errors, PC 0.5 and 0.9, 4000 datasets each, 1000 resamples:
    ///
    /// | images | plain percentiles | BCa |
    /// | --- | --- | --- |
    /// | 60 | 92.6 to 96.4 % | 93.1 to 95.4 % |
    /// | 127 | 93.5 to 95.3 % | 94.0 to 94.8 % |
    /// | 400 | 94.6 to 95.1 % | 94.6 to 95.1 % |
    pub(super) fn interval(&self, confidence: f64) -> Interval {
        let (bias, acceleration) = (self.bias(), self.acceleration());
        let end = |p: f64| {
            let z = bias + normal_quantile(p);
            self.percentile(normal_cdf(bias + z / (1.0 - acceleration * z)))
        };
        let tail = (1.0 - confidence) / 2.0;
        Interval { lo: end(tail), hi: end(1.0 - tail) }
    }

    /// Returns the two-sided p of the metric being 0: twice the tail of the interval that ends
    /// there.
    pub(super) fn p_value(&self) -> f64 {
        let (bias, acceleration) = (self.bias(), self.acceleration());
        let w = normal_quantile(self.fraction_below(0.0)) - bias;
        let below = normal_cdf(w / (1.0 + acceleration * w) - bias);
        (2.0 * below.min(1.0 - below)).min(1.0)
    }

    /// Returns the z of the fraction of the resamples below the estimate.
    fn bias(&self) -> f64 {
        normal_quantile(self.fraction_below(self.estimate))
    }

    /// Returns the fraction of the resamples below `value`, those equal to it counted half; never 0
    /// or 1, which no finite number of resamples can show.
    fn fraction_below(&self, value: f64) -> f64 {
        let below = self.resampled.partition_point(|x| *x < value);
        let up_to = self.resampled.partition_point(|x| *x <= value);
        let n = self.resampled.len() as f64;
        let fraction = (below + up_to) as f64 / 2.0 / n;
        fraction.clamp(1.0 / (n + 1.0), n / (n + 1.0))
    }

    /// Returns a sixth of the skewness of the jackknife's influence.
    fn acceleration(&self) -> f64 {
        let n = self.jackknife.len() as f64;
        let mean = self.jackknife.iter().sum::<f64>() / n;
        let sum =
            |power: i32| -> f64 { self.jackknife.iter().map(|x| (mean - x).powi(power)).sum() };
        let acceleration = sum(3) / (6.0 * sum(2).powf(1.5));
        if acceleration.is_finite() { acceleration } else { 0.0 }
    }

    /// Interpolates linearly between the two nearest values.
    fn percentile(&self, p: f64) -> f64 {
        let position = p.clamp(0.0, 1.0) * (self.resampled.len() - 1) as f64;
        let below = position.floor() as usize;
        let above = (below + 1).min(self.resampled.len() - 1);
        let fraction = position - below as f64;
        self.resampled[below] * (1.0 - fraction) + self.resampled[above] * fraction
    }
}

/// Returns P(Z ≤ z) of a standard normal Z.
fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / SQRT_2)
}

/// Returns the z with P(Z ≤ z) = `p`, for `p` from 1e-300 to 1 - 1e-16; the nearest end of that
/// range for others.
fn normal_quantile(p: f64) -> f64 {
    // By bisection, which needs no tables: it is called a few times per interval.
    let (mut low, mut high) = (-37.0, 8.2);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if normal_cdf(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_probabilities_and_quantiles_are_scipys() {
        // scipy 1.17.1: norm.cdf, norm.ppf.
        for (z, p) in [
            (-4.0, 3.167124183311986e-05),
            (-1.96, 0.024997895148220435),
            (-0.3, 0.3820885778110474),
            (2.5, 0.9937903346742238),
        ] {
            assert!((normal_cdf(z) - p).abs() < 1e-14, "{z}");
        }
        for (p, z) in [
            (1e-5, -4.264890793922825),
            (0.025, -1.9599639845400545),
            (0.3, -0.5244005127080409),
            (0.5, 0.0),
            (0.975, 1.959963984540054),
        ] {
            assert!((normal_quantile(p) - z).abs() < 1e-12, "{p}");
        }
    }
}
