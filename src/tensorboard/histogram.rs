//! Histograms of tensors.

use anyhow::Result;
use tch::{Kind, Tensor};
use tensorboard_proto::summary::HistogramProto;

/// Number of buckets of a histogram; TensorBoard shows 30.
const BUCKETS: i64 = 64;

/// Counts all values of some tensors, on their devices and in float64, in 64 buckets of equal width
/// from the smallest to the largest finite value, or in one bucket if all values are equal. Values
/// that are not finite are skipped: TensorBoard does not show a histogram with a NaN. `None` if no
/// value is finite.
pub(super) fn histogram(tensors: &[Tensor]) -> Result<Option<HistogramProto>> {
    let _guard = tch::no_grad_guard();
    let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
    let mut histogram = HistogramProto::new();
    for tensor in tensors {
        let values = finite(tensor)?;
        if values.numel() > 0 {
            min = min.min(values.f_min()?.f_double_value(&[])?);
            max = max.max(values.f_max()?.f_double_value(&[])?);
            histogram.sum += values.f_sum(Kind::Double)?.f_double_value(&[])?;
            histogram.sum_squares += values.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
            histogram.num += values.numel() as f64;
        }
    }
    if min > max {
        return Ok(None);
    }
    (histogram.min, histogram.max) = (min, max);
    (histogram.bucket_limit, histogram.bucket) = if min < max {
        (limits(min, max), counts(tensors, min, max)?)
    } else {
        (vec![max], vec![histogram.num])
    };
    Ok(Some(histogram))
}

/// Returns the finite values, (n), in float64, so that the range of float32 values cannot overflow.
fn finite(tensor: &Tensor) -> Result<Tensor> {
    let values = tensor.f_detach()?.f_to_kind(Kind::Double)?;
    Ok(values.f_masked_select(&values.f_isfinite()?)?)
}

fn limits(min: f64, max: f64) -> Vec<f64> {
    let limit = |bucket: i64| match bucket {
        BUCKETS => max,
        _ => min + (max - min) * (bucket as f64 / BUCKETS as f64),
    };
    (1..=BUCKETS).map(limit).collect()
}

fn counts(tensors: &[Tensor], min: f64, max: f64) -> Result<Vec<f64>> {
    let mut counts = vec![0.0; BUCKETS as usize];
    for tensor in tensors {
        let places = finite(tensor)?.f_sub_scalar(min)?.f_div_scalar(max - min)?;
        let buckets = (places.f_mul_scalar(BUCKETS as f64)?.f_floor()?).f_clamp(0, BUCKETS - 1)?;
        let found = buckets.f_to_kind(Kind::Int64)?.f_bincount(None::<&Tensor>, BUCKETS)?;
        for (sum, count) in counts.iter_mut().zip(Vec::<i64>::try_from(&found)?) {
            *sum += count as f64;
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&[f32]]) -> Option<HistogramProto> {
        let tensors: Vec<Tensor> = values.iter().map(|v| Tensor::from_slice(v)).collect();
        histogram(&tensors).unwrap()
    }

    #[test]
    fn every_value_is_counted_in_its_bucket() {
        let first: Vec<f32> = (0..64).map(|i| i as f32 + 0.5).collect();
        let found = of(&[&first, &[0.0, 64.0, 10.2]]).unwrap();
        assert_eq!((found.min, found.max), (0.0, 64.0));
        assert_eq!(found.bucket_limit, (1..=64).map(f64::from).collect::<Vec<_>>());
        // The ends belong to the first and the last bucket.
        let expected = |i| if [0, 10, 63].contains(&i) { 2.0 } else { 1.0 };
        assert_eq!(found.bucket, (0..64).map(expected).collect::<Vec<_>>());
        let values = || first.iter().map(|&v| f64::from(v)).chain([64.0, 10.2]);
        assert!((found.sum - values().sum::<f64>()).abs() < 1e-5);
        let squares: f64 = values().map(|v| v * v).sum();
        assert!((found.sum_squares - squares).abs() < 1e-4);
    }

    #[test]
    fn equal_values_share_one_bucket() {
        let found = of(&[&[2.0, 2.0], &[], &[2.0]]).unwrap();
        assert_eq!((found.bucket_limit, found.bucket), (vec![2.0], vec![3.0]));
    }

    #[test]
    fn values_that_are_not_finite_are_skipped_and_the_largest_do_not_overflow() {
        let found =
            of(&[&[f32::NAN, f32::MAX, f32::INFINITY], &[f32::MIN, 0.0, f32::NEG_INFINITY]])
                .unwrap();
        assert_eq!(found.bucket.iter().sum::<f64>(), 3.0);
        let numbers = [found.min, found.max, found.sum, found.sum_squares];
        assert!(numbers.iter().chain(&found.bucket_limit).all(|v| v.is_finite()));
        assert_eq!((found.bucket[0], found.bucket[32], found.bucket[63]), (1.0, 1.0, 1.0));
        assert!(of(&[&[f32::NAN], &[]]).is_none() && of(&[]).is_none());
    }
}
