//! A Vision Mamba seen from inside.

use anyhow::{Context, Result};
use tch::Tensor;

use super::{Direction, VisionMamba};

/// What one direction of a mixer gives to its scan.
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

impl Direction {
    /// From x (b, l, inner), the first half of what `in_proj` gives.
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

impl VisionMamba {
    /// As [`forward`](Self::forward) in evaluation, with `tap` between each block's norm and its
    /// mixer: it gets the block's index and the tokens (b, 1 + patches, embed_dim), and what it
    /// returns goes on in their place.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_tapped(
        &self,
        x: &Tensor,
        tap: &mut dyn FnMut(usize, Tensor) -> Tensor,
    ) -> Result<Tensor> {
        let mut residual = self.embed(x)?;
        for (layer, block) in self.layers.iter().enumerate() {
            let normed = tap(layer, block.norm.forward(&residual));
            residual = &residual + block.mixer.forward(&normed)?;
        }
        Ok(self.norm_f.forward(&residual))
    }

    /// The operands of both scans, forward and backward, of a block whose mixer receives `normed`.
    ///
    /// # Errors
    /// There is no such block, or an operator's message.
    pub fn scan_operands(&self, layer: usize, normed: &Tensor) -> Result<[ScanOperands; 2]> {
        let block = self.layers.get(layer).with_context(|| {
            format!("there is no layer {layer}: the Vision Mamba has {}", self.layers.len())
        })?;
        let mixer = &block.mixer;
        let xz = mixer.in_proj.forward(normed).chunk(2, -1); // 2 of (b, l, inner)
        Ok([mixer.forward.operands(&xz[0])?, mixer.backward.operands(&xz[0])?])
    }
}
