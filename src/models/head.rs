//! The regression head: the fused vector to a score.

use anyhow::Result;
use tch::{Device, Kind, Tensor, nn};

use super::forward_context::ForwardContext;
use super::layers::{Init, Linear, Parameter};
use super::onnx::{Graph, Value};
use crate::config::{HeadConfig, HeadOutput};

/// The first component of the names of the branches' own heads, which training and the evaluation
/// of the branches use, and the prediction does not.
pub const BRANCH_HEADS: &str = "branch_heads";

/// A multilayer perceptron: linear layers with GELU between them and dropout before each.
#[derive(Debug)]
pub struct Regressor {
    layers: Vec<Linear>,
    dropout: f64,
}

impl Regressor {
    /// Returns a regressor from `inputs` channels through the config's hidden layers to `outputs`.
    pub fn new(path: &nn::Path, inputs: i64, config: &HeadConfig, outputs: i64) -> Self {
        let widths = [&[inputs], &config.hidden[..], &[outputs]].concat();
        let path = path / "layers";
        let layer = |(i, pair): (usize, &[i64])| {
            Linear::new(&path / i, pair[0], pair[1], true, Init::pytorch_default(pair[0]))
        };
        Self { layers: widths.windows(2).enumerate().map(layer).collect(), dropout: config.dropout }
    }

    /// (b, inputs) to (b, outputs).
    pub fn forward(&self, x: &Tensor, ctx: ForwardContext) -> Tensor {
        let mut x = x.shallow_clone();
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                x = x.gelu("none");
            }
            x = layer.forward(&ctx.of_part(i).dropout(&x, self.dropout));
        }
        x
    }

    /// Adds the regressor in evaluation to a graph.
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                x = graph.gelu(&x);
            }
            x = layer.onnx(graph, &x);
        }
        x
    }
}

/// What a head predicts.
#[derive(Debug)]
pub struct Prediction {
    /// (b): the scaled score, which the loss is computed of.
    pub scaled: Tensor,
    /// (b, k): the log-probabilities of k ratings, whose mean is the scaled score, if the head
    /// predicts a distribution.
    pub log_probabilities: Option<Tensor>,
}

impl Prediction {
    /// Joins the predictions for several batches, in order. Returns an error if there are none.
    pub(super) fn concatenate(all: &[&Self]) -> Result<Self> {
        let scaled: Vec<&Tensor> = all.iter().map(|prediction| &prediction.scaled).collect();
        let log_probabilities: Option<Vec<&Tensor>> =
            all.iter().map(|prediction| prediction.log_probabilities.as_ref()).collect();
        let log_probabilities = log_probabilities.map(|all| Tensor::f_cat(&all, 0)).transpose()?;
        Ok(Self { scaled: Tensor::f_cat(&scaled, 0)?, log_probabilities })
    }
}

/// The regression head. It predicts scaled scores, whose mean is 0 and whose standard deviation is
/// 1 over the training set, so that a learning rate suits every rating scale.
#[derive(Debug)]
pub struct RegressionHead {
    regressor: Option<Regressor>,
    score_mean: Parameter,
    score_std: Parameter,
    /// (k): the ratings whose probabilities the regressor predicts, on the dataset's own scale.
    score_bins: Option<Parameter>,
}

impl RegressionHead {
    /// Returns a head for fused vectors of `width` channels.
    pub fn new(path: &nn::Path, width: i64, config: &HeadConfig, output: HeadOutput) -> Self {
        let (outputs, bins) = match output {
            HeadOutput::Fused => (None, None),
            HeadOutput::Score => (Some(1), None),
            HeadOutput::Distribution { bins } => (Some(bins), Some(bins)),
        };
        Self {
            regressor: outputs.map(|outputs| Regressor::new(path, width, config, outputs)),
            score_bins: bins.map(|bins| path.zeros_no_train("score_bins", &[bins]).into()),
            score_mean: path.zeros_no_train("score_mean", &[]).into(),
            score_std: path.ones_no_train("score_std", &[]).into(),
        }
    }

    /// Predicts from fused vectors (b, width).
    pub fn forward(&self, fused: &Tensor, ctx: ForwardContext) -> Prediction {
        match &self.regressor {
            Some(regressor) => self.prediction(&regressor.forward(fused, ctx)),
            None => self.prediction(fused),
        }
    }

    /// Returns the prediction of a regressor with these outputs: scaled scores (b, 1), or the
    /// logits of the ratings (b, k) if this head predicts a distribution.
    pub(super) fn prediction(&self, outputs: &Tensor) -> Prediction {
        let Some(bins) = &self.score_bins else {
            return Prediction { scaled: outputs.squeeze_dim(-1), log_probabilities: None };
        };
        let log_probabilities = outputs.log_softmax(-1, Kind::Float);
        let weighted = log_probabilities.exp() * self.to_scaled(bins);
        let scaled = weighted.sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        Prediction { scaled, log_probabilities: Some(log_probabilities) }
    }

    /// Adds the head in evaluation to a graph: fused vectors (b, width) to scores (b) on the
    /// dataset's own scale.
    pub(super) fn onnx(&self, graph: &mut Graph, fused: &Value) -> Value {
        let outputs = match &self.regressor {
            Some(regressor) => regressor.onnx(graph, fused),
            None => fused.clone(),
        };
        let scaled = match &self.score_bins {
            Some(bins) => {
                let probabilities = graph.softmax(&outputs);
                let scaled = || self.to_scaled(bins).unsqueeze(-1);
                let bins = graph.derived(bins, ".scaled", scaled);
                graph.matmul(&probabilities, &bins)
            }
            None => outputs,
        };
        let scaled = graph.squeeze(&scaled, -1);
        let (mean, std) = (graph.parameter(&self.score_mean), graph.parameter(&self.score_std));
        let scores = graph.mul(&scaled, &std);
        graph.add(&scores, &mean)
    }

    /// Sets the scale of the scores to the training set's mean and standard deviation.
    pub fn set_score_scale(&mut self, mean: f64, std: f64) {
        let _guard = tch::no_grad_guard();
        let _ = self.score_mean.shallow_clone().fill_(mean);
        let _ = self.score_std.shallow_clone().fill_(std);
    }

    /// Sets the ratings of a distribution, evenly spaced from `low` to `high`; does nothing if the
    /// head predicts a score.
    pub fn set_score_range(&mut self, [low, high]: [f64; 2]) {
        let _guard = tch::no_grad_guard();
        if let Some(bins) = &self.score_bins {
            let ratings = Tensor::linspace(low, high, bins.size()[0], (Kind::Float, bins.device()));
            bins.shallow_clone().copy_(&ratings);
        }
    }

    /// Returns the number of outputs that a [prediction](Self::prediction) is made of.
    pub(super) fn outputs(&self) -> i64 {
        self.score_bins.as_ref().map_or(1, |bins| bins.numel() as i64)
    }

    /// Returns the device of the parameters.
    pub fn device(&self) -> Device {
        self.score_mean.device()
    }

    /// Scaled scores to the dataset's own scale.
    pub fn to_scores(&self, scaled: &Tensor) -> Tensor {
        scaled.to_kind(Kind::Float) * &*self.score_std + &*self.score_mean
    }

    /// Scores on the dataset's own scale to scaled scores.
    pub fn to_scaled(&self, scores: &Tensor) -> Tensor {
        (scores - &*self.score_mean) / &*self.score_std
    }
}
