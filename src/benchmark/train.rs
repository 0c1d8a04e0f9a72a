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
    /// GFLOP/s of a matrix product with this model's sizes (tokens of a batch times an MLP's first
    /// layer), in the type and on the threads that compute the model: the median of measurements
    /// after each step.
    pub gemm_gflops: f64,
    /// The rate of a step as a fraction of the product's after it, the median over the steps: 1
    /// would be a step that costs nothing but matrix products.
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
    let trained = bench.train(steps.max(1))?;
    let peak_bytes = peak_bytes();
    progress("predicting");
    let infer_images_per_second = bench.infer(steps.max(1))?;
    progress("counting launches");
    let launches = bench.launches()?;
    let multiply_adds = summary::summarize(config)?.multiply_adds;
    let gflops = 6e-9 * multiply_adds as f64;
    let images = config.train.batch_size as f64;
    let train_images_per_second =
        images * trained.seconds.len() as f64 / trained.seconds.iter().sum::<f64>();
    let fractions = trained.seconds.iter().zip(&trained.products);
    let gemm_fraction =
        median(fractions.map(|(step, product)| gflops * images / step / product).collect());
    Ok(TrainBenchmark {
        train_images_per_second,
        infer_images_per_second,
        peak_bytes,
        batch_size: config.train.batch_size,
        steps: steps.max(1),
        step: trained.step,
        launches,
        multiply_adds,
        train_gflops: gflops * train_images_per_second,
        gemm_gflops: median(trained.products),
        gemm_fraction,
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

    /// Times training steps, and a matrix product after each.
    fn train(&mut self, steps: usize) -> Result<TimedSteps> {
        let mut trainer = StepTrainer::new(self, &self.slicer)?;
        let product = Product::new(self)?;
        let mut times: [Vec<f64>; 4] = Default::default();
        let (mut seconds, mut products) = (Vec::new(), Vec::new());
        let mut clock = Instant::now();
        for (number, batch) in self.batches(true).take(WARM_UP + steps).enumerate() {
            let batch = batch?;
            let data = lap(&mut clock, self.net.device());
            let [forward, backward, optimizer] = trainer.step(&batch)?;
            let gflops = product.gflops()?;
            clock = Instant::now();
            let marks = [data, forward, backward, optimizer];
            if number >= WARM_UP {
                seconds.push(marks.iter().sum::<f64>());
                products.push(gflops);
                times.iter_mut().zip(marks).for_each(|(times, mark)| times.push(mark));
            }
        }
        let [data_ms, forward_ms, backward_ms, optimizer_ms] =
            times.map(|times| 1e3 * median(times));
        let step = StepTimes { data_ms, forward_ms, backward_ms, optimizer_ms };
        Ok(TimedSteps { step, seconds, products })
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
                autocast: autocast_kind(bench.config, net.device()),
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

/// The times of training steps.
struct TimedSteps {
    step: StepTimes,
    /// Seconds of each step.
    seconds: Vec<f64>,
    /// GFLOP/s of a matrix product after each.
    products: Vec<f64>,
}

/// (Tokens of a batch, d) times (d, 4 d), the largest product of a ViT block, with the sizes of the
/// first branch. It is computed as the model is: in its type, and in slices.
struct Product<'a> {
    slicer: &'a Slicer,
    /// The rows of each slice.
    rows: Vec<Range<usize>>,
    x: SharedTensor,
    weight: SharedTensor,
    device: Device,
}

impl<'a> Product<'a> {
    fn new(bench: &'a Bench) -> Result<Self> {
        let (config, device) = (bench.config, bench.net.device());
        let shape: BackboneShape = match config.shape(Branch::Vit)? {
            Some(shape) => shape,
            None => config.shape(Branch::Mamba)?.context("a model has a branch")?,
        };
        let (batch, tokens, dim) =
            (config.train.batch_size, shape.tokens() as usize, shape.embed_dim);
        let slices = bench.slicer.slices(batch).into_iter();
        let kind = autocast_kind(config, device).unwrap_or(Kind::Float);
        let random = |rows| Tensor::f_randn([rows, dim], (Kind::Float, device))?.f_to_kind(kind);
        Ok(Self {
            slicer: &bench.slicer,
            rows: slices.map(|slice| tokens * slice.start..tokens * slice.end).collect(),
            x: random((batch * tokens) as i64)?.into(),
            weight: random(4 * dim)?.into(),
            device,
        })
    }

    /// Computes the product for some time. Returns its GFLOP/s.
    fn gflops(&self) -> Result<f64> {
        // The threads of a product are at their full rate after some time only.
        const UNTIMED: Duration = Duration::from_millis(10);
        const TIMED: Duration = Duration::from_millis(40);
        self.repeat(UNTIMED)?;
        let begin = Instant::now();
        let products = self.repeat(TIMED)?;
        let multiply_adds = products * self.x.numel() * self.weight.size()[0] as usize;
        Ok(2e-9 * multiply_adds as f64 / begin.elapsed().as_secs_f64())
    }

    /// Computes products until the time is over. Returns how many.
    fn repeat(&self, time: Duration) -> Result<usize> {
        // Without a pause of the threads that take slices.
        const REPEATS: usize = 4;
        let begin = Instant::now();
        let mut products = 0;
        while products == 0 || begin.elapsed() < time {
            self.slicer.map(self.rows.len(), |slice| {
                let rows = &self.rows[slice];
                let x = self.x.narrow(0, rows.start as i64, rows.len() as i64);
                (0..REPEATS).for_each(|_| drop(linear(&x, &self.weight, None)));
                Ok(())
            })?;
            products += REPEATS;
        }
        synchronize(self.device);
        Ok(products)
    }
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
