//! Ranking of models by a split, and their comparisons.

use std::cmp::Reverse;

use anyhow::{Context, Result, ensure};
use indexmap::IndexMap;

use super::{Candidate, Comparison, EvaluatedRun, Leaderboard, Leaderboards, RankedModel};
use crate::config::Config;
use crate::data::Split;
use crate::eval::metrics::{Metric, ScoredImages};
use crate::eval::predictions::Predictions;
use crate::eval::statistics::{
    Bootstrap, BootstrapDistribution, Difference, MetricOverSeeds, holm,
};
use crate::models::summary::summarize;

/// Up to this number of models, each is compared with each; beyond it, each with the first. Of many
/// more pairs, Holm's correction would raise the least p of the bootstrap above 0.05.
const MAX_PAIRWISE: usize = 20;

/// A model with the distribution of its metrics over resampled images and seeds.
type Resampled = (RankedModel, BootstrapDistribution);

/// Ranks candidates that were evaluated on the images of `split` by their mean PC on those of
/// `ranked_by`, validation or the same. Those with the same images and targets are compared; a
/// candidate whose seeds have different images is ranked once for each. Candidates without a seed
/// are skipped.
pub fn rank(candidates: Vec<Candidate>, split: Split, ranked_by: Split) -> Result<Leaderboards> {
    let mut boards: IndexMap<Images, Vec<Resampled>> = IndexMap::new();
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
            boards.entry(images).or_default().push((model, distribution));
        }
    }
    boards.sort_by_key(|_, models| Reverse(models.len()));
    if let Some((first, a)) = boards.first() {
        for (images, b) in boards.iter().skip(1) {
            let (a, b, why) = (names(a), names(b), first.difference(images));
            notes.push(format!("{a} and {b} are not compared: {why}"));
        }
    }
    let boards = boards.into_values().map(|models| leaderboard(models, split, ranked_by)).collect();
    Ok(Leaderboards { boards, notes })
}

fn leaderboard(mut models: Vec<Resampled>, split: Split, ranked_by: Split) -> Leaderboard {
    let pc = |(model, _): &Resampled| model.ranking_pc(split, ranked_by);
    models.sort_by(|a, b| pc(b).total_cmp(&pc(a)));
    let comparisons = compare(&models);
    let models: Vec<RankedModel> = models.into_iter().map(|(model, _)| model).collect();
    let images = models.first().map_or(0, |model| model.images);
    Leaderboard { images, split, ranked_by, models, comparisons }
}

/// One seed's predictions of all folds, and its runs without theirs.
struct PooledSeed {
    seed: u64,
    predictions: Predictions,
    runs: Vec<EvaluatedRun>,
}

/// Pools the folds' predictions of each seed; seeds with the same images are together.
fn pool_folds(seeds: Vec<(u64, Vec<EvaluatedRun>)>) -> IndexMap<Images, Vec<PooledSeed>> {
    let mut by_images: IndexMap<Images, Vec<PooledSeed>> = IndexMap::new();
    for (seed, mut runs) in seeds {
        let mut predictions = Predictions::default();
        for run in &mut runs {
            predictions.append(std::mem::take(&mut run.predictions));
        }
        let pooled = PooledSeed { seed, predictions: predictions.sorted(), runs };
        by_images.entry(Images::of(&pooled.predictions)).or_default().push(pooled);
    }
    by_images
}

/// Computes the metrics of seeds with the same images; the caller sets the name.
fn over_seeds(seeds: Vec<PooledSeed>, config: &Config) -> Result<Resampled> {
    let images = scored(seeds.iter().map(|seed| &seed.predictions))?;
    let bootstrap = Bootstrap::default();
    let distributions = bootstrap.resample(&images)?;
    let runs = || seeds.iter().flat_map(|seed| &seed.runs);
    let first = runs().next().context("there is no run")?;
    let speeds: Vec<f64> = runs().filter_map(|run| run.images_per_second).collect();
    let seconds: Vec<f64> = runs().map(|run| run.seconds).collect();
    let val_pcs: Vec<f64> = runs().map(|run| run.val.pc).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let model = RankedModel {
        name: String::new(),
        candidate: 0,
        seeds: seeds.iter().map(|seed| seed.seed).collect(),
        folds: 0,
        images: images.first().map_or(0, ScoredImages::len),
        val_pc: Some(mean(&val_pcs)).filter(|pc| pc.is_finite()),
        metrics: Metric::ALL.map(|metric| MetricOverSeeds::new(&distributions, metric)),
        parameters: first.parameters,
        flops: 2 * summarize(config)?.multiply_adds,
        images_per_second: Some(mean(&speeds)).filter(|mean| mean.is_finite()),
        seconds: mean(&seconds),
        baselines: first.baselines,
        predictions: seeds.into_iter().map(|seed| seed.predictions).collect(),
    };
    let distribution = bootstrap.over_seeds(&distributions, &model.seeds);
    let distribution = distribution.context("there is no seed")?;
    Ok((model, distribution))
}

