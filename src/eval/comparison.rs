//! Models compared on the same images: leaderboards with intervals over images, the variation over
//! seeds, and paired differences.

use std::cmp::Reverse;

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

use super::baselines::Baselines;
use super::metrics::{Metric, ScoredImages};
use super::predictions::Predictions;
use super::statistics::{Bootstrap, BootstrapDistribution, Difference, MetricOverSeeds, holm};
use crate::config::Config;
use crate::models::summary::summarize;

/// Up to this number of models, each is compared with each; beyond it, each with the best.
const MAX_PAIRWISE: usize = 25;

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
#[derive(Debug)]
pub struct EvaluatedRun {
    /// Predictions of the best weights.
    pub predictions: Predictions,
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
    /// The models, the best first by mean PC.
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
    /// Name of the model with the higher PC.
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
    pub fn ranking_pc(&self) -> f64 {
        self.metric(Metric::Pc).mean.unwrap_or(f64::NEG_INFINITY)
    }

    /// Returns each image's error, prediction minus target, after `map`, mean over the seeds.
    pub fn errors(&self, map: impl Fn(f64) -> f64) -> Vec<f64> {
        let error = |set: &Predictions, row: usize| map(set.predictions[row] - set.targets[row]);
        let mean = |row| {
            let sum: f64 = self.predictions.iter().map(|set| error(set, row)).sum();
            sum / self.predictions.len() as f64
        };
        (0..self.images).map(mean).collect()
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

    /// Returns the name and the PC of the best baseline, if no model reaches it.
    pub fn winning_baseline(&self) -> Option<(&'static str, f64)> {
        let best = self.best(Metric::Pc)?;
        let mut models = self.models.iter().filter_map(|ranked| ranked.metric(Metric::Pc).mean);
        let baselines = self.baselines()?;
        let mut baselines = baselines.named().map(|(name, metrics)| (name, metrics.pc));
        if models.any(|pc| pc == best) { None } else { baselines.find(|(_, pc)| *pc == best) }
    }

    /// Returns the comparison of the best model with the one at `rank`, from 0.
    pub fn with_best(&self, rank: usize, metric: Metric) -> Option<&Comparison> {
        let (best, other) = (self.models.first()?, self.models.get(rank)?);
        let mut all = self.comparisons.iter();
        all.find(|c| c.first == best.name && c.second == other.name && c.metric == metric)
    }

    fn new(mut models: Vec<(RankedModel, BootstrapDistribution)>) -> Self {
        models.sort_by(|(a, _), (b, _)| b.ranking_pc().total_cmp(&a.ranking_pc()));
        let comparisons = compare(&models);
        let models: Vec<RankedModel> = models.into_iter().map(|(model, _)| model).collect();
        let images = models.first().map_or(0, |model| model.images);
        Self { images, models, comparisons }
    }
}

/// Ranks candidates on the images that their runs were evaluated on. Those with the same images and
/// targets are compared; a candidate whose seeds have different images is ranked once for each.
/// Candidates without a seed are skipped.
pub fn rank(candidates: Vec<Candidate>) -> Result<Leaderboards> {
    let mut boards: Vec<(Images, Vec<(RankedModel, BootstrapDistribution)>)> = Vec::new();
    let mut notes = Vec::new();
    for (index, candidate) in candidates.into_iter().enumerate() {
        let name = candidate.name;
        let by_images = pool_folds(candidate.seeds);
        let apart = by_images.len() > 1;
        if apart {
            notes.push(format!(
                "{name}: its seeds were evaluated on different images and are listed apart; \
                 data.seed gives all seeds the same ones"
            ));
        }
        for (images, seeds) in by_images {
            let (mut model, distribution) = over_seeds(seeds, candidate.config)
                .with_context(|| format!("cannot compute the metrics of {name}"))?;
            model.name = if apart {
                let seeds: Vec<String> = model.seeds.iter().map(u64::to_string).collect();
                format!("{name}, seed {}", seeds.join(" and "))
            } else {
                name.to_string()
            };
            model.candidate = index;
            model.folds = candidate.folds;
            model.baselines = model.baselines.filter(|_| candidate.folds == 0);
            let ranked = (model, distribution);
            match boards.iter_mut().find(|(known, _)| *known == images) {
                Some((_, models)) => models.push(ranked),
                None => boards.push((images, vec![ranked])),
            }
        }
    }
    boards.sort_by_key(|(_, models)| Reverse(models.len()));
    if let [(first, a), others @ ..] = &boards[..] {
        for (images, b) in others {
            let (a, b, why) = (names(a), names(b), first.difference(images));
            notes.push(format!("{a} and {b} are not compared: {why}"));
        }
    }
    let boards = boards.into_iter().map(|(_, models)| Leaderboard::new(models)).collect();
    Ok(Leaderboards { boards, notes })
}

/// One seed's predictions of all folds, and its runs without theirs.
struct PooledSeed {
    seed: u64,
    predictions: Predictions,
    runs: Vec<EvaluatedRun>,
}

/// Pools the folds' predictions of each seed; seeds with the same images are together.
fn pool_folds(seeds: Vec<(u64, Vec<EvaluatedRun>)>) -> Vec<(Images, Vec<PooledSeed>)> {
    let mut by_images: Vec<(Images, Vec<PooledSeed>)> = Vec::new();
    for (seed, mut runs) in seeds {
        let mut predictions = Predictions::default();
        for run in &mut runs {
            predictions.append(std::mem::take(&mut run.predictions));
        }
        let pooled = PooledSeed { seed, predictions: predictions.sorted(), runs };
        let images = Images::of(&pooled.predictions);
        match by_images.iter_mut().find(|(known, _)| *known == images) {
            Some((_, seeds)) => seeds.push(pooled),
            None => by_images.push((images, vec![pooled])),
        }
    }
    by_images
}

/// Computes the metrics of seeds with the same images; the caller sets the name.
fn over_seeds(
    seeds: Vec<PooledSeed>,
    config: &Config,
) -> Result<(RankedModel, BootstrapDistribution)> {
    let images: Vec<ScoredImages> = seeds
        .iter()
        .map(|seed| ScoredImages::new(&seed.predictions.predictions, &seed.predictions.targets))
        .collect::<Result<_>>()?;
    let distributions = Bootstrap::default().resample(&images)?;
    let runs = || seeds.iter().flat_map(|seed| &seed.runs);
    let first = runs().next().context("there is no run")?;
    let speeds: Vec<f64> = runs().filter_map(|run| run.images_per_second).collect();
    let seconds: Vec<f64> = runs().map(|run| run.seconds).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let model = RankedModel {
        name: String::new(),
        candidate: 0,
        seeds: seeds.iter().map(|seed| seed.seed).collect(),
        folds: 0,
        images: images.first().map_or(0, ScoredImages::len),
        metrics: Metric::ALL.map(|metric| MetricOverSeeds::new(&distributions, metric)),
        parameters: first.parameters,
        flops: 2 * summarize(config)?.multiply_adds,
        images_per_second: Some(mean(&speeds)).filter(|mean| mean.is_finite()),
        seconds: mean(&seconds),
        baselines: first.baselines,
        predictions: seeds.into_iter().map(|seed| seed.predictions).collect(),
    };
    let distribution = BootstrapDistribution::mean(&distributions).context("there is no seed")?;
    Ok((model, distribution))
}

/// Compares ranked models by the paired bootstrap, metric by metric. Their distributions are over
/// the same resamples, for the images are the same and so is the bootstrap's seed.
fn compare(models: &[(RankedModel, BootstrapDistribution)]) -> Vec<Comparison> {
    let firsts = if models.len() <= MAX_PAIRWISE { models.len() } else { 1 };
    let pairs: Vec<(usize, usize)> =
        (0..firsts).flat_map(|a| (a + 1..models.len()).map(move |b| (a, b))).collect();
    let mut comparisons = Vec::new();
    for metric in Metric::ALL {
        let differences: Vec<Difference> = pairs
            .iter()
            .map(|&(a, b)| Difference::new(&models[a].1, &models[b].1, metric))
            .collect();
        let p_holm = holm(&differences.iter().map(|difference| difference.p).collect::<Vec<_>>());
        for ((&(a, b), difference), p_holm) in pairs.iter().zip(differences).zip(p_holm) {
            let [first, second] = [a, b].map(|index| models[index].0.name.clone());
            comparisons.push(Comparison { first, second, metric, difference, p_holm });
        }
    }
    comparisons
}

/// Image names and the bits of their targets, in one order.
#[derive(Debug, PartialEq)]
struct Images(Vec<(String, u64)>);

impl Images {
    fn of(predictions: &Predictions) -> Self {
        let targets = predictions.targets.iter().map(|target| target.to_bits());
        Self(predictions.images.iter().cloned().zip(targets).collect())
    }

