//! The start of training: from scratch or from a checkpoint, in the same state on all ranks.

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Result, ensure};
use tch::Kind;

use super::{FROZEN, Frozen, Options, Trainer, named};
use crate::config::Config;
use crate::data::Loader;
use crate::models::Slicer;
use crate::models::weights::{self, Note};
use crate::ops;
use crate::run::{Provenance, RunDir};
use crate::train::checkpoint::{self, Progress};
use crate::train::compute::Compute;
use crate::train::distributed::Gradients;
use crate::train::ema::Ema;
use crate::train::groups::freeze_for_the_run;
use crate::train::objective::{Objective, Recipe};
use crate::train::observer::{Observer, Start};
use crate::train::optimizer::Optimizer;
use crate::train::precision::{LossScale, autocast_kind};
use crate::train::schedule::Schedule;

impl<'a, O: Objective> Trainer<'a, O> {
    /// Prepares to train an objective from scratch. `ahead` is a loader of the first epoch. Returns
    /// an error if threads cannot be started.
    pub(crate) fn new(
        config: &'a Config,
        run: &'a RunDir,
        recipe: Recipe,
        objective: O,
        ahead: Option<Loader>,
        options: Options,
    ) -> Result<Self> {
        let Options { resume, world, stop, stop_after } = options;
        let device = objective.device();
        let images = objective.train_images().len();
        let batches_per_epoch = images.div_ceil(recipe.batch_size * world.size());
        let steps_per_epoch = batches_per_epoch.div_ceil(recipe.accumulate);
        let slice = recipe.slice;
        let autocast = autocast_kind(config, device);
        let compute = Compute::new(config, device, autocast);
        let [frozen, parameters] = freeze_for_the_run(objective.parameters(), &recipe.freeze);
        Ok(Self {
            schedule: Schedule::new(&recipe.schedule, recipe.epochs, steps_per_epoch),
            optimizer: Optimizer::new(&parameters, &recipe.optimizer, &recipe.freeze),
            ema: recipe.ema_decay.map(|decay| Ema::new(&parameters, decay)),
            frozen: Frozen { parameters: frozen, saved: Cell::new(false) },
            parameters,
            progress: Progress {
                epochs: 0,
                steps: 0,
                seconds: 0.0,
                within: Default::default(),
                loss_scale: LossScale::of(autocast),
                precision: format!("{:?}", autocast.unwrap_or(Kind::Float)),
                starting_weights: Default::default(),
                data: objective.fingerprint(),
                processes: world.size(),
                records: Vec::new(),
            },
            provenance: Provenance::collect(&compute.place()),
            compute,
            config,
            run,
            objective,
            last_epoch: stop_after.unwrap_or(recipe.epochs).min(recipe.epochs),
            recipe,
            batches_per_epoch,
            steps_per_epoch,
            resumed: resume,
            world,
            gradients: Gradients::single(),
            trained: Vec::new(),
            ahead,
            autocast,
            slicer: Slicer::new(slice, device)?,
            stop,
            lap: Instant::now(),
        })
    }

    /// Loads the last checkpoint, if there is one. Returns an error if it is damaged, or was made
    /// with other data, another number of processes or another precision.
    pub(crate) fn load_checkpoint(&mut self) -> Result<()> {
        if !self.resumed || !self.world.is_first() {
            return Ok(());
        }
        let path = self.run.checkpoint(&self.recipe.checkpoint);
        let (frozen, frozen_file) = (&self.frozen.parameters, self.run.checkpoint(FROZEN));
        let mut parameters: Vec<_> = self.parameters.iter().chain(frozen).map(named).collect();
        if !frozen.is_empty() && frozen_file.exists() {
            weights::load(frozen, &frozen_file)?;
            parameters = self.parameters.iter().map(named).collect();
        }
        let saved: Option<Progress<O::Record>> =
            checkpoint::read(&path, &parameters, &mut self.optimizer, self.ema.as_mut())?;
        let Some(saved) = saved else { return Ok(()) };
        let (root, now) = (self.run.root().display(), &self.progress);
        ensure!(
            saved.data == now.data,
            "the dataset is not the one that {root} was started with: images or scores were \
             added, removed or changed"
        );
        ensure!(
            saved.processes == now.processes,
            "{root} was started with {} processes, not {}: resume it with as many",
            saved.processes,
            now.processes
        );
        ensure!(
            saved.precision == now.precision,
            "{root} was started in {}, and train.precision: auto is {} on this machine: resume it \
             on one of the same kind",
            saved.precision,
            now.precision
        );
        self.progress = saved;
        Ok(())
    }

