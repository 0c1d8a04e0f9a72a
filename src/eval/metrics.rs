//! The metrics that beauty prediction is judged by: Pearson correlation, mean
//! absolute error, root mean square error, and Spearman's rank correlation.

use std::fmt;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// The metrics of one set of predictions.
///
/// A metric that is not defined is NaN here and `null` in JSON: all of them for no
/// images or a prediction that is not finite, the correlations also for a single
/// image or where the predictions or the targets are all the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Pearson correlation, -1 to 1.
    #[serde(with = "nan_as_null")]
    pub pc: f64,
    /// Mean absolute error, in score units.
    #[serde(with = "nan_as_null")]
    pub mae: f64,
    /// Root mean square error, in score units.
    #[serde(with = "nan_as_null")]
    pub rmse: f64,
    /// Spearman's rank correlation, -1 to 1.
    #[serde(with = "nan_as_null")]
    pub srcc: f64,
    /// Number of images.
    pub n: usize,
}

impl Metrics {
    /// The metrics of `predictions` against `targets`, pair by pair.
    ///
    /// # Errors
    /// If there are not as many predictions as targets.
    pub fn new(predictions: &[f64], targets: &[f64]) -> Result<Self> {
        check_pairs(predictions, targets)?;
        Ok(Self {
            pc: pearson(predictions, targets),
            mae: mean_absolute_error(predictions, targets),
            rmse: root_mean_square_error(predictions, targets),
            srcc: spearman(predictions, targets),
            n: targets.len(),
        })
    }
}

/// Metrics are of pairs: there must be as many predictions as targets.
pub(super) fn check_pairs(predictions: &[f64], targets: &[f64]) -> Result<()> {
    ensure!(
        predictions.len() == targets.len(),
        "{} predictions cannot be compared with {} targets",
        predictions.len(),
        targets.len()
    );
    Ok(())
}

/// `PC 0.9212  MAE 0.2085  RMSE 0.2698  SRCC 0.9100  (n 1100)`; an undefined
/// metric is a dash.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics =
            [("PC", self.pc), ("MAE", self.mae), ("RMSE", self.rmse), ("SRCC", self.srcc)];
        for (name, value) in metrics {
            if value.is_finite() {
                write!(f, "{name} {value:.4}  ")?;
            } else {
                write!(f, "{name} -  ")?;
            }
        }
        write!(f, "(n {})", self.n)
    }
}

/// Pearson's correlation of `x` and `y`, item by item: Σ(x-x̄)(y-ȳ) over the root of
/// Σ(x-x̄)²·Σ(y-ȳ)². NaN where it is not defined: fewer than two items, a value that
/// is not finite, or all values of one side the same. Items beyond the shorter
/// slice are ignored.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len().min(y.len());
    let (x, y) = (&x[..n], &y[..n]);
    // Rounding in the mean would give a constant side a tiny variance, and the
    // quotient of two such is noise: constancy is told from the values.
    if n < 2 || is_constant(x) || is_constant(y) {
        return f64::NAN;
    }
    let (x_mean, y_mean) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (dx, dy) = (x - x_mean, y - y_mean);
        xy += dx * dy;
        xx += dx * dx;
        yy += dy * dy;
    }
    // The roots apart: the product of two tiny sums would underflow.
    let correlation = xy / (xx.sqrt() * yy.sqrt());
    if correlation.is_finite() { correlation.clamp(-1.0, 1.0) } else { f64::NAN }
}

/// Spearman's correlation: Pearson's of the ranks, where equal values share the
/// mean of their ranks. NaN where [`pearson`] is.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    if x.iter().chain(y).any(|value| !value.is_finite()) {
        return f64::NAN;
    }
    let n = x.len().min(y.len());
    pearson(&ranks(&x[..n]), &ranks(&y[..n]))
}

/// Mean of |prediction - target|; NaN for no items.
pub fn mean_absolute_error(predictions: &[f64], targets: &[f64]) -> f64 {
    mean_of(predictions, targets, |error| error.abs())
}

/// Root of the mean of (prediction - target)²; NaN for no items.
pub fn root_mean_square_error(predictions: &[f64], targets: &[f64]) -> f64 {
    mean_of(predictions, targets, |error| error * error).sqrt()
}

fn mean_of(predictions: &[f64], targets: &[f64], of_error: impl Fn(f64) -> f64) -> f64 {
    let n = predictions.len().min(targets.len());
    let sum: f64 = predictions
        .iter()
        .zip(targets)
        .map(|(prediction, target)| of_error(prediction - target))
        .sum();
    let mean = sum / n as f64; // 0 / 0 is NaN
    if mean.is_finite() { mean } else { f64::NAN }
}

/// The mean; NaN of no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn is_constant(values: &[f64]) -> bool {
    values.iter().all(|value| *value == values[0])
}

