//! The training loop.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use super::checkpoint::{self, Progress};
use super::distributed::{Gradients, Ranks};
use super::ema::Ema;
use super::observer::{EpochRecord, Observer, Start, StepRecord};
use super::optimizer::AdamW;
use super::outcome::{BaselinesBySplit, Outcome};
use super::provenance::Provenance;
use super::run_dir::RunDir;
use super::schedule::Schedule;
use crate::config::{Config, Loss};
use crate::data::{self, HostBatch, Loader, LoaderOptions, Pass, Pictures, Sample, Split};
use crate::eval::baselines::baselines;
use crate::eval::evaluate::{self, Walk};
use crate::eval::predictions::Predictions;
use crate::eval::statistics::Measured;
use crate::files::write_json;
use crate::models::batch_part::with_part;
use crate::models::{BeautyNet, Images, device, weights};
use crate::ops;

/// The pictures of the three splits.
struct Splits {
    train: Arc<Pictures>,
    val: Arc<Pictures>,
    test: Option<Arc<Pictures>>,
    skipped: usize,
}

impl Splits {
    fn load(config: &Config) -> Result<Self> {
        let dataset = data::load(&config.data, config.seed)?;
        let pictures = |samples: Vec<Sample>| {
            Ok::<_, anyhow::Error>(Arc::new(Pictures::new(samples, &config.data)?))
        };
        Ok(Self {
            skipped: dataset.skipped.len(),
            train: pictures(dataset.train)?,
            val: pictures(dataset.val)?,
            test: match dataset.test.is_empty() {
                true => None,
                false => Some(pictures(dataset.test)?),
            },
        })
    }

    /// Of every picture's name and score, in order: a run can only go on with the same ones.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for pictures in [Some(&self.train), Some(&self.val), self.test.as_ref()] {
            for sample in pictures.into_iter().flat_map(|pictures| pictures.samples()) {
                hasher.update(&(sample.id.len() as u64).to_le_bytes());
                hasher.update(sample.id.as_bytes());
                hasher.update(&sample.score.to_bits().to_le_bytes());
            }
            hasher.update(&u64::MAX.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn counts(&self) -> [usize; 3] {
        let test = self.test.as_ref().map_or(0, |pictures| pictures.len());
        [self.train.len(), self.val.len(), test]
    }
}

/// Trains a model as the config says, in the run directory `root`, and measures its best weights at the end. A resumed run goes on
/// from its last epoch and ends with the same weights, bit for bit on one machine, as one that was not interrupted.
///
/// # Errors
/// Data, weights or a run directory that do not fit: a new run directory is made only when everything else is there. A loss or
/// gradient that is not finite, with the step and its pictures.
pub fn train(
    config: &Config,
    root: &Path,
    resume: bool,
    observers: &mut [Box<dyn Observer>],
) -> Result<Outcome> {
    train_with(config, root, resume, observers, Ranks::single())
}

/// As [`train`], with other processes: each has its part of every batch, whose size is the config's times their number, and all end
/// with the same weights and figures. Rank 0 writes. It alone needs the run directory and the pretrained weights' files.
///
/// # Errors
/// As [`train`]. An error of one rank ends all.
pub fn train_with(
    config: &Config,
    root: &Path,
    resume: bool,
    observers: &mut [Box<dyn Observer>],
    ranks: Ranks,
) -> Result<Outcome> {
    let outcome = train_as(config, root, resume, observers, &ranks);
    ranks.end(outcome)
}

fn train_as(
    config: &Config,
    root: &Path,
    resume: bool,
    observers: &mut [Box<dyn Observer>],
    ranks: &Ranks,
) -> Result<Outcome> {
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    config.check_picture_sizes()?;
    let mut trainer = if resume {
        let run = match ranks.is_first() {
            true => RunDir::resume(root, config)?,
            false => RunDir::of_first_rank(root),
        };
        Trainer::resume(config, run, ranks)?
    } else {
        if ranks.is_first() {
            RunDir::check_free(root)?;
            config.model.check_weights()?;
        }
        let device = ranks.connect(device::select(config.device)?)?;
        let splits = Splits::load(config)?;
        tch::manual_seed(seed_of(config.seed, u64::MAX));
        // The other ranks get the first one's weights.
        let net = match ranks.is_first() {
            true => BeautyNet::new(config, device)?,
            false => BeautyNet::without_pretrained(config, device)?,
        };
        let run = match ranks.is_first() {
            true => RunDir::create(root, config)?,
            false => RunDir::of_first_rank(root),
        };
        Trainer::new(config, run, splits, net, ranks)
    };
    trainer.start_alike()?;
    trainer.run(observers)
}

struct Trainer<'a> {
    config: &'a Config,
    run: RunDir,
    splits: Splits,
    net: BeautyNet,
    optimizer: AdamW,
    ema: Option<Ema>,
    schedule: Schedule,
    steps_per_epoch: usize,
    progress: Progress,
    records: Vec<EpochRecord>,
    resumed: bool,
    ranks: Ranks,
    gradients: Gradients,
}

