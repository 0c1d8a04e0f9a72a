//! From resampled values of one metric to its interval and p.

use serde::{Deserialize, Serialize};

use super::normal;

/// Two ends; in JSON `[lo, hi]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// The lower end.
    pub lo: f64,
    /// The upper end.
    pub hi: f64,
}

impl Interval {
    /// Whether `value` lies in it, ends included.
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

/// The part of the resamples in which a metric may be undefined (all images with one target, say)
/// and still have an interval.
const MOST_UNDEFINED: f64 = 0.01;

/// One metric's resampled values.
#[derive(Debug)]
pub(super) struct Spread {
    estimate: f64,
    /// Sorted.
    resampled: Vec<f64>,
    left_out: Vec<f64>,
}

impl Spread {
    /// `None` where the metric is not defined, or in more than one of a hundred resamples.
    pub fn new(estimate: f64, resampled: Vec<f64>, left_out: Vec<f64>) -> Option<Self> {
        let drawn = resampled.len();
        let mut resampled: Vec<f64> = resampled.into_iter().filter(|x| x.is_finite()).collect();
        let undefined = (drawn - resampled.len()) as f64;
        if !estimate.is_finite() || resampled.len() < 2 || undefined > MOST_UNDEFINED * drawn as f64
        {
            return None;
        }
        resampled.sort_by(f64::total_cmp);
        let left_out = left_out.into_iter().filter(|x| x.is_finite()).collect();
        Some(Self { estimate, resampled, left_out })
    }

    /// With the percentiles moved for bias and skew (BCa: Efron, "Better bootstrap confidence
    /// intervals", JASA 82, 1987). Chosen by measured coverage of the four metrics for normal
    /// scores and errors, PC 0.5 and 0.9, 4000 data sets each, 1000 resamples:
    ///
    /// | images | plain percentiles | BCa |
    /// | --- | --- | --- |
    /// | 60 | 92.6 to 96.4 % | 93.1 to 95.4 % |
    /// | 127 | 93.5 to 95.3 % | 94.0 to 94.8 % |
    /// | 400 | 94.6 to 95.1 % | 94.6 to 95.1 % |
    pub fn interval(&self, confidence: f64) -> Option<Interval> {
        let (bias, acceleration) = (self.bias(), self.acceleration());
        let end = |p: f64| {
            let z = bias + normal::quantile(p);
            self.percentile(normal::cdf(bias + z / (1.0 - acceleration * z)))
        };
        let tail = (1.0 - confidence) / 2.0;
        Some(Interval { lo: end(tail), hi: end(1.0 - tail) })
    }

    /// Twice the tail of the interval that ends at 0.
    pub fn p_value(&self) -> Option<f64> {
        let (bias, acceleration) = (self.bias(), self.acceleration());
        let w = normal::quantile(self.part_below(0.0)) - bias;
        let below = normal::cdf(w / (1.0 + acceleration * w) - bias);
        Some((2.0 * below.min(1.0 - below)).min(1.0))
    }

    /// With n - 1.
    pub fn standard_deviation(&self) -> Option<f64> {
        let n = self.resampled.len() as f64;
        let mean = self.resampled.iter().sum::<f64>() / n;
        let squares: f64 = self.resampled.iter().map(|x| (x - mean).powi(2)).sum();
        Some((squares / (n - 1.0)).sqrt())
    }

    /// z of the part of the resamples below the estimate.
    fn bias(&self) -> f64 {
        normal::quantile(self.part_below(self.estimate))
    }

    /// The part of the resamples below `value`, those equal to it counted half; never 0 or 1, which
    /// no finite number of resamples can show.
    fn part_below(&self, value: f64) -> f64 {
        let below = self.resampled.partition_point(|x| *x < value);
        let up_to = self.resampled.partition_point(|x| *x <= value);
        let n = self.resampled.len() as f64;
        let part = (below + up_to) as f64 / 2.0 / n;
        part.clamp(1.0 / (n + 1.0), n / (n + 1.0))
    }

    /// A sixth of the skewness of the jackknife's influence.
    fn acceleration(&self) -> f64 {
        let n = self.left_out.len() as f64;
        let mean = self.left_out.iter().sum::<f64>() / n;
        let sum =
            |power: i32| -> f64 { self.left_out.iter().map(|x| (mean - x).powi(power)).sum() };
        let acceleration = sum(3) / (6.0 * sum(2).powf(1.5));
        if acceleration.is_finite() { acceleration } else { 0.0 }
    }

    /// Between the two nearest values, by their distance.
    fn percentile(&self, p: f64) -> f64 {
        let place = p.clamp(0.0, 1.0) * (self.resampled.len() - 1) as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(self.resampled.len() - 1);
        let part = place - below as f64;
        self.resampled[below] * (1.0 - part) + self.resampled[above] * part
    }
}
