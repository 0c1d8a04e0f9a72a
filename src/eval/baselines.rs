//! What a model must beat: the mean of the training scores, and a linear model on small grey pictures.

use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::evaluate::{Walk, values};
use super::metrics::Metrics;
use crate::data::{Loader, LoaderOptions, Pass, Pictures};

/// Side of the grey pictures.
const SIDE: i64 = 16;
/// Ridge penalties to choose from, relative to the number of training pictures.
const PENALTIES: [f64; 9] = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];

/// The baselines' figures on one split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// Always the training scores' mean: its correlations are not defined.
    pub constant: Metrics,
    /// Ridge regression on 16×16 grey pixels; the penalty is chosen by leave-one-out error on the training pictures.
    pub linear: Metrics,
}

/// Fits both on the training pictures and measures them on each of the other splits.
///
/// # Errors
/// A picture that cannot be read, by name.
pub fn baselines(
    train: &Arc<Pictures>,
    others: &[&Arc<Pictures>],
    walk: Walk,
) -> Result<Vec<Baselines>> {
    let _guard = tch::no_grad_guard();
    let (x, y) = (grey_pixels(train, walk)?, scores(train));
    let mean_y = y.mean(Kind::Double).double_value(&[]);
    let ridge = Ridge::fit(&x, &y);
    others
        .iter()
        .map(|pictures| {
            let targets = values(&scores(pictures))?;
            let linear = values(&ridge.predict(&grey_pixels(pictures, walk)?))?;
            Ok(Baselines {
                constant: Metrics::new(&vec![mean_y; targets.len()], &targets)?,
                linear: Metrics::new(&linear, &targets)?,
            })
        })
        .collect()
}

fn scores(pictures: &Pictures) -> Tensor {
    let scores: Vec<f64> = pictures.samples().iter().map(|s| s.score.into()).collect();
    Tensor::from_slice(&scores)
}

/// (n, 256), from 0 to 1.
fn grey_pixels(pictures: &Arc<Pictures>, walk: Walk) -> Result<Tensor> {
    let options = LoaderOptions::new(Pass::Evaluate, walk.batch_size, walk.workers);
    let mut rows = Vec::new();
    for batch in Loader::new(Arc::clone(pictures), options)? {
        let batch = batch?;
        let (len, size) = (batch.len as i64, batch.size as i64);
        let pixels = Tensor::f_from_data_size(&batch.pixels, &[len, 3, size, size], Kind::Uint8)?;
        let grey = pixels
            .to_kind(Kind::Float)
            .mean_dim([1i64].as_slice(), true, Kind::Float)
            .adaptive_avg_pool2d([SIDE, SIDE]);
        rows.push(grey.flatten(1, -1).to_kind(Kind::Double) / 255.0);
    }
    Ok(Tensor::cat(&rows, 0))
}

/// Ridge regression in the eigenvectors of the covariance, so that every penalty costs one product.
struct Ridge {
    mean_x: Tensor,
    mean_y: Tensor,
    weights: Tensor,
}

impl Ridge {
    fn fit(x: &Tensor, y: &Tensor) -> Self {
        let n = x.size()[0] as f64;
        let mean_x = x.mean_dim([0i64].as_slice(), true, Kind::Double);
        let mean_y = y.mean(Kind::Double);
        let (centred, target) = (x - &mean_x, y - &mean_y);
        let (eigenvalues, basis) = centred.transpose(0, 1).matmul(&centred).linalg_eigh("L");
        let rotated = centred.matmul(&basis); // (n, 256), orthogonal columns
        let projected = rotated.transpose(0, 1).matmul(&target);
        let best = PENALTIES
            .iter()
            .map(|penalty| {
                let shrunk = (&eigenvalues + penalty * n).reciprocal();
                let residual = &target - rotated.matmul(&(&projected * &shrunk));
                // The hat matrix's diagonal gives the leave-one-out residuals in closed form; 1/n is the intercept's.
                let leverage: Tensor = (rotated.square() * &shrunk).sum_dim_intlist(
                    [1i64].as_slice(),
                    false,
                    Kind::Double,
                ) + 1.0 / n;
                let left_out = residual / (leverage.neg() + 1.0).clamp_min(1e-9);
                (
                    left_out.square().mean(Kind::Double).double_value(&[]),
                    shrunk,
                )
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, shrunk)| shrunk)
            .unwrap_or_else(|| eigenvalues.zeros_like());
        Self {
            weights: basis.matmul(&(projected * best)),
            mean_x,
            mean_y,
        }
    }

    fn predict(&self, x: &Tensor) -> Tensor {
        (x - &self.mean_x).matmul(&self.weights) + &self.mean_y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ridge_finds_a_linear_rule_and_ignores_noise_columns() {
        tch::manual_seed(1);
        let x = Tensor::randn([400, 20], (Kind::Double, tch::Device::Cpu));
        let y = x.select(1, 0) * 2.0 - x.select(1, 3) + 5.0;
        let ridge = Ridge::fit(&x, &y);
        let fresh = Tensor::randn([100, 20], (Kind::Double, tch::Device::Cpu));
        let expected = fresh.select(1, 0) * 2.0 - fresh.select(1, 3) + 5.0;
        let error = (ridge.predict(&fresh) - expected)
            .abs()
            .max()
            .double_value(&[]);
        assert!(error < 0.05, "{error}");
    }
}