/// What one epoch of training adds up to.
#[derive(Default)]
struct EpochSums {
    loss: f64,
    images: usize,
    waiting: Duration,
    rates: [f64; 2],
}

impl<'a> Trainer<'a> {
    fn new(
        config: &'a Config,
        run: RunDir,
        splits: Splits,
        mut net: BeautyNet,
        ranks: &Ranks,
    ) -> Self {
        let samples = splits.train.samples();
        let scores: Vec<f64> = samples.iter().map(|s| s.score.into()).collect();
        let (mean, std) = mean_and_std(&scores);
        net.set_score_scale(mean, std);
        let steps_per_epoch = splits
            .train
            .len()
            .div_ceil(config.train.batch_size * ranks.size());
        let (settings, parameters) = (&config.train, net.parameters());
        Self {
            schedule: Schedule::new(&settings.schedule, settings.epochs, steps_per_epoch),
            optimizer: AdamW::new(&parameters, &settings.optimizer, &settings.freeze),
            ema: settings.ema_decay.map(|decay| Ema::new(&parameters, decay)),
            progress: Progress {
                data: splits.fingerprint(),
                processes: ranks.size(),
                ..Progress::default()
            },
            config,
            run,
            splits,
            net,
            steps_per_epoch,
            records: Vec::new(),
            resumed: false,
            ranks: ranks.clone(),
            gradients: Gradients::single(),
        }
    }

    /// At the last epoch's end, or at the start where no epoch was done.
    fn resume(config: &'a Config, run: RunDir, ranks: &Ranks) -> Result<Self> {
        let splits = Splits::load(config)?;
        tch::manual_seed(seed_of(config.seed, u64::MAX));
        let device = ranks.connect(device::select(config.device)?)?;
        // The checkpoint holds all weights: published files are read only where there is none yet.
        let net = match run.checkpoint().exists() || !ranks.is_first() {
            true => BeautyNet::without_pretrained(config, device)?,
            false => BeautyNet::new(config, device)?,
        };
        let mut trainer = Self::new(config, run, splits, net, ranks);
        trainer.resumed = true;
        let saved = match ranks.is_first() {
            true => checkpoint::load(
                &trainer.run,
                &trainer.net,
                &mut trainer.optimizer,
                trainer.ema.as_mut(),
            )?,
            false => None,
        };
        if let Some(progress) = saved {
            ensure!(
                progress.data == trainer.progress.data,
                "the data set is not the one that {} was started with: pictures or scores were added, removed or changed",
                trainer.run.root().display()
            );
            ensure!(
                progress.processes == trainer.progress.processes,
                "{} was started with {} processes, not {}: resume it with as many",
                trainer.run.root().display(),
                progress.processes,
                trainer.progress.processes
            );
            ensure!(
                trainer.run.best().exists(),
                "{} is missing: it cannot be made again, so the run cannot be resumed",
                trainer.run.best().display()
            );
            trainer.records = trainer.run.read_metrics(progress.epochs)?;
            trainer.progress = progress;
        }
        Ok(trainer)
    }

