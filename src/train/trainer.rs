//! The training loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::checkpoint::{self, Progress};
use super::observer::{EpochRecord, Observer, Start, StepRecord};
use super::optimizer::AdamW;
use super::provenance::Provenance;
use super::run_dir::RunDir;
use super::schedule::Schedule;
use crate::config::{Config, Loss};
use crate::data::{self, HostBatch, Loader, LoaderOptions, Pass, Pictures, Sample, Split};
use crate::eval::baselines::{Baselines, baselines};
use crate::eval::evaluate::{self, Walk};
use crate::eval::metrics::Metrics;
use crate::eval::predictions::Predictions;
use crate::files::write_whole;
use crate::models::{BeautyNet, Images, device, weights};

/// What a run came to: `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The best weights on the validation pictures.
    pub val: Metrics,
    /// The best weights on the test pictures, where the data set has some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test: Option<Metrics>,
    /// What has to be beaten, on the same pictures.
    pub baselines: BaselinesBySplit,
    /// Epochs done.
    pub epochs: usize,
    /// The epoch of the best weights, from 1.
    pub best_epoch: usize,
    /// Wall time spent training, in seconds, over all starts.
    pub seconds: f64,
    /// Trained parameters.
    pub parameters: i64,
    /// Numbers of pictures to train on, to validate and to test with.
    pub pictures: [usize; 3],
    /// Rows of the data set that were left out.
    pub skipped: usize,
    /// Of everything random.
    pub seed: u64,
    /// Versions, commit and device.
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// Baselines on each split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BaselinesBySplit {
    /// On the validation pictures.
    pub val: Baselines,
    /// On the test pictures, where the data set has some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test: Option<Baselines>,
}

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

    fn counts(&self) -> [usize; 3] {
        let test = self.test.as_ref().map_or(0, |pictures| pictures.len());
        [self.train.len(), self.val.len(), test]
    }
}

/// Trains a model as the config says, in a run directory, and measures its best weights at the end. A resumed run goes on from
/// its last epoch and ends with the same weights, bit for bit on one machine, as one that was not interrupted.
///
/// # Errors
/// Data, weights or a run directory that do not fit; a loss or gradient that is not finite, with the step and its pictures.
pub fn train(
    config: &Config,
    run: &RunDir,
    resume: bool,
    observers: &mut [Box<dyn Observer>],
) -> Result<Outcome> {
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    config.model.check_weights()?;
    let mut trainer = Trainer::new(config, run)?;
    if resume && let Some(progress) = checkpoint::load(run, &trainer.net, &mut trainer.optimizer)? {
        trainer.progress = progress;
        trainer.records = run.read_metrics(progress.epochs)?;
    }
    trainer.announce(observers);
    while trainer.progress.epochs < config.train.epochs {
        trainer.epoch(observers)?;
    }
    trainer.finish(observers)
}

struct Trainer<'a> {
    config: &'a Config,
    run: &'a RunDir,
    splits: Splits,
    net: BeautyNet,
    optimizer: AdamW,
    schedule: Schedule,
    steps_per_epoch: usize,
    progress: Progress,
    records: Vec<EpochRecord>,
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
    fn new(config: &'a Config, run: &'a RunDir) -> Result<Self> {
        let splits = Splits::load(config)?;
        tch::manual_seed(seed_of(config.seed, u64::MAX));
        let mut net = BeautyNet::new(config, device::select(config.device)?)?;
        let scores: Vec<f64> = splits
            .train
            .samples()
            .iter()
            .map(|s| s.score.into())
            .collect();
        let (mean, std) = mean_and_std(&scores);
        net.set_score_scale(mean, std);
        let optimizer = AdamW::new(&net.parameters(), &config.train.optimizer);
        let steps_per_epoch = splits.train.len().div_ceil(config.train.batch_size);
        Ok(Self {
            schedule: Schedule::new(&config.train.schedule, config.train.epochs, steps_per_epoch),
            config,
            run,
            splits,
            net,
            optimizer,
            steps_per_epoch,
            progress: Progress::default(),
            records: Vec::new(),
        })
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
            epochs_done: self.progress.epochs,
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

    /// The checkpoint comes last: whatever it counts on is there before it.
    fn save(&self, best: bool) -> Result<()> {
        let parameters = self.net.parameters();
        if best {
            weights::save(&self.run.best(), &parameters, self.metadata()?)?;
        }
        weights::save(&self.run.last(), &parameters, self.metadata()?)?;
        self.run.write_metrics(&self.records)?;
        checkpoint::save(self.run, &self.net, &self.optimizer, &self.progress)
    }

    fn metadata(&self) -> Result<std::collections::HashMap<String, String>> {
        Ok([
            ("config".to_string(), self.config.to_yaml()?),
            ("epoch".to_string(), self.progress.epochs.to_string()),
            ("version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ]
        .into())
    }

    fn train_epoch(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<EpochSums> {
        let pass = Pass::Train {
            seed: self.config.seed,
            epoch: self.progress.epochs as u64,
        };
        let options =
            LoaderOptions::new(pass, self.config.train.batch_size, self.config.data.workers);
        let mut loader = Loader::new(Arc::clone(&self.splits.train), options)?;
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
            "step {}: loss {value} and gradient norm {grad_norm} are not both finite; the pictures were {}. The weights of the last epoch are in {}; lower train.optimizer.lr or train.clip_grad_norm",
            self.progress.steps,
            self.names(batch),
            self.run.last().display()
        );
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
        val.write(&self.run.predictions("val"))?;
        let test = match &self.splits.test {
            Some(pictures) => {
                let test = self.predict(Split::Test, pictures, observers)?;
                test.write(&self.run.predictions("test"))?;
                Some(test.metrics()?)
            }
            None => None,
        };
        let others: Vec<&Arc<Pictures>> = std::iter::once(&self.splits.val)
            .chain(&self.splits.test)
            .collect();
        let by_split = baselines(&self.splits.train, &others, self.walk())?;
        let outcome = Outcome {
            val: val.metrics()?,
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
            parameters: self.optimizer.parameter_count(),
            pictures: self.splits.counts(),
            skipped: self.splits.skipped,
            seed: self.config.seed,
            provenance: Provenance::collect(&self.device_name()),
        };
        write_whole(&self.run.summary(), |file| {
            serde_json::to_writer_pretty(&mut *file, &outcome)?;
            Ok(writeln!(file)?)
        })?;
        let mut figures = vec![("val", outcome.val)];
        figures.extend(outcome.test.map(|test| ("test", test)));
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

fn mean_shares(predictions: &Predictions) -> Option<[f64; 2]> {
    let mean = |(_, column): &(String, Vec<f64>)| column.iter().sum::<f64>() / column.len() as f64;
    match &predictions.extra[..] {
        [vit, mamba] => Some([mean(vit), mean(mamba)]),
        _ => None,
    }
}
