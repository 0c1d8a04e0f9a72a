//! The metrics of beauty prediction: Pearson correlation (PC), mean absolute error (MAE), root mean
//! square error (RMSE) and Spearman's rank correlation (SRCC).

use std::fmt;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::correlation::{SortedValues, weighted_pearson};
use crate::config::Monitor;

/// One of the four metrics, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Pearson correlation.
    Pc,
    /// Mean absolute error.
    Mae,
    /// Root mean square error.
    Rmse,
    /// Spearman's rank correlation.
    Srcc,
}

impl Metric {
    /// All four, in the order of every table; `metric as usize` is a metric's index here.
    pub const ALL: [Metric; 4] = [Metric::Pc, Metric::Mae, Metric::Rmse, Metric::Srcc];

    /// Returns `pc`, `mae`, `rmse` or `srcc`.
    pub fn name(self) -> &'static str {
        ["pc", "mae", "rmse", "srcc"][self as usize]
    }

    /// Returns whether the first value is better: higher for a correlation, lower for an error.
    pub fn is_better(self, a: f64, b: f64) -> bool {
        match self {
            Metric::Pc | Metric::Srcc => a > b,
            Metric::Mae | Metric::Rmse => a < b,
        }
    }

    /// Returns this metric's value.
    pub fn of(self, metrics: &Metrics) -> f64 {
        [metrics.pc, metrics.mae, metrics.rmse, metrics.srcc][self as usize]
    }
}

/// The metrics of one set of predictions.
///
/// A metric that is undefined is NaN here and `null` in JSON: all of them for no images or a
/// prediction that is not finite, the correlations also for a single image or where the predictions
/// or the targets are all the same.
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
    /// Computes the metrics of `predictions` against `targets`, pair by pair.
    ///
    /// # Examples
    /// ```
    /// use vm_beautynet::eval::metrics::Metrics;
    ///
    /// let metrics = Metrics::new(&[2.0, 3.0, 4.0], &[2.5, 3.5, 4.5])?;
    /// assert!((metrics.pc - 1.0).abs() < 1e-12);
    /// assert_eq!((metrics.mae, metrics.n), (0.5, 3));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn new(predictions: &[f64], targets: &[f64]) -> Result<Self> {
        let pairs = ScoredImages::new(predictions, targets)?;
        let [pc, mae, rmse, srcc] = pairs.metrics(|_| 1, &mut RankBuffers::default());
        Ok(Self { pc, mae, rmse, srcc, n: targets.len() })
    }
}

impl Metrics {
    /// Returns the metric by which epochs are compared; `None` for the training loss.
    pub fn monitored(&self, monitor: Monitor) -> Option<f64> {
        match monitor {
            Monitor::Pc => Some(self.pc),
            Monitor::Mae => Some(self.mae),
            Monitor::Rmse => Some(self.rmse),
            Monitor::Srcc => Some(self.srcc),
            Monitor::TrainLoss => None,
        }
    }
}

/// Formats the metrics as `PC 0.9212  MAE 0.2085  RMSE 0.2698  SRCC 0.9100  (n 1100)`, an undefined
/// metric as a dash.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for metric in Metric::ALL {
            let value = Some(metric.of(self)).filter(|value| value.is_finite());
            let value = value.map_or("-".to_string(), |value| format!("{value:.4}"));
            write!(f, "{} {value}  ", metric.name().to_uppercase())?;
        }
        write!(f, "(n {})", self.n)
    }
}

/// The predicted and the target score of each image, both sorted beforehand, so that all metrics of
/// a resample cost one pass over the images and no sorting.
#[derive(Debug, Clone)]
pub struct ScoredImages {
    predictions: SortedValues,
    targets: SortedValues,
    finite: bool,
}

/// Memory for the ranks, reused from one resample to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct RankBuffers([Vec<f64>; 2]);

impl ScoredImages {
    /// Pairs predictions with targets.
    pub fn new(predictions: &[f64], targets: &[f64]) -> Result<Self> {
        ensure!(
            predictions.len() == targets.len(),
            "{} predictions cannot be compared with {} targets",
            predictions.len(),
            targets.len()
        );
        Ok(Self {
            finite: predictions.iter().chain(targets).all(|x| x.is_finite()),
            predictions: SortedValues::new(predictions),
            targets: SortedValues::new(targets),
        })
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.targets.values.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Computes [`Metric::ALL`] of the resample that holds image i `count(i)` times; NaN where a
    /// metric is undefined.
    pub(super) fn metrics(
        &self,
        count: impl Fn(usize) -> u32,
        buffers: &mut RankBuffers,
    ) -> [f64; 4] {
        let n = (0..self.len()).map(&count).sum::<u32>();
        if n == 0 || !self.finite {
            return [f64::NAN; 4];
        }
        let (x, y) = (&self.predictions.values, &self.targets.values);
        let (mut absolute, mut square) = (0.0, 0.0);
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            let (error, count) = (x - y, f64::from(count(i)));
            absolute += count * error.abs();
            square += count * error * error;
        }
        let [x_ranks, y_ranks] = &mut buffers.0;
        x_ranks.resize(self.len(), 0.0);
        y_ranks.resize(self.len(), 0.0);
        self.predictions.write_ranks(&count, x_ranks);
        self.targets.write_ranks(&count, y_ranks);
        let metrics = [
            weighted_pearson(x, y, &count),
            absolute / f64::from(n),
            (square / f64::from(n)).sqrt(),
            weighted_pearson(x_ranks, y_ranks, &count),
        ];
        metrics.map(|metric| if metric.is_finite() { metric } else { f64::NAN })
    }
}

/// Writes a number that is not finite as `null`, for JSON has no NaN, and reads `null` as NaN.
pub(crate) mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random_stream::RandomStream;

    #[track_caller]
    fn assert_close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn metrics_of_a_resample_are_those_of_its_rows_written_out() {
        let mut stream = RandomStream::new(1, 0, 0, "test");
        for n in [2, 3, 10, 57] {
            let mut column = || -> Vec<f64> {
                // Few values, so that there are ties.
                (0..n).map(|_| stream.below(8) as f64 / 4.0).collect()
            };
            let (x, y) = (column(), column());
            let images = ScoredImages::new(&x, &y).unwrap();
            let mut buffers = RankBuffers::default();
            for _ in 0..50 {
                let mut counts = vec![0; n];
                (0..n).for_each(|_| counts[stream.below(n)] += 1);
                let rows = || (0..n).flat_map(|i| std::iter::repeat_n(i, counts[i] as usize));
                let [a, b] = [&x, &y].map(|v| rows().map(|i| v[i]).collect::<Vec<f64>>());
                let expected = Metrics::new(&a, &b).unwrap();
                let metrics = images.metrics(|i| counts[i], &mut buffers);
                for (value, metric) in metrics.iter().zip(Metric::ALL) {
                    let expected = metric.of(&expected);
                    let undefined = value.is_nan() && expected.is_nan();
                    assert!(undefined || (value - expected).abs() < 1e-12, "{metrics:?}");
                }
            }
        }
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
