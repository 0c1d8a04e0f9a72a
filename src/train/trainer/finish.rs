//! How a run ends: its best weights measured, its predictions and summary written.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::Trainer;
use crate::data::{ImageDataset, LoaderOptions, Split};
use crate::eval::baselines::baselines;
use crate::eval::statistics::MetricsWithCi;
use crate::models::weights;
use crate::run::{BaselinesBySplit, EpochRecord, RunDir, Summary};
use crate::train::observer::Observer;

impl Trainer<'_> {
    /// Measures the best weights, and writes predictions and summary.
    pub(super) fn finish(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<Summary> {
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
            val.write(&RunDir::predictions_in(self.run.root(), Split::Val))?;
        }
        let test = match &self.splits.test {
            Some(images) => {
                let test = self.predict(Split::Test, images, observers)?;
                if self.ranks.is_first() {
                    test.write(&RunDir::predictions_in(self.run.root(), Split::Test))?;
                }
                Some(MetricsWithCi::new(&test)?)
            }
            None => None,
        };
        let others: Vec<&Arc<ImageDataset>> =
            std::iter::once(&self.splits.val).chain(&self.splits.test).collect();
        let by_split =
            baselines(&self.splits.train, &others, LoaderOptions::for_evaluation(&self.config))?;
        let summary = Summary {
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
            skipped_steps: self.records.iter().map(|record| record.skipped_steps).sum(),
            images_per_second: mean_speed(&self.records),
            parameters: self.optimizer.parameter_count(),
            images: self.splits.counts(),
            skipped_rows: self.splits.skipped,
            seed: self.config.seed,
            starting_weights: self.progress.starting_weights.clone(),
            provenance: self.provenance.clone(),
        };
        if self.ranks.is_first() {
            summary.write(self.run.root())?;
        }
        let mut metrics = vec![("val", summary.val.metrics)];
        metrics.extend(summary.test.map(|test| ("test", test.metrics)));
        observers.iter_mut().for_each(|observer| observer.finish(&metrics));
        Ok(summary)
    }
}

/// Of all epochs, each as long as the others.
fn mean_speed(records: &[EpochRecord]) -> Option<f64> {
    let seconds: f64 = records.iter().map(|record| 1.0 / record.images_per_second).sum();
    let speed = records.len() as f64 / seconds;
    speed.is_finite().then_some(speed)
}
