//! Predictions prepared for resampling.

use anyhow::{Result, bail, ensure};

use crate::eval::metrics::check_pairs;
use crate::eval::predictions::Predictions;

/// Predictions and targets, with both orders known beforehand, so that all metrics of a resample
/// cost one walk over the images and no sorting.
#[derive(Debug, Clone)]
pub struct Sample {
    predictions: Ranked,
    targets: Ranked,
    finite: bool,
}

/// Numbers and the order of their sizes.
#[derive(Debug, Clone)]
struct Ranked {
    values: Vec<f64>,
    /// Indices of the values from the smallest to the largest.
    order: Vec<usize>,
}

impl Ranked {
    fn new(values: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        Self { values: values.to_vec(), order }
    }

    /// Writes each value's rank in a resample that holds it `counts` times; equal values share the
    /// mean of their ranks.
    fn ranks(&self, counts: &[u32], ranks: &mut [f64]) {
        let mut before = 0.0;
        let same = |&a: &usize, &b: &usize| self.values[a] == self.values[b];
        for group in self.order.chunk_by(same) {
            let size: u32 = group.iter().map(|&index| counts[index]).sum();
            let rank = before + (f64::from(size) + 1.0) / 2.0;
            for &index in group {
                ranks[index] = rank;
            }
            before += f64::from(size);
        }
    }
}

/// Memory for the ranks, kept from one resample to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch([Vec<f64>; 2]);