    /// Checks that all ranks were started alike, and copies rank 0's weights and progress to them.
    /// Returns an error if ranks differ in config, data or program, or if one is gone.
    pub(crate) fn synchronize(&mut self) -> Result<()> {
        if self.world.size() == 1 {
            return Ok(());
        }
        self.world.agree(&self.facts()?)?;
        let progress =
            self.world.broadcast_text("progress", || Ok(serde_json::to_string(&self.progress)?))?;
        self.progress = serde_json::from_str(&progress)?;
        let mut tensors = self.objective.parameters();
        tensors.extend(self.optimizer.state());
        tensors.extend(self.ema.iter().flat_map(Ema::state));
        let _guard = tch::no_grad_guard();
        self.world.broadcast(tensors.iter().map(|(_, tensor)| tensor))
    }

    /// Returns what must be the same on all ranks. Data folders and threads may differ by host.
    fn facts(&self) -> Result<Vec<(&'static str, String)>> {
        let mut config = self.config.clone();
        config.data.root = Default::default();
        config.data.workers = 0;
        config.train.threads = None;
        let parameters = self.objective.parameters();
        let parameters =
            parameters.iter().map(|(name, tensor)| format!("{name} {:?}\n", tensor.size()));
        let (version, libtorch) = (env!("CARGO_PKG_VERSION"), ops::libtorch_version());
        Ok(vec![
            ("program", format!("{version} with libtorch {libtorch}")),
            ("config", config.to_yaml()?),
            ("flag --resume", self.resumed.to_string()),
            ("flag --stop-after", self.last_epoch.to_string()),
            ("dataset", self.progress.data.clone()),
            ("precision", self.progress.precision.clone()),
            ("parameters", parameters.collect()),
        ])
    }

    /// Notifies the observers of the start.
    pub(super) fn announce(&self, observers: &mut [Box<dyn Observer<O::Record>>]) {
        let about = self.objective.describe();
        let mut notes = about.notes.to_vec();
        notes.extend(self.note_on_changes());
        let start = Start {
            config: self.config,
            branch: about.branch,
            images: about.images,
            skipped_rows: about.skipped_rows,
            parameters: self.parameter_count(),
            compute: &self.compute,
            epochs: self.recipe.epochs,
            steps_per_epoch: self.steps_per_epoch,
            resumed: self.resumed,
            epochs_done: self.progress.epochs,
            steps_done: self.progress.steps,
            images_done: self.progress.within.images,
            warnings: about.warnings,
            notes: &notes,
        };
        observers.iter_mut().for_each(|observer| observer.start(&start));
    }
}

impl<O: Objective> Trainer<'_, O> {
    /// Returns a note on the keys that a resumed run has changed. With more epochs, it says how the
    /// learning rate continues.
    fn note_on_changes(&self) -> Option<Note> {
        let changes: Vec<String> = self.run.changes().iter().map(ToString::to_string).collect();
        if changes.is_empty() {
            return None;
        }
        let mut text = format!("resumed with {}", changes.join("; "));
        if let Some(before) = self.run.epochs_before() {
            let (recipe, step) = (&self.recipe, self.progress.steps);
            let before = Schedule::new(&recipe.schedule, before, self.steps_per_epoch);
            let lr = |schedule: &Schedule, step| schedule.lr(recipe.optimizer.lr, step);
            text += &format!(
                ". From here on, the learning rate follows the {} schedule of {} epochs: {:.1e} at \
                 the last step, {:.1e} at the next",
                recipe.schedule.name,
                recipe.epochs,
                lr(&before, step.saturating_sub(1)),
                lr(&self.schedule, step),
            );
        }
        Some(Note { text, is_warning: false })
    }
}
