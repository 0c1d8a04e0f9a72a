//! A model's predictions for the images of a split.

use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::metrics::Metrics;
use super::predictions::Predictions;
use crate::config::Config;
use crate::data::{ImageDataset, Loader, LoaderOptions, RunImages, shortest};
use crate::features::{SplitFeatures, View, ViewedSplit};
use crate::models::images::upload;
use crate::models::{BeautyNet, Images, Output, Slicer};

/// The columns of the branches' fusion weights, where the model defines them.
pub const BRANCH_WEIGHTS: [&str; 2] = ["weight_vit", "weight_mamba"];
/// The columns of the predictions of the branches' own heads, where the model has them.
pub const BRANCH_PREDICTIONS: [&str; 2] = ["prediction_vit", "prediction_mamba"];
/// Both.
pub const BRANCH_COLUMNS: [&str; 4] =
    [BRANCH_WEIGHTS[0], BRANCH_WEIGHTS[1], BRANCH_PREDICTIONS[0], BRANCH_PREDICTIONS[1]];

/// The metrics of the branches' own heads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BranchMetrics {
    /// Those of the ViT's.
    pub vit: Metrics,
    /// Those of the Mamba's.
    pub mamba: Metrics,
}

impl BranchMetrics {
    /// Computes the metrics from the columns [`BRANCH_PREDICTIONS`], if there are any.
    pub fn of(predictions: &Predictions) -> Result<Option<Self>> {
        let [vit, mamba] = BRANCH_PREDICTIONS.map(|name| predictions.metrics_of(name));
        Ok(vit?.zip(mamba?).map(|(vit, mamba)| Self { vit, mamba }))
    }
}

