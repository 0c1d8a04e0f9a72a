//! The cost of the layers of a backbone, counted from their equations.

use super::patch_embed::stem_widths;
use super::vim::dt_rank;
use crate::config::{BackboneShape, Branch, Stem};

/// Steps of a strip, before which the scan keeps the states for backward (csrc/README.md).
const STRIP: i64 = 32;
/// Steps that the last strip may have.
const MAX_STRIP: i64 = 40;
const FLOAT: i64 = 4;

/// The cost of one layer for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Multiplications with an addition. Element-wise work (norms, activations) is not counted.
    pub multiply_adds: i64,
    /// Bytes that the forward pass keeps for backward, in float32.
    pub activation_bytes: i64,
}

impl Cost {
    fn new(multiply_adds: i64, floats: i64) -> Self {
        Self { multiply_adds, activation_bytes: FLOAT * floats }
    }

    /// Returns the cost of the patch embedding: a matrix product over the flattened patches, which
    /// it keeps; or 3x3 convolutions, each of which keeps its input, its output and the norm's
    /// output, and a matrix product over the last output.
    pub fn patch_embed(shape: &BackboneShape) -> Self {
        if shape.stem == Stem::Patchify {
            let pixels = shape.patches() * 3 * shape.patch_size.pow(2);
            return Self::new(pixels * shape.embed_dim, pixels);
        }
        let (mut side, mut channels) = (shape.image_size, 3);
        let (mut multiply_adds, mut kept) = (0, 3 * side.pow(2));
        for outputs in stem_widths(shape) {
            side /= 2;
            multiply_adds += side.pow(2) * outputs * channels * 9;
            kept += 3 * side.pow(2) * outputs; // the last of them is the next one's input
            channels = outputs;
        }
        let tokens = shape.patches();
        Self::new(multiply_adds + tokens * channels * shape.embed_dim, kept)
    }

    /// Returns the cost of one block, which keeps its input only if backward runs it again
    /// (`recomputed`).
    pub fn block(shape: &BackboneShape, recomputed: bool) -> Self {
        let cost = match shape.branch {
            Branch::Vit => Self::vit_block(shape),
            Branch::Mamba => Self::vim_block(shape),
        };
        if recomputed {
            return Self::new(cost.multiply_adds, shape.tokens() * shape.embed_dim);
        }
        cost
    }

    /// Returns the cost of the norm before or after the blocks, which keeps its input. What a norm
    /// keeps of each token besides, one or two numbers, is not counted.
    pub fn norm(shape: &BackboneShape) -> Self {
        Self::new(0, shape.tokens() * shape.embed_dim)
    }

    /// Returns the cost of a Vision Mamba's neck and of the norm after it, which keep their inputs.
    /// Features without class tokens do not run them.
    pub fn neck(shape: &BackboneShape) -> Self {
        if !shape.features.has_class_tokens() {
            return Self::new(0, 0);
        }
        let (n, d) = (shape.variant.class_tokens, shape.embed_dim);
        let width = d / shape.variant.class_reduction;
        Self::new(n * d * width, n * (d + width))
    }

    /// Counts qkv and projection, queries times keys and weights times values, and the MLP of ratio
    /// 4.
    ///
    /// Kept for each token: the inputs and outputs of both norms (4 d), queries, keys and values (3
    /// d), the attention's output (d), and the MLP's hidden layer before its GELU (4 d). LayerScale
    /// keeps what it scales (2 d). On a GPU, libtorch keeps GELU's result as well (4 d), and
    /// QuickGELU's sigmoid (4 d).
    fn vit_block(shape: &BackboneShape) -> Self {
        let (l, d) = (shape.tokens(), shape.embed_dim);
        let widths = 12 + 2 * i64::from(shape.variant.layer_scale);
        Self::new(l * d * 4 * d + 2 * l * l * d + l * d * 8 * d, l * widths * d)
    }

    /// Counts the projections, and for each direction the convolution (4 taps), the step sizes, and
    /// the scan: per channel, step and state one multiplication for dt times A, two for the state
    /// and one for the output.
    ///
    /// Kept for each token: the norm's input and output (2 d), x and z, the input of the last
    /// projection, and for each direction its low-rank step sizes, B and C; for each strip, the
    /// states before it. Backward computes the rest of the mixer again. The small matrices that the
    /// mixer keeps in the computing type are as many for any number of images, and are not counted.
    fn vim_block(shape: &BackboneShape) -> Self {
        let (l, d, n) = (shape.tokens(), shape.embed_dim, shape.d_state);
        let (inner, rank) = (2 * d, dt_rank(d));
        let projected = rank + 2 * n;
        let direction =
            l * inner * 4 + l * inner * projected + l * rank * inner + 4 * l * inner * n;
        let strips = 1 + ((l - MAX_STRIP).max(0) + STRIP - 1) / STRIP;
        let states = strips * inner * n;
        Self::new(
            l * d * 2 * inner + 2 * direction + l * inner * d,
            l * (2 * d + 3 * inner) + 2 * (l * projected + states),
        )
    }
}
