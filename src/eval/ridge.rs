//! Ridge regression whose penalty is chosen by cross-validation.

use tch::{Kind, Tensor};

/// A linear model fitted by ridge regression (Hoerl and Kennard, Technometrics 12, 1970), in double
/// precision. It is solved in the eigenvectors of the covariance, so that every penalty costs one
/// product.
#[derive(Debug)]
pub struct Ridge {
    mean_x: Tensor,
    mean_y: Tensor,
    weights: Tensor,
    /// The penalty of the fit, relative to the number of rows.
    pub penalty: f64,
    /// The root of the mean squared leave-one-out error.
    pub leave_one_out_rmse: f64,
}

impl Ridge {
    /// Fits y (n) to x (n, d) with the penalty of `penalties` that has the least leave-one-out
    /// error, which is known in closed form: `w = (XᵀX + n p I)⁻¹ Xᵀ y` for the penalty p, with
    /// centered columns.
    pub fn fit(x: &Tensor, y: &Tensor, penalties: &[f64]) -> Self {
        let n = x.size()[0] as f64;
        let mean_x = x.mean_dim([0i64].as_slice(), true, Kind::Double);
        let mean_y = y.mean(Kind::Double);
        let (centered, target) = (x - &mean_x, y - &mean_y);
        let (eigenvalues, basis) = centered.transpose(0, 1).matmul(&centered).linalg_eigh("L");
        // Rounding makes those of dependent columns negative.
        let eigenvalues = eigenvalues.clamp_min(0.0);
        let rotated = centered.matmul(&basis); // (n, d), orthogonal columns
        let projected = rotated.transpose(0, 1).matmul(&target);
        let fits = penalties.iter().map(|&penalty| {
            let shrunk = (&eigenvalues + penalty * n).reciprocal();
            let residual = &target - rotated.matmul(&(&projected * &shrunk));
            // The hat matrix's diagonal gives the leave-one-out residuals in closed form; 1/n
            // is the intercept's.
            let leverage: Tensor = (rotated.square() * &shrunk).sum_dim_intlist(
                [1i64].as_slice(),
                false,
                Kind::Double,
            ) + 1.0 / n;
            let leave_one_out = residual / (leverage.neg() + 1.0).clamp_min(1e-9);
            (leave_one_out.square().mean(Kind::Double).double_value(&[]), penalty, shrunk)
        });
        let best = fits.min_by(|a, b| a.0.total_cmp(&b.0));
        let (error, penalty, shrunk) =
            best.unwrap_or_else(|| (f64::NAN, 0.0, eigenvalues.zeros_like()));
        let weights = basis.matmul(&(projected * shrunk));
        Self { weights, mean_x, mean_y, penalty, leave_one_out_rmse: error.sqrt() }
    }

    /// Predicts rows x (m, d): (m).
    pub fn predict(&self, x: &Tensor) -> Tensor {
        (x - &self.mean_x).matmul(&self.weights) + &self.mean_y
    }
}

/// The mean and the standard deviation of columns.
#[derive(Debug)]
pub struct Standardization {
    mean: Tensor,
    std: Tensor,
}

impl Standardization {
    /// Measures the columns of x (n, d). A constant column keeps its scale.
    pub fn of(x: &Tensor) -> Self {
        let mean = x.mean_dim([0i64].as_slice(), true, Kind::Double);
        let variance = (x - &mean).square().mean_dim([0i64].as_slice(), true, Kind::Double);
        let std = variance.sqrt();
        // A column of one value has the variance of its rounding.
        let smallest = mean.abs() * 1e-12 + f64::MIN_POSITIVE;
        let std = std.where_self(&std.gt_tensor(&smallest), &std.ones_like());
        Self { mean, std }
    }

    /// Returns columns of mean 0 and standard deviation 1, if x has those measured.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        (x - &self.mean) / &self.std
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::eval::evaluate::values;

    #[test]
    fn a_linear_rule_is_found_and_noise_columns_are_ignored() {
        tch::manual_seed(1);
        let rule = |x: &Tensor| x.select(1, 0) * 2.0 - x.select(1, 3) + 5.0;
        let x = Tensor::randn([400, 20], (Kind::Double, Device::Cpu));
        let fresh = Tensor::randn([100, 20], (Kind::Double, Device::Cpu));
        let ridge = Ridge::fit(&x, &rule(&x), &[1e-9, 1e-3, 1.0]);
        assert_eq!(ridge.penalty, 1e-9);
        let error = (ridge.predict(&fresh) - rule(&fresh)).abs().max().double_value(&[]);
        assert!(error < 1e-6 && ridge.leave_one_out_rmse < 1e-6, "{error}");
        // Without a rule, the mean is best.
        let noise = Tensor::randn([400], (Kind::Double, Device::Cpu));
        assert_eq!(Ridge::fit(&x, &noise, &[1e-9, 1e-3, 1e3]).penalty, 1e3);
    }

    /// Computed with NumPy: least squares on rows that are augmented by the penalty, without each
    /// row in turn.
    #[test]
    fn fit_penalty_and_leave_one_out_error_are_those_of_separate_fits() {
        let entry = |i: usize, j: usize| (1.0 + 3.0 * i as f64 + (j * j) as f64).sin();
        let x: Vec<f64> = (0..8).flat_map(|i| (0..3).map(move |j| entry(i, j))).collect();
        let target = |i: usize| (i as f64 * 1.7).cos() + 0.5 * entry(i, 0) - 2.0 * entry(i, 2);
        let y: Vec<f64> = (0..8).map(target).collect();
        let (x, y) = (Tensor::from_slice(&x).view([8, 3]), Tensor::from_slice(&y));
        let fresh = Tensor::from_slice(&[0.3, -0.2, 0.9, -1.0, 2.0, 0.5]).view([2, 3]);
        let expected = [
            (0.01, 0.9989250955164396, [-0.3486464293373048, -0.7443389214530077]),
            (0.03, 0.9942251532553739, [-0.4534303073007921, -0.32889503596320024]),
            (0.1, 0.9971090801021076, [-0.5899556127905367, 0.26654246417499017]),
        ];
        for (penalty, error, predictions) in expected {
            let ridge = Ridge::fit(&x, &y, &[penalty]);
            assert!((ridge.leave_one_out_rmse - error).abs() < 1e-12, "{ridge:?}");
            for (found, expected) in values(&ridge.predict(&fresh)).unwrap().iter().zip(predictions)
            {
                assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
            }
        }
        assert_eq!(Ridge::fit(&x, &y, &[0.001, 0.01, 0.03, 0.1, 1.0]).penalty, 0.03);
    }

    #[test]
    fn more_columns_than_rows_and_constant_columns_have_a_fit() {
        tch::manual_seed(2);
        let x = Tensor::randn([12, 30], (Kind::Double, Device::Cpu));
        let _ = x.select(1, 4).fill_(0.1);
        let y = x.select(1, 0) + 3.0;
        let scale = Standardization::of(&x);
        let ridge = Ridge::fit(&scale.apply(&x), &y, &[1e-4, 1e-2, 1.0]);
        let predicted = values(&ridge.predict(&scale.apply(&x))).unwrap();
        assert!(predicted.iter().all(|value| value.is_finite()), "{predicted:?}");
    }
}
