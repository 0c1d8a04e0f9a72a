//! Linear probes: ridge regression on the feature vectors of frozen backbones.

use anyhow::{Context, Result};
use tch::Tensor;

use super::baselines::scores;
use super::evaluate::{evaluation_views, values, viewed_splits};
use super::predictions::Predictions;
use super::ridge::{Ridge, Standardization};
use crate::config::{Branch, Config, FusionStrategy};
use crate::data::{RunImages, Split};
use crate::features::{Progress, SplitFeatures, View, branch_features};
use crate::models::BeautyNet;

/// Ridge penalties to choose from, for features of standard deviation 1: 1e-5 to 1e3, two for each
/// power of ten.
fn penalties() -> Vec<f64> {
    (-10..=6).map(|half: i32| 10f64.powf(f64::from(half) / 2.0)).collect()
}

/// A linear model on the features of one branch, or of both.
#[derive(Debug)]
pub struct Probe {
    /// `vit`, `mamba` or `both`.
    pub name: &'static str,
    /// The strategy of a network with the same branches.
    pub strategy: FusionStrategy,
    /// Number of features.
    pub width: usize,
    /// The penalty with the least leave-one-out error on the training images, relative to their
    /// number.
    pub penalty: f64,
    /// The root of that mean squared error.
    pub leave_one_out_rmse: f64,
    /// Predictions for each evaluated split.
    pub predictions: Vec<(Split, Predictions)>,
}

/// Fits a probe to the training images for each branch of the network, and for both, and predicts
/// the other splits; with `data.test_time_flip` as the mean over each image and its mirror image.
/// The features are standardized by the training images. `report` is told of the progress of
/// computing features, and ends it with an error.
pub fn probe(
    net: &BeautyNet,
    config: &Config,
    images: &RunImages,
    report: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Vec<Probe>> {
    let splits = viewed_splits(images, vec![View::Plain]);
    let fetched = branch_features(net, config, &splits, false, report)?;
    let (train, evaluated) =
        fetched.splits.split_first().context("internal: there are no features")?;
    let y = scores(&images.train);
    let candidates: [(_, _, &[Branch]); 3] = [
        ("vit", FusionStrategy::VitOnly, &[Branch::Vit]),
        ("mamba", FusionStrategy::MambaOnly, &[Branch::Mamba]),
        ("both", FusionStrategy::Concat, &[Branch::Vit, Branch::Mamba]),
    ];
    let known = |branches: &[Branch]| branches.iter().all(|&branch| net.branch(branch).is_some());
    let mut probes = Vec::new();
    for (name, strategy, branches) in candidates.into_iter().filter(|(.., of)| known(of)) {
        let _guard = tch::no_grad_guard();
        let x = joined(train, branches, 0)?;
        let scale = Standardization::of(&x);
        let ridge = Ridge::fit(&scale.apply(&x), &y, &penalties());
        let mut predictions = Vec::new();
        for ((split, images), features) in images.evaluated().zip(evaluated) {
            let views = evaluation_views(images).len();
            let of_view =
                |view| Ok(ridge.predict(&scale.apply(&joined(features, branches, view)?)));
            let of_views: Vec<Tensor> = (0..views).map(of_view).collect::<Result<_>>()?;
            let mean = of_views.iter().sum::<Tensor>() / views as f64;
            let unpredicted = Predictions::unpredicted(images.samples());
            predictions.push((split, Predictions { predictions: values(&mean)?, ..unpredicted }));
        }
        probes.push(Probe {
            name,
            strategy,
            width: x.size()[1] as usize,
            penalty: ridge.penalty,
            leave_one_out_rmse: ridge.leave_one_out_rmse,
            predictions,
        });
    }
    Ok(probes)
}

/// Returns the features of branches, next to each other: (images, width).
fn joined(features: &SplitFeatures, branches: &[Branch], view: usize) -> Result<Tensor> {
    let of_branches: Vec<Tensor> =
        branches.iter().map(|&branch| features.features(branch, view)).collect::<Result<_>>()?;
    Ok(Tensor::f_cat(&of_branches, 1)?)
}
