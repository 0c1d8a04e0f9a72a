//! Vision Transformer (arXiv 2010.11929), as timm's `vit_*` and `deit_*`: parameters have timm's
//! names and shapes.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, nn};

use super::forward_context::ForwardContext;
use super::layers::{DropPath, Init, LayerNorm, Linear, Masked};
use super::patch_embed::PatchEmbed;
use super::recompute::Recompute;
use crate::config::BackboneShape;

const NORM_EPS: f64 = 1e-6;
const MLP_RATIO: i64 = 4;
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

    /// Queries, keys and values, each (b, heads, l, d / heads), of x (b, l, d).
    fn qkv(&self, x: &Tensor) -> Vec<Tensor> {
        let qkv = self.qkv.forward(x).unflatten(-1, [3, self.num_heads, -1]);
        qkv.permute([2, 0, 3, 1, 4]).unbind(0)
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let qkv = self.qkv(x);
        let out = Tensor::scaled_dot_product_attention(
            &qkv[0],
            &qkv[1],
            &qkv[2],
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        self.proj.forward(&out.transpose(1, 2).flatten(2, 3))
    }
}

#[derive(Debug, Clone)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(path: nn::Path, dim: i64) -> Self {
        Self {
            fc1: Linear::new(&path / "fc1", dim, MLP_RATIO * dim, true, WEIGHT),
            fc2: Linear::new(&path / "fc2", MLP_RATIO * dim, dim, true, WEIGHT),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.fc2.forward(&self.fc1.forward(x).gelu("none"))
    }
}

#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: DropPath,
}

impl Block {
    fn new(path: nn::Path, shape: &BackboneShape, drop_path: f64) -> Self {
        let dim = shape.embed_dim;
        Self {
            norm1: LayerNorm::new(&path / "norm1", dim, NORM_EPS),
            attn: Attention::new(&path / "attn", dim, shape.num_heads),
            norm2: LayerNorm::new(&path / "norm2", dim, NORM_EPS),
            mlp: Mlp::new(&path / "mlp", dim),
            drop_path: DropPath(drop_path),
        }
    }

    fn forward(&self, x: &Tensor, ctx: ForwardContext) -> Tensor {
        self.forward_normed(x, &self.norm1.forward(x), ctx)
    }

    /// As [`forward`](Self::forward), with the attention's input given separately.
    fn forward_normed(&self, x: &Tensor, normed: &Tensor, ctx: ForwardContext) -> Tensor {
        let x = x + self.drop_path.forward(self.attn.forward(normed), ctx);
        &x + self.drop_path.forward(self.mlp.forward(&self.norm2.forward(&x)), ctx)
    }
}

/// A Vision Transformer without a classifier.
#[derive(Debug)]
pub struct VisionTransformer {
    patch_embed: PatchEmbed,
    cls_token: Tensor,
    pos_embed: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    recompute: Recompute,
}

impl VisionTransformer {
    /// Returns a model with new parameters under `path`, initialized as timm does.
    pub fn new(path: &nn::Path, shape: &BackboneShape) -> Self {
        let dim = shape.embed_dim;
        let drop_path = drop_path_by_block(shape.drop_path, shape.depth);
        let blocks = path / "blocks";
        Self {
            patch_embed: PatchEmbed::new(path / "patch_embed", shape, Init::pytorch_default),
            cls_token: Init::TruncNormal { std: 1e-6 }.parameter(path, "cls_token", &[1, 1, dim]),
            pos_embed: WEIGHT.parameter(path, "pos_embed", &[1, 1 + shape.patches(), dim]),
            blocks: drop_path
                .iter()
                .enumerate()
                .map(|(i, &drop_path)| Block::new(&blocks / i, shape, drop_path))
                .collect(),
            norm: LayerNorm::new(path / "norm", dim, NORM_EPS),
            recompute: Recompute::default(),
        }
    }

    /// Turns on activation checkpointing. `named` holds the model's parameters by name.
    pub fn recompute_blocks(&mut self, named: &[(String, Tensor)]) {
        self.recompute = Recompute::blocks(named, "blocks.", self.blocks.len());
    }

    /// Normalized images (b, 3, s, s) to the tokens (b, 1 + patches, embed_dim) after the last
    /// norm; the class token is the first. With `masked`, some of the patches are masked.
    pub fn forward(
        &self,
        x: &Tensor,
        masked: Option<&Masked>,
        ctx: ForwardContext,
    ) -> Result<Tensor> {
        let mut x = self.embed(x, masked);
        for (i, block) in self.blocks.iter().enumerate() {
            let forward = |block: &Block, x: &Tensor, ctx| Ok(block.forward(x, ctx));
            x = self.recompute.run(i, block, &x, ctx, forward)?;
        }
        Ok(self.norm.forward(&x))
    }

    /// As [`forward`](Self::forward) in evaluation, with `tap` between each block's first norm and
    /// its attention: it gets the block's index and the tokens (b, 1 + patches, embed_dim), and
    /// returns the tokens to use instead.
    pub fn forward_tapped(
        &self,
        x: &Tensor,
        tap: &mut dyn FnMut(usize, Tensor) -> Tensor,
    ) -> Tensor {
        let mut x = self.embed(x, None);
        for (layer, block) in self.blocks.iter().enumerate() {
            let normed = tap(layer, block.norm1.forward(&x));
            x = block.forward_normed(&x, &normed, ForwardContext::eval());
        }
        self.norm.forward(&x)
    }

    /// Returns the attention of block `layer` for the input `normed`: (b, heads, 1 + patches, 1 +
    /// patches), rows sum to 1. Returns an error if there is no such block.
    pub fn attention(&self, layer: usize, normed: &Tensor) -> Result<Tensor> {
        let block = self.blocks.get(layer).with_context(|| {
            format!("there is no block {layer}: the ViT has {}", self.blocks.len())
        })?;
        let qkv = block.attn.qkv(normed);
        let scale = (qkv[0].size()[3] as f64).powf(-0.5);
        let logits = qkv[0].matmul(&qkv[1].transpose(-2, -1)) * scale;
        Ok(logits.softmax(-1, Kind::Float))
    }

    /// Returns the first block's input: the class token, then the embedded patches, at their
    /// positions.
    fn embed(&self, x: &Tensor, masked: Option<&Masked>) -> Tensor {
        let patches = self.patch_embed.forward(x, masked); // (b, patches, embed_dim)
        let b = patches.size()[0];
        let cls_token = self.cls_token.expand([b, -1, -1], false);
        Tensor::cat(&[cls_token, patches], 1) + &self.pos_embed
    }
}

/// Returns drop-path probabilities that grow linearly from 0 in the first block to `last` in the
/// last one.
pub(super) fn drop_path_by_block(last: f64, depth: i64) -> Vec<f64> {
    let steps = (depth - 1).max(1) as f64;
    (0..depth).map(|i| last * i as f64 / steps).collect()
}
