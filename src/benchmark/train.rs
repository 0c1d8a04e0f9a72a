//! Measures the throughput of training and inference, and the phases of a training step.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::benchmark::measure::{median, synchronize};
use crate::config::{BackboneShape, Branch, Config};
use crate::data::{self, HostBatch, ImageDataset, Loader, LoaderOptions, Mode};
use crate::eval::evaluate;
use crate::models::images::{upload, upload_rows};
use crate::models::{BeautyNet, ForwardContext, Images, Slicer, device, summary};
use crate::ops::{Launches, SharedTensor, count_launches, linear};
use crate::run::memory::peak_bytes;
use crate::train::gradient_sum::GradientSum;
use crate::train::loss::Criterion;
use crate::train::optimizer::Optimizer;
use crate::train::precision::{autocast_kind, in_precision};

/// Untimed steps at the start, which fill the allocator and the queues.
pub(super) const WARM_UP: usize = 2;

/// The times of the phases of a training step: medians over the steps, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTimes {
    /// Waiting for the loader, and the copy to the device.
    pub data_ms: f64,
    /// Forward pass and loss.
    pub forward_ms: f64,
    /// Backward pass.
    pub backward_ms: f64,
    /// Gradient clipping and the update of the parameters.
    pub optimizer_ms: f64,
}

impl StepTimes {
    /// Returns the time of the step.
    pub fn total_ms(&self) -> f64 {
        self.data_ms + self.forward_ms + self.backward_ms + self.optimizer_ms
    }
}

/// The result of [`benchmark_train`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainBenchmark {
    /// Images per second of training, from the total time of the steps.
    pub train_images_per_second: f64,
    /// Images per second of forward passes without gradients, loading included.
    pub infer_images_per_second: f64,
    /// Peak memory of the process up to the end of training, in bytes; `None` if unknown.
    pub peak_bytes: Option<u64>,
    /// Images per step.
    pub batch_size: usize,
    /// The number of measured training steps.
    pub steps: usize,
    /// The phases of a step.
    pub step: StepTimes,
    /// The CUDA kernels that a step would launch on a GPU; `None` where it ran on one.
    pub launches: Option<Launches>,
    /// Multiply-adds of one image's forward pass.
    pub multiply_adds: i64,
    /// Floating point operations per second of training, in units of 10⁹: two per multiply-add,
    /// three times the forward pass.
    pub train_gflops: f64,
    /// GFLOP/s of one matrix product with this model's sizes (tokens of a batch times an MLP's
    /// first layer).
    pub gemm_gflops: f64,
    /// `train_gflops / gemm_gflops`: 1 would be a step that costs nothing but matrix products.
    pub gemm_fraction: f64,
}

/// Times `steps` training steps as [`train`](crate::train::train) runs them, then as many forward
/// passes, on the config's data. Returns an error if the data cannot be loaded or a size does not
/// fit.
pub fn benchmark_train(
    config: &Config,
    steps: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<TrainBenchmark> {
    let device = device::select(config)?;
    progress("loading the dataset");
    let mut bench = Bench::new(config, device)?;
    progress("training");
    let (step, train_rate) = bench.train(steps.max(1))?;
    let peak_bytes = peak_bytes();
    progress("predicting");
    let infer_images_per_second = bench.infer(steps.max(1))?;
    progress("multiplying matrices");
    let gemm_gflops = gemm_gflops(config, device)?;
    progress("counting launches");
    let launches = bench.launches()?;
    let multiply_adds = summary::summarize(config)?.multiply_adds;
    let train_gflops = 6e-9 * multiply_adds as f64 * train_rate;
    Ok(TrainBenchmark {
        train_images_per_second: train_rate,
        infer_images_per_second,
        peak_bytes,
        batch_size: config.train.batch_size,
        steps: steps.max(1),
        step,
        launches,
        multiply_adds,
        train_gflops,
        gemm_gflops,
        gemm_fraction: train_gflops / gemm_gflops,
    })
}

/// Returns the CUDA kernels that a training step would launch on a GPU, counted on the CPU whatever
/// the config's device: forward, backward, gradient clipping and the optimizer's step. Returns an
/// error as [`benchmark_train`] does.
pub fn step_launches(config: &Config) -> Result<Launches> {
    Bench::new(config, Device::Cpu)?.launches()?.context("internal: the device is the CPU")
}

/// A network to measure, with images.
pub(super) struct Bench<'a> {
    pub config: &'a Config,
    images: Arc<ImageDataset>,
    pub net: BeautyNet,
    pub slicer: Slicer,
}

impl<'a> Bench<'a> {
    fn new(config: &'a Config, device: Device) -> Result<Self> {
        let dataset = data::load(&config.data, config.seed)?;
        let images = Arc::new(ImageDataset::new(dataset.train, &config.data)?);
        Self::with_images(config, device, images)
    }

