//! Where the time of a mixer goes: each of its parts alone, forward and backward, beside the whole.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tch::{Device, Kind, Tensor, nn};

use super::Mixer;
use crate::config::{BackboneShape, Branch};
use crate::measure::median;
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
    /// Images, tokens, width of the tokens.
    pub shape: [i64; 3],
    /// In the order of the computation.
    pub parts: Vec<Part>,
    /// The whole mixer in one, as the model runs it.
    pub whole: Part,
    /// The share of the whole, forward and backward, that is not matrix products.
    pub not_gemm_fraction: f64,
}

/// Times the mixer of a Vision Mamba on `batch` images, on the CPU. Samples parameters and tokens
/// from torch's generator.
///
/// # Errors
/// A shape that is no Vision Mamba's, or an operator's message.
pub fn profile_mixer(shape: &BackboneShape, batch: i64, runs: usize) -> Result<MixerProfile> {
    ensure!(shape.branch == Branch::Mamba, "only a Vision Mamba has a mixer to profile");
    let store = nn::VarStore::new(Device::Cpu);
    let mixer = Mixer::new(store.root(), shape);
    let parameters: Vec<Tensor> = store.trainable_variables();
    let (length, dim) = (1 + shape.patches(), shape.embed_dim);
    let hidden = Tensor::randn([batch, length, dim], (Kind::Float, Device::Cpu));
    let hidden = hidden.set_requires_grad(true);

    let mut parts = time_parts(&mixer, &hidden, &parameters, runs)?;
    let whole = parts.pop().context("the whole mixer is timed last")?;
    let gemm: f64 =
        parts.iter().filter(|part| part.gemm).map(|part| part.forward_ms + part.backward_ms).sum();
    let total = whole.forward_ms + whole.backward_ms;
    Ok(MixerProfile {
        shape: [batch, length, dim],
        parts,
        whole,
        not_gemm_fraction: 1.0 - gemm / total,
    })
}

/// Every part on what it is given in a mixer's forward pass, cut off from what came before; the
/// whole last.
fn time_parts(
    mixer: &Mixer,
    hidden: &Tensor,
    parameters: &[Tensor],
    runs: usize,
) -> Result<Vec<Part>> {
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
        directions[i].scan(&convolved[i], &deltas[i], &projected[i][1], &projected[i][2], &z)
    };
    let outputs = [leaf(&scanned(0)?), leaf(&scanned(1)?)];
    let merged = leaf(&Mixer::merge(&outputs[0], &outputs[1]));

    let both: Vec<&Tensor> = convolved.iter().collect();
    let ranks: Vec<&Tensor> = projected.iter().map(|parts| &parts[0]).collect();
    let mut scan_leaves = vec![&z];
    for i in 0..2 {
        scan_leaves.extend([&convolved[i], &deltas[i], &projected[i][1], &projected[i][2]]);
    }
    let mut round = Round { parameters, parts: Vec::new() };
    round.add("in_proj", true, &[hidden], || Ok(vec![mixer.in_proj.forward(hidden)]))?;
    round.add("conv1d and SiLU", false, &[&x], || {
        directions.iter().map(|d| d.convolve(&x)).collect()
    })?;
    round.add("x_proj", true, &both, || {
        let each = directions.iter().zip(&convolved);
        Ok(each.map(|(d, u)| d.x_proj.forward(u)).collect())
    })?;
    round.add("dt_proj", true, &ranks, || {
        let each = directions.iter().zip(&ranks);
        Ok(each.map(|(d, rank)| d.step_sizes(rank)).collect())
    })?;
    round.add("selective scan", false, &scan_leaves, || (0..2).map(scanned).collect())?;
    round.add("mean of the directions", false, &[&outputs[0], &outputs[1]], || {
        Ok(vec![Mixer::merge(&outputs[0], &outputs[1])])
    })?;
    round.add("out_proj", true, &[&merged], || Ok(vec![mixer.out_proj.forward(&merged)]))?;
    round.add("whole mixer", false, &[hidden], || Ok(vec![mixer.forward(hidden)?]))?;
    round.medians(runs)
}

/// The same values in the same place, without their history.
fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().set_requires_grad(true)
}

/// A part, what its gradients are taken of and for, and its seconds so far.
struct Timed<'a> {
    name: &'static str,
    gemm: bool,
    leaves: Vec<&'a Tensor>,
    douts: Vec<Tensor>,
    run: Box<dyn Fn() -> Result<Vec<Tensor>> + 'a>,
    forward: Vec<f64>,
    backward: Vec<f64>,
}

/// The parts that are timed one after the other, again and again, so that a busy moment of the
/// machine touches all of them.
struct Round<'a> {
    parameters: &'a [Tensor],
    parts: Vec<Timed<'a>>,
}

impl<'a> Round<'a> {
    /// The gradients are those of `inputs` and of every parameter that the part uses.
    fn add(
        &mut self,
        name: &'static str,
        gemm: bool,
        inputs: &[&'a Tensor],
        run: impl Fn() -> Result<Vec<Tensor>> + 'a,
    ) -> Result<()> {
        let outputs = run()?;
        let mut leaves = inputs.to_vec();
        leaves.extend(self.parameters);
        self.parts.push(Timed {
            name,
            gemm,
            leaves,
            douts: outputs.iter().map(Tensor::randn_like).collect(),
            run: Box::new(run),
            forward: Vec::new(),
            backward: Vec::new(),
        });
        Ok(())
    }

    /// Medians over `runs` rounds; a round before them warms up.
    fn medians(mut self, runs: usize) -> Result<Vec<Part>> {
        for round in 0..=runs.max(1) {
            for part in &mut self.parts {
                let start = Instant::now();
                let outputs = (part.run)()?;
                let middle = Instant::now();
                for (out, dout) in outputs.iter().zip(&part.douts) {
                    gradients(out, dout, &part.leaves)?;
                }
                if round > 0 {
                    part.forward.push((middle - start).as_secs_f64());
                    part.backward.push(middle.elapsed().as_secs_f64());
                }
            }
        }
        let parts = self.parts.into_iter().map(|part| Part {
            name: part.name,
            gemm: part.gemm,
            forward_ms: 1e3 * median(part.forward),
            backward_ms: 1e3 * median(part.backward),
        });
        Ok(parts.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackboneConfig;

    fn shape(name: &str) -> BackboneShape {
        let config = BackboneConfig { name: name.to_string(), ..BackboneConfig::default() };
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
