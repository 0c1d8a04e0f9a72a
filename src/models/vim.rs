//! Vision Mamba (arXiv 2401.09417), bidirectional v2 with the class token in the middle, and
//! Mamba-Reg (2405.14858), with several of them: parameters have the names and shapes of the
//! published checkpoints.
//!
//! Tokens stay (b, l, channels) in memory throughout: the convolution and the scan read that layout
//! as (b, channels, l) views, and the backward direction scans from the last token to the first, so
//! nothing is transposed or flipped.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, nn};

use super::forward_context::ForwardContext;
use super::layers::{DropPath, Init, Linear, Masked, Parameter, RmsNorm};
use super::patch_embed::PatchEmbed;
use super::recompute::Recompute;
use super::residual::Residual;
use super::tokens::TokenLayout;
use super::vit::drop_path_by_block;
use crate::config::BackboneShape;
use crate::ops::{self, MambaParameters, Path, ScanInputs};

const NORM_EPS: f64 = 1e-5;
const EXPAND: i64 = 2;
const D_CONV: i64 = 4;

/// One direction of the mixer; the backward one's parameters end in `_b`.
#[derive(Debug, Clone)]
pub(crate) struct Direction {
    conv1d_weight: Parameter,
    conv1d_bias: Parameter,
    pub x_proj: Linear,
    dt_proj_weight: Parameter,
    dt_proj_bias: Parameter,
    a_log: Parameter,
    d: Parameter,
    reverse: bool,
}

impl Direction {
    fn new(path: &nn::Path, inner: i64, dt_rank: i64, d_state: i64, reverse: bool) -> Self {
        let suffix = if reverse { "_b" } else { "" };
        let named = |name: &str| path / format!("{name}{suffix}");
        let (conv1d, dt_proj) = (named("conv1d"), named("dt_proj"));
        let init = Init::pytorch_default;
        let a_log_name = if reverse { "A_b_log" } else { "A_log" };
        let options = (Kind::Float, path.device());
        let a = Tensor::arange_start(1, d_state + 1, options).log();
        Self {
            conv1d_weight: init(D_CONV).parameter(&conv1d, "weight", &[inner, 1, D_CONV]),
            conv1d_bias: init(D_CONV).parameter(&conv1d, "bias", &[inner]),
            x_proj: Linear::new(named("x_proj"), inner, dt_rank + 2 * d_state, false, init(inner)),
            dt_proj_weight: init(dt_rank).parameter(&dt_proj, "weight", &[inner, dt_rank]),
            dt_proj_bias: dt_proj.var_copy("bias", &initial_dt_bias(inner, options)).into(),
            a_log: path.var_copy(a_log_name, &a.repeat([inner, 1])).into(),
            d: Init::Constant(1.0).parameter(path, &format!("D{suffix}"), &[inner]),
            reverse,
        }
    }

