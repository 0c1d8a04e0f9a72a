//! The training loop, for any [objective](super::objective::Objective).

mod begin;
mod epoch;
mod loading;
mod not_finite;
mod step;

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Error, Result};
use tch::{Kind, Tensor};

pub(super) use self::loading::batches;
pub(super) use self::step::seed_of;
use super::checkpoint::Progress;
use super::compute::Compute;
use super::distributed::{Gradients, World};
use super::ema::Ema;
use super::objective::{Evaluation, Objective, Recipe};
use super::observer::Observer;
use super::optimizer::Optimizer;
use super::schedule::Schedule;
use super::stop::{Stop, Stopped};
use crate::config::Config;
use crate::data::Loader;
use crate::models::{Slicer, device};
use crate::ops::SharedTensor;
use crate::run::{Provenance, RunDir};

/// The options of a run that are not in its config.
#[derive(Clone)]
pub struct Options {
    /// Whether to continue the run in the folder.
    pub resume: bool,
    /// The processes that train together. Each has its shard of the global batch, whose size is the
    /// config's batch size times their number, and all end with the same weights and metrics. Only
    /// rank 0 writes, and needs the run directory and the pretrained weights' files.
    pub world: World,
    /// Stops the run early.
    pub stop: Stop,
    /// Epochs after which the run stops as if it were asked to, and can be resumed. The learning
    /// rate schedule stays that of all epochs.
    pub stop_after: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { resume: false, world: World::single(), stop: Stop::default(), stop_after: None }
    }
}

/// The name of the file of the parameters that are frozen for the entire run.
const FROZEN: &str = "frozen";

/// The parameters that are frozen for the entire run: they are saved once, apart from the
/// checkpoint.
struct Frozen {
    parameters: Vec<(String, Tensor)>,
    saved: Cell<bool>,
}

/// Returns a named tensor without a copy.
fn named((name, tensor): &(String, Tensor)) -> (String, Tensor) {
    (name.clone(), tensor.shallow_clone())
}

/// The state of training an objective.
pub(super) struct Trainer<'a, O: Objective> {
    pub config: &'a Config,
    pub run: &'a RunDir,
    pub objective: O,
    recipe: Recipe,
    optimizer: Optimizer,
    ema: Option<Ema>,
    frozen: Frozen,
    /// The parameters that are not frozen for the entire run, by name.
    parameters: Vec<(String, Tensor)>,
    schedule: Schedule,
    batches_per_epoch: usize,
    steps_per_epoch: usize,
    pub progress: Progress<O::Record>,
    resumed: bool,
    pub provenance: Provenance,
    compute: Compute,
    pub world: World,
    gradients: Gradients,
    /// The parameters that the epoch trains, in the order in which backward reaches them.
    trained: Vec<SharedTensor>,
    /// The loader of the next epoch, started early.
    ahead: Option<Loader>,
    /// The type that autocast computes in, if any.
    autocast: Option<Kind>,
    slicer: Slicer,
    stop: Stop,
    /// The number of epochs that this process ends at.
    last_epoch: usize,
    /// The time up to which wall time is counted.
    lap: Instant,
}

impl<O: Objective> Trainer<'_, O> {
    /// Runs the remaining epochs. Returns [`Stopped`] if the options end the run before its last.
    pub(super) fn run(&mut self, observers: &mut [Box<dyn Observer<O::Record>>]) -> Result<()> {
        self.announce(observers);
        let warnings = [device::warning(self.config.device), self.run.warning().map(Into::into)];
        for text in warnings.into_iter().flatten() {
            observers.iter_mut().for_each(|observer| observer.warning(&text));
        }
        self.lap = Instant::now();
        self.evaluate(observers, O::prepare)?;
        self.lap();
        while self.progress.epochs < self.recipe.epochs
            && !self.objective.stops_early(&self.progress.records)
        {
            if self.progress.epochs >= self.last_epoch {
                self.world.barrier()?;
                let (done, all) = (self.progress.epochs, self.recipe.epochs);
                let (config, command) = (self.run.config(), self.run.kind().command());
                return Err(Error::new(Stopped::after_epoch(done, all, &config, command)));
            }
            self.epoch(observers)?;
        }
        Ok(())
    }

    /// Runs `evaluate` with the observers that it reports to.
    pub(super) fn evaluate<T>(
        &self,
        observers: &mut [Box<dyn Observer<O::Record>>],
        evaluate: impl FnOnce(&O, &mut Evaluation<O::Record>) -> Result<T>,
    ) -> Result<T> {
        let check_stop = || match self.stop.signal() {
            // Several ranks agree on a stop between two steps.
            signal if signal > 0 && self.world.size() == 1 => Err(self.stopped(signal)),
            _ => Ok(()),
        };
        let mut evaluation = Evaluation {
            epoch: self.progress.epochs + 1,
            step: self.progress.steps,
            world: &self.world,
            slicer: &self.slicer,
            observers,
            check_stop: &check_stop,
        };
        evaluate(&self.objective, &mut evaluation)
    }

    /// Returns the number of trained parameters.
    pub(super) fn parameter_count(&self) -> i64 {
        self.optimizer.parameter_count()
    }

    fn stopped(&self, signal: i32) -> Error {
        Error::new(Stopped::in_run(
            signal,
            self.progress.steps,
            self.recipe.epochs.min(self.progress.epochs + 1),
            &self.run.config(),
            self.run.kind().command(),
        ))
    }

    /// Adds the seconds since the last call to the run's, and returns them.
    fn lap(&mut self) -> f64 {
        let seconds = self.lap.elapsed().as_secs_f64();
        self.lap = Instant::now();
        self.progress.seconds += seconds;
        seconds
    }
}
