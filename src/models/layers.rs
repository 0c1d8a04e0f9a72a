//! Layers of both backbones, the fusion and the head. Fields have the names of the published
//! checkpoints.

use tch::{Kind, Tensor, nn};

use super::forward_context::ForwardContext;
use super::onnx::{Graph, Value, float, int};
use crate::ops::{self, LinearParameters, Norm, SharedTensor};

/// The initial distribution of a parameter.
#[derive(Debug, Clone, Copy)]
pub enum Init {
    /// Normal, clamped to an absolute value of 2, like timm's `trunc_normal_`.
    TruncNormal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform from -bound to bound.
    Uniform {
        /// The bound.
        bound: f64,
    },
    /// The same value everywhere.
    Constant(f64),
}

impl Init {
    /// Returns PyTorch's default for a layer with `fan_in` inputs: Kaiming uniform with a = √5.
    pub fn pytorch_default(fan_in: i64) -> Self {
        Init::Uniform { bound: (fan_in as f64).powf(-0.5) }
    }

    /// Returns a new parameter with values of this distribution.
    pub fn parameter(self, path: &nn::Path, name: &str, shape: &[i64]) -> Parameter {
        let options = (Kind::Float, path.device());
        let value = match self {
            Init::TruncNormal { std } => (Tensor::randn(shape, options) * std).clamp(-2.0, 2.0),
            Init::Uniform { bound } => Tensor::rand(shape, options) * (2.0 * bound) - bound,
            Init::Constant(value) => Tensor::full(shape, value, options),
        };
        path.var_copy(name, &value).into()
    }
}

/// A learned tensor, or one that is saved with them.
pub type Parameter = SharedTensor;

/// A linear layer over the last dimension: `x · weightᵀ + bias`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// Returns a layer from `inputs` to `outputs` channels; the bias, if any, is initialized to
    /// zero.
    pub fn new(path: nn::Path, inputs: i64, outputs: i64, bias: bool, init: Init) -> Self {
        Self {
            weight: init.parameter(&path, "weight", &[outputs, inputs]),
            bias: bias.then(|| Init::Constant(0.0).parameter(&path, "bias", &[outputs])),
        }
    }

    /// Returns the weight (outputs, inputs).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Returns the weight and bias.
    pub fn parameters(&self) -> LinearParameters<'_> {
        (&self.weight, self.bias.as_deref())
    }

    /// (…, inputs) to (…, outputs).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        ops::linear(x, &self.weight, self.bias.as_deref())
    }

    /// Adds the layer to a graph.
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        graph.linear(x, &self.weight, self.bias.as_deref())
    }
}

/// Layer normalization over the last dimension (arXiv 1607.06450).
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f64,
}

impl LayerNorm {
    /// Returns a norm over `dim` channels.
    pub fn new(path: nn::Path, dim: i64, eps: f64) -> Self {
        Self {
            weight: Init::Constant(1.0).parameter(&path, "weight", &[dim]),
            bias: Init::Constant(0.0).parameter(&path, "bias", &[dim]),
            eps,
        }
    }

    /// Normalizes x (…, dim).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.operator().of(x)
    }

    /// Returns the operator.
    pub fn operator(&self) -> Norm<'_> {
        Norm { weight: &self.weight, bias: Some(&self.bias), eps: self.eps }
    }

    /// Adds the norm to a graph.
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let (weight, bias) = (graph.parameter(&self.weight), graph.parameter(&self.bias));
        let attributes = vec![int("axis", -1), float("epsilon", self.eps)];
        graph.op_with("LayerNormalization", &[x, &weight, &bias], attributes)
    }
}

/// Root mean square normalization over the last dimension (arXiv 1910.07467).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Parameter,
    eps: f64,
}

impl RmsNorm {
    /// Returns a norm over `dim` channels.
    pub fn new(path: nn::Path, dim: i64, eps: f64) -> Self {
        Self { weight: Init::Constant(1.0).parameter(&path, "weight", &[dim]), eps }
    }

    /// Normalizes x (…, dim).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.operator().of(x)
    }

    /// Returns the operator.
    pub fn operator(&self) -> Norm<'_> {
        Norm { weight: &self.weight, bias: None, eps: self.eps }
    }

    /// Adds the norm to a graph: ONNX has an operator for it from opset 23 on.
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let (two, eps) = (graph.number(2.0), graph.number(self.eps));
        let squares = graph.op("Pow", &[x, &two]);
        let mean = graph.mean(&squares, -1, true);
        let mean = graph.add(&mean, &eps);
        let root = graph.op("Sqrt", &[&mean]);
        let normed = graph.op("Div", &[x, &root]);
        let weight = graph.parameter(&self.weight);
        graph.mul(&normed, &weight)
    }
}

/// The masked patches of a batch, and the token that replaces them.
#[derive(Debug, Clone, Copy)]
pub struct Masked<'a> {
    /// (b, patches): true where a patch is masked.
    pub mask: &'a Tensor,
    /// (embed_dim): the mask token.
    pub token: &'a Tensor,
}

impl Masked<'_> {
    /// Replaces the masked ones of the embedded patches (b, patches, embed_dim).
    pub(super) fn replace(&self, patches: &Tensor) -> Tensor {
        let token = self.token.to_kind(patches.kind());
        token.where_self(&self.mask.unsqueeze(-1), patches)
    }
}

/// Stochastic depth (arXiv 1603.09382): in training, drops the residual of samples with this
/// probability.
#[derive(Debug, Clone, Copy)]
pub struct DropPath(pub f64);

impl DropPath {
    /// Returns the factor (b, 1, …) of each sample of x (b, …): 0 for those that are dropped, and
    /// 1 / (1 − p) for the others, which preserves the mean. `None` where nothing is dropped.
    pub fn factors(self, x: &Tensor, ctx: ForwardContext) -> Option<Tensor> {
        if !ctx.is_train() || self.0 <= 0.0 {
            return None;
        }
        let keep = 1.0 - self.0;
        let mut shape = vec![1; x.dim()];
        shape[0] = x.size()[0];
        Some(ctx.keep_mask(&shape, keep, x.device()) * (1.0 / keep))
    }
}
