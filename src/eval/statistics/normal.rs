//! The standard normal distribution.

use std::f64::consts::SQRT_2;

/// P(Z ≤ z).
pub(super) fn cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / SQRT_2)
}

/// The z with P(Z ≤ z) = `p`, for `p` from 1e-300 to 1 - 1e-16; the nearest end of that range for
/// others.
pub(super) fn quantile(p: f64) -> f64 {
    // Bisection: it is called a few times per interval, and cannot go wrong.
    let (mut low, mut high) = (-37.0, 8.2);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if cdf(middle) < p {
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
    fn probabilities_and_quantiles_are_scipys() {
        // scipy 1.17.1: norm.cdf, norm.ppf.
        for (z, p) in [
            (-4.0, 3.167124183311986e-05),
            (-1.96, 0.024997895148220435),
            (-0.3, 0.3820885778110474),
            (2.5, 0.9937903346742238),
        ] {
            assert!((cdf(z) - p).abs() < 1e-14, "{z}");
        }
        for (p, z) in [
            (1e-5, -4.264890793922825),
            (0.025, -1.9599639845400545),
            (0.3, -0.5244005127080409),
            (0.5, 0.0),
            (0.975, 1.959963984540054),
        ] {
            assert!((quantile(p) - z).abs() < 1e-12, "{p}");
        }
    }
}
