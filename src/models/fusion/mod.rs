//! Fusion of the two branches into one vector.
//!
//! In the equations, `v` and `m` are the feature vectors of the ViT and of the Vision Mamba, `P₁`
//! and `P₂` learned affine projections to `model.fusion.dim` channels, `⊙` is the product by
//! channel, `σ` the logistic function.

mod cross_attention;
mod dropout;

use anyhow::{Result, bail};
use tch::{Kind, Tensor, nn};

use self::cross_attention::CrossAttention;
use self::dropout::Present;
use super::forward_context::ForwardContext;
use super::head::Regressor;
use super::layers::{Init, Linear, Parameter};
use super::onnx::{Graph, Value};
use super::tokens::TokenLayout;
use crate::config::{FusionStrategy, ModelConfig};

/// The tokens of a branch, the fusion's input.
#[derive(Debug)]
pub struct BranchTokens {
    /// (b, tokens, d), after the backbone's last norm.
    tokens: Tensor,
    layout: TokenLayout,
    features: Tensor,
}

impl BranchTokens {
    /// Wraps tokens (b, tokens, d) and the feature vector (b, width) that is made of them.
    pub fn new(tokens: Tensor, layout: TokenLayout, features: Tensor) -> Self {
        Self { tokens, layout, features }
    }

    /// Wraps a feature vector (b, width) alone, for every strategy but `cross_attention`.
    pub fn of_features(features: Tensor, layout: TokenLayout) -> Self {
        let none = features.narrow(-1, 0, 0).unsqueeze(1); // (b, 1, 0)
        Self::new(none, layout, features)
    }

    /// Returns the same tokens without a copy.
    pub fn shallow_clone(&self) -> Self {
        Self::new(self.tokens.shallow_clone(), self.layout, self.features.shallow_clone())
    }

    /// Returns the tokens (b, tokens, d), in the order of the branch's layout.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// Returns the branch's feature vector: (b, width).
    pub fn features(&self) -> &Tensor {
        &self.features
    }

    /// Returns the patch tokens: (b, patches, d).
    pub(in crate::models) fn patches(&self) -> Result<Tensor> {
        self.layout.patches_of(&self.tokens)
    }

    /// Returns the mean of the tokens that the feature vector is made of, then the patch tokens:
    /// (b, 1 + patches, d).
    fn sequence(&self) -> Result<Tensor> {
        let first = self.layout.feature_mean(&self.tokens)?.unsqueeze(1);
        Ok(Tensor::f_cat(&[first, self.patches()?], 1)?)
    }
}

/// The tokens of a branch in an ONNX graph.
#[derive(Debug)]
pub(super) struct BranchValues {
    pub tokens: Value,
    pub layout: TokenLayout,
    pub features: Value,
}

impl BranchValues {
    fn sequence(&self, graph: &mut Graph) -> Value {
        let first = self.layout.feature_mean_onnx(graph, &self.tokens);
        let first = graph.unsqueeze(&first, 1);
        let patches = self.layout.patches_of_onnx(graph, &self.tokens);
        graph.concat(&[&first, &patches], 1)
    }
}

/// [`Fused`] in an ONNX graph.
#[derive(Debug)]
pub(super) struct FusedValue {
    pub vector: Value,
    pub weights: Option<Value>,
}

impl FusedValue {
    fn weighted_sum(graph: &mut Graph, features: &[Value; 2], weights: Value) -> Self {
        let mut weighted = |branch: usize| {
            let weight = graph.slice(&weights, -1, branch as i64, 1);
            graph.mul(&features[branch], &weight)
        };
        let [vit, mamba] = [weighted(0), weighted(1)];
        Self { vector: graph.add(&vit, &mamba), weights: Some(weights) }
    }

    /// Returns the weights (b, 2) of both branches from that of the ViT (b, 1).
    fn weights_of(graph: &mut Graph, vit_weight: &Value) -> Value {
        let one = graph.number(1.0);
        let mamba_weight = graph.op("Sub", &[&one, vit_weight]);
        graph.concat(&[vit_weight, &mamba_weight], -1)
    }
}

/// The fused vector, and the branches' weights in it.
#[derive(Debug)]
pub struct Fused {
    /// (b, [`Fusion::width`]).
    pub vector: Tensor,
    /// (b, 2): the weights of the ViT and the Mamba branch, which sum to 1; `None` if the strategy
    /// defines none.
    pub weights: Option<Tensor>,
}

impl Fused {
    fn without_weights(vector: Tensor) -> Self {
        Self { vector, weights: None }
    }

