//! The losses, computed over a global batch, in float32, on scores scaled to mean 0 and standard
//! deviation 1.

use std::ops::Range;

use anyhow::{Context, Result};
use tch::{Kind, Reduction, Tensor};

use super::label_distribution::LabelDistribution;
use crate::config::{Loss, TrainConfig};
use crate::data::{HostBatch, Sample};
use crate::eval::predictions::Predictions;
use crate::models::Output;
use crate::models::head::{Prediction, RegressionHead};

/// Columns of [`Criterion::targets`]; those of the votes' distribution follow.
const SCORE: i64 = 0;
const WEIGHT: i64 = 1;
const VOTES: i64 = 2;

/// Keeps the correlation of a constant side defined; the scaled scores have a variance of about 1.
const PEARSON_EPS: f64 = 1e-6;

/// The loss of a slice of a batch; scalars.
#[derive(Debug)]
pub struct SliceLoss {
    /// The loss to differentiate.
    pub total: Tensor,
    /// The loss to report, the ensemble's.
    pub reported: Tensor,
    /// The losses of the branches' own heads, to compare; empty without them.
    pub branches: Vec<Tensor>,
}

/// The loss that the config names, with its settings.
#[derive(Debug, Clone)]
pub struct Criterion {
    loss: Loss,
    huber_delta: f64,
    /// The weight of each branch's own loss.
    branch_loss: f64,
    /// The settings of [`Loss::LabelDistribution`], for that loss only.
    votes: Option<LabelDistribution>,
}

impl Criterion {
    /// Creates the loss that the config names, for these training images. Returns an error if the
    /// loss uses votes and no image has any.
    pub fn new(config: &TrainConfig, samples: &[Sample]) -> Result<Self> {
        let votes = match config.loss {
            Loss::LabelDistribution => {
                Some(LabelDistribution::new(&config.label_distribution, samples)?)
            }
            _ => None,
        };
        let TrainConfig { loss, huber_delta, branch_loss, .. } = *config;
        Ok(Self { loss, huber_delta, branch_loss, votes })
    }

    /// Returns the lowest and the highest rating of the head's distribution, if the loss uses one.
    pub fn score_range(&self) -> Option<[f64; 2]> {
        self.votes.as_ref().map(LabelDistribution::range)
    }

    /// Returns the outputs of the network that the loss uses, one row per image, those of the head
    /// and then those of the branches' own heads: predictions (b, heads), or each prediction
    /// followed by the log-probabilities of the distribution (b, heads, 1 + k). Returns an error if
    /// the loss uses votes and a head predicts no distribution.
    pub fn predictions(&self, output: &Output) -> Result<Tensor> {
        let of_head = |prediction: &Prediction| -> Result<Tensor> {
            let scaled = prediction.scaled.f_to_kind(Kind::Float)?;
            if self.votes.is_none() {
                return Ok(scaled);
            }
            let distribution = prediction.log_probabilities.as_ref();
            let distribution = distribution.context("internal: a head predicts no distribution")?;
            Ok(Tensor::f_cat(&[&scaled.f_unsqueeze(1)?, distribution], 1)?)
        };
        let heads = std::iter::once(&output.prediction).chain(&output.branches);
        let heads: Vec<Tensor> = heads.map(of_head).collect::<Result<_>>()?;
        match &heads[..] {
            [only] => Ok(only.f_unsqueeze(1)?), // a view, without a copy
            heads => Ok(Tensor::f_stack(heads, 1)?),
        }
    }

    /// Returns whether the loss is a sum over images, so that each slice of a batch has its own
    /// term.
    pub fn is_sum(&self) -> bool {
        self.loss != Loss::Pearson
    }

