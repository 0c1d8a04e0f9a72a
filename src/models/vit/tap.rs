//! A Vision Transformer seen from inside.

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::VisionTransformer;

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
            x = block.forward_normed(&x, &normed, false);
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
        let (b, l, d) = normed.size3()?;
        let heads = block.attn.num_heads;
        let qkv = block.attn.qkv.forward(normed).view([b, l, 3, heads, d / heads]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]).unbind(0); // 3 of (b, heads, l, d / heads)
        let scale = ((d / heads) as f64).powf(-0.5);
        let logits = qkv[0].matmul(&qkv[1].transpose(-2, -1)) * scale;
        Ok(logits.softmax(-1, Kind::Float))
    }
}
