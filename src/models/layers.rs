//! Parts that both backbones, the fusion and the head are made of. Fields carry the published
//! checkpoints' names.

use std::ops::Deref;

use tch::{Kind, Tensor, nn};

use super::forward_context::ForwardContext;

/// How a weight starts.
#[derive(Debug, Clone, Copy)]
pub enum Init {
    /// Normal, cut at an absolute value of 2, as timm's `trunc_normal_`.
    TruncNormal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform on ± bound.
    Uniform {
        /// The bound.
        bound: f64,
    },
    /// Every value the same.
    Constant(f64),
}

impl Init {
    /// PyTorch's default for a layer with `fan_in` inputs: Kaiming uniform with a = √5.
    pub fn pytorch_default(fan_in: i64) -> Self {
        Init::Uniform { bound: (fan_in as f64).powf(-0.5) }
    }

    /// A new parameter of this distribution.
    pub fn parameter(self, path: &nn::Path, name: &str, shape: &[i64]) -> Tensor {
        let options = (Kind::Float, path.device());
        let value = match self {
            Init::TruncNormal { std } => (Tensor::randn(shape, options) * std).clamp(-2.0, 2.0),
            Init::Uniform { bound } => Tensor::rand(shape, options) * (2.0 * bound) - bound,
            Init::Constant(value) => Tensor::full(shape, value, options),
        };
        path.var_copy(name, &value)
    }
}

/// A learned tensor. Clones are the same one: they share its values and its gradient.
#[derive(Debug)]
pub struct Parameter(Tensor);

impl Clone for Parameter {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

impl Deref for Parameter {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl From<Tensor> for Parameter {
    fn from(tensor: Tensor) -> Self {
        Self(tensor)
    }
}

/// `x · weightᵀ + bias`, on the last dimension.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// `inputs` to `outputs`; the bias, if wanted, starts at zero.
    pub fn new(path: nn::Path, inputs: i64, outputs: i64, bias: bool, init: Init) -> Self {
        Self {
            weight: init.parameter(&path, "weight", &[outputs, inputs]).into(),
            bias: bias.then(|| Init::Constant(0.0).parameter(&path, "bias", &[outputs]).into()),
        }
    }

    /// (…, inputs) to (…, outputs).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_deref())
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
    /// Over `dim` channels.
    pub fn new(path: nn::Path, dim: i64, eps: f64) -> Self {
        Self {
            weight: Init::Constant(1.0).parameter(&path, "weight", &[dim]).into(),
            bias: Init::Constant(0.0).parameter(&path, "bias", &[dim]).into(),
            eps,
        }
    }

    /// Keeps the shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let dim = self.weight.size();
        x.layer_norm(dim, Some(&*self.weight), Some(&*self.bias), self.eps, false)
    }
}

/// Root mean square normalization over the last dimension (arXiv 1910.07467).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Parameter,
    eps: f64,
}

impl RmsNorm {
    /// Over `dim` channels.
    pub fn new(path: nn::Path, dim: i64, eps: f64) -> Self {
        Self { weight: Init::Constant(1.0).parameter(&path, "weight", &[dim]).into(), eps }
    }

    /// Keeps the shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.rms_norm(self.weight.size(), Some(&*self.weight), self.eps)
    }
}

/// Which patches of a batch are hidden, and what stands in their place.
#[derive(Debug, Clone, Copy)]
pub struct Masked<'a> {
    /// (b, patches): true where a patch is hidden.
    pub mask: &'a Tensor,
    /// (embed_dim): the mask token.
    pub token: &'a Tensor,
}

impl Masked<'_> {
    /// Embedded patches (b, patches, embed_dim), before they get their positions.
    pub(super) fn hide(&self, patches: &Tensor) -> Tensor {
        let token = self.token.to_kind(patches.kind());
        token.where_self(&self.mask.unsqueeze(-1), patches)
    }
}

/// Stochastic depth (arXiv 1603.09382): in training, drops whole samples of a residual branch.
#[derive(Debug, Clone, Copy)]
pub struct DropPath(pub f64);

impl DropPath {
    /// Keeps the shape (b, …). Kept samples are scaled by 1 / (1 − rate), so that the mean stays.
    pub fn forward(self, x: Tensor, ctx: ForwardContext) -> Tensor {
        if !ctx.is_train() || self.0 <= 0.0 {
            return x;
        }
        let keep = 1.0 - self.0;
        let mut shape = vec![1; x.dim()];
        let options = (Kind::Float, x.device());
        let mask = ctx
            .sample(x.size()[0], |images| {
                shape[0] = images;
                Tensor::rand(&shape, options)
            })
            .lt(keep);
        x * mask.to_kind(Kind::Float) * (1.0 / keep)
    }
}
