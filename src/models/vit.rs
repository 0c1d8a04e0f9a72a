//! Vision Transformer (arXiv 2010.11929), as timm's `vit_*` and `deit_*` with the variants DeiT
//! distilled (2012.12877), DINOv2 (2304.07193), DINOv2 with registers (2309.16588) and CLIP
//! (2103.00020): parameters have timm's names and shapes.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, nn};

use super::forward_context::ForwardContext;
use super::layers::{DropPath, Init, LayerNorm, Linear, Masked, Parameter};
use super::onnx::{Graph, Value};
use super::patch_embed::PatchEmbed;
use super::recompute::Recompute;
use super::residual::Residual;
use super::tokens::TokenLayout;
use crate::config::BackboneShape;
use crate::ops::{self, Path};

const MLP_RATIO: i64 = 4;
const LAYER_SCALE: f64 = 1e-5;
const WEIGHT: Init = Init::TruncNormal { std: 0.02 };

#[derive(Debug, Clone)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    num_heads: i64,
}

impl Attention {
    fn new(path: nn::Path, dim: i64, num_heads: i64) -> Self {
        Self {
            qkv: Linear::new(&path / "qkv", dim, 3 * dim, true, WEIGHT),
            proj: Linear::new(&path / "proj", dim, dim, true, WEIGHT),
            num_heads,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let qkv = self.qkv.forward(x);
        self.proj.forward(&ops::attention(&qkv, self.num_heads, Path::Auto))
    }

    fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let dim = self.proj.weight().size()[0];
        let qkv = self.qkv.onnx(graph, x);
        let qkv = graph.split(&qkv, &[dim; 3]);
        let heads = [self.num_heads, dim / self.num_heads];
        let [q, v] = [&qkv[0], &qkv[2]].map(|x| graph.by_head(x, heads, [0, 2, 1, 3]));
        let k = graph.by_head(&qkv[1], heads, [0, 2, 3, 1]);
        let (out, _) = graph.attention([&q, &k, &v], heads[1]);
        let out = graph.transpose(&out, &[0, 2, 1, 3]);
        let out = graph.reshape(&out, &[0, 0, dim]);
        self.proj.onnx(graph, &out)
    }
}

#[derive(Debug, Clone)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    quick_gelu: bool,
}

impl Mlp {
    fn new(path: nn::Path, dim: i64, quick_gelu: bool) -> Self {
        Self {
            fc1: Linear::new(&path / "fc1", dim, MLP_RATIO * dim, true, WEIGHT),
            fc2: Linear::new(&path / "fc2", MLP_RATIO * dim, dim, true, WEIGHT),
            quick_gelu,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        ops::mlp(x, self.fc1.parameters(), self.fc2.parameters(), self.quick_gelu)
    }

    fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let hidden = self.fc1.onnx(graph, x);
        let hidden = if self.quick_gelu {
            let gate = graph.scale(&hidden, 1.702);
            let gate = graph.op("Sigmoid", &[&gate]);
            graph.mul(&hidden, &gate)
        } else {
            graph.gelu(&hidden)
        };
        self.fc2.onnx(graph, &hidden)
    }
}

/// LayerScale (CaiT, arXiv 2103.17239): a learned factor per channel on what a layer adds to the
/// tokens.
#[derive(Debug, Clone)]
struct LayerScale(Option<Parameter>);

impl LayerScale {
    fn new(path: nn::Path, shape: &BackboneShape) -> Self {
        let init = Init::Constant(LAYER_SCALE);
        let gamma = || init.parameter(&path, "gamma", &[shape.embed_dim]);
        Self(shape.variant.layer_scale.then(gamma))
    }

    fn forward(&self, x: Tensor) -> Tensor {
        match &self.0 {
            Some(gamma) => x * &**gamma,
            None => x,
        }
    }

