//! Linear axes of charts: their range, their ticks and the labels of the ticks.

/// Fraction of the range of the values that an axis adds at either end.
const MARGIN: f64 = 0.04;
const MAX_TICKS: f64 = 50.0;

/// A linear axis over a range of values; it is reversed where `from` exceeds `to`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    pub from: f64,
    pub to: f64,
}

impl Axis {
    pub(crate) fn new(from: f64, to: f64) -> Self {
        Self { from, to }
    }

    /// Returns an axis that holds all finite values with a margin; from 0 to 1 if there are none.
    pub(crate) fn around(values: impl IntoIterator<Item = f64>) -> Self {
        let Some((from, to)) = finite_range(values) else {
            return Self::new(0.0, 1.0);
        };
        // Half ranges never overflow.
        let half = (to / 2.0 - from / 2.0) * (1.0 + 2.0 * MARGIN);
        let middle = from / 2.0 + to / 2.0;
        // The values may be equal, or too large for their difference to be representable.
        let half = if middle + half > middle { half } else { middle.abs().max(1.0) * 0.05 };
        Self { from: (middle - half).max(f64::MIN), to: (middle + half).min(f64::MAX) }
    }

    /// Returns the position of a value: 0 at the start of the axis, 1 at its end.
    pub(crate) fn position(self, value: f64) -> f64 {
        (value / 2.0 - self.from / 2.0) / (self.to / 2.0 - self.from / 2.0)
    }

    /// Returns about `count` round values in the range.
    pub(crate) fn ticks(self, count: usize) -> Vec<f64> {
        let count = count.max(1) as f64;
        let step = round_step(self.to / count - self.from / count);
        let first = (self.from / step).ceil();
        let ticks = ((self.to / step).floor() - first + 1.0).clamp(0.0, MAX_TICKS) as usize;
        (0..ticks).map(|i| (first + i as f64) * step).collect()
    }
}

/// Returns the smallest and the largest finite value, if there is one.
pub(crate) fn finite_range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|value| value.is_finite());
    finite.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((min, max)) => Some((value.min(min), value.max(max))),
    })
}

/// Returns the smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `min`.
pub(crate) fn round_step(min: f64) -> f64 {
    if !min.is_finite() || min <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(min.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= min * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// Formats a number with up to six decimals, without trailing zeros; a large one, or one too small
/// for them, with an exponent.
pub(crate) fn short(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-6 {
        return format!("{value:.1e}");
    }
    if value.abs() >= 1e5 {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.6}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".to_string(),
        text => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let ticks = |from, to, count| Axis::new(from, to).ticks(count);
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(-3.0, 3.0, 6), [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(ticks(0.84, 5.16, 5), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(ticks(5.0, 5.0, 6).len() <= 50);
    }

    #[test]
    fn a_range_holds_its_finite_values() {
        assert_eq!(finite_range([]), None);
        assert_eq!(Axis::around([f64::NAN]), Axis::new(0.0, 1.0));
        let axis = Axis::around([2.0, f64::NAN, 2.0]);
        assert!(axis.from < 2.0 && axis.to > 2.0);
        let axis = Axis::around([f64::MIN, f64::MAX]);
        assert!(axis.position(f64::MIN) >= 0.0 && axis.position(f64::MAX) <= 1.0);
    }

    #[test]
    fn steps_and_labels_are_round() {
        for (min, step) in [(0.8, 1.0), (1.1, 2.0), (2.2, 2.5), (0.03, 0.05), (600.0, 1000.0)] {
            assert!((round_step(min) - step).abs() < 1e-9, "{min}");
        }
        let labels = [2.5, -0.0, 0.125, 3e5, 0.6000000000000001, 2.5e-7].map(short);
        assert_eq!(labels, ["2.5", "0", "0.125", "3e5", "0.6", "2.5e-7"]);
    }
}
