//! A model's predictions for the images of a split.

use std::sync::Arc;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::predictions::Predictions;
use crate::config::Config;
use crate::data::{ImageDataset, Loader, LoaderOptions, shortest};
use crate::models::images::upload;
use crate::models::{BeautyNet, Images, Slicer};

/// The columns of the branches' fusion weights, where the model has two branches.
pub const BRANCH_WEIGHTS: [&str; 2] = ["weight_vit", "weight_mamba"];

/// Predicts images, in order, as training with this config does: in the same batches and slices;
/// with `data.test_time_flip` as the mean over each image and its mirror image. `progress` is
/// called with the number of images of each batch. The fusion weights of a model with two branches
/// are in the columns [`BRANCH_WEIGHTS`]. Returns an error if an image cannot be read or has a size
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
    let range = options.shard.image_range(images.len(), options.batch_size);
    let mut predictions = Predictions::unpredicted(&images.samples()[range]);
    let mut branch_weights: [Vec<f64>; 2] = Default::default();
    let _guard = tch::no_grad_guard();
    for batch in Loader::new(Arc::clone(images), options)? {
        let batch = batch?;
        let pixels = upload(&batch, net.device())?;
        let output = net.infer(Images::Pixels(&pixels), slicer)?;
        let (mut score, mut weights) = (output.score, output.weights);
        if images.test_time_flip() {
            let mirrored = net.infer(Images::Pixels(&pixels.f_flip([3])?), slicer)?;
            score = (score + mirrored.score) / 2.0;
            weights = weights.zip(mirrored.weights).map(|(a, b)| (a + b) / 2.0);
        }
        predictions.predictions.extend(short_values(&score)?);
        if let Some(weights) = &weights {
            for (branch, column) in branch_weights.iter_mut().enumerate() {
                column.extend(short_values(&weights.select(1, branch as i64))?);
            }
        }
        progress(batch.len)?;
    }
    predictions.extra = BRANCH_WEIGHTS
        .map(str::to_string)
        .into_iter()
        .zip(branch_weights)
        .filter(|(_, values)| !values.is_empty())
        .collect();
    Ok(predictions)
}

/// Copies the values of a one-dimensional tensor, of single precision as [`shortest`] doubles:
/// metrics are then computed from the very numbers that are written.
fn short_values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(values(tensor)?.into_iter().map(shortest).collect())
}

/// Copies the values of a one-dimensional tensor.
pub fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(&tensor.to_kind(Kind::Double))?)
}