/// Compares two models that were evaluated on the same images by the paired bootstrap: the first's
/// metrics minus the second's, in the order of [`Metric::ALL`]. Returns an error if the images are
/// not the same.
pub fn compare_two(first: &RankedModel, second: &RankedModel) -> Result<[Difference; 4]> {
    ensure!(
        Images::of(&first.predictions[0]) == Images::of(&second.predictions[0]),
        "{} and {} were evaluated on different images",
        first.name,
        second.name
    );
    let distribution = |model: &RankedModel| {
        let bootstrap = Bootstrap::default();
        let images = scored(model.predictions.iter())?;
        let distributions = bootstrap.resample(&images)?;
        bootstrap.over_seeds(&distributions, &model.seeds).context("there is no seed")
    };
    let (first, second) = (distribution(first)?, distribution(second)?);
    Ok(Metric::ALL.map(|metric| Difference::new(&first, &second, metric)))
}

fn scored<'a>(sets: impl Iterator<Item = &'a Predictions>) -> Result<Vec<ScoredImages>> {
    sets.map(|set| ScoredImages::new(&set.predictions, &set.targets)).collect()
}

/// Compares ranked models by the paired bootstrap, metric by metric. Their distributions are over
/// the same resamples, for the images are the same and so is the bootstrap's seed; models with the
/// same seeds have the same ones of seeds.
fn compare(models: &[Resampled]) -> Vec<Comparison> {
    let pairs = pairs(models.len());
    let mut comparisons = Vec::new();
    for metric in Metric::ALL {
        let differences: Vec<Difference> = pairs
            .iter()
            .map(|&(a, b)| Difference::new(&models[a].1, &models[b].1, metric))
            .collect();
        let p_holm = holm(&differences.iter().map(|difference| difference.p).collect::<Vec<_>>());
        for ((&(a, b), difference), p_holm) in pairs.iter().zip(differences).zip(p_holm) {
            let [first, second] = [a, b].map(|index| models[index].0.name.clone());
            let seeds = models[a].0.seeds.len().min(models[b].0.seeds.len());
            comparisons.push(Comparison { first, second, metric, difference, p_holm, seeds });
        }
    }
    comparisons
}

/// Returns the places of the models that are compared with each other.
fn pairs(models: usize) -> Vec<(usize, usize)> {
    let firsts = if models <= MAX_PAIRWISE { models } else { 1 };
    (0..firsts).flat_map(|a| (a + 1..models).map(move |b| (a, b))).collect()
}

/// Image names and the bits of their targets, in one order.
#[derive(Debug, PartialEq, Eq, Hash)]
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

fn names(models: &[Resampled]) -> String {
    match models {
        [(only, _)] => only.name.clone(),
        [(first, _), rest @ ..] => format!("{} (and {} more)", first.name, rest.len()),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics::Metrics;

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
            val: Metrics { pc: 0.5, mae: error, rmse: error, srcc: 0.5, n: 4 },
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
        rank(runs.into_iter().map(candidate).collect(), Split::Val, Split::Val).unwrap()
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

    #[test]
    fn a_clear_difference_stays_significant_among_any_number_of_pairs() {
        let least = 2.0 / (Bootstrap::default().resamples + 1) as f64;
        for models in 2..=200 {
            let p = holm(&vec![Some(least); pairs(models).len()])[0].unwrap();
            assert!(p < 0.05, "{models} models: {p}");
        }
    }

    #[test]
    fn models_are_ranked_by_validation_and_the_winner_on_test_is_known() {
        let config = Config::default();
        let candidate = |name, val_pc: f64, noise: f64| {
            let mut run = run("abcdef", 0.0);
            run.val.pc = val_pc;
            let signs = [1.0, -1.0, 1.0, -1.0, -1.0, 1.0];
            run.predictions.predictions.iter_mut().zip(signs).for_each(|(p, s)| *p += s * noise);
            Candidate { name, config: &config, folds: 0, seeds: vec![(1, vec![run])] }
        };
        let candidates = || vec![candidate("lucky", 0.7, 0.1), candidate("chosen", 0.8, 0.9)];
        let board = |by| rank(candidates(), Split::Test, by).unwrap().boards.remove(0);
        let names = |board: &Leaderboard| -> Vec<String> {
            board.models.iter().map(|model| model.name.clone()).collect()
        };
        let by_val = board(Split::Val);
        assert_eq!(names(&by_val), ["chosen", "lucky"]);
        assert_eq!((by_val.winner(Metric::Pc), by_val.winner(Metric::Mae)), (Some(1), Some(1)));
        let pc = by_val.with_best(1, Metric::Pc).unwrap();
        assert!(pc.difference.difference.unwrap() < 0.0 && !pc.has_enough_seeds());
        let by_test = board(Split::Test);
        assert_eq!(
            (names(&by_test), by_test.winner(Metric::Pc)),
            (vec!["lucky".to_string(), "chosen".to_string()], Some(0),)
        );
    }
}
