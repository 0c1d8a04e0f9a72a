//! The patch embedding, the first layer of both backbones: pixels to tokens.

use tch::{Tensor, nn};

use super::layers::{Init, LayerNorm, Masked, Parameter};
use super::onnx::{Graph, Value, ints};
use crate::config::{BackboneShape, Stem};
use crate::ops;

const NORM_EPS: f64 = 1e-6;
const MIN_WIDTH: i64 = 16;

/// A patch embedding: an image to a token for each patch.
#[derive(Debug)]
pub struct PatchEmbed {
    weight: Parameter,
    bias: Option<Parameter>,
    features: PatchFeatures,
}

/// The layers before the projection to the tokens' width.
#[derive(Debug)]
enum PatchFeatures {
    Pixels { patch_size: i64, stride: i64 },
    Conv(Vec<Stage>),
}

impl PatchEmbed {
    /// Returns a patch embedding of this shape. `init` maps the projection's number of inputs to
    /// the distribution of its weight; its bias, if the variant has one, is initialized to zero.
    pub fn new(path: nn::Path, shape: &BackboneShape, init: fn(i64) -> Init) -> Self {
        let (dim, p) = (shape.embed_dim, shape.patch_size);
        let (features, inputs) = match shape.stem {
            Stem::Patchify => {
                let stride = shape.stride;
                (PatchFeatures::Pixels { patch_size: p, stride }, vec![3, p, p])
            }
            Stem::Conv => (PatchFeatures::Conv(conv_stem(&path, shape)), vec![dim]),
        };
        let path = path / "proj";
        let weight = [&[dim], &inputs[..]].concat();
        let bias = || Init::Constant(0.0).parameter(&path, "bias", &[dim]);
        Self {
            weight: init(inputs.iter().product()).parameter(&path, "weight", &weight),
            bias: (!shape.variant.pre_norm).then(bias),
            features,
        }
    }

    /// Images (b, 3, h, w) to tokens (b, patches, dim), patches row by row; the mask token replaces
    /// masked patches.
    pub fn forward(&self, x: &Tensor, masked: Option<&Masked>) -> Tensor {
        let features = match &self.features {
            // One matrix product is several times as fast as the convolution on the CPU, above all
            // in backward.
            &PatchFeatures::Pixels { patch_size, stride } => {
                pixels_of_patches(x, patch_size, stride)
            }
            PatchFeatures::Conv(stages) => {
                let x = stages.iter().fold(x.shallow_clone(), |x, stage| stage.forward(&x));
                x.flatten(2, 3).transpose(1, 2)
            }
        };
        let patches = ops::linear(&features, &self.weight.flatten(1, -1), self.bias.as_deref());
        match masked {
            Some(masked) => masked.replace(&patches),
            None => patches,
        }
    }

    /// Adds the layers to a graph: images (b, 3, h, w) to tokens (b, patches, dim).
    pub(super) fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let dim = self.weight.size()[0];
        let patches = match &self.features {
            &PatchFeatures::Pixels { patch_size: p, stride } => {
                let (weight, window) =
                    (graph.parameter(&self.weight), ints("kernel_shape", &[p; 2]));
                graph.op_with("Conv", &[x, &weight], vec![window, ints("strides", &[stride; 2])])
            }
            PatchFeatures::Conv(stages) => {
                let x = stages.iter().fold(x.clone(), |x, stage| stage.onnx(graph, &x));
                let kernel = || self.weight.view([dim, -1, 1, 1]);
                let weight = graph.derived(&self.weight, ".1x1", kernel);
                graph.op("Conv", &[&x, &weight])
            }
        };
        let patches = graph.reshape(&patches, &[0, dim, -1]);
        let patches = graph.transpose(&patches, &[0, 2, 1]);
        match &self.bias {
            Some(bias) => {
                let bias = graph.parameter(bias);
                graph.add(&patches, &bias)
            }
            None => patches,
        }
    }
}

/// A 3x3 convolution that halves the side, a norm and a ReLU: a convolutional stem has as many as
/// leave one point per patch ("Early Convolutions Help Transformers See Better", arXiv 2106.14881).
/// Instead of the paper's batch norms there are layer norms over the channels of each point: the
/// output for an image does not depend on other images, neither in training nor in evaluation.
#[derive(Debug)]
struct Stage {
    weight: Parameter,
    norm: LayerNorm,
}

/// Returns the output channels of each 3x3 convolution of a convolutional stem, from the image on:
/// the last has the tokens' width, each other one half of the next one's, but at least 16.
pub fn stem_widths(shape: &BackboneShape) -> Vec<i64> {
    let stages = shape.patch_size.ilog2();
    (0..stages)
        .rev()
        .map(|later| (shape.embed_dim >> later).max(MIN_WIDTH.min(shape.embed_dim)))
        .collect()
}

fn conv_stem(path: &nn::Path, shape: &BackboneShape) -> Vec<Stage> {
    let mut inputs = 3;
    let stage = |(i, outputs)| {
        let std = (2.0 / (9 * inputs) as f64).sqrt(); // He's, for a ReLU (arXiv 1502.01852)
        let (path_of_conv, size) = (path / "conv" / i, [outputs, inputs, 3, 3]);
        inputs = outputs;
        Stage {
            weight: Init::TruncNormal { std }.parameter(&path_of_conv, "weight", &size),
            norm: LayerNorm::new(path / "norm" / i, outputs, NORM_EPS),
        }
    };
    stem_widths(shape).into_iter().enumerate().map(stage).collect()
}

impl Stage {
    /// (b, channels, h, w) to (b, outputs, h / 2, w / 2).
    fn forward(&self, x: &Tensor) -> Tensor {
        let x = x.conv2d(&self.weight, None::<&Tensor>, [2, 2], [1, 1], [1, 1], 1);
        let channels_last = x.permute([0, 2, 3, 1]);
        self.norm.forward(&channels_last).relu().permute([0, 3, 1, 2])
    }

    fn onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let weight = graph.parameter(&self.weight);
        let attributes =
            vec![ints("kernel_shape", &[3; 2]), ints("strides", &[2; 2]), ints("pads", &[1; 4])];
        let x = graph.op_with("Conv", &[x, &weight], attributes);
        let channels_last = graph.transpose(&x, &[0, 2, 3, 1]);
        let normed = self.norm.onnx(graph, &channels_last);
        let x = graph.op("Relu", &[&normed]);
        graph.transpose(&x, &[0, 3, 1, 2])
    }
}

/// Images (b, 3, h, w) to the pixels of each patch (b, patches, 3·p·p), patches row by row.
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