    fn onnx(&self, graph: &mut Graph, x: Value) -> Value {
        match &self.0 {
            Some(gamma) => {
                let gamma = graph.parameter(gamma);
                graph.mul(&x, &gamma)
            }
            None => x,
        }
    }
}

#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    ls1: LayerScale,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: LayerScale,
    drop_path: DropPath,
}

impl Block {
    fn new(path: nn::Path, shape: &BackboneShape, drop_path: f64) -> Self {
        let (dim, eps) = (shape.embed_dim, shape.variant.norm_eps);
        Self {
            norm1: LayerNorm::new(&path / "norm1", dim, eps),
            attn: Attention::new(&path / "attn", dim, shape.num_heads),
            ls1: LayerScale::new(&path / "ls1", shape),
            norm2: LayerNorm::new(&path / "norm2", dim, eps),
            mlp: Mlp::new(&path / "mlp", dim, shape.variant.quick_gelu),
            ls2: LayerScale::new(&path / "ls2", shape),
            drop_path: DropPath(drop_path),
        }
    }

    fn forward(&self, mut x: Residual, ctx: ForwardContext) -> Residual {
        let normed = x.norm(&self.norm1.operator());
        self.forward_normed(x, &normed, ctx)
    }

    /// As [`forward`](Self::forward), with the attention's input given separately.
    fn forward_normed(&self, x: Residual, normed: &Tensor, ctx: ForwardContext) -> Residual {
        let attended = self.ls1.forward(self.attn.forward(normed));
        let mut x = x.add(attended, self.drop_path, ctx.of_part(0));
        let mapped = self.mlp.forward(&x.norm(&self.norm2.operator()));
        x.add(self.ls2.forward(mapped), self.drop_path, ctx.of_part(1))
    }

    fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let normed = self.norm1.onnx(graph, x);
        let attended = self.attn.onnx(graph, &normed);
        let attended = self.ls1.onnx(graph, attended);
        let x = graph.add(x, &attended);
        let normed = self.norm2.onnx(graph, &x);
        let mapped = self.mlp.onnx(graph, &normed);
        let mapped = self.ls2.onnx(graph, mapped);
        graph.add(&x, &mapped)
    }
}

/// A Vision Transformer without a classifier.
#[derive(Debug)]
pub struct VisionTransformer {
    layout: TokenLayout,
    patch_embed: PatchEmbed,
    cls_token: Parameter,
    dist_token: Option<Parameter>,
    reg_token: Option<Parameter>,
    pos_embed: Parameter,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    recompute: Recompute,
}

impl VisionTransformer {
    /// Returns a model with new parameters under `path`, initialized as timm does.
    pub fn new(path: &nn::Path, shape: &BackboneShape) -> Self {
        let (dim, variant) = (shape.embed_dim, shape.variant);
        let drop_path = drop_path_by_block(shape.drop_path, shape.depth);
        let blocks = path / "blocks";
        let token =
            |init: Init, name: &str, count: i64| init.parameter(path, name, &[1, count, dim]);
        let (near_zero, registers) = (Init::TruncNormal { std: 1e-6 }, variant.register_tokens);
        let norm = |name: &str| LayerNorm::new(path / name, dim, variant.norm_eps);
        Self {
            layout: TokenLayout::new(shape),
            patch_embed: PatchEmbed::new(path / "patch_embed", shape, Init::pytorch_default),
            cls_token: token(near_zero, "cls_token", 1),
            dist_token: (variant.class_tokens > 1).then(|| token(WEIGHT, "dist_token", 1)),
            reg_token: (registers > 0).then(|| token(near_zero, "reg_token", registers)),
            pos_embed: token(WEIGHT, "pos_embed", TokenLayout::of_positions(shape).count()),
            norm_pre: variant.pre_norm.then(|| norm("norm_pre")),
            blocks: drop_path
                .iter()
                .enumerate()
                .map(|(i, &drop_path)| Block::new(&blocks / i, shape, drop_path))
                .collect(),
            norm: norm("norm"),
            recompute: Recompute::default(),
        }
    }

