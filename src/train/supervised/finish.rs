//! The end of a run: its best weights are evaluated, its predictions and summary written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::Supervised;
use crate::data::{ImageDataset, LoaderOptions, Split};
use crate::eval::baselines::{baselines, kept_baselines};
use crate::eval::evaluate::BranchMetrics;
use crate::eval::feature_distribution::FeatureDistribution;
use crate::eval::predictions::Predictions;
use crate::eval::statistics::MetricsWithCi;
use crate::models::weights;
use crate::run::{
    BaselinesBySplit, EpochRecord, FEATURE_DISTRIBUTION_FILE, RunDir, Summary, check_unchanged,
    content_hash, write_feature_distribution,
};
use crate::train::monitor;
use crate::train::objective::Objective;
use crate::train::observer::Observer;
use crate::train::trainer::Trainer;

impl Trainer<'_, Supervised<'_>> {
    /// Evaluates the best weights, and writes predictions and summary.
    pub(super) fn finish(&mut self, observers: &mut [Box<dyn Observer>]) -> Result<Summary> {
        self.load_best()?;
        let splits = &self.objective.splits;
        let mut branches = BTreeMap::new();
        let mut predict = |split, images| -> Result<MetricsWithCi> {
            let predictions = self.write_predictions(split, images, observers)?;
            branches.extend(BranchMetrics::of(&predictions)?.map(|of| (split, of)));
            MetricsWithCi::new(&predictions)
        };
        let val = predict(Split::Val, &splits.val)?;
        let test = splits.test.as_ref().map(|images| predict(Split::Test, images)).transpose()?;
        self.write_feature_distribution(observers)?;
        let others: Vec<_> = splits.evaluated().map(|(_, images)| images).collect();
        let by_split = if self.config.caches_features() {
            kept_baselines(&splits.train, &others, self.config)?
        } else {
            baselines(&splits.train, &others, LoaderOptions::for_evaluation(self.config))?
        };
        let records = &self.progress.records;
        let best = records.iter().rposition(|record| record.best);
        let monitor = self.config.train.monitor;
        let deciding = best.and_then(|best| monitor::deciding(monitor, &records[best]));
        let summary = Summary {
            val,
            test,
            branches,
            baselines: BaselinesBySplit::new(&by_split)?,
            epochs: records.len(),
            best_epoch: best.map_or(0, |best| best + 1),
            monitor: deciding.unwrap_or(monitor),
            stopped_early: records.len() < self.config.train.epochs,
            seconds: self.progress.seconds,
            skipped_steps: records.iter().map(|record| record.skipped_steps).sum(),
            images_per_second: mean_speed(records),
            parameters: self.parameter_count(),
            images: splits.counts(),
            skipped_rows: splits.skipped,
            seed: self.config.seed,
            starting_weights: self.progress.starting_weights.clone(),
            files: self.hashes()?,
            provenance: self.provenance.clone(),
        };
        if self.world.is_first() {
            summary.write(self.run.root())?;
        }
        let mut metrics = vec![("val", summary.val.metrics)];
        metrics.extend(summary.test.map(|test| ("test", test.metrics)));
        observers.iter_mut().for_each(|observer| observer.finish(&metrics));
        Ok(summary)
    }

    /// Returns the hashes of the best weights and the predictions, by file name; none on a rank
    /// that does not write them.
    fn hashes(&self) -> Result<BTreeMap<String, String>> {
        let root = self.run.root();
        let splits = [Some(Split::Val), self.objective.splits.test.as_ref().map(|_| Split::Test)];
        let predictions = splits.into_iter().flatten().map(|s| RunDir::predictions_in(root, s));
        let files = predictions.chain([self.run.best()]).filter(|_| self.world.is_first());
        let named = |file: PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, content_hash(&file)?))
        };
        files.map(named).collect()
    }

    /// Loads the best weights, on all ranks.
    fn load_best(&self) -> Result<()> {
        let parameters = self.objective.parameters();
        if self.world.is_first() {
            check_unchanged(&self.run.best())?;
            weights::load(&parameters, &self.run.best())?;
        }
        let _guard = tch::no_grad_guard();
        self.world.broadcast(parameters.iter().map(|(_, tensor)| tensor))
    }

    /// Writes the distribution of the training images' features, by which predictions say whether
    /// an image is like them. Rank 0 alone computes it.
    fn write_feature_distribution(&self, observers: &mut [Box<dyn Observer>]) -> Result<()> {
        if !self.world.is_first() {
            return Ok(());
        }
        let splits = &self.objective.splits;
        let [train, val] = self.evaluate(observers, |supervised, evaluation| {
            let train = supervised.image_features(Split::Train, &splits.train, evaluation)?;
            Ok([train, supervised.image_features(Split::Val, &splits.val, evaluation)?])
        })?;
        let path = self.run.root().join(FEATURE_DISTRIBUTION_FILE);
        match FeatureDistribution::fit(&train, &val) {
            Ok(distribution) => {
                write_feature_distribution(&path, &distribution, &self.objective.net)
            }
            Err(error) => {
                let text = format!(
                    "predictions will not say whether an image is like the training images: \
                     {error:#}"
                );
                observers.iter_mut().for_each(|observer| observer.warning(&text));
                Ok(())
            }
        }
    }

    /// Predicts a split with the current weights, and writes the predictions.
    fn write_predictions(
        &self,
        split: Split,
        images: &Arc<ImageDataset>,
        observers: &mut [Box<dyn Observer>],
    ) -> Result<Predictions> {
        let predictions = self.evaluate(observers, |supervised, evaluation| {
            supervised.predict(split, images, evaluation)
        })?;
        if self.world.is_first() {
            predictions.write(&RunDir::predictions_in(self.run.root(), split))?;
        }
        Ok(predictions)
    }
}

/// Returns the mean speed over all epochs, which have the same number of images.
fn mean_speed(records: &[EpochRecord]) -> Option<f64> {
    let seconds: f64 = records.iter().map(|record| 1.0 / record.images_per_second).sum();
    let speed = records.len() as f64 / seconds;
    speed.is_finite().then_some(speed)
}
