//! Models compared on the same images: leaderboards with intervals over images, the variation over
//! seeds, and paired differences.

mod rank;

use anyhow::Result;
use serde::{Serialize, Serializer};

pub use self::rank::{compare_two, rank};
use super::baselines::Baselines;
use super::ensemble::mean_errors;
use super::metrics::{Metric, Metrics};
use super::predictions::Predictions;
use super::statistics::{Difference, MIN_SEEDS, MetricOverSeeds};
use crate::config::Config;
use crate::data::Split;

/// A model to rank: one config, trained with several seeds and on several folds.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// Config of one of its runs.
    pub config: &'a Config,
    /// Number of folds that each seed's predictions are pooled from; 0 for a model without folds.
    pub folds: usize,
    /// The finished runs by seed, those of the folds together.
    pub seeds: Vec<(u64, Vec<EvaluatedRun>)>,
}

/// A finished run: its predictions for the images of a split, and what training it took.
#[derive(Debug, Clone)]
pub struct EvaluatedRun {
    /// Predictions of the best weights.
    pub predictions: Predictions,
    /// Metrics of the best weights on the validation images.
    pub val: Metrics,
    /// Number of trained parameters.
    pub parameters: i64,
    /// Training images per second.
    pub images_per_second: Option<f64>,
    /// Wall time spent training.
    pub seconds: f64,
    /// The baselines' metrics on the same images.
    pub baselines: Option<Baselines>,
}

/// Models ranked on the same images with the same targets.
#[derive(Debug, Serialize)]
pub struct Leaderboard {
    /// Number of images.
    pub images: usize,
    /// The split of the images.
    #[serde(skip)]
    pub split: Split,
    /// The split whose PC ranks the models.
    pub ranked_by: Split,
    /// The models, the best first by mean PC on the images of `ranked_by`.
    pub models: Vec<RankedModel>,
    /// The models' differences.
    pub comparisons: Vec<Comparison>,
}

/// A model's metrics over its seeds; the predictions of its folds are pooled first.
#[derive(Debug, Clone, Serialize)]
pub struct RankedModel {
    /// Name of the model.
    pub name: String,
    /// Index of the candidate that it is.
    #[serde(skip)]
    pub candidate: usize,
    /// The seeds whose runs are all finished.
    pub seeds: Vec<u64>,
    /// Number of folds that each seed's predictions are pooled from; 0 for a model without folds.
    pub folds: usize,
    /// Number of images that each seed's model is evaluated on.
    pub images: usize,
    /// Mean PC on the validation images over the runs; `None` where it is undefined.
    pub val_pc: Option<f64>,
    /// The metrics in the order of [`Metric::ALL`]; in JSON an object by name.
    #[serde(serialize_with = "by_name")]
    pub metrics: [MetricOverSeeds; 4],
    /// Number of trained parameters.
    pub parameters: i64,
    /// Floating-point operations for one image: twice the multiply-adds.
    pub flops: i64,
    /// Training images per second, mean of the runs.
    pub images_per_second: Option<f64>,
    /// Wall time spent training, mean of the runs.
    pub seconds: f64,
    /// The baselines' metrics on the same images, where the model has no folds.
    #[serde(skip)]
    pub baselines: Option<Baselines>,
    /// Each seed's predictions, sorted by image.
    #[serde(skip)]
    pub predictions: Vec<Predictions>,
}

fn by_name<S: Serializer>(
    metrics: &[MetricOverSeeds; 4],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Metric::ALL.iter().zip(metrics))
}

/// Two models on the same images, by the paired bootstrap.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Name of the model that is ranked higher.
    pub first: String,
    /// Name of the other model.
    pub second: String,
    /// The metric that they are compared by.
    pub metric: Metric,
    /// The first model's metric minus the second's, means over seeds.
    #[serde(flatten)]
    pub difference: Difference,
    /// p corrected for all comparisons of this metric (Holm).
    pub p_holm: Option<f64>,
    /// The smaller of the models' numbers of seeds.
    pub seeds: usize,
}

