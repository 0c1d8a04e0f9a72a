//! A Vision Transformer seen from inside.

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::VisionTransformer;
use crate::models::forward_context::ForwardContext;

impl VisionTransformer {
    /// As [`forward`](Self::forward) in evaluation, with `tap` between each block's first norm and
    /// its attention: it gets the block's index and the tokens (b, 1 + patches, embed_dim), and
    /// what it returns goes on in their place.
    pub fn forward_tapped(
        &self,
        x: &Tensor,
        tap: &mut dyn FnMut(usize, Tensor) -> Tensor,
    ) -> Tensor {
        let mut x = self.embed(x);
        for (layer, block) in self.blocks.iter().enumerate() {
            let normed = tap(layer, block.norm1.forward(&x));
            x = block.forward_normed(&x, &normed, ForwardContext::eval());
        }
        self.norm.forward(&x)
    }

    /// The attention of a block that receives `normed`: (b, heads, 1 + patches, 1 + patches), rows
    /// sum to 1.
    ///
    /// # Errors
    /// There is no such block.
    pub fn attention(&self, layer: usize, normed: &Tensor) -> Result<Tensor> {
        let block = self.blocks.get(layer).with_context(|| {
            format!("there is no block {layer}: the ViT has {}", self.blocks.len())
        })?;
        let qkv = block.attn.qkv(normed);
        let scale = (qkv[0].size()[3] as f64).powf(-0.5);
        let logits = qkv[0].matmul(&qkv[1].transpose(-2, -1)) * scale;
        Ok(logits.softmax(-1, Kind::Float))
    }
}
