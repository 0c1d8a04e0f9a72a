//! How a run begins: from nothing, or where it was stopped, with all ranks alike.

use std::path::Path;
use std::time::Instant;

use anyhow::{Error, Result, ensure};
use tch::Kind;

use super::loading::batches;
use super::splits::Splits;
use super::step::seed_of;
use super::{Options, Trainer, device_name};
use crate::config::Config;
use crate::data::Loader;
use crate::models::{BeautyNet, device};
use crate::ops;
use crate::run::{Provenance, RunDir, RunKind, StartingWeights};
use crate::train::checkpoint::{self, Progress};
use crate::train::distributed::{Gradients, Ranks};
use crate::train::ema::Ema;
use crate::train::loss::Criterion;
use crate::train::observer::{Observer, Start};
use crate::train::optimizer::Optimizer;
use crate::train::precision::{LossScale, autocast_kind};
use crate::train::schedule::Schedule;
use crate::train::stop::Stopped;

/// What a run is made of, whether it begins or goes on.
struct Parts {
    splits: Splits,
    criterion: Criterion,
    net: BeautyNet,
    /// The first epoch's batches, of a run that begins.
    ahead: Option<Loader>,
}

impl Parts {
    /// Of a run that `begins`: with the weights files that the config names, on the first rank (the
    /// others get its weights), and the first batches in the making.
    fn new(config: &Config, ranks: &Ranks, begins: bool) -> Result<Self> {
        let device = ranks.connect(device::select(config.device)?)?;
        let splits = Splits::load(config)?;
        let ahead = if begins { Some(batches(config, ranks, &splits.train, 0, 0)?) } else { None };
        let criterion = Criterion::new(&config.train, splits.train.samples())?;
        tch::manual_seed(seed_of(config.seed, u64::MAX));
        let net = if begins && ranks.is_first() {
            BeautyNet::new(config, device)?
        } else {
            BeautyNet::without_pretrained(config, device)?
        };
        Ok(Self { splits, criterion, net, ahead })
    }
}

impl<'a> Trainer<'a> {
    /// Makes the run's folder, or opens it.
    pub(super) fn begin(config: &'a Config, root: &Path, options: Options) -> Result<Self> {
        if let Some(threads) = config.train.threads {
            tch::set_num_threads(threads as i32);
        }
        config.check_image_sizes()?;
        let ranks = &options.ranks;
        if options.resume {
            let run = if ranks.is_first() {
                RunDir::resume(root, RunKind::Train, config)?
            } else {
                RunDir::of_first_rank(root)
            };
            return Self::resume(config, run, options);
        }
        if ranks.is_first() {
            RunDir::check_free(root, RunKind::Train)?;
            config.model.check_weights()?;
        }
        let parts = Parts::new(config, ranks, true)?;
        let signal = options.stop.signal();
        if signal > 0 && ranks.size() == 1 {
            return Err(Error::new(Stopped {
                signal,
                steps: 0,
                epoch: 0,
                config: None,
                command: "train",
            }));
        }
        let run = if ranks.is_first() {
            RunDir::create(root, RunKind::Train, config)?
        } else {
            RunDir::of_first_rank(root)
        };
        let mut trainer = Self::new(config, run, parts, options);
        trainer.note_starting_weights()?;
        Ok(trainer)
    }

    fn new(config: &'a Config, run: RunDir, parts: Parts, options: Options) -> Self {
        let Parts { splits, criterion, mut net, ahead } = parts;
        let ranks = options.ranks;
        let samples = splits.train.samples();
        let scores: Vec<f64> = samples.iter().map(|s| s.score.into()).collect();
        let (mean, std) = mean_and_std(&scores);
        net.set_score_scale(mean, std);
        if let Some(range) = criterion.score_range() {
            net.set_score_range(range);
        }
        if config.train.checkpoint_activations {
            net.recompute_blocks();
        }
        let batches = splits.train.len().div_ceil(config.train.batch_size * ranks.size());
        let steps_per_epoch = batches.div_ceil(config.train.accumulate);
        let (settings, parameters) = (&config.train, net.parameters());
        let autocast = autocast_kind(settings.precision, net.device());
        let provenance = Provenance::collect(&device_name(net.device()));
        Self {
            schedule: Schedule::new(&settings.schedule, settings.epochs, steps_per_epoch),
            criterion,
            optimizer: Optimizer::new(&parameters, &settings.optimizer, &settings.freeze),
            ema: settings.ema_decay.map(|decay| Ema::new(&parameters, decay)),
            progress: Progress {
                data: splits.fingerprint(),
                processes: ranks.size(),
                loss_scale: LossScale::of(autocast),
                precision: format!("{:?}", autocast.unwrap_or(Kind::Float)),
                ..Progress::default()
            },
            config,
            run,
            splits,
            net,
            steps_per_epoch,
            records: Vec::new(),
            provenance,
            resumed: options.resume,
            ranks,
            gradients: Gradients::single(),
            ahead,
            autocast,
            stop: options.stop,
            lap: Instant::now(),
        }
    }

