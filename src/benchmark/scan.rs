//! Compares the selective scan with its eager formulation in libtorch: time, memory, and the
//! fraction of the time that its arithmetic alone takes.

use std::time::Instant;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::benchmark::measure::{median, synchronize};
use crate::ops::profiler::{MemoryWatch, Pass, gradients, run_scan_arithmetic};
use crate::ops::{OpError, Path, ScanInputs, selective_scan, selective_scan_eager};

/// The memory layout of the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Layout {
    /// (batch, dim, length), as in the interface of mamba-ssm.
    #[serde(rename = "bdl")]
    ChannelsFirst,
    /// (batch, length, dim), as linear layers return it and the model passes it on.
    #[serde(rename = "bld")]
    ChannelsLast,
}

/// The settings of [`benchmark_scan`].
#[derive(Debug, Clone)]
pub struct ScanBenchmarkSettings {
    /// `[batch, dim, length, state]`, and the layout of each case.
    pub cases: Vec<([i64; 4], Layout)>,
    /// Runs of each implementation; the medians are reported.
    pub runs: usize,
    /// The device.
    pub device: Device,
    /// The instruction set of our kernels on the CPU.
    pub path: Path,
}

impl ScanBenchmarkSettings {
    /// The shape of a Vim-Ti mixer at 224 pixels, and a long sequence.
    pub const SHAPES: [[i64; 4]; 2] = [[8, 384, 197, 16], [2, 384, 4096, 16]];

    /// Returns settings with every shape in both layouts, those of mamba-ssm's interface first.
    pub fn in_both_layouts(shapes: &[[i64; 4]], runs: usize, device: Device, path: Path) -> Self {
        let with = |layout| shapes.iter().map(move |&shape| (shape, layout));
        let cases = with(Layout::ChannelsFirst).chain(with(Layout::ChannelsLast)).collect();
        Self { cases, runs, device, path }
    }
}

/// The measurements of one pass of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScanMeasurement {
    /// `[batch, dim, length, state]`.
    pub shape: [i64; 4],
    /// The pass: forward or backward.
    pub pass: Pass,
    /// The memory layout of the operands.
    pub layout: Layout,
    /// Median time, milliseconds.
    pub ours_ms: f64,
    /// Median time of the eager formulation, milliseconds.
    pub eager_ms: f64,
    /// `eager_ms / ours_ms`.
    pub ratio: f64,
    /// Median time of the arithmetic alone, milliseconds ([`run_scan_arithmetic`]); `None` on a
    /// GPU.
    pub limit_ms: Option<f64>,
    /// `limit_ms / ours_ms`: 1 would be a scan that costs nothing but its arithmetic.
    pub limit_fraction: Option<f64>,
    /// Peak memory during the pass beyond what was allocated before it: results, saved tensors and
    /// workspaces.
    pub ours_peak_bytes: i64,
    /// Peak memory of the eager formulation.
    pub eager_peak_bytes: i64,
    /// The bytes that the pass reads and returns, for comparison.
    pub inputs_outputs_bytes: i64,
}

/// Seconds and peak bytes of the two passes of one run.
#[derive(Debug, Clone, Copy)]
struct Run {
    seconds: [f64; 2],
    peak_bytes: [i64; 2],
}

/// An implementation of the scan.
type Scan = fn(&ScanInputs, Path) -> Result<Tensor, OpError>;

/// The operands of a case, all of which require gradients, and a gradient of the output.
struct Operands {
    leaves: [Tensor; 8],
    dout: Tensor,
}

impl Operands {
    /// Samples operands of the magnitudes in a freshly initialized Vim from torch's generator.
    fn random(shape: [i64; 4], layout: Layout, device: Device) -> Result<Self, OpError> {
        let [b, d, l, n] = shape;
        let options = (Kind::Float, device);
        let sequence = |rows: i64, scale: f64| -> Result<Tensor, OpError> {
            let tensor = match layout {
                Layout::ChannelsFirst => Tensor::f_randn([b, rows, l], options)?,
                Layout::ChannelsLast => {
                    Tensor::f_randn([b, l, rows], options)?.f_transpose(1, 2)?
                }
            };
            Ok(tensor.f_mul_scalar(scale)?)
        };
        let a = Tensor::f_arange_start(1, n + 1, options)?.f_neg()?.f_repeat([d, 1])?;
        // Step sizes around softplus(-4.6) = 0.01.
        let delta_bias = Tensor::f_rand([d], options)? * 4.6 - 6.9;
        let leaves = [
            sequence(d, 1.0)?,
            sequence(d, 0.5)?,
            a,
            sequence(n, 1.0)?,
            sequence(n, 1.0)?,
            Tensor::f_ones([d], options)?,
            sequence(d, 1.0)?,
            delta_bias,
        ];
        let leaves = leaves.map(|leaf| leaf.set_requires_grad(true));
        Ok(Self { leaves, dout: sequence(d, 1.0)? })
    }

    /// Runs one implementation twice and returns the second run. The first one warms the caches,
    /// since in a model the operands have just been computed.
    fn warm_run(&self, scan: Scan, path: Path) -> Result<Run, OpError> {
        self.run(scan, path)?;
        self.run(scan, path)
    }