/// Ranks from 1; equal values share the mean of the ranks they take up.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    // Grouped by ==, not by the sort's order, so that -0 and 0 are one value.
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let shared = first as f64 + (group.len() + 1) as f64 / 2.0;
        for &index in group {
            ranks[index] = shared;
        }
        first += group.len();
    }
    ranks
}

/// A metric that is not defined is NaN in memory and `null` in a file, for JSON has
/// no NaN.
mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn metrics_of_a_case_worked_by_hand() {
        // Errors 0, -1, 1, 0; both means 2.5; Σdxdy = 4, Σdx² = Σdy² = 5.
        let metrics = Metrics::new(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_close(metrics.pc, 0.8);
        assert_close(metrics.srcc, 0.8);
        assert_close(metrics.mae, 0.5);
        assert_close(metrics.rmse, 0.5f64.sqrt());
        assert_eq!(metrics.n, 4);
    }

    #[test]
    fn metrics_equal_those_of_scipy() {
        // scipy 1.17.1: pearsonr, spearmanr. The predictions hold a tie, the targets too.
        let predictions = [2.9, 3.1, 4.2, 1.7, 3.3, 2.2, 3.8, 3.1];
        let targets = [3.0, 2.8, 4.5, 2.0, 3.0, 2.5, 3.6, 3.4];
        let metrics = Metrics::new(&predictions, &targets).unwrap();
        assert_close(metrics.pc, 0.9361378680636869);
        assert_close(metrics.srcc, 0.8915662650602408);
        assert_close(metrics.mae, 0.2625);
        assert_close(metrics.rmse, 0.2715695122800053);
    }

    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        assert_eq!(ranks(&[10.0, 20.0, 10.0, 30.0, 10.0]), [2.0, 4.0, 2.0, 5.0, 2.0]);
        assert_eq!(ranks(&[0.0, -0.0, 1.0]), [1.5, 1.5, 3.0]);
        // scipy 1.17.1: spearmanr.
        let srcc = spearman(&[1.0, 2.0, 2.0, 3.0, 3.0, 3.0], &[2.0, 1.0, 4.0, 4.0, 6.0, 5.0]);
        assert_close(srcc, 0.7671247565793082);
    }

    #[test]
    fn a_large_offset_does_not_spoil_the_correlation() {
        let x = [0.1, 0.2, 0.4, 0.3].map(|x| 1e6 + x);
        let pc = pearson(&x, &[1.0, 2.0, 3.0, 4.0]);
        assert!((pc - 0.8).abs() < 1e-9, "{pc}");
    }

    #[test]
    fn tiny_and_huge_values_neither_underflow_nor_leave_the_range() {
        for scale in [1e-120, 1e120] {
            let x = [1.0, 2.0, 3.0].map(|x| x * scale);
            assert_close(pearson(&x, &x), 1.0);
            assert_close(pearson(&x, &x.map(|x| -x)), -1.0);
        }
    }

    #[test]
    fn a_constant_predictor_has_errors_but_no_correlation() {
        let metrics = Metrics::new(&[0.1; 10], &std::array::from_fn::<_, 10, _>(|i| i as f64));
        let metrics = metrics.unwrap();
        assert!(metrics.pc.is_nan() && metrics.srcc.is_nan());
        assert!(metrics.mae.is_finite() && metrics.rmse.is_finite());
    }

    #[test]
    fn undefined_metrics_are_null_in_json_and_a_dash_in_print() {
        let one = Metrics::new(&[1.0], &[2.0]).unwrap();
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(json, r#"{"pc":null,"mae":1.0,"rmse":1.0,"srcc":null,"n":1}"#);
        let back: Metrics = serde_json::from_str(&json).unwrap();
        assert!(back.pc.is_nan() && back.mae == 1.0);
        assert_eq!(one.to_string(), "PC -  MAE 1.0000  RMSE 1.0000  SRCC -  (n 1)");

        let none = Metrics::new(&[], &[]).unwrap();
        let json = serde_json::to_string(&none).unwrap();
        assert_eq!(json, r#"{"pc":null,"mae":null,"rmse":null,"srcc":null,"n":0}"#);
    }

    #[test]
    fn a_prediction_that_is_not_finite_makes_every_metric_undefined() {
        for bad in [f64::NAN, f64::INFINITY] {
            let metrics = Metrics::new(&[1.0, bad, 3.0], &[1.0, 2.0, 3.0]).unwrap();
            for metric in [metrics.pc, metrics.mae, metrics.rmse, metrics.srcc] {
                assert!(metric.is_nan(), "{metrics}");
            }
        }
    }

    #[test]
    fn unequal_lengths_are_an_error() {
        assert!(Metrics::new(&[1.0], &[1.0, 2.0]).is_err());
    }
}
