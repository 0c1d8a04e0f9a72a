//! Attention rollout (Abnar and Zuidema, arXiv 2005.00928), and the hidden attention of a selective
//! scan (arXiv 2403.01590), whose outputs are a matrix times its inputs.
//!
//! Per channel d, `y_i = Σ_j M_ij u_j` with `M_ij = C_i · (Π_{k=j+1..i} exp(dt_k A)) dt_j B_j` for
//! j ≤ i, and 0 otherwise; the backward scan has the transposed triangle. The matrix excludes the
//! skip connection `D` and the gate.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::config::Branch;
use crate::models::BeautyNet;
use crate::models::tokens::TokenLayout;
use crate::models::vim::ScanOperands;

/// Computes the rolled-out attention to the patches after each block, each (b, patches), from the
/// inputs of every block's mixer: the mean over the tokens that the branch's feature vector is made
/// of, which is the class token's if there is one.
///
/// A block's matrix is half the identity (the residual connection) and half its attention. A ViT's
/// attention is the mean over heads; a Vision Mamba's is the magnitude of its scans' hidden
/// attention, averaged over channels and both directions, with each row normalized to sum 1.
pub(super) fn rollout(
    net: &BeautyNet,
    branch: Branch,
    layout: TokenLayout,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    let mut rolled: Option<Tensor> = None; // (b, l, l)
    let mut maps = Vec::with_capacity(inputs.len());
    for (layer, input) in inputs.iter().enumerate() {
        let attention = match branch {
            Branch::Vit => net.attention(layer, input)?.f_mean_dim(1, false, Kind::Float)?,
            Branch::Mamba => scan_attention(net, layer, input)?,
        };
        let length = attention.size3()?.2;
        let identity = Tensor::f_eye(length, (Kind::Float, attention.device()))?;
        let mixing = (attention + identity) * 0.5;
        let product = match &rolled {
            Some(rolled) => mixing.f_matmul(rolled)?,
            None => mixing,
        };
        let row = layout.feature_mean(&product)?; // (b, l)
        maps.push(layout.patches_of(&row)?);
        rolled = Some(product);
    }
    Ok(maps)
}

/// Computes the hidden attention of a Vision Mamba's block: (b, l, l), rows sum to 1.
fn scan_attention(net: &BeautyNet, layer: usize, input: &Tensor) -> Result<Tensor> {
    let operands = net.scan_operands(layer, input)?;
    let (batch, length, _) = input.size3()?;
    let directions = (0..batch)
        .map(|image| {
            let [forward, backward] = &operands;
            Ok([HiddenAttention::new(forward, image)?, HiddenAttention::new(backward, image)?])
        })
        .collect::<Result<Vec<_>>>()?;
    let images: Vec<Vec<f32>> = directions
        .par_iter()
        .map(|[forward, backward]| {
            let (mut sum, back) =
                rayon::join(|| forward.mean_magnitude(), || backward.mean_magnitude());
            sum.iter_mut().zip(back).for_each(|(a, b)| *a += b);
            sum
        })
        .collect();
    let matrices = Tensor::from_slice(&images.concat())
        .f_view([batch, length, length])?
        .f_to_device(input.device())?;
    let sums = matrices.f_sum_dim_intlist(-1, true, Kind::Float)?;
    Ok(matrices / sums.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)
}

/// States that have decayed below this are set to 0, because denormal numbers are slow.
const NEGLIGIBLE: f32 = 1e-30;

/// The hidden attention of one direction's scan of one image, computed on the CPU from the scan's
/// operands.
#[derive(Debug)]
pub struct HiddenAttention {
    length: usize,
    channels: usize,
    state: usize,
    dt: Vec<f32>, // (channels, length)
    a: Vec<f32>,  // (channels, state)
    b: Vec<f32>,  // (length, state)
    c: Vec<f32>,  // (length, state)
    reverse: bool,
}

impl HiddenAttention {
    /// Copies the operands of one image of a batch. Returns an error if the image does not exist or
    /// the operands' shapes do not match.
    pub fn new(operands: &ScanOperands, image: i64) -> Result<Self> {
        let (batch, length, channels) = operands.dt.size3()?;
        let (_, state) = operands.a.size2()?;
        ensure!((0..batch).contains(&image), "there is no image {image} in a batch of {batch}");
        let one = |x: &Tensor| x.f_select(0, image);
        let attention = Self {
            length: length as usize,
            channels: channels as usize,
            state: state as usize,
            dt: host(&one(&operands.dt)?.f_transpose(0, 1)?)?,
            a: host(&operands.a)?,
            b: host(&one(&operands.b)?)?,
            c: host(&one(&operands.c)?)?,
            reverse: operands.reverse,
        };
        let tokens = attention.length * attention.state;
        ensure!(
            attention.a.len() == attention.channels * attention.state
                && attention.b.len() == tokens
                && attention.c.len() == tokens,
            "the shapes of the scan's operands do not match"
        );
        Ok(attention)
    }

