//! Single-precision numbers as the doubles that are written in as few digits.

/// Returns the double that is written like the single-precision number `value`: 2.62 for
/// 2.619999885559082, which is what 2.62 becomes in single precision. A number that needs double
/// precision is returned as it is.
///
/// # Examples
/// ```
/// use vm_beautynet::data::shortest;
///
/// assert_eq!(shortest(f64::from(2.62f32)), 2.62);
/// assert_eq!(shortest(1.0 / 3.0), 1.0 / 3.0);
/// ```
pub fn shortest(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) != value {
        return value;
    }
    single.to_string().parse().unwrap_or(value)
}

/// Rounds to single precision, in which models predict: a mean of predictions has no more digits.
/// Returns the double that is written in as few.
pub fn single(value: f64) -> f64 {
    shortest(f64::from(value as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_precision_number_gets_its_own_digits_and_reads_back() {
        for single in [2.62, -0.1, 2.5, 4.0, 0.0, 1.0 / 3.0, 3.4e38, f32::MIN_POSITIVE, 1e-45] {
            let value = shortest(f64::from(single));
            assert_eq!(value.to_string(), single.to_string());
            assert_eq!(value as f32, single);
            assert_eq!(shortest(value).to_bits(), value.to_bits());
        }
    }

    #[test]
    fn other_numbers_stay() {
        for value in [0.1, 1.0 / 3.0, 1e300, 1e-300, f64::INFINITY, 16_777_217.0] {
            assert_eq!(shortest(value), value);
        }
        assert!(shortest(f64::NAN).is_nan());
        assert!(shortest(-0.0).is_sign_negative());
    }
}
