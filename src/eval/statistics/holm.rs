//! Many tests at once.

/// Holm's adjusted p-values, in the order of the given ones: among all whose adjusted p is at most
/// 0.05, the probability that any is wrong is at most 0.05 (Holm, "A simple sequentially rejective
/// multiple test procedure", 1979). A p that is not a number is no test and stays.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> =
        (0..p_values.len()).filter(|&index| !p_values[index].is_nan()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = p_values.to_vec();
    let mut largest = 0.0f64;
    for (before, &index) in order.iter().enumerate() {
        let left = (order.len() - before) as f64;
        largest = largest.max((p_values[index] * left).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::holm;

    #[test]
    fn adjusted_values_are_statsmodels() {
        // statsmodels: multipletests(..., method="holm").
        let adjusted = holm(&[0.04, 0.001, 0.03, 0.2, 0.012, 0.5]);
        for (value, expected) in adjusted.iter().zip([0.12, 0.006, 0.12, 0.4, 0.06, 0.5]) {
            assert!((value - expected).abs() < 1e-12, "{adjusted:?}");
        }
    }

    #[test]
    fn one_test_stays_as_it_is_and_a_missing_one_does_not_count() {
        assert_eq!(holm(&[0.03]), [0.03]);
        assert!(holm(&[]).is_empty());
        let adjusted = holm(&[f64::NAN, 0.02, 0.9]);
        assert!(adjusted[0].is_nan());
        assert_eq!(adjusted[1..], [0.04, 0.9]);
    }
}