    /// Returns the weighted sum of two tensors (b, dim) with weights (b, 2) or (2).
    fn weighted_sum(features: &[Tensor; 2], weights: &Tensor) -> Self {
        let b = features[0].size()[0];
        Self {
            vector: &features[0] * weights.narrow(-1, 0, 1)
                + &features[1] * weights.narrow(-1, 1, 1),
            weights: Some(weights.expand([b, 2], false)),
        }
    }
}

/// A fusion strategy for two branches, with its parameters.
#[derive(Debug)]
enum Join {
    /// `concat`: `z = [P₁v; P₂m]`, of twice `dim` channels. With `sum` a baseline of multimodal
    /// learning (Baltrušaitis et al., "Multimodal machine learning: a survey and taxonomy", arXiv
    /// 1705.09406, section 6).
    Concat { project: Projections },
    /// `sum`: `z = P₁v + P₂m`.
    Sum { project: Projections },
    /// `weighted`: `w = softmax(a)` with two learned scalars `a`, the same for all images;
    /// `z = w₁ P₁v + w₂ P₂m`. The softmax-based fusion of EfficientDet (arXiv 1911.09070).
    Weighted { project: Projections, weights: Parameter },
    /// `gated`: `w = softmax(G [P₁v; P₂m] + c)`, for each image; `z = w₁ P₁v + w₂ P₂m`. The dynamic
    /// weighting of VM-BeautyNet (arXiv 2510.16220).
    Gated { project: Projections, gate: Linear },
    /// `gmu`, the gated multimodal unit (Arevalo et al., "Gated multimodal units for information
    /// fusion", arXiv 1702.01992): `h₁ = tanh(P₁v)`, `h₂ = tanh(P₂m)`, `g = σ(G [v; m] + c)`,
    /// `z = g ⊙ h₁ + (1 − g) ⊙ h₂`. An image's weight of the ViT branch is the mean of `g` over the
    /// channels.
    Gmu { project: Projections, gate: Linear },
    /// `bilinear`: `z = W (tanh(P₁v) ⊙ tanh(P₂m)) + c`, which contains every product of a channel
    /// of `v` with one of `m` through a tensor of rank `dim` (Kim et al., "Hadamard product for
    /// low-rank bilinear pooling", arXiv 1610.04325).
    Bilinear { project: Projections, pool: Linear },
    /// `cross_attention`, between the token sequences.
    CrossAttention(Box<CrossAttention>),
    /// `score`, late fusion: `ŷ = w₁ f₁(v) + w₂ f₂(m)` with `w = softmax(a)` of two learned
    /// scalars, where `f₁` and `f₂` are regressors with the layers of `model.head`, one for each
    /// branch. A linear opinion pool (Stone, "The opinion pool", Annals of Mathematical Statistics
    /// 32, 1961) with learned weights. The fused vector is the prediction itself.
    Score { vit_head: Regressor, mamba_head: Regressor, weights: Parameter },
}

impl Join {
    /// Returns the strategy with new parameters under `path` for branches of these widths; `None`
    /// if it does not join two branches.
    fn new(path: &nn::Path, config: &ModelConfig, widths: [i64; 2]) -> Option<Self> {
        let dim = config.fusion.dim;
        let project = || Projections::new(path, widths, dim);
        // With zero weights, training starts from equal weights of the branches.
        let zero = Init::Constant(0.0);
        let weights = || zero.parameter(path, "weights", &[2]);
        let gate =
            |inputs: i64, outputs: i64| Linear::new(path / "gate", inputs, outputs, true, zero);
        let head = |name: &str, width: i64| Regressor::new(&(path / name), width, &config.head, 1);
        Some(match config.fusion.strategy {
            FusionStrategy::Concat => Self::Concat { project: project() },
            FusionStrategy::Sum => Self::Sum { project: project() },
            FusionStrategy::Weighted => Self::Weighted { project: project(), weights: weights() },
            FusionStrategy::Gated => Self::Gated { project: project(), gate: gate(2 * dim, 2) },
            FusionStrategy::Gmu => {
                Self::Gmu { project: project(), gate: gate(widths[0] + widths[1], dim) }
            }
            FusionStrategy::Bilinear => Self::Bilinear {
                project: project(),
                pool: Linear::new(path / "pool", dim, dim, true, Init::pytorch_default(dim)),
            },
            FusionStrategy::CrossAttention => {
                Self::CrossAttention(Box::new(CrossAttention::new(path, project(), dim)))
            }
            FusionStrategy::Score => Self::Score {
                vit_head: head("vit_head", widths[0]),
                mamba_head: head("mamba_head", widths[1]),
                weights: weights(),
            },
            FusionStrategy::VitOnly | FusionStrategy::MambaOnly => return None,
        })
    }