    /// Turns on activation checkpointing. `named` holds the model's parameters by name.
    pub fn recompute_blocks(&mut self, named: &[(String, Tensor)]) {
        self.recompute = Recompute::blocks(named, "blocks.", self.blocks.len());
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
        for (i, block) in self.blocks.iter().enumerate() {
            let forward = |block: &Block, x, ctx| Ok(block.forward(x, ctx));
            x = self.recompute.run(i, block, x, ctx.of_part(i), forward)?;
        }
        Ok(x.norm(&self.norm.operator()))
    }

    /// As [`forward`](Self::forward) in evaluation, with `tap` between each block's first norm and
    /// its attention: it gets the block's index and the tokens (b, tokens, embed_dim), and returns
    /// the tokens to use instead.
    pub fn forward_tapped(
        &self,
        x: &Tensor,
        tap: &mut dyn FnMut(usize, Tensor) -> Tensor,
    ) -> Result<Tensor> {
        let mut x = Residual::new(self.embed(x, None)?);
        for (layer, block) in self.blocks.iter().enumerate() {
            let normed = tap(layer, x.norm(&block.norm1.operator()));
            x = block.forward_normed(x, &normed, ForwardContext::eval());
        }
        Ok(x.norm(&self.norm.operator()))
    }

    /// Adds the model in evaluation to a graph: normalized images (b, 3, s, s) to tokens (b,
    /// tokens, embed_dim).
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let patches = self.patch_embed.onnx(graph, x);
        let special = graph.derived(&self.cls_token, ".special", || self.special_tokens());
        let mut x = self.layout.embed_onnx(graph, &special, &patches, &self.pos_embed);
        if let Some(norm) = &self.norm_pre {
            x = norm.onnx(graph, &x);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            x = graph.scoped(&format!("blocks.{i}"), |graph| block.onnx(graph, &x));
        }
        self.norm.onnx(graph, &x)
    }

    /// Returns the attention of block `layer` for the input `normed` (b, l, embed_dim): (b, heads,
    /// l, l), rows sum to 1. Returns an error if there is no such block.
    pub fn attention(&self, layer: usize, normed: &Tensor) -> Result<Tensor> {
        let block = self.blocks.get(layer).with_context(|| {
            format!("there is no block {layer}: the ViT has {}", self.blocks.len())
        })?;
        let [q, k, _] =
            ops::queries_keys_values(&block.attn.qkv.forward(normed), block.attn.num_heads);
        let scale = (q.size()[3] as f64).powf(-0.5);
        let logits = q.matmul(&k.transpose(-2, -1)) * scale;
        Ok(logits.softmax(-1, Kind::Float))
    }

    /// Returns the class tokens and registers: (1, special, embed_dim).
    fn special_tokens(&self) -> Tensor {
        let special = [Some(&self.cls_token), self.dist_token.as_ref(), self.reg_token.as_ref()];
        let special: Vec<&Tensor> = special.into_iter().flatten().map(|token| &**token).collect();
        match special[..] {
            [only] => only.shallow_clone(),
            _ => Tensor::cat(&special, 1),
        }
    }

    /// Returns the first block's input: the class tokens and registers, then the embedded patches,
    /// at their positions.
    fn embed(&self, x: &Tensor, masked: Option<&Masked>) -> Result<Tensor> {
        let patches = self.patch_embed.forward(x, masked); // (b, patches, embed_dim)
        let x = self.layout.embed(&self.special_tokens(), &patches, &self.pos_embed)?;
        Ok(match &self.norm_pre {
            Some(norm) => norm.forward(&x),
            None => x,
        })
    }
}

/// Returns drop-path probabilities that grow linearly from 0 in the first block to `last` in the
/// last one.
pub(super) fn drop_path_by_block(last: f64, depth: i64) -> Vec<f64> {
    let steps = (depth - 1).max(1) as f64;
    (0..depth).map(|i| last * i as f64 / steps).collect()
}