    fn parameters(&self) -> MambaParameters<'_> {
        MambaParameters {
            conv1d_weight: &self.conv1d_weight,
            conv1d_bias: &self.conv1d_bias,
            x_proj: self.x_proj.weight(),
            dt_proj_weight: &self.dt_proj_weight,
            dt_proj_bias: &self.dt_proj_bias,
            a_log: &self.a_log,
            d: &self.d,
        }
    }

    /// Causal convolution and SiLU of x (b, l, inner).
    pub(crate) fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        let out = ops::causal_conv1d_silu(
            &x.transpose(1, 2),
            &self.conv1d_weight,
            Some(&*self.conv1d_bias),
            self.reverse,
            Path::Auto,
        )?;
        Ok(out.transpose(1, 2))
    }

    /// u (b, l, inner) to the low-rank step sizes (b, l, dt_rank), B and C (b, l, d_state).
    pub(crate) fn project(&self, u: &Tensor) -> Vec<Tensor> {
        let dt_rank = self.dt_proj_weight.size()[1];
        let d_state = self.a_log.size()[1];
        self.x_proj.forward(u).split_with_sizes([dt_rank, d_state, d_state], -1)
    }

    /// Low-rank step sizes (b, l, dt_rank) to step sizes (b, l, inner) before bias and softplus.
    pub(crate) fn step_sizes(&self, low_rank: &Tensor) -> Tensor {
        ops::linear(low_rank, &self.dt_proj_weight, None)
    }

    /// Selective scan of u, delta and z (b, l, inner) with B and C (b, l, d_state): the gated
    /// output (b, l, inner).
    pub(crate) fn scan(
        &self,
        u: &Tensor,
        delta: &Tensor,
        b: &Tensor,
        c: &Tensor,
        z: &Tensor,
    ) -> Result<Tensor> {
        let y = ops::selective_scan(
            &ScanInputs {
                u: &u.transpose(1, 2),
                delta: &delta.transpose(1, 2),
                a: &-self.a_log.exp(),
                b: &b.transpose(1, 2),
                c: &c.transpose(1, 2),
                d: Some(&*self.d),
                z: Some(&z.transpose(1, 2)),
                delta_bias: Some(&*self.dt_proj_bias),
                delta_softplus: true,
                reverse: self.reverse,
            },
            Path::Auto,
        )?;
        Ok(y.transpose(1, 2))
    }

    /// Returns the operands of the scan of x (b, l, inner), the first half of `in_proj`'s output.
    fn operands(&self, x: &Tensor) -> Result<ScanOperands> {
        let u = self.convolve(x)?;
        let projected = self.project(&u);
        let dt = (self.step_sizes(&projected[0]) + &*self.dt_proj_bias).softplus();
        Ok(ScanOperands {
            u,
            dt,
            a: -self.a_log.exp(),
            b: projected[1].shallow_clone(),
            c: projected[2].shallow_clone(),
            reverse: self.reverse,
        })
    }
}

/// The operands of the scan of one direction of a mixer.
#[derive(Debug)]
pub struct ScanOperands {
    /// (b, l, inner): the sequence that is scanned.
    pub u: Tensor,
    /// (b, l, inner): the step sizes, after bias and softplus.
    pub dt: Tensor,
    /// (inner, d_state): negative.
    pub a: Tensor,
    /// (b, l, d_state).
    pub b: Tensor,
    /// (b, l, d_state).
    pub c: Tensor,
    /// Whether the scan runs from the last token to the first.
    pub reverse: bool,
}

/// Returns the inverse softplus of step sizes sampled log-uniformly from 0.001 to 0.1 (Mamba, arXiv
/// 2312.00752, section 3.6).
fn initial_dt_bias(inner: i64, options: (Kind, tch::Device)) -> Tensor {
    let (low, high) = (0.001f64.ln(), 0.1f64.ln());
    let dt = (Tensor::rand([inner], options) * (high - low) + low).exp().clamp_min(1e-4);
    // softplus⁻¹(dt) = dt + log(1 - exp(-dt))
    &dt + (-(-&dt).expm1()).log()
}

#[derive(Debug, Clone)]
pub(crate) struct Mixer {
    pub in_proj: Linear,
    pub forward: Direction,
    pub backward: Direction,
    pub out_proj: Linear,
}

impl Mixer {
    pub(crate) fn new(path: nn::Path, shape: &BackboneShape) -> Self {
        let dim = shape.embed_dim;
        let inner = EXPAND * dim;
        let dt_rank = dt_rank(dim);
        let linear =
            |name, inputs, outputs, init| Linear::new(&path / name, inputs, outputs, false, init);
        let out_bound = (inner as f64).powf(-0.5) / (shape.depth as f64).sqrt();
        Self {
            in_proj: linear("in_proj", dim, 2 * inner, Init::pytorch_default(dim)),
            forward: Direction::new(&path, inner, dt_rank, shape.d_state, false),
            backward: Direction::new(&path, inner, dt_rank, shape.d_state, true),
            out_proj: linear("out_proj", inner, dim, Init::Uniform { bound: out_bound }),
        }
    }

