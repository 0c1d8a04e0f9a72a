//! A model's predictions over a whole split.

use std::sync::Arc;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::predictions::Predictions;
use crate::data::{ImageDataset, Loader, LoaderOptions, Mode, RankShard};
use crate::models::images::upload;
use crate::models::{BeautyNet, ForwardContext, Images};

/// The columns of the branches' shares in the score, where the model has both.
pub const BRANCH_WEIGHTS: [&str; 2] = ["weight_vit", "weight_mamba"];

/// How a split is walked through.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// Images per forward pass.
    pub batch_size: usize,
    /// Threads that decode ahead; 0 decodes in the calling thread.
    pub workers: usize,
}

/// Predicts every image, in order; with `data.test_time_flip` as the mean over it and its mirror
/// image. `progress` hears how many images each batch had, and ends the walk by an error. Where the
/// model has two branches, their shares stand in the columns [`BRANCH_WEIGHTS`].
///
/// # Errors
/// An image that cannot be read, by name, images of a size that the model does not take, or those
/// of `progress`.
pub fn predict(
    net: &BeautyNet,
    images: &Arc<ImageDataset>,
    walk: Walk,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Predictions> {
    predict_shard(net, images, walk, RankShard::SINGLE, progress)
}

/// As [`predict`], of the batches that are this process's [shard](RankShard::image_range): the
/// predictions of those images alone.
///
/// # Errors
/// As [`predict`].
pub fn predict_shard(
    net: &BeautyNet,
    images: &Arc<ImageDataset>,
    walk: Walk,
    shard: RankShard,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Predictions> {
    let options =
        LoaderOptions { shard, ..LoaderOptions::new(Mode::Eval, walk.batch_size, walk.workers) };
    let samples = &images.samples()[shard.image_range(images.len(), walk.batch_size)];
    let mut predictions = Predictions::of(samples);
    let mut shares: [Vec<f64>; 2] = Default::default();
    let _guard = tch::no_grad_guard();
    for batch in Loader::new(Arc::clone(images), options)? {
        let batch = batch?;
        let pixels = upload(&batch, net.device())?;
        let output = net.forward(Images::Pixels(&pixels), ForwardContext::eval())?;
        let (mut score, mut weights) = (output.score, output.weights);
        if images.test_time_flip() {
            let mirrored =
                net.forward(Images::Pixels(&pixels.f_flip([3])?), ForwardContext::eval())?;
            score = (score + mirrored.score) / 2.0;
            weights = weights.zip(mirrored.weights).map(|(a, b)| (a + b) / 2.0);
        }
        predictions.predictions.extend(values(&score)?);
        if let Some(weights) = &weights {
            for (branch, column) in shares.iter_mut().enumerate() {
                column.extend(values(&weights.select(1, branch as i64))?);
            }
        }
        progress(batch.len)?;
    }
    predictions.extra = BRANCH_WEIGHTS
        .map(str::to_string)
        .into_iter()
        .zip(shares)
        .filter(|(_, values)| !values.is_empty())
        .collect();
    Ok(predictions)
}

/// A one-dimensional tensor's values.
///
/// # Errors
/// The tensor has another number of dimensions.
pub fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(&tensor.to_kind(Kind::Double))?)
}
