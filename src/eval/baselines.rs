//! What a model has to beat: the mean of the training scores, that of the image's group, and a
//! linear model on small gray images.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::evaluate::values;
use super::metrics::Metrics;
use crate::data::{ImageDataset, Loader, LoaderOptions, Sample, scores_by_group};
use crate::models::images::upload;

/// Side of the gray images.
const SIDE: i64 = 16;
/// Ridge penalties to choose from, relative to the number of training images.
const PENALTIES: [f64; 9] = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];

/// The baselines' metrics on one split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// Metrics of the training scores' mean for every image: the correlations are undefined.
    pub constant: Metrics,
    /// Metrics of ridge regression on 16×16 gray pixels; the penalty is chosen by leave-one-out
    /// error on the training images.
    pub linear: Metrics,
    /// Metrics of the mean training score of the image's group (of all images if the group is
    /// unknown); `None` where the training images are not of several groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Metrics>,
}

impl Baselines {
    /// Iterates over the baselines with their names, the most informed first.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Metrics)> {
        [
            ("linear model on 16×16 gray pixels", Some(self.linear)),
            ("mean of the group's training scores", self.group),
            ("mean of the training scores", Some(self.constant)),
        ]
        .into_iter()
        .filter_map(|(name, metrics)| Some((name, metrics?)))
    }
}

/// Fits the baselines on the training images and evaluates them on each of the other splits.
pub fn baselines(
    train: &Arc<ImageDataset>,
    others: &[&Arc<ImageDataset>],
    options: LoaderOptions,
) -> Result<Vec<Baselines>> {
    let _guard = tch::no_grad_guard();
    let (x, y) = (gray_pixels(train, options)?, scores(train));
    let mean_y = y.mean(Kind::Double).double_value(&[]);
    let ridge = Ridge::fit(&x, &y);
    let group_means = GroupMeans::new(train.samples());
    others
        .iter()
        .map(|images| {
            let targets = values(&scores(images))?;
            let linear = values(&ridge.predict(&gray_pixels(images, options)?))?;
            Ok(Baselines {
                constant: Metrics::new(&vec![mean_y; targets.len()], &targets)?,
                linear: Metrics::new(&linear, &targets)?,
                group: group_means
                    .as_ref()
                    .map(|means| Metrics::new(&means.predict(images.samples(), mean_y), &targets))
                    .transpose()?,
            })
        })
        .collect()
}

fn scores(images: &ImageDataset) -> Tensor {
    let scores: Vec<f64> = images.samples().iter().map(Sample::target).collect();
    Tensor::from_slice(&scores)
}

/// The mean training score of each group.
struct GroupMeans<'a>(BTreeMap<&'a str, f64>);

impl<'a> GroupMeans<'a> {
    /// Returns `None` for fewer than two groups.
    fn new(samples: &'a [Sample]) -> Option<Self> {
        let scores = scores_by_group(samples);
        let several = scores.len() > 1;
        let mean = |scores: Vec<f64>| scores.iter().sum::<f64>() / scores.len() as f64;
        let means = scores.into_iter().map(|(group, scores)| (group, mean(scores)));
        several.then(|| Self(means.collect()))
    }

    /// Returns the mean of each image's group, `otherwise` where it is unknown.
    fn predict(&self, samples: &[Sample], otherwise: f64) -> Vec<f64> {
        let mean = |sample: &Sample| self.0.get(sample.group.as_deref()?).copied();
        samples.iter().map(|sample| mean(sample).unwrap_or(otherwise)).collect()
    }
}

/// Returns the images as rows of gray pixels: (n, 256), from 0 to 1.
fn gray_pixels(images: &Arc<ImageDataset>, options: LoaderOptions) -> Result<Tensor> {
    let mut rows = Vec::new();
    for batch in Loader::new(Arc::clone(images), options)? {
        let gray = upload(&batch?, Device::Cpu)?
            .to_kind(Kind::Float)
            .mean_dim([1i64].as_slice(), true, Kind::Float)
            .adaptive_avg_pool2d([SIDE, SIDE]);
        rows.push(gray.flatten(1, -1).to_kind(Kind::Double) / 255.0);
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
        let (centered, target) = (x - &mean_x, y - &mean_y);
        let (eigenvalues, basis) = centered.transpose(0, 1).matmul(&centered).linalg_eigh("L");
        let rotated = centered.matmul(&basis); // (n, 256), orthogonal columns
        let projected = rotated.transpose(0, 1).matmul(&target);
        let best = PENALTIES
            .iter()
            .map(|penalty| {
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
                (leave_one_out.square().mean(Kind::Double).double_value(&[]), shrunk)
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, shrunk)| shrunk)
            .unwrap_or_else(|| eigenvalues.zeros_like());
        Self { weights: basis.matmul(&(projected * best)), mean_x, mean_y }
    }

    fn predict(&self, x: &Tensor) -> Tensor {
        (x - &self.mean_x).matmul(&self.weights) + &self.mean_y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;

    #[test]
    fn a_known_group_is_predicted_by_its_mean_and_an_unknown_one_by_that_of_all() {
        let sample = |score, group: Option<&str>| {
            let source = Source::File("a.png".into());
            Sample::new("a", source, score, group.map(String::from))
        };
        let train = [
            sample(1.0, Some("x")),
            sample(2.0, Some("x")),
            sample(5.0, Some("y")),
            sample(9.0, None),
        ];
        let means = GroupMeans::new(&train).unwrap();
        let asked = [Some("y"), Some("x"), Some("z"), None].map(|group| sample(0.0, group));
        assert_eq!(means.predict(&asked, 4.25), [5.0, 1.5, 4.25, 4.25]);
        assert!(GroupMeans::new(&train[..2]).is_none());
        assert!(GroupMeans::new(&train[3..]).is_none());
    }

    #[test]
    fn ridge_finds_a_linear_rule_and_ignores_noise_columns() {
        tch::manual_seed(1);
        let x = Tensor::randn([400, 20], (Kind::Double, Device::Cpu));
        let y = x.select(1, 0) * 2.0 - x.select(1, 3) + 5.0;
        let ridge = Ridge::fit(&x, &y);
        let fresh = Tensor::randn([100, 20], (Kind::Double, Device::Cpu));
        let expected = fresh.select(1, 0) * 2.0 - fresh.select(1, 3) + 5.0;
        let error = (ridge.predict(&fresh) - expected).abs().max().double_value(&[]);
        assert!(error < 0.05, "{error}");
    }
}