    /// Returns the targets of these images of a batch on the head's device, (len, columns), one row
    /// per image, so that those of several ranks can be concatenated. The columns are scaled score,
    /// weight, and the votes' distribution if the loss uses it. Returns libtorch's error if memory
    /// runs out.
    pub fn targets(
        &self,
        batch: &HostBatch,
        rows: &Range<usize>,
        head: &RegressionHead,
    ) -> Result<Tensor> {
        let rows = rows.clone();
        let column = |values: &[f32]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_to_device(head.device())?)
        };
        let scores = head.to_scaled(&column(&batch.targets[rows.clone()])?);
        let columns = Tensor::f_stack(&[scores, column(&batch.weights[rows.clone()])?], 1)?;
        let Some(votes) = &self.votes else {
            return Ok(columns);
        };
        let shape = [rows.len() as i64, votes.bins() as i64];
        let histograms = column(&votes.histograms(&batch.votes[rows]))?;
        Ok(Tensor::f_cat(&[columns, histograms.f_view(shape)?], 1)?)
    }

    /// Returns the sum of the images' weights, by which the losses of the slices of one optimizer
    /// step are divided. It is positive even if all weights are 0.
    pub fn total_weight<'a>(weights: impl IntoIterator<Item = &'a f32>) -> f64 {
        let weights = weights.into_iter().map(|&weight| f64::from(weight));
        weights.sum::<f64>().max(f64::from(f32::MIN_POSITIVE))
    }

    /// Computes the term of these images of the loss of their optimizer step: that of the head,
    /// which is reported, and its sum with those of the branches' own heads times
    /// `train.branch_loss`. Both [predictions](Self::predictions) and [targets](Self::targets) are
    /// of the same images. Returns an error if the shapes do not match.
    pub fn loss(&self, predictions: &Tensor, targets: &Tensor, total: f64) -> Result<SliceLoss> {
        let heads = predictions.size()[1];
        let of_head = |head: i64| {
            // The gradient of a view of one head is a view; that of a selected one is filled in.
            let own = if heads == 1 {
                predictions.f_squeeze_dim(1)
            } else {
                predictions.f_select(1, head)
            };
            self.loss_of_head(&own?, targets, total)
        };
        let reported = of_head(0)?;
        let branches: Vec<Tensor> = (1..heads).map(of_head).collect::<Result<_>>()?;
        let mut sum = reported.shallow_clone();
        for loss in &branches {
            sum = sum.f_add(&loss.f_mul_scalar(self.branch_loss)?)?;
        }
        Ok(SliceLoss { total: sum, reported, branches })
    }

    /// Computes the term of these images of the loss of one head, a scalar: the sum over them of
    /// weight times loss, divided by the step's `total` [weight](Self::total_weight). The terms of
    /// all slices add up to the weighted mean over all images. The Pearson loss is no mean over
    /// images: the terms of microbatches add up to the weighted mean of their losses.
    ///
    /// The predictions (b), or (b, 1 + k), and the targets are of the same images. Returns an error
    /// if the shapes do not match.
    fn loss_of_head(&self, predictions: &Tensor, targets: &Tensor, total: f64) -> Result<Tensor> {
        let predictions = predictions.f_to_kind(Kind::Float)?;
        let scores = targets.f_select(1, SCORE)?;
        let weights = targets.f_select(1, WEIGHT)?;
        let by_image = match self.loss {
            Loss::Mse => predictions.f_mse_loss(&scores, Reduction::None)?,
            Loss::Huber => predictions.f_huber_loss(&scores, Reduction::None, self.huber_delta)?,
            Loss::L1 => predictions.f_l1_loss(&scores, Reduction::None)?,
            // The same for all images of the batch.
            Loss::Pearson => pearson_loss(&predictions, &scores, &weights)?,
            Loss::LabelDistribution => {
                let votes = self.votes.as_ref().context("internal: a loss without its settings")?;
                let bins = votes.bins() as i64;
                votes.loss(
                    &predictions.f_select(1, 0)?,
                    &predictions.f_narrow(1, 1, bins)?,
                    &scores,
                    &targets.f_narrow(1, VOTES, bins)?,
                )?
            }
        };
        Ok(by_image.f_mul(&weights)?.f_sum(Kind::Float)?.f_div_scalar(total)?)
    }

    /// Computes the loss of predicted scores, on the scale of the loss in training; NaN for a loss
    /// that is not one of scores, [`Loss::LabelDistribution`]. There is a weight for each image.
    /// Returns an error if the shapes do not match.
    pub fn loss_of_scores(
        &self,
        predictions: &Predictions,
        weights: &[f32],
        head: &RegressionHead,
    ) -> Result<f64> {
        if self.votes.is_some() {
            return Ok(f64::NAN);
        }
        let scaled = |scores: &[f64]| -> Result<Tensor> {
            let scores = Tensor::f_from_slice(scores)?.f_to_kind(Kind::Float)?;
            Ok(head.to_scaled(&scores.f_to_device(head.device())?))
        };
        let column = Tensor::f_from_slice(weights)?.f_to_device(head.device())?;
        let targets = Tensor::f_stack(&[scaled(&predictions.targets)?, column], 1)?;
        let total = Self::total_weight(weights);
        let loss = self.loss_of_head(&scaled(&predictions.predictions)?, &targets, total)?;
        Ok(loss.f_double_value(&[])?)
    }
}