    /// Builds the config's network, with new weights, and sets the number of threads.
    pub(super) fn with_images(
        config: &'a Config,
        device: Device,
        images: Arc<ImageDataset>,
    ) -> Result<Self> {
        if let Some(threads) = config.train.threads {
            tch::set_num_threads(threads as i32);
        }
        config.check_image_sizes()?;
        tch::manual_seed(config.seed as i64);
        let mut net = BeautyNet::without_pretrained(config, device)?;
        if config.train.checkpoint_activations {
            net.recompute_blocks();
        }
        let slicer = Slicer::new(config.train.slice, device)?;
        Ok(Self { config, images, net, slicer })
    }

    /// Iterates over full batches, epoch after epoch.
    pub(super) fn batches(&self, train: bool) -> impl Iterator<Item = Result<HostBatch>> + use<> {
        let (seed, batch_size) = (self.config.seed, self.config.train.batch_size);
        let (workers, images) = (self.config.data.workers, Arc::clone(&self.images));
        (0..).flat_map(move |epoch| {
            let mode = if train { Mode::Train { seed, epoch } } else { Mode::Eval };
            let options =
                LoaderOptions { drop_last: true, ..LoaderOptions::new(mode, batch_size, workers) };
            let (loader, error) = match Loader::new(Arc::clone(&images), options) {
                Ok(loader) => (Some(loader), None),
                Err(error) => (None, Some(Err(error))),
            };
            loader.into_iter().flatten().chain(error)
        })
    }

    /// Times training steps. Returns the phases of a step, and images per second.
    fn train(&mut self, steps: usize) -> Result<(StepTimes, f64)> {
        let mut trainer = StepTrainer::new(self, &self.slicer)?;
        let mut times: [Vec<f64>; 4] = Default::default();
        let mut clock = Instant::now();
        let mut seconds = 0.0;
        for (number, batch) in self.batches(true).take(WARM_UP + steps).enumerate() {
            let batch = batch?;
            let data = lap(&mut clock, self.net.device());
            let [forward, backward, optimizer] = trainer.step(&batch)?;
            clock = Instant::now();
            let marks = [data, forward, backward, optimizer];
            if number >= WARM_UP {
                seconds += marks.iter().sum::<f64>();
                times.iter_mut().zip(marks).for_each(|(times, mark)| times.push(mark));
            }
        }
        let [data_ms, forward_ms, backward_ms, optimizer_ms] =
            times.map(|times| 1e3 * median(times));
        let phases = StepTimes { data_ms, forward_ms, backward_ms, optimizer_ms };
        Ok((phases, (steps * self.config.train.batch_size) as f64 / seconds))
    }

    /// Counts the second of two training steps, so that what the optimizer allocates once is not
    /// counted; `None` on a GPU.
    fn launches(&self) -> Result<Option<Launches>> {
        if self.net.device() != Device::Cpu {
            return Ok(None);
        }
        // A GPU computes batches as a whole.
        let whole = Slicer::whole();
        let mut trainer = StepTrainer::new(self, &whole)?;
        let mut launches = None;
        for batch in self.batches(true).take(2) {
            let batch = batch?;
            let (done, counted) = count_launches(|| trainer.step(&batch))?;
            done?;
            launches = Some(counted);
        }
        Ok(launches)
    }

    fn infer(&self, steps: usize) -> Result<f64> {
        let mut clock = Instant::now();
        for (number, batch) in self.batches(false).take(WARM_UP + steps).enumerate() {
            let pixels = upload(&batch?, self.net.device())?;
            let output = self.net.infer(Images::Pixels(&pixels), &self.slicer)?;
            evaluate::values(&output.score)?;
            if number + 1 == WARM_UP {
                clock = Instant::now();
            }
        }
        Ok((steps * self.config.train.batch_size) as f64 / clock.elapsed().as_secs_f64())
    }
}

/// Returns the seconds since the last call, after synchronizing the device.
fn lap(clock: &mut Instant, device: Device) -> f64 {
    synchronize(device);
    let seconds = clock.elapsed().as_secs_f64();
    *clock = Instant::now();
    seconds
}

/// The loss of a benchmark's network.
struct TrainingLoss<'a> {
    net: &'a BeautyNet,
    criterion: Criterion,
    autocast: Option<Kind>,
    seed: u64,
}

impl TrainingLoss<'_> {
    /// Computes the term of these images of a batch, whose weight is `total`.
    fn of_slice(&self, batch: &HostBatch, rows: &Range<usize>, total: f64) -> Result<Tensor> {
        let device = self.net.device();
        let pixels = upload_rows(batch, rows, device)?;
        let ctx = ForwardContext::train_on(device, self.seed).with_batch_shard(rows, batch.len);
        let output =
            in_precision(self.autocast, device, || self.net.forward(Images::Pixels(&pixels), ctx))?;
        let targets = self.criterion.targets(batch, rows, self.net.head())?;
        let loss = self.criterion.loss(&self.criterion.predictions(&output)?, &targets, total)?;
        Ok(loss.total)
    }
}

