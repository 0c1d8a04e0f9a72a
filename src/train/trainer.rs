//! The training loop.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tch::Tensor;

use super::checkpoint::{self, Progress};
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
use crate::models::{BeautyNet, Images, device, weights};

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
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    config.check_picture_sizes()?;
    let trainer = if resume {
        Trainer::resume(config, RunDir::resume(root, config)?)?
    } else {
        RunDir::check_free(root)?;
        config.model.check_weights()?;
        let device = device::select(config.device)?;
        let splits = Splits::load(config)?;
        tch::manual_seed(seed_of(config.seed, u64::MAX));
        let net = BeautyNet::new(config, device)?;
        Trainer::new(config, RunDir::create(root, config)?, splits, net)
    };
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
    fn new(config: &'a Config, run: RunDir, splits: Splits, mut net: BeautyNet) -> Self {
        let samples = splits.train.samples();
        let scores: Vec<f64> = samples.iter().map(|s| s.score.into()).collect();
        let (mean, std) = mean_and_std(&scores);
        net.set_score_scale(mean, std);
        let steps_per_epoch = splits.train.len().div_ceil(config.train.batch_size);
        let (settings, parameters) = (&config.train, net.parameters());
        Self {
            schedule: Schedule::new(&settings.schedule, settings.epochs, steps_per_epoch),
            optimizer: AdamW::new(&parameters, &settings.optimizer, &settings.freeze),
            ema: settings.ema_decay.map(|decay| Ema::new(&parameters, decay)),
            progress: Progress {
                data: splits.fingerprint(),
                ..Progress::default()
            },
            config,
            run,
            splits,
            net,
            steps_per_epoch,
            records: Vec::new(),
            resumed: false,
        }
    }

    /// At the last epoch's end, or at the start where no epoch was done.
    fn resume(config: &'a Config, run: RunDir) -> Result<Self> {
        let splits = Splits::load(config)?;
        tch::manual_seed(seed_of(config.seed, u64::MAX));
        let device = device::select(config.device)?;
        // The checkpoint holds all weights: published files are read only where there is none yet.
        let net = match run.checkpoint().exists() {
            true => BeautyNet::without_pretrained(config, device)?,
            false => BeautyNet::new(config, device)?,
        };
        let mut trainer = Self::new(config, run, splits, net);
        trainer.resumed = true;
        if let Some(progress) = checkpoint::load(
            &trainer.run,
            &trainer.net,
            &mut trainer.optimizer,
            trainer.ema.as_mut(),
        )? {
            ensure!(
                progress.data == trainer.progress.data,
                "the data set is not the one that {} was started with: pictures or scores were added, removed or changed",
                trainer.run.root().display()
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
        let options =
            LoaderOptions::new(pass, self.config.train.batch_size, self.config.data.workers);
        let mut loader = Loader::new(Arc::clone(&self.splits.train), options)?;
        let frozen_epochs = self.config.train.freeze.epochs;
        self.optimizer
            .freeze(frozen_epochs.is_none_or(|epochs| self.progress.epochs < epochs));
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
        let pixels = evaluate::pixels(batch, &self.net)?;
        let targets = Tensor::f_from_slice(&batch.targets)?.to_device(self.net.device());
        let targets = self.net.head().to_scaled(&targets);
        self.optimizer.zero_grad();
        let output = self.net.forward(Images::Pixels(&pixels), true)?;
        let loss = loss(self.config.train.loss, &output.scaled, &targets);
        loss.f_backward()?;
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
            images: batch.len,
        })
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
        evaluate::predict(&self.net, pictures, self.walk(), &mut |images| {
            observers
                .iter_mut()
                .for_each(|observer| observer.evaluated(split.name(), images));
        })
    }

    /// Measures the best weights, and writes predictions and summary.
    fn finish(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<Outcome> {
        weights::load(&self.net.parameters(), &self.run.best())?;
        let val = self.predict(Split::Val, &self.splits.val, observers)?;
        val.write(&self.run.predictions(Split::Val))?;
        let test = match &self.splits.test {
            Some(pictures) => {
                let test = self.predict(Split::Test, pictures, observers)?;
                test.write(&self.run.predictions(Split::Test))?;
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
        write_json(&self.run.summary(), &outcome)?;
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
