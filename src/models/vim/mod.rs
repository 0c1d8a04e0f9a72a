//! Vision Mamba (arXiv 2401.09417), bidirectional v2 with the class token in the middle, and
//! Mamba-Reg (2405.14858), with several of them: parameters have the names and shapes of the
//! published checkpoints.
//!
//! Tokens stay (b, l, channels) in memory throughout: the convolution and the scan read that layout
//! as (b, channels, l) views, and the backward direction scans from the last token to the first, so
//! nothing is transposed or flipped.

mod mixer;

use anyhow::{Context, Result};
use tch::{Tensor, nn};

pub(crate) use self::mixer::Mixer;
pub use self::mixer::ScanOperands;
pub(super) use self::mixer::dt_rank;

use super::forward_context::ForwardContext;
use super::layers::{DropPath, Init, Linear, Masked, Parameter, RmsNorm};
use super::onnx::{Graph, Value};
use super::patch_embed::PatchEmbed;
use super::recompute::Recompute;
use super::residual::Residual;
use super::tokens::TokenLayout;
use super::vit::drop_path_by_block;
use crate::config::BackboneShape;

const NORM_EPS: f64 = 1e-5;

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

    fn onnx(&self, graph: &mut Graph, x: &Value, length: i64) -> Value {
        let normed = self.norm.onnx(graph, x);
        let hidden = self.mixer.onnx(graph, &normed, length);
        graph.add(x, &hidden)
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

    fn onnx(&self, graph: &mut Graph, class_tokens: &Value) -> Value {
        let narrowed = self.neck.onnx(graph, class_tokens);
        let flat = graph.reshape(&narrowed, &[0, -1]);
        self.norm_neck.onnx(graph, &flat)
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

    /// Adds the model in evaluation to a graph: normalized images (b, 3, s, s) to tokens (b,
    /// tokens, embed_dim).
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let patches = self.patch_embed.onnx(graph, x);
        let class = graph.derived(&self.cls_token, ".placed", || self.class_tokens());
        let mut x = self.layout.embed_onnx(graph, &class, &patches, &self.pos_embed);
        for (i, block) in self.layers.iter().enumerate() {
            let length = self.layout.count();
            x = graph.scoped(&format!("layers.{i}"), |graph| block.onnx(graph, &x, length));
        }
        self.norm_f.onnx(graph, &x)
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

    /// Adds [`class_features`](Self::class_features) to a graph.
    pub(super) fn class_features_onnx(&self, graph: &mut Graph, tokens: &Value) -> Value {
        let class_tokens = self.layout.special_of_onnx(graph, tokens);
        match &self.neck {
            Some(neck) => neck.onnx(graph, &class_tokens),
            None => graph.reshape(&class_tokens, &[0, -1]),
        }
    }

    /// Returns the class tokens at their positions, where they have some of their own.
    fn class_tokens(&self) -> Tensor {
        match &self.pos_embed_cls {
            Some(positions) => &*self.cls_token + &**positions,
            None => self.cls_token.shallow_clone(),
        }
    }

    /// Returns the first block's input: the class tokens spread among the embedded patches, at
    /// their positions.
    fn embed(&self, x: &Tensor, masked: Option<&Masked>) -> Result<Tensor> {
        let patches = self.patch_embed.forward(x, masked); // (b, patches, embed_dim)
        self.layout.embed(&self.class_tokens(), &patches, &self.pos_embed)
    }
}