/// Computes `1 - r`, a scalar from 0 to 2, with r the weighted Pearson correlation of predictions
/// and scores (b). It is 1, with a finite gradient, where r is not defined: for one image, or if
/// one side is constant.
fn pearson_loss(predictions: &Tensor, scores: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let total = weights.f_sum(Kind::Float)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
    let weights = weights.f_div(&total)?;
    let mean = |x: &Tensor| x.f_mul(&weights)?.f_sum(Kind::Float);
    let (x, y) = (predictions.f_sub(&mean(predictions)?)?, scores.f_sub(&mean(scores)?)?);
    let deviation = |x: &Tensor| mean(&x.f_square()?)?.f_add_scalar(PEARSON_EPS)?.f_sqrt();
    let r = mean(&x.f_mul(&y)?)?.f_div(&deviation(&x)?)?.f_div(&deviation(&y)?)?;
    Ok(1.0 - r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::correlation;

    fn criterion(loss: Loss) -> Criterion {
        let config = TrainConfig { loss, huber_delta: 0.5, ..TrainConfig::default() };
        Criterion::new(&config, &[]).unwrap()
    }

    const LOSSES: [Loss; 4] = [Loss::Mse, Loss::Huber, Loss::L1, Loss::Pearson];
    const SCORES: [f32; 5] = [0.3, -1.2, 0.9, 2.0, -0.4];
    const PREDICTED: [f32; 5] = [0.1, -0.3, 1.6, 0.2, -0.45];
    const WEIGHTS: [f32; 5] = [1.0, 0.5, 2.0, 0.0, 3.0];

    fn targets(scores: &[f32], weights: &[f32]) -> Tensor {
        Tensor::stack(&[Tensor::from_slice(scores), Tensor::from_slice(weights)], 1)
    }

    fn total_of(targets: &Tensor) -> f64 {
        targets
            .select(1, WEIGHT)
            .sum(Kind::Float)
            .clamp_min(f64::from(f32::MIN_POSITIVE))
            .double_value(&[])
    }

    /// Computes the loss of one batch and its gradient.
    fn loss_of(loss: Loss, predicted: &[f32], targets: &Tensor) -> (f64, Vec<f64>) {
        let leaf = Tensor::from_slice(predicted).set_requires_grad(true);
        let value = criterion(loss).loss_of_head(&leaf, targets, total_of(targets)).unwrap();
        value.backward();
        let gradient = Vec::<f64>::try_from(leaf.grad().to_kind(Kind::Double)).unwrap();
        (value.double_value(&[]), gradient)
    }

    /// Computes the same in double precision, by the textbook formulas.
    fn textbook_loss(loss: Loss, weights: &[f32]) -> f64 {
        let rows: Vec<[f64; 3]> = (0..SCORES.len())
            .map(|i| [PREDICTED[i], SCORES[i], weights[i]].map(f64::from))
            .collect();
        let total: f64 = rows.iter().map(|row| row[2]).sum();
        let mean = |f: &dyn Fn(f64, f64) -> f64| {
            rows.iter().map(|&[p, t, w]| w * f(p, t)).sum::<f64>() / total
        };
        match loss {
            Loss::Mse => mean(&|p, t| (p - t).powi(2)),
            Loss::L1 => mean(&|p, t| (p - t).abs()),
            Loss::Huber => mean(&|p, t| match (p - t).abs() {
                small if small <= 0.5 => small * small / 2.0,
                large => 0.5 * (large - 0.25),
            }),
            Loss::Pearson => {
                let (p_mean, t_mean) = (mean(&|p, _| p), mean(&|_, t| t));
                let covariance = mean(&|p, t| (p - p_mean) * (t - t_mean));
                let p_var = mean(&|p, _| (p - p_mean).powi(2));
                let t_var = mean(&|_, t| (t - t_mean).powi(2));
                1.0 - covariance / (p_var * t_var).sqrt()
            }
            Loss::LabelDistribution => unreachable!("it has tests of its own"),
        }
    }

    #[test]
    fn losses_are_their_formulas_weighted_by_image() {
        for loss in LOSSES {
            for weights in [WEIGHTS, [1.0; 5]] {
                let (found, gradient) = loss_of(loss, &PREDICTED, &targets(&SCORES, &weights));
                let expected = textbook_loss(loss, &weights);
                assert!((found - expected).abs() < 2e-6, "{loss}: {found} is not {expected}");
                assert_eq!(gradient[3] == 0.0, weights[3] == 0.0, "{loss}");
            }
        }
        let (found, _) = loss_of(Loss::Pearson, &PREDICTED, &targets(&SCORES, &[1.0; 5]));
        let [p, t] = [PREDICTED, SCORES].map(|values| values.map(f64::from));
        assert!((found - (1.0 - correlation::pearson(&p, &t))).abs() < 2e-6);
    }

    #[test]
    fn gradients_are_the_losses_slopes() {
        for loss in LOSSES {
            let targets = targets(&SCORES, &WEIGHTS);
            let (_, gradient) = loss_of(loss, &PREDICTED, &targets);
            for (i, gradient) in gradient.iter().enumerate() {
                let at = |by: f32| {
                    let mut moved = PREDICTED;
                    moved[i] += by;
                    loss_of(loss, &moved, &targets).0
                };
                let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!((gradient - slope).abs() < 2e-3, "{loss}: {gradient} is not {slope}");
            }
        }
    }

    #[test]
    fn with_weights_of_one_the_mean_is_libtorchs_to_the_bit() {
        for images in [1, 3, 7, 16, 129] {
            tch::manual_seed(images);
            let random = || Tensor::randn([images], (Kind::Float, tch::Device::Cpu));
            let (scores, predicted) = (random(), random());
            let columns = Tensor::stack(&[scores.shallow_clone(), scores.ones_like()], 1);
            let predicted = Vec::<f32>::try_from(&predicted).unwrap();
            let leaf = Tensor::from_slice(&predicted).set_requires_grad(true);
            let mean = leaf.mse_loss(&scores, Reduction::Mean);
            mean.backward();
            let expected = Vec::<f64>::try_from(leaf.grad().to_kind(Kind::Double)).unwrap();
            let (found, gradient) = loss_of(Loss::Mse, &predicted, &columns);
            assert_eq!((found, gradient), (mean.double_value(&[]), expected));
        }
    }

    #[test]
    fn the_pearson_loss_is_defined_where_the_correlation_is_not() {
        let constant = [0.7; 5];
        for (predicted, scores) in [
            (&constant[..], &SCORES[..]),
            (&PREDICTED, &constant),
            (&constant, &constant),
            (&PREDICTED[..1], &SCORES[..1]),
        ] {
            let ones = vec![1.0; scores.len()];
            let (loss, gradient) = loss_of(Loss::Pearson, predicted, &targets(scores, &ones));
            assert!((loss - 1.0).abs() < 1e-3, "{loss}");
            assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
        }
    }

    #[test]
    fn images_of_weight_0_have_no_loss() {
        for loss in LOSSES {
            let (value, gradient) = loss_of(loss, &PREDICTED, &targets(&SCORES, &[0.0; 5]));
            assert_eq!((value, gradient), (0.0, vec![0.0; 5]), "{loss}");
        }
    }

    #[test]
    fn losses_of_microbatches_add_up_to_the_mean_over_all_images() {
        for loss in [Loss::Mse, Loss::Huber, Loss::L1] {
            let (global, gradient) = loss_of(loss, &PREDICTED, &targets(&SCORES, &WEIGHTS));
            let leaf = Tensor::from_slice(&PREDICTED).set_requires_grad(true);
            let columns = targets(&SCORES, &WEIGHTS);
            let batches = [(0, 2), (2, 3)].map(|(from, count)| columns.narrow(0, from, count));
            let total = total_of(&columns);
            let mut sum = 0.0;
            for (batch, (from, count)) in batches.iter().zip([(0, 2), (2, 3)]) {
                let predicted = leaf.narrow(0, from, count);
                let value = criterion(loss).loss_of_head(&predicted, batch, total).unwrap();
                value.backward();
                sum += value.double_value(&[]);
            }
            assert!((sum - global).abs() < 1e-6, "{loss}");
            let found = Vec::<f64>::try_from(leaf.grad().to_kind(Kind::Double)).unwrap();
            for (found, expected) in found.iter().zip(gradient) {
                assert!((found - expected).abs() < 1e-6, "{loss}");
            }
        }
    }
}