/// The leaderboards of models that may have been evaluated on different images.
#[derive(Debug, Default)]
pub struct Leaderboards {
    /// One for each list of images, that with the most models first.
    pub boards: Vec<Leaderboard>,
    /// Why models are not compared.
    pub notes: Vec<String>,
}

impl RankedModel {
    /// Returns one metric.
    pub fn metric(&self, metric: Metric) -> &MetricOverSeeds {
        &self.metrics[metric as usize]
    }

    /// Returns the PC that models are ranked by: an undefined one is worse than any other.
    pub fn ranking_pc(&self, split: Split, ranked_by: Split) -> f64 {
        let own = self.metric(Metric::Pc).mean;
        let pc = if split == ranked_by { own } else { self.val_pc };
        pc.unwrap_or(f64::NEG_INFINITY)
    }

    /// Returns each image's error, prediction minus target, after `map`, mean over the seeds.
    pub fn errors(&self, map: impl Fn(f64) -> f64) -> Vec<f64> {
        mean_errors(&self.predictions, map)
    }
}

impl Leaderboard {
    /// Returns the baselines' metrics on the same images, if the models have them.
    pub fn baselines(&self) -> Option<Baselines> {
        self.models.iter().find_map(|ranked| ranked.baselines)
    }

    /// Returns the value of the best row: of the models and of the baselines.
    pub fn best(&self, metric: Metric) -> Option<f64> {
        let models = self.models.iter().filter_map(|ranked| ranked.metric(metric).mean);
        let baselines = self.baselines();
        let baselines = baselines.iter().flat_map(Baselines::named).map(|(_, m)| metric.of(&m));
        let all = models.chain(baselines).filter(|value| value.is_finite());
        all.reduce(|best, value| if metric.is_better(value, best) { value } else { best })
    }

    /// Returns the name and the metric of the best baseline, if it is better than the model that is
    /// ranked first.
    pub fn winning_baseline(&self, metric: Metric) -> Option<(&'static str, f64)> {
        let own = self.models.first()?.metric(metric).mean;
        let baselines = self.baselines()?;
        let named = baselines.named().map(|(name, metrics)| (name, metric.of(&metrics)));
        let better = named.filter(|&(_, value)| {
            value.is_finite() && own.is_none_or(|own| metric.is_better(value, own))
        });
        better.reduce(|best, next| if metric.is_better(next.1, best.1) { next } else { best })
    }

    /// Returns the place, from 0, of the model that is best by a metric on the evaluated images;
    /// that of the higher ranked one of equals.
    pub fn winner(&self, metric: Metric) -> Option<usize> {
        let values = self.models.iter().map(|model| model.metric(metric).mean);
        let defined = values.enumerate().filter_map(|(place, value)| Some((place, value?)));
        let better = |a: (usize, f64), b: (usize, f64)| {
            if metric.is_better(b.1, a.1) { b } else { a }
        };
        defined.reduce(better).map(|(place, _)| place)
    }

    /// Returns the rank, from 1, of the model at a place by PC on the evaluated images.
    pub fn rank_on_split(&self, place: usize) -> i64 {
        let pc = |model: &RankedModel| model.metric(Metric::Pc).mean;
        let own = self.models.get(place).and_then(pc).unwrap_or(f64::NEG_INFINITY);
        1 + self.models.iter().filter(|model| pc(model).is_some_and(|pc| pc > own)).count() as i64
    }

    /// Returns the comparison of the first model with the one at `rank`, from 0.
    pub fn with_best(&self, rank: usize, metric: Metric) -> Option<&Comparison> {
        let (best, other) = (self.models.first()?, self.models.get(rank)?);
        let mut all = self.comparisons.iter();
        all.find(|c| c.first == best.name && c.second == other.name && c.metric == metric)
    }
}

impl Comparison {
    /// Returns whether there are enough seeds for a claim about the models: with fewer, the
    /// difference and its p are those of the trained weights.
    pub fn has_enough_seeds(&self) -> bool {
        self.seeds >= MIN_SEEDS
    }
}
