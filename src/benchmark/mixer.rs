//! Times a Vision Mamba's mixer: each of its operations alone, forward and backward, and the mixer.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tch::{Device, Kind, Tensor, nn};

use crate::benchmark::measure::median;
use crate::config::{BackboneShape, Branch};
use crate::models::vim::Mixer;
use crate::ops::profiler::gradients;

/// The time of one operation of a mixer, in both directions if each has its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    /// The name of the layer or operation.
    pub name: &'static str,
    /// Whether it is a matrix product.
    pub gemm: bool,
    /// Median time of the forward pass, milliseconds.
    pub forward_ms: f64,
    /// Median time of the gradients of inputs and parameters, milliseconds.
    pub backward_ms: f64,
}

/// The result of [`profile_mixer`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixerProfile {
    /// Number of images, number of tokens, width of the tokens.
    pub shape: [i64; 3],
    /// In the order of the computation.
    pub operations: Vec<Operation>,
    /// The mixer as the model runs it.
    pub total: Operation,
    /// The fraction of the total time, forward and backward, outside matrix products.
    pub non_gemm_fraction: f64,
}

/// Times the mixer of a Vision Mamba on `batch` images, on the CPU. Samples parameters and tokens
/// from torch's generator. Returns an error if the shape is not a Vision Mamba's, or an operator's
/// message.
pub fn profile_mixer(shape: &BackboneShape, batch: i64, runs: usize) -> Result<MixerProfile> {
    ensure!(shape.branch == Branch::Mamba, "only a Vision Mamba has a mixer to profile");
    let store = nn::VarStore::new(Device::Cpu);
    let mixer = Mixer::new(store.root(), shape);
    let parameters: Vec<Tensor> = store.trainable_variables();
    let (length, dim) = (shape.tokens(), shape.embed_dim);
    let hidden = Tensor::randn([batch, length, dim], (Kind::Float, Device::Cpu));
    let hidden = hidden.set_requires_grad(true);

    let mut operations = time_operations(&mixer, &hidden, &parameters, runs)?;
    let total = operations.pop().context("internal: the mixer is timed last")?;
    let gemm: f64 =
        operations.iter().filter(|o| o.gemm).map(|o| o.forward_ms + o.backward_ms).sum();
    Ok(MixerProfile {
        shape: [batch, length, dim],
        operations,
        non_gemm_fraction: 1.0 - gemm / (total.forward_ms + total.backward_ms),
        total,
    })
}

/// Times each operation on its input in a mixer's forward pass, detached from the operations before
/// it, and the mixer last.
fn time_operations(
    mixer: &Mixer,
    hidden: &Tensor,
    parameters: &[Tensor],
    runs: usize,
) -> Result<Vec<Operation>> {
    let directions = [&mixer.forward, &mixer.backward];
    let xz: Vec<Tensor> = mixer.in_proj.forward(hidden).chunk(2, -1);
    let [x, z] = [0, 1].map(|i| leaf(&xz[i])); // (b, l, inner) each
    let mut convolved = Vec::new();
    let mut projected = Vec::new();
    let mut deltas = Vec::new();
    for direction in directions {
        let u = leaf(&direction.convolve(&x)?);
        let outputs = direction.project(&u);
        deltas.push(leaf(&direction.step_sizes(&outputs[0])));
        projected.push(outputs.iter().map(leaf).collect::<Vec<_>>());
        convolved.push(u);
    }
    let scanned = |i: usize| {
        directions[i].scan(&convolved[i], &deltas[i], &projected[i][1], &projected[i][2], &z)
    };
    let outputs = [leaf(&scanned(0)?), leaf(&scanned(1)?)];
    let merged = leaf(&Mixer::merge(&outputs[0], &outputs[1]));

    let both: Vec<&Tensor> = convolved.iter().collect();
    let ranks: Vec<&Tensor> = projected.iter().map(|outputs| &outputs[0]).collect();
    let mut scan_leaves = vec![&z];
    for i in 0..2 {
        scan_leaves.extend([&convolved[i], &deltas[i], &projected[i][1], &projected[i][2]]);
    }
    let mut rounds = Rounds { parameters, operations: Vec::new() };
    rounds.add("in_proj", true, &[hidden], || Ok(vec![mixer.in_proj.forward(hidden)]))?;
    rounds.add("conv1d and SiLU", false, &[&x], || {
        directions.iter().map(|d| d.convolve(&x)).collect()
    })?;
    rounds.add("x_proj", true, &both, || {
        let each = directions.iter().zip(&convolved);
        Ok(each.map(|(d, u)| d.x_proj.forward(u)).collect())
    })?;
    rounds.add("dt_proj", true, &ranks, || {
        let each = directions.iter().zip(&ranks);
        Ok(each.map(|(d, rank)| d.step_sizes(rank)).collect())
    })?;
    rounds.add("selective scan", false, &scan_leaves, || (0..2).map(scanned).collect())?;
    rounds.add("mean of the directions", false, &[&outputs[0], &outputs[1]], || {
        Ok(vec![Mixer::merge(&outputs[0], &outputs[1])])
    })?;
    rounds.add("out_proj", true, &[&merged], || Ok(vec![mixer.out_proj.forward(&merged)]))?;
    rounds.add("total", false, &[hidden], || Ok(vec![mixer.forward(hidden)?]))?;
    rounds.medians(runs)
}

