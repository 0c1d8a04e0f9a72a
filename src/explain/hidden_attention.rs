//! The attention that is hidden in a selective scan (arXiv 2403.01590): the scan's outputs are a
//! matrix times its inputs.
//!
//! Per channel d, `y_i = Σ_j M_ij u_j` with `M_ij = C_i · (Π_{k=j+1..i} exp(dt_k A)) dt_j B_j` for
//! j up to i, and 0 beyond; the scan that runs backward has the same the other way round. The skip
//! connection `D` and the gate are not in it.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::models::vim::ScanOperands;

/// A state that has decayed below this is 0: it adds nothing, and numbers that small are slow.
const NOTHING: f32 = 1e-30;

/// The operands of one direction's scan of one image, on the host.
#[derive(Debug)]
pub struct HiddenAttention {
    length: usize,
    channels: usize,
    state: usize,
    /// (channels, length)
    dt: Vec<f32>,
    /// (channels, state)
    a: Vec<f32>,
    /// (length, state)
    b: Vec<f32>,
    /// (length, state)
    c: Vec<f32>,
    reverse: bool,
}

impl HiddenAttention {
    /// Of one image of a batch.
    ///
    /// # Errors
    /// There is no such image, or shapes that do not fit each other.
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
            "the scan's operands do not fit each other"
        );
        Ok(attention)
    }

    /// Tokens of the sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Channels, each with a matrix of its own.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// A channel's matrix (length, length): row i is how output i comes from the inputs.
    ///
    /// # Errors
    /// There is no such channel.
    pub fn channel(&self, channel: usize) -> Result<Vec<f32>> {
        ensure!(
            channel < self.channels,
            "there is no channel {channel}: the scan has {}",
            self.channels
        );
        let mut matrix = vec![0.0; self.length * self.length];
        let mut states = vec![0.0; self.length * self.state];
        self.fill(channel, &mut states, &mut matrix, |out, value| *out = value);
        Ok(matrix)
    }

    /// The mean over channels of the matrices' magnitudes, (length, length).
    pub fn mean_magnitude(&self) -> Vec<f32> {
        let size = self.length * self.length;
        // A fixed number of parts, added in order: the sum does not depend on the number of
        // threads.
        let part = self.channels.div_ceil(16).max(1);
        let parts: Vec<Vec<f32>> = (0..self.channels.div_ceil(part))
            .into_par_iter()
            .map(|index| {
                let mut sum = vec![0.0; size];
                let mut states = vec![0.0; self.length * self.state];
                for channel in index * part..((index + 1) * part).min(self.channels) {
                    states.fill(0.0);
                    self.fill(channel, &mut states, &mut sum, |out, value| {
                        *out += value.abs();
                    });
                }
                sum
            })
            .collect();
        let mut mean = vec![0.0; size];
        for part in parts {
            mean.iter_mut().zip(part).for_each(|(a, b)| *a += b);
        }
        let channels = self.channels.max(1) as f32;
        mean.iter_mut().for_each(|value| *value /= channels);
        mean
    }

    /// Gives each row of a channel's matrix to `put`, up to the diagonal in the scan's own order.
    /// `states` (state, length) begin as 0.
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
        let mut taken = Vec::with_capacity(length);
        for step in 0..length {
            let at = self.place(step);
            // What each earlier input has left in the states decays, and the input of this step
            // joins.
            row[..=step].fill(0.0);
            for (n, state_n) in states.chunks_exact_mut(length).enumerate() {
                let (decay, read) = ((dt[at] * a[n]).exp(), self.c[at * state + n]);
                state_n[step] = dt[at] * self.b[at * state + n];
                for (h, y) in state_n[..step].iter_mut().zip(&mut row) {
                    let decayed = *h * decay;
                    *h = if decayed.abs() < NOTHING { 0.0 } else { decayed };
                    *y += read * *h;
                }
                row[step] += read * state_n[step];
            }
            taken.push(at);
            let out = &mut matrix[at * length..][..length];
            for (&input, &value) in taken.iter().zip(&row) {
                put(&mut out[input], value);
            }
        }
    }

    /// The token of a step of the scan.
    fn place(&self, step: usize) -> usize {
        if !self.reverse { step } else { self.length - 1 - step }
    }
}

/// A tensor's values in order.
fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor
        .f_to_device(tch::Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_reshape([-1])?;
    Vec::try_from(&flat).context("a tensor could not be read")
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::ops::{Path, ScanInputs, selective_scan};

    /// The largest difference between the matrices times u and the scan, against the scan's largest
    /// value.
    fn error(operands: &ScanOperands) -> f64 {
        let transposed = |x: &Tensor| x.transpose(1, 2);
        let y = selective_scan(
            &ScanInputs {
                u: &transposed(&operands.u),
                delta: &transposed(&operands.dt),
                a: &operands.a,
                b: &transposed(&operands.b),
                c: &transposed(&operands.c),
                d: None,
                z: None,
                delta_bias: None,
                delta_softplus: false,
                reverse: operands.reverse,
            },
            Path::Auto,
        )
        .unwrap();
        let (batch, length, channels) = operands.u.size3().unwrap();
        let mut worst: f64 = 0.0;
        for image in 0..batch {
            let attention = HiddenAttention::new(operands, image).unwrap();
            for channel in 0..channels {
                let matrix = attention.channel(channel as usize).unwrap();
                let matrix = Tensor::from_slice(&matrix).view([length, length]);
                let u = operands.u.get(image).select(1, channel).contiguous();
                let apart = matrix.mv(&u) - y.get(image).get(channel);
                worst = worst.max(apart.abs().max().double_value(&[]));
            }
        }
        worst / y.abs().max().double_value(&[])
    }

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
    fn the_matrix_times_its_inputs_is_the_scan_in_both_directions() {
        tch::manual_seed(5);
        for reverse in [false, true] {
            let error = error(&random(reverse));
            assert!(error < 1e-4, "reverse {reverse}: {error:e}");
        }
    }

    #[test]
    fn outputs_read_only_inputs_that_the_scan_has_seen() {
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
    fn the_mean_is_that_of_the_channels_magnitudes() {
        tch::manual_seed(7);
        let attention = HiddenAttention::new(&random(false), 0).unwrap();
        let mut mean = vec![0f32; 37 * 37];
        for channel in 0..5 {
            let matrix = attention.channel(channel).unwrap();
            mean.iter_mut().zip(matrix).for_each(|(m, v)| *m += v.abs() / 5.0);
        }
        let ours = attention.mean_magnitude();
        let apart = ours.iter().zip(&mean).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-5);
    }
}