/// Runs training steps of a benchmark's network.
pub(super) struct StepTrainer<'a> {
    loss: TrainingLoss<'a>,
    slicer: &'a Slicer,
    optimizer: Optimizer,
    trained: Vec<SharedTensor>,
    learning_rates: [f64; 2],
    clip_grad_norm: Option<f64>,
}

impl<'a> StepTrainer<'a> {
    pub(super) fn new(bench: &'a Bench, slicer: &'a Slicer) -> Result<Self> {
        let (net, settings) = (&bench.net, &bench.config.train);
        Ok(Self {
            loss: TrainingLoss {
                net,
                criterion: Criterion::new(settings, bench.images.samples())?,
                autocast: autocast_kind(settings.precision, net.device()),
                seed: bench.config.seed,
            },
            slicer,
            optimizer: Optimizer::new(&net.parameters(), &settings.optimizer, &settings.freeze),
            trained: net.trainable_parameters().into_iter().map(Into::into).collect(),
            learning_rates: [settings.optimizer.lr, settings.optimizer.backbone_lr()],
            clip_grad_norm: settings.clip_grad_norm,
        })
    }

    /// Runs one step. Returns the seconds of forward, backward and the optimizer.
    pub(super) fn step(&mut self, batch: &HostBatch) -> Result<[f64; 3]> {
        let loss = &self.loss;
        let device = loss.net.device();
        let mut clock = Instant::now();
        let sum = GradientSum::new(&self.trained, self.slicer);
        let total = Criterion::total_weight(&batch.weights);
        let slices = self.slicer.slices(batch.len);
        let seconds = self.slicer.map(slices.len(), |slice| {
            let mut clock = Instant::now();
            let loss = loss.of_slice(batch, &slices[slice], total)?;
            let forward = lap(&mut clock, device);
            sum.add(slice, &loss)?;
            Ok([forward, lap(&mut clock, device)])
        })?;
        let computing = lap(&mut clock, device);
        // Slices run forward while others run backward.
        let forward: f64 = seconds.iter().map(|[forward, _]| forward).sum();
        let both: f64 = seconds.iter().flatten().sum();
        let forward = computing * forward / both;
        self.optimizer.step(self.learning_rates, self.clip_grad_norm)?;
        Ok([forward, computing - forward, lap(&mut clock, device)])
    }
}

/// Measures the GFLOP/s of (tokens of a batch, d) times (d, 4 d), the largest product of a ViT
/// block, with the sizes of the first branch.
fn gemm_gflops(config: &Config, device: Device) -> Result<f64> {
    // The threads of a product are at their full rate after some time only.
    const UNTIMED: Duration = Duration::from_millis(200);
    const TIMED: Duration = Duration::from_millis(400);
    let shape: BackboneShape = match config.shape(Branch::Vit)? {
        Some(shape) => shape,
        None => config.shape(Branch::Mamba)?.context("a model has a branch")?,
    };
    let (rows, dim) = (config.train.batch_size as i64 * shape.tokens(), shape.embed_dim);
    let options = (Kind::Float, device);
    let x = Tensor::f_randn([rows, dim], options)?;
    let weight = Tensor::f_randn([4 * dim, dim], options)?;
    let mut seconds = Vec::new();
    let begin = Instant::now();
    while seconds.is_empty() || begin.elapsed() < UNTIMED + TIMED {
        let start = Instant::now();
        let product = linear(&x, &weight, None);
        synchronize(device);
        if start - begin >= UNTIMED {
            seconds.push(start.elapsed().as_secs_f64());
        }
        drop(product);
    }
    Ok(2e-9 * (rows * dim * 4 * dim) as f64 / median(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_of_a_small_model_is_timed() {
        let config = Config::from_yaml(
            "data: {dataset: synthetic, image_size: 32, synthetic: {train: 12, val: 4, test: 4}}\n\
             model: {vit: {name: vit_micro_patch8_64, depth: 1}, \
             mamba: {name: vim_micro_patch8_64, depth: 1}}\n\
             train: {batch_size: 4}",
            "small",
            &[],
        )
        .unwrap();
        let found = benchmark_train(&config, 2, &mut |_| ()).unwrap();
        let step = &found.step;
        for phase_ms in [step.data_ms, step.forward_ms, step.backward_ms, step.optimizer_ms] {
            assert!(phase_ms > 0.0, "{found:?}");
        }
        let rates =
            [found.train_images_per_second, found.infer_images_per_second, found.gemm_gflops];
        assert!(rates.iter().all(|rate| *rate > 0.0), "{found:?}");
        assert!(found.gemm_fraction < 1.0, "{found:?}");
        assert_eq!((found.batch_size, found.steps), (4, 2));
    }
}