    /// Mixes the tokens `hidden` (b, l, embed_dim).
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let xz = self.in_proj.forward(hidden); // (b, l, 2 inner)
        let (forward, backward) = (self.forward.parameters(), self.backward.parameters());
        let mixed = ops::bimamba_inner(&xz, &forward, &backward, Path::Auto)?;
        Ok(self.out_proj.forward(&mixed))
    }

    pub(crate) fn merge(forward: &Tensor, backward: &Tensor) -> Tensor {
        (forward + backward) * 0.5
    }
}

/// Returns the rank of the step sizes' projection: a sixteenth of the width, rounded up.
pub(super) fn dt_rank(embed_dim: i64) -> i64 {
    (embed_dim + 15) / 16
}

#[derive(Debug, Clone)]
struct Block {
    norm: RmsNorm,
    mixer: Mixer,
    drop_path: DropPath,
}

impl Block {
    fn forward(&self, mut x: Residual, ctx: ForwardContext) -> Result<Residual> {
        let hidden = self.mixer.forward(&x.norm(&self.norm.operator()))?;
        Ok(x.add(hidden, self.drop_path, ctx))
    }
}

/// Narrows the class tokens before they are concatenated.
#[derive(Debug)]
struct Neck {
    neck: Linear,
    norm_neck: RmsNorm,
}

impl Neck {
    fn new(path: &nn::Path, shape: &BackboneShape) -> Self {
        let (dim, variant) = (shape.embed_dim, shape.variant);
        let width = dim / variant.class_reduction;
        let init = Init::TruncNormal { std: 0.02 };
        Self {
            neck: Linear::new(path / "neck", dim, width, false, init),
            norm_neck: RmsNorm::new(path / "norm_neck", variant.class_tokens * width, NORM_EPS),
        }
    }

    /// (b, class tokens, d) to (b, class tokens · d / reduction).
    fn forward(&self, class_tokens: &Tensor) -> Tensor {
        self.norm_neck.forward(&self.neck.forward(class_tokens).flatten(1, 2))
    }
}

/// A Vision Mamba without a classifier.
#[derive(Debug)]
pub struct VisionMamba {
    layout: TokenLayout,
    patch_embed: PatchEmbed,
    cls_token: Parameter,
    pos_embed: Parameter,
    pos_embed_cls: Option<Parameter>,
    layers: Vec<Block>,
    norm_f: RmsNorm,
    neck: Option<Neck>,
    recompute: Recompute,
}

impl VisionMamba {
    /// Returns a model with new parameters under `path`, initialized as the published code does.
    pub fn new(path: &nn::Path, shape: &BackboneShape) -> Self {
        let (dim, variant) = (shape.embed_dim, shape.variant);
        let token = |name: &str, count: i64| {
            Init::TruncNormal { std: 0.02 }.parameter(path, name, &[1, count, dim])
        };
        // LeCun normal.
        let projection = |inputs: i64| Init::TruncNormal { std: (inputs as f64).powf(-0.5) };
        let layers = path / "layers";
        // The last block has the full probability even if it is the only one.
        let mut drop_path = drop_path_by_block(shape.drop_path, shape.depth);
        if let Some(last) = drop_path.last_mut() {
            *last = shape.drop_path;
        }
        Self {
            layout: TokenLayout::new(shape),
            patch_embed: PatchEmbed::new(path / "patch_embed", shape, projection),
            cls_token: token("cls_token", variant.class_tokens),
            pos_embed: token("pos_embed", TokenLayout::of_positions(shape).count()),
            pos_embed_cls: variant
                .patch_positions
                .then(|| token("pos_embed_cls", variant.class_tokens)),
            layers: drop_path
                .into_iter()
                .enumerate()
                .map(|(i, drop_path)| {
                    let path = &layers / i;
                    Block {
                        norm: RmsNorm::new(&path / "norm", dim, NORM_EPS),
                        mixer: Mixer::new(&path / "mixer", shape),
                        drop_path: DropPath(drop_path),
                    }
                })
                .collect(),
            norm_f: RmsNorm::new(path / "norm_f", dim, NORM_EPS),
            neck: (variant.class_reduction > 1).then(|| Neck::new(path, shape)),
            recompute: Recompute::default(),
        }
    }