    /// Runs the forward pass in training mode, then computes the gradients of all operands.
    fn run(&self, scan: Scan, path: Path) -> Result<Run, OpError> {
        let leaves: Vec<&Tensor> = self.leaves.iter().collect();
        let inputs = ScanInputs::from_operands(&self.leaves, false);
        let mut watch = MemoryWatch::start()?;
        synchronize(self.dout.device());
        let start = Instant::now();
        let out = scan(&inputs, path)?;
        synchronize(self.dout.device());
        let forward = start.elapsed().as_secs_f64();
        let forward_peak = watch.peak();
        let start = Instant::now();
        let found = gradients(&out, &self.dout, &leaves)?;
        synchronize(self.dout.device());
        let backward = start.elapsed().as_secs_f64();
        let backward_peak = watch.peak();
        drop(found);
        Ok(Run { seconds: [forward, backward], peak_bytes: [forward_peak, backward_peak] })
    }

    /// Returns the bytes that each pass reads and returns: the operands and the output; for the
    /// backward pass also their gradients.
    fn inputs_outputs_bytes(&self) -> [i64; 2] {
        let bytes = |t: &Tensor| 4 * t.numel() as i64;
        let operands: i64 = self.leaves.iter().map(bytes).sum();
        let output = bytes(&self.dout);
        [operands + output, 2 * operands + output]
    }
}

/// Measures every case, ours and eager in turn. Calls `progress` before each case.
///
/// Samples the operands from torch's generator. Returns an error if the scan rejects a size, the
/// processor lacks the path, or there is too little memory for the eager formulation.
pub fn benchmark_scan(
    settings: &ScanBenchmarkSettings,
    mut progress: impl FnMut([i64; 4], Layout),
) -> Result<Vec<ScanMeasurement>, OpError> {
    let mut measurements = Vec::new();
    for &(shape, layout) in &settings.cases {
        progress(shape, layout);
        measurements.extend(measure(shape, layout, settings)?);
    }
    Ok(measurements)
}

fn measure(
    shape: [i64; 4],
    layout: Layout,
    settings: &ScanBenchmarkSettings,
) -> Result<[ScanMeasurement; 2], OpError> {
    let operands = Operands::random(shape, layout, settings.device)?;
    let (mut ours, mut eager, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.runs.max(1) {
        ours.push(operands.warm_run(selective_scan, settings.path)?);
        eager.push(operands.warm_run(|inputs, _| selective_scan_eager(inputs), settings.path)?);
        if settings.device == Device::Cpu {
            let forward = time_arithmetic(shape, Pass::Forward, settings.path)?;
            limit.push([forward, time_arithmetic(shape, Pass::Backward, settings.path)?]);
        }
    }
    let bytes = operands.inputs_outputs_bytes();
    Ok([Pass::Forward, Pass::Backward].map(|pass| {
        let index = pass as usize;
        let milliseconds =
            |runs: &[Run]| 1e3 * median(runs.iter().map(|run| run.seconds[index]).collect());
        let peak = |runs: &[Run]| runs.iter().map(|run| run.peak_bytes[index]).max().unwrap_or(0);
        let (ours_ms, eager_ms) = (milliseconds(&ours), milliseconds(&eager));
        let limit = || 1e3 * median(limit.iter().map(|seconds| seconds[index]).collect());
        let limit_ms = (settings.device == Device::Cpu).then(limit);
        ScanMeasurement {
            shape,
            pass,
            layout,
            ours_ms,
            eager_ms,
            ratio: eager_ms / ours_ms,
            limit_ms,
            limit_fraction: limit_ms.map(|limit_ms| limit_ms / ours_ms),
            ours_peak_bytes: peak(&ours),
            eager_peak_bytes: peak(&eager),
            inputs_outputs_bytes: bytes[index],
        }
    }))
}

fn time_arithmetic(shape: [i64; 4], pass: Pass, path: Path) -> Result<f64, OpError> {
    let start = Instant::now();
    run_scan_arithmetic(shape, pass, path)?;
    Ok(start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_gpu::gpu;

    #[test]
    fn the_scan_allocates_little_and_the_eager_one_every_state() {
        check_memory(Device::Cpu);
    }

    #[test]
    fn on_a_gpu_the_scan_allocates_little_and_the_eager_one_every_state() {
        if let Some(device) = gpu() {
            check_memory(device);
        }
    }

    fn check_memory(device: Device) {
        let shape = [2, 64, 200, 16];
        let settings = ScanBenchmarkSettings::in_both_layouts(&[shape], 1, device, Path::Auto);
        let found = benchmark_scan(&settings, |_, _| ()).unwrap();
        assert_eq!(found.len(), 4);
        let states = 4 * shape.iter().product::<i64>();
        for one in found {
            assert!(2 * one.ours_peak_bytes <= 3 * one.inputs_outputs_bytes, "{one:?}");
            assert!(one.eager_peak_bytes >= states, "{one:?}");
            assert!(
                one.ours_ms > 0.0 && one.eager_ms > 0.0 && one.limit_ms.is_none_or(|ms| ms > 0.0),
                "{one:?}"
            );
        }
    }
}