/// Returns the same tensor as a leaf, without its history.
fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().set_requires_grad(true)
}

/// An operation, the leaves and output gradients of its backward pass, and its times in seconds.
struct Timed<'a> {
    name: &'static str,
    gemm: bool,
    leaves: Vec<&'a Tensor>,
    douts: Vec<Tensor>,
    run: Box<dyn Fn() -> Result<Vec<Tensor>> + 'a>,
    forward: Vec<f64>,
    backward: Vec<f64>,
}

/// Operations that are timed in turn, for several rounds, so that a busy moment of the machine
/// affects all of them.
struct Rounds<'a> {
    parameters: &'a [Tensor],
    operations: Vec<Timed<'a>>,
}

impl<'a> Rounds<'a> {
    /// Adds an operation; its backward pass computes the gradients of `inputs` and of every
    /// parameter that it uses.
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
        self.operations.push(Timed {
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

    /// Returns medians over `runs` rounds, after a warm-up round.
    fn medians(mut self, runs: usize) -> Result<Vec<Operation>> {
        for round in 0..=runs.max(1) {
            for operation in &mut self.operations {
                let start = Instant::now();
                let outputs = (operation.run)()?;
                let middle = Instant::now();
                for (out, dout) in outputs.iter().zip(&operation.douts) {
                    gradients(out, dout, &operation.leaves)?;
                }
                if round > 0 {
                    operation.forward.push((middle - start).as_secs_f64());
                    operation.backward.push(middle.elapsed().as_secs_f64());
                }
            }
        }
        let operations = self.operations.into_iter().map(|timed| Operation {
            name: timed.name,
            gemm: timed.gemm,
            forward_ms: 1e3 * median(timed.forward),
            backward_ms: 1e3 * median(timed.backward),
        });
        Ok(operations.collect())
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
    fn the_operations_of_a_mixer_are_timed_in_order() {
        tch::manual_seed(0);
        let vim = shape("vim_micro_patch8_64");
        let profile = profile_mixer(&vim, 1, 1).unwrap();
        let names: Vec<_> = profile.operations.iter().map(|operation| operation.name).collect();
        assert_eq!(names.first(), Some(&"in_proj"));
        assert_eq!(names.last(), Some(&"out_proj"));
        let timed = |time: &Operation| time.forward_ms > 0.0 && time.backward_ms > 0.0;
        assert!(profile.operations.iter().all(timed) && timed(&profile.total));
        assert!(profile_mixer(&shape("vit_micro_patch8_64"), 1, 1).is_err());
    }
}