    /// At the last checkpoint, or at the start where there is none yet.
    fn resume(config: &'a Config, run: RunDir, options: Options) -> Result<Self> {
        let ranks = options.ranks.clone();
        // The checkpoint holds all weights: published files are read only where there is none yet.
        let parts = Parts::new(config, &ranks, !run.checkpoint("checkpoint").exists())?;
        let mut trainer = Self::new(config, run, parts, options);
        if !trainer.run.checkpoint("checkpoint").exists() {
            trainer.note_starting_weights()?;
        }
        let saved = if ranks.is_first() {
            checkpoint::load(
                &trainer.run,
                &trainer.net,
                &mut trainer.optimizer,
                trainer.ema.as_mut(),
            )?
        } else {
            None
        };
        if let Some(progress) = saved {
            ensure!(
                progress.data == trainer.progress.data,
                "the data set is not the one that {} was started with: images or scores were added, removed or changed",
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
                progress.precision == trainer.progress.precision,
                "{} was started in {}, and train.precision: auto is {} on this machine: resume it on one of the same kind",
                trainer.run.root().display(),
                progress.precision,
                trainer.progress.precision
            );
            ensure!(
                progress.best.is_none() || trainer.run.best().exists(),
                "{} is missing: it cannot be made again, so the run cannot be resumed",
                trainer.run.best().display()
            );
            trainer.records = trainer.run.read_metrics(progress.epochs)?;
            trainer.progress = progress;
        }
        Ok(trainer)
    }

    /// The files that were just read; the first rank alone has them.
    fn note_starting_weights(&mut self) -> Result<()> {
        if self.ranks.is_first() {
            self.progress.starting_weights = StartingWeights::of(self.config)?;
        }
        Ok(())
    }

    /// Sees to it that all ranks begin with the same: what they were given, and rank 0's weights
    /// and progress.
    pub(super) fn start_alike(&mut self) -> Result<()> {
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
        self.ranks.broadcast(tensors.iter().map(|(_, tensor)| tensor))
    }

    /// What must be the same on all ranks. Where a host has its data, and how it reads them, is its
    /// own affair.
    fn facts(&self) -> Result<Vec<(&'static str, String)>> {
        let mut config = self.config.clone();
        config.data.root = Default::default();
        config.data.workers = 0;
        config.train.threads = None;
        let parameters = self.net.parameters();
        let parameters =
            parameters.iter().map(|(name, tensor)| format!("{name} {:?}\n", tensor.size()));
        Ok(vec![
            (
                "program",
                format!("{} with libtorch {}", env!("CARGO_PKG_VERSION"), ops::libtorch_version()),
            ),
            ("config", config.to_yaml()?),
            ("flag --resume", self.resumed.to_string()),
            ("data set", self.progress.data.clone()),
            ("parameters", parameters.collect()),
        ])
    }

    pub(super) fn announce(&self, observers: &mut [Box<dyn Observer>]) {
        let start = Start {
            config: self.config,
            images: self.splits.counts(),
            skipped_rows: self.splits.skipped,
            parameters: self.optimizer.parameter_count(),
            device: &self.provenance.device,
            steps_per_epoch: self.steps_per_epoch,
            resumed: self.resumed,
            epochs_done: self.progress.epochs,
            steps_done: self.progress.steps,
            images_done: self.progress.within.images,
            notes: self.net.notes(),
        };
        observers.iter_mut().for_each(|observer| observer.start(&start));
    }
}

/// A standard deviation of 0 (one image, or all scores the same) counts as 1: there is nothing to
/// scale.
fn mean_and_std(scores: &[f64]) -> (f64, f64) {
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n;
    (mean, if variance > 1e-12 { variance.sqrt() } else { 1.0 })
}