/// Predicts images, in order, as training with this config does: in the same batches and slices;
/// with `data.test_time_flip` as the mean over each image and its mirror image. `progress` is
/// called with the number of images of each batch. What the model says of its branches is in the
/// columns [`BRANCH_COLUMNS`]. Returns an error if an image cannot be read or has a size
/// that the model does not accept, or if `progress` returns one, which ends the prediction.
pub fn predict(
    net: &BeautyNet,
    images: &Arc<ImageDataset>,
    config: &Config,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Predictions> {
    let slicer = Slicer::new(config.train.slice, net.device())?;
    predict_shard(net, images, LoaderOptions::for_evaluation(config), &slicer, progress)
}

/// As [`predict`], for the images of one rank's shard.
pub fn predict_shard(
    net: &BeautyNet,
    images: &Arc<ImageDataset>,
    options: LoaderOptions,
    slicer: &Slicer,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Predictions> {
    let mut predicted = Predicted::new(images, options);
    let _guard = tch::no_grad_guard();
    for batch in Loader::new(Arc::clone(images), options)? {
        let batch = batch?;
        let pixels = upload(&batch, net.device())?;
        predicted.add(score_pixels(net, &pixels, images.test_time_flip(), slicer)?)?;
        progress(batch.len)?;
    }
    Ok(predicted.finish())
}

/// As [`predict_shard`], from the features of the images in `evaluation_views`.
pub fn predict_features(
    net: &BeautyNet,
    (images, features): (&ImageDataset, &SplitFeatures),
    options: LoaderOptions,
    slicer: &Slicer,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Predictions> {
    let range = options.shard.image_range(images.len(), options.batch_size);
    let mut predicted = Predicted::new(images, options);
    let _guard = tch::no_grad_guard();
    for start in range.clone().step_by(options.batch_size) {
        let batch = start..range.end.min(start + options.batch_size);
        let infer = |view| features.infer(net, batch.clone(), view, slicer);
        let mirrored = images.test_time_flip().then(|| infer(1)).transpose()?;
        predicted.add(mean_of_views(infer(0)?, mirrored)?)?;
        progress(batch.len())?;
    }
    Ok(predicted.finish())
}

/// Returns the views of an image that its prediction is made from.
pub(super) fn evaluation_views(images: &ImageDataset) -> Vec<View> {
    if images.test_time_flip() { vec![View::Plain, View::Mirrored] } else { vec![View::Plain] }
}

/// Returns the training images with these views, and then the evaluated splits with the views that
/// predictions are made from.
pub fn viewed_splits(images: &RunImages, train_views: Vec<View>) -> Vec<ViewedSplit> {
    let train = ViewedSplit { images: Arc::clone(&images.train), views: train_views };
    let evaluated = images.evaluated().map(|(_, images)| ViewedSplit {
        images: Arc::clone(images),
        views: evaluation_views(images),
    });
    std::iter::once(train).chain(evaluated).collect()
}

/// The predictions for a range of images so far.
struct Predicted {
    predictions: Predictions,
    branch_columns: [Vec<f64>; 4],
}

impl Predicted {
    fn new(images: &ImageDataset, options: LoaderOptions) -> Self {
        let range = options.shard.image_range(images.len(), options.batch_size);
        let predictions = Predictions::unpredicted(&images.samples()[range]);
        Self { predictions, branch_columns: Default::default() }
    }

    /// Adds the scores of a batch.
    fn add(&mut self, scores: Scores) -> Result<()> {
        self.predictions.predictions.extend(short_values(&scores.scores)?);
        let pairs = [scores.weights, scores.of_branches];
        for (columns, pair) in self.branch_columns.chunks_exact_mut(2).zip(pairs) {
            let Some(pair) = pair else { continue };
            for (branch, column) in columns.iter_mut().enumerate() {
                column.extend(short_values(&pair.select(1, branch as i64))?);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Predictions {
        self.predictions.extra = BRANCH_COLUMNS
            .map(str::to_string)
            .into_iter()
            .zip(self.branch_columns)
            .filter(|(_, values)| !values.is_empty())
            .collect();
        self.predictions
    }
}

/// The scores of a batch.
#[derive(Debug)]
pub struct Scores {
    /// (b).
    pub scores: Tensor,
    /// (b, 2): the branches' weights, where the model defines them.
    pub weights: Option<Tensor>,
    /// (b, 2): the scores by the branches' own heads, where the model has them.
    pub of_branches: Option<Tensor>,
    /// (b, d): the branches' feature vectors, of no mirror image.
    pub features: Tensor,
}

/// Predicts a batch (b, 3, s, s) of pixels, with `flip` as the mean over each image and its mirror
/// image.
pub fn score_pixels(
    net: &BeautyNet,
    pixels: &Tensor,
    flip: bool,
    slicer: &Slicer,
) -> Result<Scores> {
    let output = net.infer(Images::Pixels(pixels), slicer)?;
    let mirrored =
        if flip { Some(net.infer(Images::Pixels(&pixels.f_flip([3])?), slicer)?) } else { None };
    mean_of_views(output, mirrored)
}

/// Returns the scores, the means with those of the mirror images, if there are any.
fn mean_of_views(output: Output, mirrored: Option<Output>) -> Result<Scores> {
    let features = output.features()?;
    let Some(mirrored) = mirrored else {
        let Output { score: scores, weights, branch_scores: of_branches, .. } = output;
        return Ok(Scores { scores, weights, of_branches, features });
    };
    let mean = |a: Option<Tensor>, b: Option<Tensor>| a.zip(b).map(|(a, b)| (a + b) / 2.0);
    Ok(Scores {
        scores: (output.score + mirrored.score) / 2.0,
        weights: mean(output.weights, mirrored.weights),
        of_branches: mean(output.branch_scores, mirrored.branch_scores),
        features,
    })
}

/// Copies the values of a one-dimensional tensor, of single precision as [`shortest`] doubles:
/// metrics are then computed from the very numbers that are written.
pub fn short_values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(values(tensor)?.into_iter().map(shortest).collect())
}

/// Copies the values of a one-dimensional tensor.
pub fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(&tensor.to_kind(Kind::Double))?)
}