    /// Returns the number of tokens.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the number of channels; each has its own matrix.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Computes a channel's matrix (length, length): row i holds the weights of the inputs in
    /// output i. Returns an error if the channel does not exist.
    pub fn channel(&self, channel: usize) -> Result<Vec<f32>> {
        let channels = self.channels;
        ensure!(channel < channels, "there is no channel {channel}: the scan has {channels}");
        let mut matrix = vec![0.0; self.length * self.length];
        let mut states = vec![0.0; self.length * self.state];
        self.fill(channel, &mut states, &mut matrix, |out, value| *out = value);
        Ok(matrix)
    }

    /// Computes the mean over channels of the matrices' absolute values: (length, length).
    pub fn mean_magnitude(&self) -> Vec<f32> {
        let size = self.length * self.length;
        // A fixed number of chunks, added in order: the sum does not depend on the number of
        // threads.
        let chunk = self.channels.div_ceil(16).max(1);
        let sums: Vec<Vec<f32>> = (0..self.channels.div_ceil(chunk))
            .into_par_iter()
            .map(|index| {
                let mut sum = vec![0.0; size];
                let mut states = vec![0.0; self.length * self.state];
                for channel in index * chunk..((index + 1) * chunk).min(self.channels) {
                    states.fill(0.0);
                    self.fill(channel, &mut states, &mut sum, |out, value| {
                        *out += value.abs();
                    });
                }
                sum
            })
            .collect();
        let mut mean = vec![0.0; size];
        for sum in sums {
            mean.iter_mut().zip(sum).for_each(|(a, b)| *a += b);
        }
        let channels = self.channels.max(1) as f32;
        mean.iter_mut().for_each(|value| *value /= channels);
        mean
    }

    /// Calls `put` on each element of a channel's matrix, row by row up to the diagonal in the
    /// scan's order. `states` (state, length) must be 0 at the start.
    fn fill(
        &self,
        channel: usize,
        states: &mut [f32],
        matrix: &mut [f32],
        put: impl Fn(&mut f32, f32),
    ) {
        let (length, state) = (self.length, self.state);
        let dt = &self.dt[channel * length..][..length];
        let a = &self.a[channel * state..][..state];
        let mut row = vec![0.0; length];
        let mut seen = Vec::with_capacity(length);
        for step in 0..length {
            let at = if self.reverse { length - 1 - step } else { step };
            // The contributions of earlier inputs to the states decay; this step's input is added.
            row[..=step].fill(0.0);
            for (n, state_n) in states.chunks_exact_mut(length).enumerate() {
                let (decay, read) = ((dt[at] * a[n]).exp(), self.c[at * state + n]);
                state_n[step] = dt[at] * self.b[at * state + n];
                for (h, y) in state_n[..step].iter_mut().zip(&mut row) {
                    let decayed = *h * decay;
                    *h = if decayed.abs() < NEGLIGIBLE { 0.0 } else { decayed };
                    *y += read * *h;
                }
                row[step] += read * state_n[step];
            }
            seen.push(at);
            let out = &mut matrix[at * length..][..length];
            for (&input, &value) in seen.iter().zip(&row) {
                put(&mut out[input], value);
            }
        }
    }
}

fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor
        .f_to_device(tch::Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_reshape([-1])?;
    Vec::try_from(&flat).context("cannot read a tensor")
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn random(reverse: bool) -> ScanOperands {
        let options = (Kind::Float, Device::Cpu);
        ScanOperands {
            u: Tensor::randn([2, 37, 5], options),
            dt: Tensor::rand([2, 37, 5], options) * 0.5 + 0.01,
            a: -(Tensor::rand([5, 16], options) * 4.0 + 0.1),
            b: Tensor::randn([2, 37, 16], options),
            c: Tensor::randn([2, 37, 16], options),
            reverse,
        }
    }

    #[test]
    fn outputs_depend_only_on_inputs_that_the_scan_has_seen() {
        tch::manual_seed(6);
        for reverse in [false, true] {
            let operands = random(reverse);
            let matrix = HiddenAttention::new(&operands, 1).unwrap().channel(0).unwrap();
            for (at, &value) in matrix.iter().enumerate() {
                let (row, column) = (at / 37, at % 37);
                let unseen = if reverse { column < row } else { column > row };
                assert_eq!(value == 0.0, unseen, "{row} {column} {value}");
            }
        }
    }

    #[test]
    fn mean_magnitude_is_the_mean_of_the_channels_absolute_values() {
        tch::manual_seed(7);
        let attention = HiddenAttention::new(&random(false), 0).unwrap();
        let mut mean = vec![0f32; 37 * 37];
        for channel in 0..5 {
            let matrix = attention.channel(channel).unwrap();
            mean.iter_mut().zip(matrix).for_each(|(m, v)| *m += v.abs() / 5.0);
        }
        let ours = attention.mean_magnitude();
        let errors = ours.iter().zip(&mean).map(|(a, b)| (a - b).abs());
        assert!(errors.fold(0.0, f32::max) < 1e-5);
    }
}