impl Sample {
    /// Predictions and targets, pair by pair.
    ///
    /// # Errors
    /// If there are not as many predictions as targets.
    pub fn new(predictions: &[f64], targets: &[f64]) -> Result<Self> {
        check_pairs(predictions, targets)?;
        Ok(Self {
            finite: predictions.iter().chain(targets).all(|x| x.is_finite()),
            predictions: Ranked::new(predictions),
            targets: Ranked::new(targets),
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.targets.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// PC, MAE, RMSE and SRCC of the resample that holds image i `counts[i]` times; NaN where a
    /// metric is not defined.
    pub(super) fn metrics(&self, counts: &[u32], scratch: &mut Scratch) -> [f64; 4] {
        let n: u32 = counts.iter().sum();
        if n == 0 || !self.finite {
            return [f64::NAN; 4];
        }
        let (x, y) = (&self.predictions.values, &self.targets.values);
        let (mut absolute, mut square) = (0.0, 0.0);
        for ((x, y), &count) in x.iter().zip(y).zip(counts) {
            let (error, count) = (x - y, f64::from(count));
            absolute += count * error.abs();
            square += count * error * error;
        }
        let n = f64::from(n);
        let [x_ranks, y_ranks] = &mut scratch.0;
        x_ranks.resize(x.len(), 0.0);
        y_ranks.resize(y.len(), 0.0);
        self.predictions.ranks(counts, x_ranks);
        self.targets.ranks(counts, y_ranks);
        [
            correlation(x, y, counts, n),
            absolute / n,
            (square / n).sqrt(),
            correlation(x_ranks, y_ranks, counts, n),
        ]
    }
}

/// Pearson's correlation of pairs that stand there `counts` times, `n` in all.
fn correlation(x: &[f64], y: &[f64], counts: &[u32], n: f64) -> f64 {
    let mean = |values: &[f64]| {
        let products = values.iter().zip(counts).map(|(v, &c)| v * f64::from(c));
        products.sum::<f64>() / n
    };
    let constant = |values: &[f64]| {
        let mut there =
            values.iter().zip(counts).filter(|(_, count)| **count > 0).map(|(value, _)| value);
        let first = there.next();
        there.all(|value| Some(value) == first)
    };
    // From the values, for rounding gives a constant side a tiny variance.
    if constant(x) || constant(y) {
        return f64::NAN;
    }
    let (x_mean, y_mean) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for ((x, y), &count) in x.iter().zip(y).zip(counts) {
        let (dx, dy, count) = (x - x_mean, y - y_mean, f64::from(count));
        xy += count * dx * dy;
        xx += count * dx * dx;
        yy += count * dy * dy;
    }
    let r = xy / (xx.sqrt() * yy.sqrt());
    if r.is_finite() { r.clamp(-1.0, 1.0) } else { f64::NAN }
}

/// The samples of several models' predictions on the same images, in one order. The rows may stand
/// in any order.
///
/// # Errors
/// Images or targets that are not the same everywhere; names the first that differs.
pub fn aligned(sets: &[&Predictions]) -> Result<Vec<Sample>> {
    let sets: Vec<Predictions> = sets.iter().map(|set| set.sorted()).collect();
    let rows = |set: &'_ Predictions| -> Vec<(String, f64)> {
        let images = set.images.iter().cloned();
        images.zip(set.targets.iter().copied()).collect()
    };
    for other in sets.iter().skip(1) {
        ensure!(
            sets[0].images.len() == other.images.len(),
            "predictions for {} images cannot be compared with predictions for {}",
            sets[0].images.len(),
            other.images.len()
        );
        let (ours, theirs) = (rows(&sets[0]), rows(other));
        if let Some((a, b)) = ours.iter().zip(&theirs).find(|(a, b)| a != b) {
            if a.0 == b.0 {
                bail!("{} has the target {} and {}", a.0, a.1, b.1)
            } else {
                bail!(
                    "the images are not the same: {} stands in one set of predictions only",
                    (&a.0).min(&b.0)
                )
            }
        }
    }
    sets.iter().map(|set| Sample::new(&set.predictions, &set.targets)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::draws::Draws;
    use crate::eval::metrics::Metrics;

    #[test]
    fn metrics_of_a_resample_are_those_of_its_rows_written_out() {
        let mut draws = Draws::new(1, 0, 0, "test");
        for n in [2, 3, 10, 57] {
            let mut column = || -> Vec<f64> {
                // Few values, so that there are ties.
                (0..n).map(|_| draws.below(8) as f64 / 4.0).collect()
            };
            let (x, y) = (column(), column());
            let sample = Sample::new(&x, &y).unwrap();
            let mut scratch = Scratch::default();
            for _ in 0..50 {
                let mut counts = vec![0; n];
                (0..n).for_each(|_| counts[draws.below(n)] += 1);
                let rows = || (0..n).flat_map(|i| std::iter::repeat_n(i, counts[i] as usize));
                let [a, b] = [&x, &y].map(|v| rows().map(|i| v[i]).collect::<Vec<f64>>());
                let expected = Metrics::new(&a, &b).unwrap();
                let metrics = sample.metrics(&counts, &mut scratch);
                let expected = [expected.pc, expected.mae, expected.rmse, expected.srcc];
                for (metric, expected) in metrics.iter().zip(expected) {
                    let same = metric.is_nan() && expected.is_nan();
                    assert!(same || (metric - expected).abs() < 1e-12, "{metrics:?}");
                }
            }
        }
    }

    fn predictions(rows: &[(&str, f64, f64)]) -> Predictions {
        Predictions {
            images: rows.iter().map(|row| row.0.to_string()).collect(),
            targets: rows.iter().map(|row| row.1).collect(),
            predictions: rows.iter().map(|row| row.2).collect(),
            ..Predictions::default()
        }
    }

    #[test]
    fn predictions_are_matched_by_image_whatever_their_order() {
        let a = predictions(&[("x", 1.0, 1.5), ("y", 2.0, 2.5), ("z", 3.0, 2.0)]);
        let b = predictions(&[("z", 3.0, 9.0), ("x", 1.0, 7.0), ("y", 2.0, 8.0)]);
        let samples = aligned(&[&a, &b]).unwrap();
        assert_eq!(samples[0].predictions.values, [1.5, 2.5, 2.0]);
        assert_eq!(samples[1].predictions.values, [7.0, 8.0, 9.0]);
        assert_eq!(samples[0].targets.values, samples[1].targets.values);
    }

    #[test]
    fn predictions_of_other_images_or_targets_are_refused_by_name() {
        let a = predictions(&[("x", 1.0, 1.5), ("y", 2.0, 2.5)]);
        for (other, words) in [
            (predictions(&[("x", 1.0, 1.5)]), "for 2 images"),
            (predictions(&[("x", 1.0, 1.5), ("q", 2.0, 2.5)]), "q stands in one"),
            (predictions(&[("x", 1.0, 1.5), ("y", 4.0, 2.5)]), "y has the target 2 and 4"),
        ] {
            let error = aligned(&[&a, &other]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
