//! Pearson's and Spearman's correlation, also of items that count several times each.

/// Returns Pearson's correlation of `x` and `y`, item by item: Σ(x-x̄)(y-ȳ) over the root of
/// Σ(x-x̄)²·Σ(y-ȳ)². NaN where it is undefined: fewer than two items, a value that is not finite,
/// or all values of one side the same. Items beyond the shorter slice are ignored.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    weighted_pearson(x, y, |_| 1)
}

/// Returns Spearman's correlation: Pearson's of the ranks, where equal values share the mean of
/// their ranks. NaN where [`pearson`] is.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    if x.iter().chain(y).any(|value| !value.is_finite()) {
        return f64::NAN;
    }
    let n = x.len().min(y.len());
    let [mut x_ranks, mut y_ranks] = [vec![0.0; n], vec![0.0; n]];
    SortedValues::new(&x[..n]).write_ranks(|_| 1, &mut x_ranks);
    SortedValues::new(&y[..n]).write_ranks(|_| 1, &mut y_ranks);
    pearson(&x_ranks, &y_ranks)
}

/// Returns Pearson's correlation of pairs of which the one at `i` counts `count(i)` times.
pub(super) fn weighted_pearson(x: &[f64], y: &[f64], count: impl Fn(usize) -> u32) -> f64 {
    let len = x.len().min(y.len());
    let (x, y) = (&x[..len], &y[..len]);
    let constant = |values: &[f64]| {
        let mut present = (0..len).filter(|&i| count(i) > 0).map(|i| values[i]);
        let first = present.next();
        present.all(|value| Some(value) == first)
    };
    // Rounding in the mean would give a constant side a tiny variance, and the quotient of two tiny
    // variances is noise: the values themselves tell whether a side is constant.
    if constant(x) || constant(y) {
        return f64::NAN;
    }
    let n = f64::from((0..len).map(&count).sum::<u32>());
    let mean = |values: &[f64]| -> f64 {
        values.iter().enumerate().map(|(i, value)| value * f64::from(count(i))).sum::<f64>() / n
    };
    let (x_mean, y_mean) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let (dx, dy, count) = (x - x_mean, y - y_mean, f64::from(count(i)));
        xy += count * dx * dy;
        xx += count * dx * dx;
        yy += count * dy * dy;
    }
    // A root of each sum: the product of two tiny sums would underflow.
    let correlation = xy / (xx.sqrt() * yy.sqrt());
    if correlation.is_finite() { correlation.clamp(-1.0, 1.0) } else { f64::NAN }
}

/// Values and their ascending order, so that the ranks of a resample need no sorting.
#[derive(Debug, Clone)]
pub(super) struct SortedValues {
    pub values: Vec<f64>,
    /// Indices of the values from the smallest to the largest.
    order: Vec<usize>,
}

impl SortedValues {
    pub(super) fn new(values: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        Self { values: values.to_vec(), order }
    }

    /// Writes each value's rank, from 1, among values of which the one at `i` counts `count(i)`
    /// times; equal values share the mean of their ranks.
    pub(super) fn write_ranks(&self, count: impl Fn(usize) -> u32, ranks: &mut [f64]) {
        let mut before = 0.0;
        // Grouped by ==, not by the sort's order, so that -0 and 0 are one value.
        for group in self.order.chunk_by(|&a, &b| self.values[a] == self.values[b]) {
            let size: u32 = group.iter().map(|&index| count(index)).sum();
            let rank = before + (f64::from(size) + 1.0) / 2.0;
            for &index in group {
                ranks[index] = rank;
            }
            before += f64::from(size);
        }
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
    fn ties_share_the_mean_of_their_ranks() {
        let ranks = |values: &[f64]| {
            let mut ranks = vec![0.0; values.len()];
            SortedValues::new(values).write_ranks(|_| 1, &mut ranks);
            ranks
        };
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
}
