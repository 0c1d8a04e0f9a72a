//! How a run ends: its best weights measured, its predictions and summary written.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::Trainer;
use crate::data::{ImageDataset, Split};
use crate::eval::baselines::baselines;
use crate::eval::statistics::MetricsWithCi;
use crate::files::write_json;
use crate::models::weights;
use crate::train::observer::{EpochRecord, Observer};
use crate::train::outcome::{BaselinesBySplit, Outcome};

impl Trainer<'_> {
    /// Measures the best weights, and writes predictions and summary.
    pub(super) fn finish(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<Outcome> {
        let parameters = self.net.parameters();
        if self.ranks.is_first() {
            weights::load(&parameters, &self.run.best())?;
        }
        {
            let _guard = tch::no_grad_guard();
            self.ranks.broadcast(parameters.iter().map(|(_, tensor)| tensor))?;
        }
        let val = self.predict(Split::Val, &self.splits.val, observers)?;
        if self.ranks.is_first() {
            val.write(&self.run.predictions(Split::Val))?;
        }
        let test = match &self.splits.test {
            Some(images) => {
                let test = self.predict(Split::Test, images, observers)?;
                if self.ranks.is_first() {
                    test.write(&self.run.predictions(Split::Test))?;
                }
                Some(MetricsWithCi::new(&test)?)
            }
            None => None,
        };
        let others: Vec<&Arc<ImageDataset>> =
            std::iter::once(&self.splits.val).chain(&self.splits.test).collect();
        let by_split = baselines(&self.splits.train, &others, self.walk())?;
        let outcome = Outcome {
            val: MetricsWithCi::new(&val)?,
            test,
            baselines: BaselinesBySplit {
                val: *by_split.first().context("the baselines were measured on no split")?,
                test: by_split.get(1).copied(),
            },
            epochs: self.progress.epochs,
            best_epoch: self.progress.best.map_or(0, |(epoch, _)| epoch),
            monitor: self.config.train.monitor,
            stopped_early: self.progress.epochs < self.config.train.epochs,
            seconds: self.progress.seconds,
            skipped_steps: self.records.iter().map(|record| record.skipped).sum(),
            images_per_second: mean_speed(&self.records),
            parameters: self.optimizer.parameter_count(),
            images: self.splits.counts(),
            skipped: self.splits.skipped,
            seed: self.config.seed,
            starting_weights: self.progress.starting_weights.clone(),
            provenance: self.provenance.clone(),
        };
        if self.ranks.is_first() {
            write_json(&self.run.summary(), &outcome)?;
        }
        let mut metrics = vec![("val", outcome.val.metrics)];
        metrics.extend(outcome.test.map(|test| ("test", test.metrics)));
        observers.iter_mut().for_each(|observer| observer.finish(&metrics));
        Ok(outcome)
    }
}

/// Of all epochs, each as long as the others.
fn mean_speed(records: &[EpochRecord]) -> Option<f64> {
    let seconds: f64 = records.iter().map(|record| 1.0 / record.images_per_second).sum();
    let speed = records.len() as f64 / seconds;
    speed.is_finite().then_some(speed)
}