    /// Sees to it that all ranks begin with the same: what they were given, and rank 0's weights and progress.
    fn start_alike(&mut self) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        self.ranks.agree(&self.facts()?)?;
        let progress = self.ranks.from_first("progress", || {
            Ok(serde_json::to_string(&(&self.progress, &self.records))?)
        })?;
        (self.progress, self.records) = serde_json::from_str(&progress)?;
        let mut tensors = self.net.parameters();
        tensors.extend(self.optimizer.state());
        tensors.extend(self.ema.iter().flat_map(Ema::state));
        let _guard = tch::no_grad_guard();
        self.ranks
            .broadcast(tensors.iter().map(|(_, tensor)| tensor))
    }

    /// What must be the same on all ranks. Where a host has its data, and how it reads them, is its own affair.
    fn facts(&self) -> Result<Vec<(&'static str, String)>> {
        let mut config = self.config.clone();
        config.data.root = Default::default();
        config.data.workers = 0;
        config.train.threads = None;
        let parameters = self.net.parameters();
        let parameters = parameters
            .iter()
            .map(|(name, tensor)| format!("{name} {:?}\n", tensor.size()));
        Ok(vec![
            (
                "program",
                format!(
                    "{} with libtorch {}",
                    env!("CARGO_PKG_VERSION"),
                    ops::libtorch_version()
                ),
            ),
            ("config", config.to_yaml()?),
            ("flag --resume", self.resumed.to_string()),
            ("data set", self.progress.data.clone()),
            ("parameters", parameters.collect()),
        ])
    }

    fn run(mut self, observers: &mut [Box<dyn Observer>]) -> Result<Outcome> {
        self.announce(observers);
        while self.progress.epochs < self.config.train.epochs {
            self.epoch(observers)?;
        }
        self.finish(observers)
    }

    fn device_name(&self) -> String {
        match self.net.device() {
            tch::Device::Cpu => "cpu".to_string(),
            tch::Device::Cuda(index) => format!("cuda:{index}"),
            other => format!("{other:?}"),
        }
    }

    fn announce(&self, observers: &mut [Box<dyn Observer>]) {
        let start = Start {
            config: self.config,
            pictures: self.splits.counts(),
            skipped: self.splits.skipped,
            parameters: self.optimizer.parameter_count(),
            device: &self.device_name(),
            steps_per_epoch: self.steps_per_epoch,
            resumed: self.resumed,
            epochs_done: self.progress.epochs,
            notes: self.net.notes(),
        };
        observers
            .iter_mut()
            .for_each(|observer| observer.start(&start));
    }

    fn walk(&self) -> Walk {
        Walk {
            batch_size: self.config.train.batch_size,
            workers: self.config.data.workers,
        }
    }

    fn epoch(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<()> {
        let started = Instant::now();
        let sums = self.train_epoch(observers)?;
        let training = started.elapsed();
        self.exchange_average()?;
        let val = self.predict(Split::Val, &self.splits.val, observers)?;
        let figures = val.metrics()?;
        self.progress.epochs += 1;
        self.progress.seconds += started.elapsed().as_secs_f64();
        // An undefined PC (a model that predicts one value) is worse than any other.
        let pc = if figures.pc.is_finite() {
            figures.pc
        } else {
            -2.0
        };
        let best = self.progress.best.is_none_or(|(_, before)| pc > before);
        if best {
            self.progress.best = Some((self.progress.epochs, pc));
        }
        let record = EpochRecord {
            epoch: self.progress.epochs,
            step: self.progress.steps,
            train_loss: sums.loss / sums.images as f64,
            val: figures,
            lr: sums.rates[0],
            backbone_lr: sums.rates[1],
            fusion_weights: mean_shares(&val),
            images_per_second: sums.images as f64 / training.as_secs_f64(),
            data_wait: sums.waiting.as_secs_f64() / training.as_secs_f64(),
            seconds: started.elapsed().as_secs_f64(),
            best,
        };
        self.records.push(record);
        self.save(best)?;
        if let Some(record) = self.records.last() {
            observers
                .iter_mut()
                .for_each(|observer| observer.epoch(record));
        }
        Ok(())
    }

    /// Puts the average of the weights, if one is kept, in their place, and back again.
    fn exchange_average(&mut self) -> Result<()> {
        self.ema.as_mut().map_or(Ok(()), Ema::exchange)
    }

    /// Keeps what was measured, puts the weights back that training goes on with, and writes the checkpoint last: whatever it
    /// counts on is there before it.
    fn save(&mut self, best: bool) -> Result<()> {
        if !self.ranks.is_first() {
            return self.exchange_average();
        }
        let parameters = self.net.parameters();
        if best {
            weights::save(&self.run.best(), &parameters, self.metadata()?)?;
        }
        weights::save(&self.run.last(), &parameters, self.metadata()?)?;
        self.run.write_metrics(&self.records)?;
        self.exchange_average()?;
        checkpoint::save(
            &self.run,
            &self.net,
            &self.optimizer,
            self.ema.as_ref(),
            &self.progress,
        )
    }

    /// One entry, so that equal weights make equal files: several would be written in no fixed order.
    fn metadata(&self) -> Result<HashMap<String, String>> {
        let run = serde_json::json!({
            "config": self.config.to_yaml()?,
            "epoch": self.progress.epochs,
            "version": env!("CARGO_PKG_VERSION"),
        });
        Ok(HashMap::from([("run".to_string(), run.to_string())]))
    }

    fn train_epoch(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<EpochSums> {
        let pass = Pass::Train {
            seed: self.config.seed,
            epoch: self.progress.epochs as u64,
        };
        let batch_size = self.config.train.batch_size * self.ranks.size();
        let options = LoaderOptions {
            share: self.ranks.share(),
            ..LoaderOptions::new(pass, batch_size, self.config.data.workers)
        };
        let mut loader = Loader::new(Arc::clone(&self.splits.train), options)?;
        let frozen_epochs = self.config.train.freeze.epochs;
        self.optimizer
            .freeze(frozen_epochs.is_none_or(|epochs| self.progress.epochs < epochs));
        self.gradients = self.ranks.gradients(&self.net.learning())?;
        let mut sums = EpochSums::default();
        loop {
            let asked = Instant::now();
            let Some(batch) = loader.next() else { break };
            let batch = batch?;
            sums.waiting += asked.elapsed();
            let record = self.train_step(&batch)?;
            sums.loss += record.loss * record.images as f64;
            sums.images += record.images;
            sums.rates = [record.lr, record.backbone_lr];
            observers
                .iter_mut()
                .for_each(|observer| observer.step(&record));
        }
        Ok(sums)
    }

    fn train_step(&mut self, batch: &HostBatch) -> Result<StepRecord> {
        // Dropout and stochastic depth depend on the seed and the step alone, so a resumed run draws the same.
        tch::manual_seed(seed_of(self.config.seed, self.progress.steps));
        self.optimizer.zero_grad();
        self.gradients.arm()?;
        let part = self.ranks.share().of(batch.whole);
        let loss = with_part(&part, batch.whole, || self.forward_backward(batch))?;
        self.gradients.finish()?;
        let value = loss.double_value(&[]);
        let rates = self.optimizer.rates(&self.schedule, self.progress.steps);
        let grad_norm = self
            .optimizer
            .step(rates, self.config.train.clip_grad_norm)?;
        self.progress.steps += 1;
        ensure!(
            value.is_finite() && grad_norm.is_finite(),
            "step {}: loss {value} and gradient norm {grad_norm} are not both finite; the pictures were {}. The weights of the epochs before are in {}; lower train.optimizer.lr",
            self.progress.steps,
            self.names(batch),
            self.run.root().display()
        );
        if let Some(ema) = &mut self.ema {
            ema.update(self.progress.steps)?;
        }
        Ok(StepRecord {
            step: self.progress.steps,
            loss: value,
            lr: rates[0],
            backbone_lr: rates[1],
            grad_norm,
            images: batch.whole,
        })
    }

    /// Returns the loss over the whole batch, and leaves this rank's part of its gradients.
    fn forward_backward(&self, batch: &HostBatch) -> Result<Tensor> {
        let device = self.net.device();
        let targets = Tensor::f_from_slice(&batch.targets)?.to_device(device);
        let targets = self.net.head().to_scaled(&targets);
        // The last batch may have fewer pictures than there are ranks.
        let scaled = match batch.len {
            0 => targets.zeros_like(),
            _ => {
                let pixels = evaluate::pixels(batch, &self.net)?;
                self.net.forward(Images::Pixels(&pixels), true)?.scaled
            }
        };
        let targets = self.ranks.gather_batch(&targets, batch.whole)?;
        let scaled = self.ranks.gather_batch(&scaled, batch.whole)?;
        let loss = loss(self.config.train.loss, &scaled, &targets);
        if loss.requires_grad() {
            loss.f_backward()?;
        }
        Ok(loss)
    }

    fn names(&self, batch: &HostBatch) -> String {
        let samples = self.splits.train.samples();
        let names: Vec<&str> = batch
            .indices
            .iter()
            .map(|&i| samples[i].id.as_str())
            .collect();
        names.join(", ")
    }

    fn predict(
        &self,
        split: Split,
        pictures: &Arc<Pictures>,
        observers: &mut [Box<dyn Observer>],
    ) -> Result<Predictions> {
        let (walk, share) = (self.walk(), self.ranks.share());
        let mine = evaluate::predict_share(&self.net, pictures, walk, share, &mut |images| {
            observers
                .iter_mut()
                .for_each(|observer| observer.evaluated(split.name(), images));
        })?;
        self.ranks
            .gather_predictions(mine, pictures.samples(), walk.batch_size)
    }

    /// Measures the best weights, and writes predictions and summary.
    fn finish(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<Outcome> {
        let parameters = self.net.parameters();
        if self.ranks.is_first() {
            weights::load(&parameters, &self.run.best())?;
        }
        {
            let _guard = tch::no_grad_guard();
            self.ranks
                .broadcast(parameters.iter().map(|(_, tensor)| tensor))?;
        }
        let val = self.predict(Split::Val, &self.splits.val, observers)?;
        if self.ranks.is_first() {
            val.write(&self.run.predictions(Split::Val))?;
        }
        let test = match &self.splits.test {
            Some(pictures) => {
                let test = self.predict(Split::Test, pictures, observers)?;
                if self.ranks.is_first() {
                    test.write(&self.run.predictions(Split::Test))?;
                }
                Some(Measured::new(&test)?)
            }
            None => None,
        };
        let others: Vec<&Arc<Pictures>> = std::iter::once(&self.splits.val)
            .chain(&self.splits.test)
            .collect();
        let by_split = baselines(&self.splits.train, &others, self.walk())?;
        let outcome = Outcome {
            val: Measured::new(&val)?,
            test,
            baselines: BaselinesBySplit {
                val: *by_split
                    .first()
                    .context("the baselines were measured on no split")?,
                test: by_split.get(1).copied(),
            },
            epochs: self.progress.epochs,
            best_epoch: self.progress.best.map_or(0, |(epoch, _)| epoch),
            seconds: self.progress.seconds,
            images_per_second: mean_speed(&self.records),
            parameters: self.optimizer.parameter_count(),
            pictures: self.splits.counts(),
            skipped: self.splits.skipped,
            seed: self.config.seed,
            provenance: Provenance::collect(&self.device_name()),
        };
        if self.ranks.is_first() {
            write_json(&self.run.summary(), &outcome)?;
        }
        let mut figures = vec![("val", outcome.val.metrics)];
        figures.extend(outcome.test.map(|test| ("test", test.metrics)));
        observers
            .iter_mut()
            .for_each(|observer| observer.finish(&figures));
        Ok(outcome)
    }
}

/// The loss between predictions and targets, both (b) on the scaled scores; a scalar.
fn loss(loss: Loss, predictions: &Tensor, targets: &Tensor) -> Tensor {
    match loss {
        Loss::Mse => predictions.mse_loss(targets, tch::Reduction::Mean),
    }
}

/// A seed of torch's generator for one step of a run (SplitMix64's mixing), so that steps do not share their draws.
fn seed_of(seed: u64, step: u64) -> i64 {
    let mut z = seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as i64
}

/// A standard deviation of 0 (one picture, or all scores the same) counts as 1: there is nothing to scale.
fn mean_and_std(scores: &[f64]) -> (f64, f64) {
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let variance = scores
        .iter()
        .map(|score| (score - mean).powi(2))
        .sum::<f64>()
        / n;
    (
        mean,
        if variance > 1e-12 {
            variance.sqrt()
        } else {
            1.0
        },
    )
}

/// Of all epochs, each as long as the others.
fn mean_speed(records: &[EpochRecord]) -> Option<f64> {
    let seconds: f64 = records
        .iter()
        .map(|record| 1.0 / record.images_per_second)
        .sum();
    let speed = records.len() as f64 / seconds;
    speed.is_finite().then_some(speed)
}

fn mean_shares(predictions: &Predictions) -> Option<[f64; 2]> {
    let mean = |(_, column): &(String, Vec<f64>)| column.iter().sum::<f64>() / column.len() as f64;
    match &predictions.extra[..] {
        [vit, mamba] => Some([mean(vit), mean(mamba)]),
        _ => None,
    }
}