    /// Turns on activation checkpointing. `named` holds the model's parameters by name.
    pub fn recompute_blocks(&mut self, named: &[(String, Tensor)]) {
        self.recompute = Recompute::blocks(named, "layers.", self.layers.len());
    }

    /// Normalized images (b, 3, s, s) to the tokens (b, tokens, embed_dim) after the last norm, in
    /// the order of the [layout](TokenLayout). With `masked`, some of the patches are masked.
    pub fn forward(
        &self,
        x: &Tensor,
        masked: Option<&Masked>,
        ctx: ForwardContext,
    ) -> Result<Tensor> {
        let mut x = Residual::new(self.embed(x, masked)?);
        for (i, block) in self.layers.iter().enumerate() {
            x = self.recompute.run(i, block, x, ctx.of_part(i), Block::forward)?;
        }
        Ok(x.norm(&self.norm_f.operator()))
    }

    /// As [`forward`](Self::forward) in evaluation, with `tap` between each block's norm and its
    /// mixer: it gets the block's index and the tokens (b, tokens, embed_dim), and returns the
    /// tokens to use instead.
    pub fn forward_tapped(
        &self,
        x: &Tensor,
        tap: &mut dyn FnMut(usize, Tensor) -> Tensor,
    ) -> Result<Tensor> {
        let mut x = Residual::new(self.embed(x, None)?);
        for (layer, block) in self.layers.iter().enumerate() {
            let normed = tap(layer, x.norm(&block.norm.operator()));
            x = x.add(block.mixer.forward(&normed)?, block.drop_path, ForwardContext::eval());
        }
        Ok(x.norm(&self.norm_f.operator()))
    }

    /// Returns the operands of both scans, forward and backward, of block `layer` for the mixer
    /// input `normed`. Returns an error if there is no such block, or an operator's message.
    pub fn scan_operands(&self, layer: usize, normed: &Tensor) -> Result<[ScanOperands; 2]> {
        let block = self.layers.get(layer).with_context(|| {
            format!("there is no layer {layer}: the Vision Mamba has {}", self.layers.len())
        })?;
        let mixer = &block.mixer;
        let xz = mixer.in_proj.forward(normed).chunk(2, -1); // 2 of (b, l, inner)
        Ok([mixer.forward.operands(&xz[0])?, mixer.backward.operands(&xz[0])?])
    }

    /// Makes the feature `cls` (b, width) of the tokens (b, tokens, embed_dim) after the last norm:
    /// the class token, or the concatenation of several. Returns libtorch's error if the shape does
    /// not match.
    pub(super) fn class_features(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.neck {
            Some(neck) => Ok(neck.forward(&self.layout.special_of(tokens)?)),
            None => Ok(self.layout.special_of(tokens)?.f_flatten(1, 2)?),
        }
    }

    /// Returns the first block's input: the class tokens spread among the embedded patches, at
    /// their positions.
    fn embed(&self, x: &Tensor, masked: Option<&Masked>) -> Result<Tensor> {
        let patches = self.patch_embed.forward(x, masked); // (b, patches, embed_dim)
        let class = match &self.pos_embed_cls {
            Some(positions) => &*self.cls_token + &**positions,
            None => self.cls_token.shallow_clone(),
        };
        self.layout.embed(&class, &patches, &self.pos_embed)
    }
}
