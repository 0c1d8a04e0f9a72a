//! The mean of a metric that each image has by itself.

use serde::{Deserialize, Serialize};

use super::interval::{Interval, Spread};
use super::replicates::Bootstrap;
use crate::data::draws::Draws;

/// The mean over images, with what other images would have changed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// `None` where no image has the metric.
    pub mean: Option<f64>,
    /// 95 %, over images; `None` for fewer than two.
    pub ci: Option<Interval>,
    /// Images that have the metric.
    pub n: usize,
}

impl Bootstrap {
    /// The mean of those values that are finite.
    pub fn mean(&self, values: &[f64]) -> Mean {
        let values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let (n, total) = (values.len(), values.iter().sum::<f64>());
        if n == 0 {
            return Mean { mean: None, ci: None, n };
        }
        let mean = total / n as f64;
        let resampled = (0..self.resamples).map(|index| {
            let mut draws = Draws::new(self.seed, 0, index as u64, "images");
            (0..n).map(|_| values[draws.below(n)]).sum::<f64>() / n as f64
        });
        let left_out = values.iter().map(|v| (total - v) / (n as f64 - 1.0));
        let ci = match n {
            1 => None,
            _ => Spread::new(mean, resampled.collect(), left_out.collect())
                .and_then(|spread| spread.interval(0.95)),
        };
        Mean { mean: Some(mean), ci, n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