    /// Joins the branches; `present` has dropped those of some images.
    fn forward(
        &self,
        [vit, mamba]: [&BranchTokens; 2],
        present: Option<&Present>,
        ctx: ForwardContext,
    ) -> Result<Fused> {
        let softmax = |scores: &Tensor| match present {
            Some(present) => present.mask_scores(scores).softmax(-1, Kind::Float),
            None => scores.softmax(-1, Kind::Float),
        };
        let features = [vit.features(), mamba.features()];
        Ok(match self {
            Self::Concat { project } => {
                Fused::without_weights(Tensor::cat(&project.forward(features), -1))
            }
            Self::Sum { project } => {
                let [vit, mamba] = project.forward(features);
                Fused::without_weights(vit + mamba)
            }
            Self::Weighted { project, weights } => {
                let projected = project.forward(features);
                Fused::weighted_sum(&projected, &softmax(weights))
            }
            Self::Gated { project, gate } => {
                let projected = project.forward(features);
                let scores = gate.forward(&Tensor::cat(&projected, -1)); // (b, 2)
                Fused::weighted_sum(&projected, &softmax(&scores))
            }
            Self::Gmu { project, gate } => {
                let [vit_hidden, mamba_hidden] = project.forward(features).map(|x| x.tanh());
                let gate = gate.forward(&Tensor::cat(&features, -1)).sigmoid(); // (b, dim)
                let gate = present.map_or_else(|| gate.shallow_clone(), |of| of.mask_gate(&gate));
                let vit_weight = gate.mean_dim([-1i64].as_slice(), true, Kind::Float); // (b, 1)
                Fused {
                    vector: &mamba_hidden + &gate * (vit_hidden - &mamba_hidden),
                    weights: Some(Tensor::cat(&[&vit_weight, &(1.0 - &vit_weight)], -1)),
                }
            }
            Self::Bilinear { project, pool } => {
                let [vit, mamba] = project.forward(features).map(|x| x.tanh());
                Fused::without_weights(pool.forward(&(vit * mamba)))
            }
            Self::CrossAttention(attention) => attention.forward(vit, mamba)?,
            Self::Score { vit_head, mamba_head, weights } => {
                let scores = [
                    vit_head.forward(features[0], ctx.of_part(0)),
                    mamba_head.forward(features[1], ctx.of_part(1)),
                ];
                Fused::weighted_sum(&scores, &softmax(weights))
            }
        })
    }

    fn onnx(&self, graph: &mut Graph, vit: &BranchValues, mamba: &BranchValues) -> FusedValue {
        let learned = |graph: &mut Graph, weights: &Parameter| {
            let softmax = || weights.softmax(-1, Kind::Float);
            let weights = graph.derived(weights, ".softmax", softmax);
            graph.expand_to_batch(&weights, &vit.features, &[2])
        };
        let features = [&vit.features, &mamba.features];
        let (vector, weights) = match self {
            Self::Concat { project } => {
                let [vit, mamba] = project.onnx(graph, features);
                (graph.concat(&[&vit, &mamba], -1), None)
            }
            Self::Sum { project } => {
                let [vit, mamba] = project.onnx(graph, features);
                (graph.add(&vit, &mamba), None)
            }
            Self::Weighted { project, weights } => {
                let projected = project.onnx(graph, features);
                let weights = learned(graph, weights);
                return FusedValue::weighted_sum(graph, &projected, weights);
            }
            Self::Gated { project, gate } => {
                let projected = project.onnx(graph, features);
                let both = graph.concat(&[&projected[0], &projected[1]], -1);
                let scores = gate.onnx(graph, &both);
                let weights = graph.softmax(&scores);
                return FusedValue::weighted_sum(graph, &projected, weights);
            }
            Self::Gmu { project, gate } => {
                let projected = project.onnx(graph, features);
                let [vit_hidden, mamba_hidden] = projected.map(|x| graph.op("Tanh", &[&x]));
                let features = graph.concat(&features, -1);
                let gate = gate.onnx(graph, &features);
                let gate = graph.op("Sigmoid", &[&gate]);
                let vit_weight = graph.mean(&gate, -1, true);
                let difference = graph.op("Sub", &[&vit_hidden, &mamba_hidden]);
                let gated = graph.mul(&gate, &difference);
                let weights = FusedValue::weights_of(graph, &vit_weight);
                (graph.add(&mamba_hidden, &gated), Some(weights))
            }
            Self::Bilinear { project, pool } => {
                let projected = project.onnx(graph, features);
                let [vit, mamba] = projected.map(|x| graph.op("Tanh", &[&x]));
                let product = graph.mul(&vit, &mamba);
                (pool.onnx(graph, &product), None)
            }
            Self::CrossAttention(attention) => return attention.onnx(graph, vit, mamba),
            Self::Score { vit_head, mamba_head, weights } => {
                let scores =
                    [vit_head.onnx(graph, features[0]), mamba_head.onnx(graph, features[1])];
                let weights = learned(graph, weights);
                return FusedValue::weighted_sum(graph, &scores, weights);
            }
        };
        FusedValue { vector, weights }
    }
}