    /// Says how these differ from others.
    fn difference(&self, others: &Self) -> String {
        let (ours, theirs) = (&self.0, &others.0);
        if ours.len() != theirs.len() {
            return format!("they were evaluated on {} and {} images", ours.len(), theirs.len());
        }
        match ours.iter().zip(theirs).find(|(a, b)| a != b) {
            Some(((name, a), (other, b))) if name == other => {
                let [a, b] = [a, b].map(|bits| f64::from_bits(*bits));
                format!("{name} has the target {a} for one and {b} for the other")
            }
            Some(((a, _), (b, _))) => {
                format!("they were evaluated on different images, {} for one only", a.min(b))
            }
            None => "they were evaluated on the same images".to_string(),
        }
    }
}

fn names(models: &[(RankedModel, BootstrapDistribution)]) -> String {
    match models {
        [(only, _)] => only.name.clone(),
        [(first, _), rest @ ..] => format!("{} (and {} more)", first.name, rest.len()),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images called by letters, each rated by its place and predicted with `error`.
    fn run(images: &str, error: f64) -> EvaluatedRun {
        let rating = |image: char| f64::from(image as u32);
        EvaluatedRun {
            predictions: Predictions {
                images: images.chars().map(String::from).collect(),
                targets: images.chars().map(rating).collect(),
                predictions: images.chars().map(|image| rating(image) + error).collect(),
                ..Predictions::default()
            },
            parameters: 7,
            images_per_second: None,
            seconds: 2.0,
            baselines: None,
        }
    }

    type RunsBySeed = Vec<(u64, Vec<EvaluatedRun>)>;

    fn boards(runs: Vec<(&str, RunsBySeed)>) -> Leaderboards {
        let config = Config::default();
        let candidate = |(name, seeds)| Candidate { name, config: &config, folds: 0, seeds };
        rank(runs.into_iter().map(candidate).collect()).unwrap()
    }

    #[test]
    fn images_are_matched_by_name_and_folds_are_pooled() {
        let ranked = boards(vec![
            ("forwards", vec![(1, vec![run("abcd", 1.0)])]),
            ("folds", vec![(1, vec![run("dc", 3.0), run("ba", 3.0)])]),
        ]);
        assert!(ranked.notes.is_empty(), "{:?}", ranked.notes);
        let board = &ranked.boards[0];
        assert_eq!((board.images, board.models.len(), board.comparisons.len()), (4, 2, 4));
        assert_eq!(board.models[1].predictions[0].images, ["a", "b", "c", "d"]);
        let mae = board.with_best(1, Metric::Mae).unwrap();
        assert_eq!((mae.first.as_str(), mae.difference.difference), ("forwards", Some(-2.0)));
        let json = serde_json::to_value(board).unwrap();
        assert_eq!(json["models"][1]["metrics"]["mae"]["mean"], 3.0);
        assert_eq!(json["comparisons"][1]["difference"], -2.0);
    }

    #[test]
    fn models_and_seeds_with_other_images_are_ranked_apart_with_a_note() {
        let ranked = boards(vec![
            ("a", vec![(1, vec![run("abc", 1.0)]), (2, vec![run("abd", 1.0)])]),
            ("b", vec![(1, vec![run("abc", 2.0)])]),
            ("c", vec![(1, vec![run("ab", 2.0)])]),
            ("none", vec![]),
        ]);
        let names = |at: usize| -> Vec<&str> {
            ranked.boards[at].models.iter().map(|model| model.name.as_str()).collect()
        };
        assert_eq!(
            (names(0), names(1), names(2)),
            (vec!["a, seed 1", "b"], vec!["a, seed 2"], vec!["c"])
        );
        for (note, words) in ranked.notes.iter().zip([
            "a: its seeds were evaluated on different images",
            "a, seed 1 (and 1 more) and a, seed 2 are not compared: they were evaluated on \
             different images, c for one only",
            "evaluated on 3 and 2 images",
        ]) {
            assert!(note.contains(words), "{note}");
        }
    }
}
