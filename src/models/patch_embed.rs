//! From pixels to tokens: the first layer of both backbones.

use tch::{Tensor, nn};

use super::layers::{Init, LayerNorm};
use crate::config::{BackboneShape, Stem};

const NORM_EPS: f64 = 1e-6;
const LEAST_WIDTH: i64 = 16;

/// Turns an image into a token for each patch.
#[derive(Debug)]
pub struct PatchEmbed {
    weight: Tensor,
    bias: Tensor,
    pixels: Pixels,
}

/// What the last projection to the tokens' width gets to see of a patch.
#[derive(Debug)]
enum Pixels {
    Patches { size: i64, stride: i64 },
    Convolved(ConvStem),
}

impl PatchEmbed {
    /// Patches of the shape's size and stride to its width; `init` for the weight of the
    /// projection, given its number of inputs, and zero for its bias.
    pub fn new(path: nn::Path, shape: &BackboneShape, init: fn(i64) -> Init) -> Self {
        let (dim, p) = (shape.embed_dim, shape.patch_size);
        let (pixels, inputs) = match shape.stem {
            Stem::Patchify => {
                let stride = shape.stride;
                (Pixels::Patches { size: p, stride }, vec![3, p, p])
            }
            Stem::Conv => (Pixels::Convolved(ConvStem::new(&path, shape)), vec![dim]),
        };
        let path = path / "proj";
        let weight = [&[dim], &inputs[..]].concat();
        Self {
            weight: init(inputs.iter().product()).parameter(&path, "weight", &weight),
            bias: Init::Constant(0.0).parameter(&path, "bias", &[dim]),
            pixels,
        }
    }

    /// (b, 3, h, w) to (b, patches, dim), patches row by row.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let seen = match &self.pixels {
            // As one matrix product: on the CPU several times as fast as the convolution, above all
            // backwards.
            &Pixels::Patches { size, stride } => pixels_of_patches(x, size, stride),
            Pixels::Convolved(stem) => stem.forward(x).flatten(2, 3).transpose(1, 2),
        };
        seen.linear(&self.weight.flatten(1, -1), Some(&self.bias))
    }
}

/// The convolutions of a convolutional stem ("Early Convolutions Help Transformers See Better",
/// arXiv 2106.14881): 3x3, each halving the side, until a point stands for a patch. The paper's
/// batch norms are layer norms over the channels of each point here: what a image gives depends on
/// no other one, in training as in evaluation, and contrast counts within its surroundings.
#[derive(Debug)]
struct ConvStem {
    stages: Vec<Stage>,
}

/// Convolution, norm, ReLU.
#[derive(Debug)]
struct Stage {
    weight: Tensor,
    norm: LayerNorm,
}

/// Outputs of each 3x3 convolution of a convolutional stem, from the image on: the last has the
/// tokens' width, each other one half of the next one's, but no less than 16, which is enough for
/// edges and colors.
pub fn stem_widths(shape: &BackboneShape) -> Vec<i64> {
    let stages = shape.patch_size.ilog2();
    (0..stages)
        .rev()
        .map(|left| (shape.embed_dim >> left).max(LEAST_WIDTH.min(shape.embed_dim)))
        .collect()
}

impl ConvStem {
    fn new(path: &nn::Path, shape: &BackboneShape) -> Self {
        let mut inputs = 3;
        let stages = stem_widths(shape)
            .into_iter()
            .enumerate()
            .map(|(i, outputs)| {
                let std = (2.0 / (9 * inputs) as f64).sqrt(); // He's, for a ReLU (arXiv 1502.01852)
                let size = [outputs, inputs, 3, 3];
                let stage = Stage {
                    weight: Init::TruncNormal { std }.parameter(
                        &(path / "conv" / i),
                        "weight",
                        &size,
                    ),
                    norm: LayerNorm::new(path / "norm" / i, outputs, NORM_EPS),
                };
                inputs = outputs;
                stage
            })
            .collect();
        Self { stages }
    }

    /// (b, 3, h, w) to (b, dim, h / patch_size, w / patch_size).
    fn forward(&self, x: &Tensor) -> Tensor {
        self.stages.iter().fold(x.shallow_clone(), |x, stage| {
            let x = x.conv2d(&stage.weight, None::<&Tensor>, [2, 2], [1, 1], [1, 1], 1);
            let channels_last = x.permute([0, 2, 3, 1]);
            let x = stage.norm.forward(&channels_last).relu();
            x.permute([0, 3, 1, 2])
        })
    }
}

/// (b, 3, h, w) to (b, patches, 3·p·p): the pixels of each patch, patches row by row.
pub fn pixels_of_patches(x: &Tensor, patch_size: i64, stride: i64) -> Tensor {
    let p = patch_size;
    x.unfold(2, p, stride)
        .unfold(3, p, stride) // (b, 3, rows, columns, p, p)
        .permute([0, 2, 3, 1, 4, 5])
        .flatten(3, 5)
        .flatten(1, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackboneConfig;

    #[test]
    fn widths_double_up_to_the_tokens() {
        let widths = |patch_size| {
            let config = BackboneConfig {
                name: "vit_micro_patch8_64".into(),
                patch_size: Some(patch_size),
                stem: Stem::Conv,
                ..BackboneConfig::default()
            };
            stem_widths(&config.resolve(64).unwrap())
        };
        assert_eq!(widths(16), [16, 24, 48, 96]);
        assert_eq!(widths(2), [96]);
    }
}