/// `P₁` and `P₂`: affine maps of the branches to the same number of channels.
#[derive(Debug)]
struct Projections {
    vit_proj: Linear,
    mamba_proj: Linear,
}

impl Projections {
    fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        let linear = |name: &str, width| {
            Linear::new(path / name, width, dim, true, Init::pytorch_default(width))
        };
        Self {
            vit_proj: linear("vit_proj", widths[0]),
            mamba_proj: linear("mamba_proj", widths[1]),
        }
    }

    /// Projects feature vectors, (b, width) each, or sequences, (b, 1 + patches, width) each.
    fn forward(&self, [vit, mamba]: [&Tensor; 2]) -> [Tensor; 2] {
        [self.vit_proj.forward(vit), self.mamba_proj.forward(mamba)]
    }

    fn onnx(&self, graph: &mut Graph, [vit, mamba]: [&Value; 2]) -> [Value; 2] {
        [self.vit_proj.onnx(graph, vit), self.mamba_proj.onnx(graph, mamba)]
    }
}

/// The fusion of the model's branches.
#[derive(Debug)]
pub struct Fusion {
    /// `None` for a single branch.
    join: Option<Join>,
    widths: [i64; 2],
    width: i64,
    branch_dropout: f64,
}

impl Fusion {
    /// Returns a fusion with new parameters under `path` for branches of these widths, `None` for
    /// an absent branch: of the tokens for `cross_attention`, else of the feature vectors. A single
    /// branch needs no parameters.
    pub fn new(
        path: &nn::Path,
        config: &ModelConfig,
        vit_width: Option<i64>,
        mamba_width: Option<i64>,
    ) -> Result<Self> {
        let (strategy, dim) = (config.fusion.strategy, config.fusion.dim);
        let widths = [vit_width, mamba_width].map(|width| width.unwrap_or(0));
        let width = match (strategy, vit_width, mamba_width) {
            (FusionStrategy::VitOnly, Some(width), _)
            | (FusionStrategy::MambaOnly, _, Some(width)) => width,
            (FusionStrategy::Concat, Some(_), Some(_)) => 2 * dim,
            (FusionStrategy::Score, Some(_), Some(_)) => 1,
            (_, Some(_), Some(_)) => dim,
            _ => bail!("model.fusion.strategy {strategy} needs a branch that the model lacks"),
        };
        let branch_dropout = config.fusion.branch_dropout;
        Ok(Self { join: Join::new(path, config, widths), widths, width, branch_dropout })
    }

    /// Returns the number of channels of the fused vector.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Joins the branches that the model has.
    pub fn forward(
        &self,
        vit: Option<&BranchTokens>,
        mamba: Option<&BranchTokens>,
        ctx: ForwardContext,
    ) -> Result<Fused> {
        match (&self.join, vit, mamba) {
            (Some(join), Some(vit), Some(mamba)) => {
                let (b, device) = (vit.features.size()[0], vit.features.device());
                let Some(present) = Present::sample(self.branch_dropout, b, device, ctx) else {
                    return join.forward([vit, mamba], None, ctx);
                };
                let with_tokens = matches!(join, Join::CrossAttention(_));
                let [vit, mamba] = present.apply([vit, mamba], with_tokens);
                join.forward([&vit, &mamba], Some(&present), ctx)
            }
            (None, Some(single), None) | (None, None, Some(single)) => {
                Ok(Fused::without_weights(single.features().shallow_clone()))
            }
            _ => bail!("internal: the fusion got other branches than it was built for"),
        }
    }

    /// Adds the fusion of the branches that the model has to a graph.
    pub(super) fn onnx(
        &self,
        graph: &mut Graph,
        vit: Option<&BranchValues>,
        mamba: Option<&BranchValues>,
    ) -> Result<FusedValue> {
        match (&self.join, vit, mamba) {
            (Some(join), Some(vit), Some(mamba)) => Ok(join.onnx(graph, vit, mamba)),
            (None, Some(single), None) | (None, None, Some(single)) => {
                Ok(FusedValue { vector: single.features.clone(), weights: None })
            }
            _ => bail!("internal: the fusion got other branches than it was built for"),
        }
    }

    pub(super) fn token_multiply_adds(&self, patches: [i64; 2]) -> i64 {
        match self.join {
            Some(Join::CrossAttention(_)) => {
                cross_attention::token_multiply_adds(patches, self.widths, self.width)
            }
            _ => 0,
        }
    }
}
