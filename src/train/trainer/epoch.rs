//! One epoch: its steps, its validation, and what is saved.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::step::{Stepped, images_in};
use super::{FROZEN, Trainer, named};
use crate::data::HostBatch;
use crate::models::weights;
use crate::train::checkpoint::{self, EpochSums};
use crate::train::ema::Ema;
use crate::train::objective::{EpochStats, Objective};
use crate::train::observer::{Observer, Skipped};
use crate::train::stop::Stopped;

impl<O: Objective> Trainer<'_, O> {
    /// Runs the rest of the current epoch.
    pub(super) fn epoch(&mut self, observers: &mut [Box<dyn Observer<O::Record>>]) -> Result<()> {
        self.train_steps(observers)?;
        let sums = self.progress.within;
        ensure!(
            sums.images > 0,
            "every step of epoch {} was skipped, because its loss or gradient was not finite: \
             lower {}",
            self.progress.epochs + 1,
            self.recipe.lr_key
        );
        let validation = self.validate(observers)?;
        let stats = EpochStats {
            epoch: self.progress.epochs + 1,
            step: self.progress.steps,
            train_loss: sums.loss / sums.images as f64,
            lr: sums.lr,
            images_per_second: sums.images as f64 / sums.seconds,
            data_wait: sums.waiting / sums.seconds,
            seconds: sums.seconds + self.lap(),
            skipped_steps: sums.skipped,
        };
        let record = self.objective.record(stats, &validation, &self.progress.records)?;
        self.progress.epochs += 1;
        self.progress.within = EpochSums::default();
        self.progress.records.push(record);
        self.save()?;
        if let Some(record) = self.progress.records.last() {
            observers.iter_mut().for_each(|observer| observer.epoch(record));
            self.objective.after_epoch(record, &validation, observers);
        }
        if let Some(text) = self.objective.warning(&validation, &self.progress.records) {
            observers.iter_mut().for_each(|observer| observer.warning(&text));
        }
        Ok(())
    }

    /// Makes the remaining steps of the epoch.
    fn train_steps(&mut self, observers: &mut [Box<dyn Observer<O::Record>>]) -> Result<()> {
        let mut loader = self.remaining_batches()?;
        let frozen_epochs = self.recipe.freeze.epochs;
        self.optimizer.freeze(frozen_epochs.is_none_or(|epochs| self.progress.epochs < epochs));
        let trained = self.objective.trained_parameters();
        self.gradients = self.world.gradients(&trained)?;
        self.trained = trained.into_iter().map(Into::into).collect();
        let mut saved = Instant::now();
        loop {
            let requested = Instant::now();
            let group = loader.by_ref().take(self.recipe.accumulate);
            let group: Vec<HostBatch> = group.collect::<Result<_>>()?;
            if group.is_empty() {
                break;
            }
            self.progress.within.waiting += requested.elapsed().as_secs_f64();
            if self.progress.steps == 0 {
                let shown = self.with_pixels(&group)?;
                observers.iter_mut().for_each(|observer| observer.first_step(&shown));
            }
            let batches = self.progress.within.batches + group.len();
            let stepped = self.train_step(&group, batches == self.batches_per_epoch)?;
            self.progress.within.seconds += self.lap();
            let within = &mut self.progress.within;
            within.batches = batches;
            match stepped {
                Stepped::Done(record) => {
                    within.loss += record.loss * record.images as f64;
                    within.images += record.images;
                    within.lr = [record.lr, record.backbone_lr];
                    observers.iter_mut().for_each(|observer| observer.step(&record));
                }
                Stepped::Skipped(reason) => {
                    within.skipped += 1;
                    let skipped = Skipped {
                        step: self.progress.steps,
                        images: images_in(&group),
                        reason: &reason,
                    };
                    observers.iter_mut().for_each(|observer| observer.skipped(&skipped));
                }
            }
            self.obey_requests(observers)?;
            self.save_if_due(&mut saved)?;
        }
        self.load_ahead()
    }

    /// Returns microbatches of the current epoch with the pixels that they are trained on.
    pub(super) fn with_pixels<'b>(&self, batches: &'b [HostBatch]) -> Result<Cow<'b, [HostBatch]>> {
        if self.objective.needs_pixels() {
            return Ok(Cow::Borrowed(batches));
        }
        let epoch = self.progress.epochs;
        let shown = batches.iter().map(|batch| self.objective.with_pixels(batch, epoch));
        Ok(Cow::Owned(shown.collect::<Result<_>>()?))
    }

    /// Saves a checkpoint if one, or a stop, was requested on any rank, and stops the run if that
    /// was.
    fn obey_requests(&mut self, observers: &mut [Box<dyn Observer<O::Record>>]) -> Result<()> {
        // One number for both, because the ranks agree on it after each step.
        let mine = 2 * i64::from(self.stop.signal()) + i64::from(self.stop.take_checkpoint());
        let requested = self.world.max(mine)?;
        if requested == 0 {
            return Ok(());
        }
        self.save_checkpoint()?;
        let signal = (requested / 2) as i32;
        if signal == 0 {
            let steps = self.progress.steps;
            observers.iter_mut().for_each(|observer| observer.checkpoint(steps));
            return Ok(());
        }
        self.world.barrier()?;
        Err(self.stopped(signal))
    }

    fn save_if_due(&self, saved: &mut Instant) -> Result<()> {
        let minutes = self.config.train.checkpoint_minutes;
        let due = minutes.map(|minutes| Duration::try_from_secs_f64(60.0 * minutes));
        if let Some(Ok(due)) = due
            && saved.elapsed() >= due
        {
            self.save_checkpoint()?;
            *saved = Instant::now();
        }
        Ok(())
    }

    /// Validates the EMA weights, if there are any, and leaves them in the network. If the run is
    /// stopped meanwhile, the epoch's steps are saved, and a resumed run continues with the
    /// validation.
    fn validate(
        &mut self,
        observers: &mut [Box<dyn Observer<O::Record>>],
    ) -> Result<O::Validation> {
        self.exchange_ema()?;
        let validation = self.evaluate(observers, O::validate);
        if validation.as_ref().is_err_and(|error| error.is::<Stopped>()) {
            self.exchange_ema()?;
            self.save_checkpoint()?;
        }
        validation
    }

    /// Exchanges the network's weights and the EMA weights, if there are any.
    fn exchange_ema(&mut self) -> Result<()> {
        self.ema.as_mut().map_or(Ok(()), Ema::exchange)
    }

    /// Saves the validated weights, restores the trained ones, and writes the checkpoint last,
    /// after all files that it relies on.
    fn save(&mut self) -> Result<()> {
        self.ensure_finite()?;
        if self.world.is_first() {
            self.objective.save(self.run, &self.progress.records, self.origin()?)?;
        }
        self.exchange_ema()?;
        self.save_checkpoint()
    }

    /// Writes the checkpoint. Returns an error, and keeps the one before it, if the weights are not
    /// finite, or the file cannot be written.
    pub(super) fn save_checkpoint(&self) -> Result<()> {
        if !self.world.is_first() {
            return Ok(());
        }
        self.ensure_finite()?;
        if !self.frozen.parameters.is_empty() && !self.frozen.saved.replace(true) {
            let file = self.run.checkpoint(FROZEN);
            weights::save(&file, &self.frozen.parameters, Default::default())?;
        }
        let mut progress = serde_json::to_value(&self.progress)?;
        progress["run"] = self.origin()?;
        checkpoint::write(
            &self.run.checkpoint(&self.recipe.checkpoint),
            self.parameters.iter().map(named).collect(),
            &self.optimizer,
            self.ema.as_ref(),
            &progress,
        )
    }

    /// Returns the metadata of a weights file that say where the weights come from.
    fn origin(&self) -> Result<Value> {
        Ok(json!({
            "config": self.config.to_yaml()?,
            "seed": self.config.seed,
            "provenance": self.provenance,
        }))
    }
}
