//! The three networks of MTCNN, each a stack of convolutions with PReLU, under the names of
//! facenet-pytorch's weights.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use crate::models::weights;
use crate::ops::SharedTensor;

/// The layers of a network.
pub(super) struct Architecture {
    /// The file of its weights.
    pub(super) file: &'static str,
    /// The side of its input, in pixels.
    pub(super) side: i64,
    /// For each convolution its output channels, its kernel, and the kernel of the max pooling with
    /// stride 2 behind it.
    convolutions: &'static [(i64, i64, Option<i64>)],
    /// Name and inputs and outputs of the hidden linear layer; without one, the outputs are 1x1
    /// convolutions, and the network slides over images of any size.
    hidden: Option<(&'static str, [i64; 2])>,
    /// Names and channels of the outputs; the first is the class.
    outputs: &'static [(&'static str, i64)],
}

/// Proposes boxes in an image of any size.
pub(super) const PROPOSAL: Architecture = Architecture {
    file: "pnet.pt",
    side: 12,
    convolutions: &[(10, 3, Some(2)), (16, 3, None), (32, 3, None)],
    hidden: None,
    outputs: &[("conv4_1", 2), ("conv4_2", 4)],
};

/// Refines boxes.
pub(super) const REFINEMENT: Architecture = Architecture {
    file: "rnet.pt",
    side: 24,
    convolutions: &[(28, 3, Some(3)), (48, 3, Some(3)), (64, 2, None)],
    hidden: Some(("4", [576, 128])),
    outputs: &[("dense5_1", 2), ("dense5_2", 4)],
};

/// Refines boxes and finds landmarks.
pub(super) const OUTPUT: Architecture = Architecture {
    file: "onet.pt",
    side: 48,
    convolutions: &[(32, 3, Some(3)), (64, 3, Some(3)), (64, 3, Some(2)), (128, 2, None)],
    hidden: Some(("5", [1152, 256])),
    outputs: &[("dense6_1", 2), ("dense6_2", 4), ("dense6_3", 10)],
};

/// A convolution or a linear layer, and the slopes of the PReLU behind it.
#[derive(Debug)]
struct Layer {
    weight: SharedTensor,
    bias: SharedTensor,
    slopes: Option<SharedTensor>,
    pool: Option<i64>,
}

/// A network with its weights, on the CPU.
#[derive(Debug)]
pub(super) struct Net {
    /// The side of its input, in pixels.
    pub(super) side: i64,
    convolutions: Vec<Layer>,
    hidden: Option<Layer>,
    outputs: Vec<Layer>,
}

impl Net {
    /// Reads the weights of a network from their folder. Returns an error with the file if it
    /// cannot be read, or has other names or shapes.
    pub(super) fn open(folder: &Path, of: &Architecture) -> Result<Self> {
        let mut parameters = Vec::new();
        let mut layer = |name: &str, number: Option<&str>, shape: &[i64], pool: Option<i64>| {
            let mut zeros = |name: String, shape: &[i64]| {
                let zeros = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
                parameters.push((name, zeros.shallow_clone()));
                SharedTensor::from(zeros)
            };
            Layer {
                weight: zeros(format!("{name}.weight"), shape),
                bias: zeros(format!("{name}.bias"), &shape[..1]),
                slopes: number.map(|number| zeros(format!("prelu{number}.weight"), &shape[..1])),
                pool,
            }
        };
        let mut channels = 3;
        let mut convolutions = Vec::new();
        for (index, &(out, kernel, pool)) in of.convolutions.iter().enumerate() {
            let number = (index + 1).to_string();
            let shape = [out, channels, kernel, kernel];
            convolutions.push(layer(&format!("conv{number}"), Some(&number), &shape, pool));
            channels = out;
        }
        let hidden = of.hidden.map(|(number, [inputs, outputs])| {
            channels = outputs;
            layer(&format!("dense{number}"), Some(number), &[outputs, inputs], None)
        });
        let shape = |out: i64| match of.hidden {
            Some(_) => vec![out, channels],
            None => vec![out, channels, 1, 1],
        };
        let outputs =
            of.outputs.iter().map(|&(name, out)| layer(name, None, &shape(out), None)).collect();
        weights::load(&parameters, &folder.join(of.file))?;
        Ok(Self { side: of.side, convolutions, hidden, outputs })
    }

    /// Computes the outputs for levels from -1 to 1, (b, 3, h, w): the probability of each class,
    /// then the others, (b, channels), or (b, channels, rows, columns) where the network slides.
    pub(super) fn forward(&self, levels: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = levels.shallow_clone();
        for layer in &self.convolutions {
            x = layer.convolve(&x)?;
        }
        if let Some(hidden) = &self.hidden {
            // The weights come from a framework that has rows before columns before channels, of
            // images that are transposed.
            let flat = x.f_permute([0, 3, 2, 1])?.f_flatten(1, -1)?;
            x = hidden.activate(flat.f_linear(&hidden.weight, Some(&*hidden.bias))?)?;
        }
        let output = |layer: &Layer| match self.hidden {
            Some(_) => Ok(x.f_linear(&layer.weight, Some(&*layer.bias))?),
            None => layer.convolve(&x),
        };
        let mut outputs = self.outputs.iter().map(output).collect::<Result<Vec<_>>>()?;
        let class = outputs.first_mut().context("internal: a network without outputs")?;
        *class = class.f_softmax(1, None::<Kind>)?;
        Ok(outputs)
    }
}

impl Layer {
    fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.f_conv2d(&self.weight, Some(&*self.bias), 1, 0, 1, 1)?;
        let x = self.activate(x)?;
        Ok(match self.pool {
            Some(kernel) => x.f_max_pool2d(kernel, 2, 0, 1, true)?,
            None => x,
        })
    }

    fn activate(&self, x: Tensor) -> Result<Tensor> {
        match &self.slopes {
            Some(slopes) => Ok(x.f_prelu(slopes)?),
            None => Ok(x),
        }
    }
}
