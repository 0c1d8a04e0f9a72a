//! One epoch: its steps, its validation, and what is kept of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, ensure};
use serde_json::{Value, json};

use super::Trainer;
use super::step::{Stepped, images_in};
use crate::data::{HostBatch, ImageDataset, LoaderOptions, Split};
use crate::eval::evaluate;
use crate::eval::predictions::Predictions;
use crate::models::weights;
use crate::run::EpochRecord;
use crate::train::checkpoint::{self, EpochSums};
use crate::train::ema::Ema;
use crate::train::monitor;
use crate::train::observer::{AfterEpoch, Observer, Skipped, Validated};
use crate::train::stop::Stopped;

impl Trainer<'_> {
    /// What is left of the epoch under way.
    pub(super) fn epoch(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<()> {
        self.learn(observers)?;
        let sums = self.progress.within;
        ensure!(
            sums.images > 0,
            "every step of epoch {} was left out, because its loss or gradient was not finite: lower train.optimizer.lr",
            self.progress.epochs + 1
        );
        let val = self.validate(observers)?;
        let metrics = val.metrics()?;
        let validating = self.lap();
        self.progress.epochs += 1;
        self.progress.within = EpochSums::default();
        let mut record = EpochRecord {
            epoch: self.progress.epochs,
            step: self.progress.steps,
            train_loss: sums.loss / sums.images as f64,
            val: metrics,
            lr: sums.rates[0],
            backbone_lr: sums.rates[1],
            fusion_weights: mean_shares(&val),
            images_per_second: sums.images as f64 / sums.seconds,
            data_wait: sums.waiting / sums.seconds,
            seconds: sums.seconds + validating,
            skipped_steps: sums.skipped,
            best: false,
        };
        let merit = monitor::merit(self.config.train.monitor, &record);
        let best = self.progress.best.is_none_or(|(_, before)| merit > before);
        if best {
            self.progress.best = Some((self.progress.epochs, merit));
        }
        record.best = best;
        self.records.push(record);
        self.save(best)?;
        if let Some(record) = self.records.last() {
            let after = AfterEpoch { record, net: &self.net, predictions: &val };
            for observer in observers {
                observer.epoch(record);
                observer.after_epoch(&after);
            }
        }
        Ok(())
    }

    /// The epoch's steps, from the one after the checkpoint on.
    fn learn(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<()> {
        let mut loader = self.batches_left()?;
        let frozen_epochs = self.config.train.freeze.epochs;
        self.optimizer.freeze(frozen_epochs.is_none_or(|epochs| self.progress.epochs < epochs));
        self.gradients = self.ranks.gradients(&self.net.trainable_parameters())?;
        let mut saved = Instant::now();
        loop {
            let asked = Instant::now();
            let group = loader.by_ref().take(self.config.train.accumulate);
            let group: Vec<HostBatch> = group.collect::<Result<_>>()?;
            if group.is_empty() {
                break;
            }
            self.progress.within.waiting += asked.elapsed().as_secs_f64();
            if self.progress.steps == 0 {
                observers.iter_mut().for_each(|observer| observer.first_step(&group));
            }
            let stepped = self.train_step(&group)?;
            self.progress.within.seconds += self.lap();
            let within = &mut self.progress.within;
            within.batches += group.len();
            match stepped {
                Stepped::Done(record) => {
                    within.loss += record.loss * record.images as f64;
                    within.images += record.images;
                    within.rates = [record.lr, record.backbone_lr];
                    observers.iter_mut().for_each(|observer| observer.step(&record));
                }
                Stepped::LeftOut(reason) => {
                    within.skipped += 1;
                    let skipped = Skipped {
                        step: self.progress.steps,
                        images: images_in(&group),
                        reason: &reason,
                    };
                    observers.iter_mut().for_each(|observer| observer.skipped(&skipped));
                }
            }
            self.end_if_asked()?;
            self.save_if_due(&mut saved)?;
        }
        self.load_ahead()
    }

    /// Ends the run where it was asked to on any rank, with its state in the checkpoint.
    fn end_if_asked(&mut self) -> Result<()> {
        let signal = self.ranks.largest(self.stop.signal().into())? as i32;
        if signal == 0 {
            return Ok(());
        }
        self.save_checkpoint()?;
        self.ranks.meet()?;
        Err(self.stopped(signal))
    }

    fn stopped(&self, signal: i32) -> Error {
        let epochs = self.config.train.epochs;
        Error::new(Stopped {
            signal,
            steps: self.progress.steps,
            epoch: epochs.min(self.progress.epochs + 1),
            config: Some(self.run.config()),
            command: "train",
        })
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

    /// The validation images' predictions, with the average of the weights where one is kept; it
    /// stays in place. Where the run is asked to end meanwhile, the epoch's steps are kept: a
    /// resumed run goes on with the validation.
    fn validate(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<Predictions> {
        self.exchange_average()?;
        let val = self.predict(Split::Val, &self.splits.val, observers);
        if val.as_ref().is_err_and(|error| error.is::<Stopped>()) {
            self.exchange_average()?;
            self.save_checkpoint()?;
        }
        if val.is_ok() {
            let validated = Validated {
                epoch: self.progress.epochs + 1,
                step: self.progress.steps,
                net: &self.net,
                images: &self.splits.val,
            };
            observers.iter_mut().for_each(|observer| observer.validated(&validated));
        }
        val
    }

    /// A split's predictions, the same on all ranks.
    pub(super) fn predict(
        &self,
        split: Split,
        images: &Arc<ImageDataset>,
        observers: &mut [Box<dyn Observer>],
    ) -> Result<Predictions> {
        let evaluation = LoaderOptions::for_evaluation(&self.config);
        let options = LoaderOptions { shard: self.ranks.shard(), ..evaluation };
        let mine = evaluate::predict(&self.net, images, options, &mut |images| {
            observers.iter_mut().for_each(|observer| observer.evaluated(split.name(), images));
            match self.stop.signal() {
                // Several ranks agree on it between two steps.
                signal if signal > 0 && self.ranks.size() == 1 => Err(self.stopped(signal)),
                _ => Ok(()),
            }
        })?;
        self.ranks.gather_predictions(mine, images.samples(), options.batch_size)
    }

    /// Puts the average of the weights, if one is kept, in their place, and back again.
    fn exchange_average(&mut self) -> Result<()> {
        self.ema.as_mut().map_or(Ok(()), Ema::exchange)
    }

    /// Keeps what was measured, puts the weights back that training goes on with, and writes the
    /// checkpoint last: whatever it counts on is there before it.
    fn save(&mut self, best: bool) -> Result<()> {
        if self.ranks.is_first() {
            let parameters = self.net.parameters();
            if best {
                weights::save(&self.run.best(), &parameters, self.metadata()?)?;
            }
            weights::save(&self.run.last(), &parameters, self.metadata()?)?;
            self.run.write_metrics(&self.records)?;
        }
        self.exchange_average()?;
        self.save_checkpoint()
    }

    /// Writes what resuming needs.
    pub(super) fn save_checkpoint(&self) -> Result<()> {
        if !self.ranks.is_first() {
            return Ok(());
        }
        checkpoint::save(
            &self.run,
            &self.net,
            &self.optimizer,
            self.ema.as_ref(),
            &self.progress,
            &self.origin()?,
        )
    }

    /// What a file of weights says of where they come from.
    fn origin(&self) -> Result<Value> {
        Ok(json!({
            "config": self.config.to_yaml()?,
            "seed": self.config.seed,
            "provenance": self.provenance,
        }))
    }

    /// One entry, so that equal weights make equal files: several would be written in no fixed
    /// order.
    fn metadata(&self) -> Result<HashMap<String, String>> {
        let mut run = self.origin()?;
        run["epoch"] = self.progress.epochs.into();
        Ok(HashMap::from([("run".to_string(), run.to_string())]))
    }
}

fn mean_shares(predictions: &Predictions) -> Option<[f64; 2]> {
    let mean = |(_, column): &(String, Vec<f64>)| column.iter().sum::<f64>() / column.len() as f64;
    match &predictions.extra[..] {
        [vit, mamba] => Some([mean(vit), mean(mamba)]),
        _ => None,
    }
}
