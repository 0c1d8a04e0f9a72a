//! The regression head: the fused vector to one score.

use tch::{Device, Kind, Tensor, nn};

use super::forward_context::ForwardContext;
use super::layers::{Init, Linear};
use crate::config::HeadConfig;

/// Linear layers with GELU between: a vector to one number, or to one for each rating of a
/// distribution.
#[derive(Debug)]
pub struct Regressor {
    layers: Vec<Linear>,
    dropout: f64,
}

impl Regressor {
    /// From `width` channels through the config's hidden layers to one output.
    pub fn new(path: &nn::Path, width: i64, config: &HeadConfig) -> Self {
        Self::with_outputs(path, width, config, 1)
    }

    fn with_outputs(path: &nn::Path, width: i64, config: &HeadConfig, outputs: i64) -> Self {
        let widths: Vec<i64> =
            std::iter::once(width).chain(config.hidden.iter().copied()).chain([outputs]).collect();
        let layers = path / "layers";
        Self {
            layers: widths
                .windows(2)
                .enumerate()
                .map(|(i, pair)| {
                    let init = Init::pytorch_default(pair[0]);
                    Linear::new(&layers / i, pair[0], pair[1], true, init)
                })
                .collect(),
            dropout: config.dropout,
        }
    }

    /// (b, width) to (b, outputs).
    pub fn forward(&self, x: &Tensor, ctx: ForwardContext) -> Tensor {
        let mut x = x.shallow_clone();
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                x = x.gelu("none");
            }
            x = layer.forward(&ctx.dropout(&x, self.dropout));
        }
        x
    }
}

/// A regressor on scores scaled to mean 0 and standard deviation 1 over the training set, so that
/// learning rates mean the same for every rating scale.
#[derive(Debug)]
pub struct RegressionHead {
    regressor: Option<Regressor>,
    score_mean: Tensor,
    score_std: Tensor,
    /// (k): the ratings whose probabilities the regressor gives, in the data set's own units.
    score_bins: Option<Tensor>,
}

impl RegressionHead {
    /// From `width` channels through the config's hidden layers to one output.
    pub fn new(path: &nn::Path, width: i64, config: &HeadConfig) -> Self {
        Self { regressor: Some(Regressor::new(path, width, config)), ..Self::scale_only(path) }
    }

    /// As [`new`](Self::new), to the probabilities of so many ratings, whose mean is the score.
    pub fn distribution(path: &nn::Path, width: i64, config: &HeadConfig, bins: i64) -> Self {
        Self {
            regressor: Some(Regressor::with_outputs(path, width, config, bins)),
            score_bins: Some(path.zeros_no_train("score_bins", &[bins])),
            ..Self::scale_only(path)
        }
    }

    /// Without layers, for a fused vector (b, 1) that is the prediction already.
    pub fn scale_only(path: &nn::Path) -> Self {
        Self {
            regressor: None,
            score_mean: path.zeros_no_train("score_mean", &[]),
            score_std: path.ones_no_train("score_std", &[]),
            score_bins: None,
        }
    }

    /// (b, width) to (b), on the scaled scores.
    pub fn forward(&self, fused: &Tensor, ctx: ForwardContext) -> Tensor {
        self.predict(fused, ctx).0
    }

    /// As [`forward`](Self::forward), with the logarithms of the ratings' probabilities (b, k)
    /// where the head gives a distribution.
    pub fn predict(&self, fused: &Tensor, ctx: ForwardContext) -> (Tensor, Option<Tensor>) {
        let Some(regressor) = &self.regressor else {
            return (fused.squeeze_dim(-1), None);
        };
        let outputs = regressor.forward(fused, ctx);
        let Some(bins) = &self.score_bins else {
            return (outputs.squeeze_dim(-1), None);
        };
        let log_probabilities = outputs.log_softmax(-1, Kind::Float);
        let mean = (log_probabilities.exp() * self.to_scaled(bins)).sum_dim_intlist(
            [-1i64].as_slice(),
            false,
            Kind::Float,
        );
        (mean, Some(log_probabilities))
    }

    /// Sets the scale of the scores from the training set's.
    pub fn set_score_scale(&mut self, mean: f64, std: f64) {
        let _guard = tch::no_grad_guard();
        let _ = self.score_mean.fill_(mean);
        let _ = self.score_std.fill_(std);
    }

    /// Sets the ratings of a distribution, evenly spaced from `low` to `high`; without one there is
    /// nothing to set.
    pub fn set_score_range(&mut self, [low, high]: [f64; 2]) {
        let _guard = tch::no_grad_guard();
        if let Some(bins) = &mut self.score_bins {
            let ratings = Tensor::linspace(low, high, bins.size()[0], (Kind::Float, bins.device()));
            bins.copy_(&ratings);
        }
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.score_mean.device()
    }

    /// Scaled scores back to the data set's own scale.
    pub fn to_scores(&self, scaled: &Tensor) -> Tensor {
        scaled.to_kind(Kind::Float) * &self.score_std + &self.score_mean
    }

    /// The data set's scores to the scale that the head learns.
    pub fn to_scaled(&self, scores: &Tensor) -> Tensor {
        (scores - &self.score_mean) / &self.score_std
    }
}
