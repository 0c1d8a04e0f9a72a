//! Where the time of a mixer goes: each of its parts alone, forward and backward, beside the whole.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use tch::{Device, Kind, Tensor, nn};

use super::Mixer;
use crate::config::{BackboneKind, BackboneShape};
use crate::ops::benchmark::median;
use crate::ops::measure::gradients;

/// One part of a mixer; both directions together where each has its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// The layer's or operation's name.
    pub name: &'static str,
    /// Whether it is a matrix product.
    pub gemm: bool,
    /// Median, milliseconds.
    pub forward_ms: f64,
    /// Gradients of its inputs and parameters, median, milliseconds.
    pub backward_ms: f64,
}

/// What [`profile_mixer`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixerProfile {
    /// Pictures, tokens, width of the tokens.
    pub shape: [i64; 3],
    /// In the order of the computation.
    pub parts: Vec<Part>,
    /// The whole mixer in one, as the model runs it.
    pub whole: Part,
    /// The share of the whole, forward and backward, that is not matrix products.
    pub not_gemm_fraction: f64,
}

/// Times the mixer of a Vision Mamba on `batch` pictures, on the CPU. Draws parameters and tokens from torch's generator.
///
/// # Errors
/// A shape that is no Vision Mamba's, or an operator's message.
pub fn profile_mixer(shape: &BackboneShape, batch: i64, runs: usize) -> Result<MixerProfile> {
    ensure!(
        shape.kind == BackboneKind::Vim,
        "only a Vision Mamba has a mixer to profile"
    );
    let store = nn::VarStore::new(Device::Cpu);
    let mixer = Mixer::new(store.root(), shape);
    let parameters: Vec<Tensor> = store.trainable_variables();
    let (length, dim) = (1 + shape.patches(), shape.embed_dim);
    let hidden = Tensor::randn([batch, length, dim], (Kind::Float, Device::Cpu));
    let hidden = hidden.set_requires_grad(true);

    let clock = Clock { parameters, runs };
    let parts = time_parts(&clock, &mixer, &hidden)?;
    let whole = clock.time("whole mixer", false, &[&hidden], || {
        Ok(vec![mixer.forward(&hidden)?])
    })?;
    let gemm: f64 = parts
        .iter()
        .filter(|part| part.gemm)
        .map(|part| part.forward_ms + part.backward_ms)
        .sum();
    let total = whole.forward_ms + whole.backward_ms;
    Ok(MixerProfile {
        shape: [batch, length, dim],
        parts,
        whole,
        not_gemm_fraction: 1.0 - gemm / total,
    })
}

/// Every part on what it is given in a mixer's forward pass, cut off from what came before.
fn time_parts(clock: &Clock, mixer: &Mixer, hidden: &Tensor) -> Result<Vec<Part>> {
    let directions = [&mixer.forward, &mixer.backward];
    let xz: Vec<Tensor> = mixer.in_proj.forward(hidden).chunk(2, -1);
    let [x, z] = [0, 1].map(|i| leaf(&xz[i])); // (b, l, inner) each
    let mut convolved = Vec::new();
    let mut projected = Vec::new();
    let mut deltas = Vec::new();
    for direction in directions {
        let u = leaf(&direction.convolve(&x)?);
        let parts = direction.project(&u);
        deltas.push(leaf(&direction.step_sizes(&parts[0])));
        projected.push(parts.iter().map(leaf).collect::<Vec<_>>());
        convolved.push(u);
    }
    let scanned = |i: usize| {
        directions[i].scan(
            &convolved[i],
            &deltas[i],
            &projected[i][1],
            &projected[i][2],
            &z,
        )
    };
    let outputs = [leaf(&scanned(0)?), leaf(&scanned(1)?)];
    let merged = leaf(&Mixer::merge(&outputs[0], &outputs[1]));

    let both: Vec<&Tensor> = convolved.iter().collect();
    let ranks: Vec<&Tensor> = projected.iter().map(|parts| &parts[0]).collect();
    let mut scan_leaves = vec![&z];
    for i in 0..2 {
        scan_leaves.extend([
            &convolved[i],
            &deltas[i],
            &projected[i][1],
            &projected[i][2],
        ]);
    }
    Ok(vec![
        clock.time("in_proj", true, &[hidden], || {
            Ok(vec![mixer.in_proj.forward(hidden)])
        })?,
        clock.time("conv1d and SiLU", false, &[&x], || {
            directions.iter().map(|d| d.convolve(&x)).collect()
        })?,
        clock.time("x_proj", true, &both, || {
            let each = directions.iter().zip(&convolved);
            Ok(each.map(|(d, u)| d.x_proj.forward(u)).collect())
        })?,
        clock.time("dt_proj", true, &ranks, || {
            let each = directions.iter().zip(&ranks);
            Ok(each.map(|(d, rank)| d.step_sizes(rank)).collect())
        })?,
        clock.time("selective scan", false, &scan_leaves, || {
            (0..2).map(scanned).collect()
        })?,
        clock.time(
            "mean of the directions",
            false,
            &[&outputs[0], &outputs[1]],
            || Ok(vec![Mixer::merge(&outputs[0], &outputs[1])]),
        )?,
        clock.time("out_proj", true, &[&merged], || {
            Ok(vec![mixer.out_proj.forward(&merged)])
        })?,
    ])
}

/// The same values in the same place, without their history.
fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().set_requires_grad(true)
}

struct Clock {
    parameters: Vec<Tensor>,
    runs: usize,
}

impl Clock {
    /// Medians of one part; a run before them warms up. The gradients are those of `inputs` and of every parameter used.
    fn time(
        &self,
        name: &'static str,
        gemm: bool,
        inputs: &[&Tensor],
        part: impl Fn() -> Result<Vec<Tensor>>,
    ) -> Result<Part> {
        let mut leaves = inputs.to_vec();
        leaves.extend(&self.parameters);
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        let douts: Vec<Tensor> = part()?.iter().map(Tensor::randn_like).collect();
        for run in 0..=self.runs.max(1) {
            let start = Instant::now();
            let outputs = part()?;
            let middle = Instant::now();
            for (out, dout) in outputs.iter().zip(&douts) {
                gradients(out, dout, &leaves)?;
            }
            if run > 0 {
                forward.push((middle - start).as_secs_f64());
                backward.push(middle.elapsed().as_secs_f64());
            }
        }
        Ok(Part {
            name,
            gemm,
            forward_ms: 1e3 * median(forward),
            backward_ms: 1e3 * median(backward),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackboneConfig;

    fn shape(name: &str) -> BackboneShape {
        let config = BackboneConfig {
            name: name.to_string(),
            ..BackboneConfig::default()
        };
        config.resolve(64).unwrap()
    }

    #[test]
    fn the_parts_of_a_mixer_are_timed_in_its_order() {
        tch::manual_seed(0);
        let vim = shape("vim_micro_patch8_64");
        let profile = profile_mixer(&vim, 1, 1).unwrap();
        let names: Vec<_> = profile.parts.iter().map(|part| part.name).collect();
        assert_eq!(names.first(), Some(&"in_proj"));
        assert_eq!(names.last(), Some(&"out_proj"));
        let timed = |part: &Part| part.forward_ms > 0.0 && part.backward_ms > 0.0;
        assert!(profile.parts.iter().all(timed) && timed(&profile.whole));
        assert!(profile_mixer(&shape("vit_micro_patch8_64"), 1, 1).is_err());
    }
}
