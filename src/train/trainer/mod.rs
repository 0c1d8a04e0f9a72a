//! The training loop.

mod begin;
mod epoch;
mod finish;
mod loading;
mod not_finite;
mod splits;
mod step;

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tch::{Device, Kind};

use self::splits::Splits;
use super::checkpoint::Progress;
use super::distributed::{Gradients, Ranks};
use super::ema::Ema;
use super::loss::Criterion;
use super::monitor;
use super::observer::Observer;
use super::optimizer::Optimizer;
use super::schedule::Schedule;
use super::stop::Stop;
use crate::config::Config;
use crate::data::Loader;
use crate::models::BeautyNet;
use crate::run::{EpochRecord, Provenance, RunDir, StartRecord, Summary};

/// How a run is made, beside its config.
#[derive(Clone)]
pub struct Options {
    /// Whether to go on with the run that is in the folder.
    pub resume: bool,
    /// The processes that train together. Each has its part of every batch, whose size is the
    /// config's times their number, and all end with the same weights and metrics. Rank 0 writes;
    /// it alone needs the run directory and the pretrained weights' files.
    pub ranks: Ranks,
    /// Ends the run early.
    pub stop: Stop,
}

impl Default for Options {
    fn default() -> Self {
        Self { resume: false, ranks: Ranks::single(), stop: Stop::default() }
    }
}

/// Trains a model as the config says, in the run directory `root`, and measures its best weights at
/// the end. A resumed run goes on from its last checkpoint and ends with the same weights, bit for
/// bit on one machine, as one that was not interrupted.
///
/// # Errors
/// Data, weights or a run directory that do not fit: a new run directory is made only when
/// everything else is there. A loss or gradient that is not finite, with the step and its images.
/// [`Stopped`](super::Stopped) where the run was asked to end. With several ranks, an error of one
/// ends all.
pub fn train(
    config: &Config,
    root: &Path,
    options: Options,
    observers: &mut [Box<dyn Observer>],
) -> Result<Summary> {
    let ranks = options.ranks.clone();
    let outcome = Trainer::begin(config, root, options).and_then(|mut trainer| {
        trainer.start_alike()?;
        trainer.run(observers)
    });
    ranks.end(outcome)
}

struct Trainer<'a> {
    config: &'a Config,
    run: RunDir,
    splits: Splits,
    net: BeautyNet,
    criterion: Criterion,
    optimizer: Optimizer,
    ema: Option<Ema>,
    schedule: Schedule,
    steps_per_epoch: usize,
    progress: Progress,
    records: Vec<EpochRecord>,
    resumed: bool,
    provenance: Provenance,
    ranks: Ranks,
    gradients: Gradients,
    /// Of the epoch that comes next, while something else is done.
    ahead: Option<Loader>,
    /// What autocast computes in, where it does.
    autocast: Option<Kind>,
    stop: Stop,
    /// Since when wall time is not counted yet.
    lap: Instant,
}

impl Trainer<'_> {
    fn run(mut self, observers: &mut [Box<dyn Observer>]) -> Result<Summary> {
        if self.ranks.is_first() {
            let (steps, seed) = (self.progress.steps, self.config.seed);
            self.run.add_start(&StartRecord::now(steps, seed, &self.provenance))?;
        }
        self.announce(observers);
        self.lap = Instant::now();
        while self.progress.epochs < self.config.train.epochs && !self.stops_early() {
            self.epoch(observers)?;
        }
        self.finish(observers)
    }

    fn stops_early(&self) -> bool {
        let settings = &self.config.train;
        monitor::is_over(settings.monitor, &settings.early_stopping, &self.records)
    }

    /// Seconds since this was asked last, added to the run's.
    fn lap(&mut self) -> f64 {
        let seconds = self.lap.elapsed().as_secs_f64();
        self.lap = Instant::now();
        self.progress.seconds += seconds;
        seconds
    }
}

fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_string(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}"),
    }
}
