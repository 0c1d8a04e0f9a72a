//! Models on the images of a split: their metrics, and which differ.

use anyhow::{Context, Result};

use super::models::Model;
use super::sources::FoundRun;
use crate::data::Split;
use crate::eval::baselines::Baselines;
use crate::eval::predictions::Predictions;
use crate::eval::statistics::{
    Bootstrap, Contrast, Metric, OverSeeds, Replicates, aligned, contrasts,
};
use crate::models::summary::summarize;
use crate::train::{Outcome, RunDir};

/// A model's metrics on the images of a split, over its seeds; the predictions of its folds are
/// pooled first.
#[derive(Debug)]
pub struct Judged {
    /// Which of the models.
    pub model: usize,
    /// Its name.
    pub name: String,
    /// The seeds whose runs are all done.
    pub seeds: Vec<u64>,
    /// The folds that each seed's predictions are pooled from; 0 where the model has no folds.
    pub folds: usize,
    /// Each seed's predictions, sorted by image.
    pub sets: Vec<Predictions>,
    /// By [`Metric`].
    pub metrics: [OverSeeds; 4],
    /// Trained parameters.
    pub parameters: i64,
    /// Floating-point operations for one image: twice the multiply-adds.
    pub flops: i64,
    /// Training images per second, mean of the runs.
    pub images_per_second: Option<f64>,
    /// Wall time spent training, mean of the runs.
    pub seconds: f64,
    /// On the same images, where the model has no folds.
    pub baselines: Option<Baselines>,
    replicates: Replicates,
}

impl Judged {
    /// Number of images.
    pub fn images(&self) -> usize {
        self.sets.first().map_or(0, |set| set.images.len())
    }

    /// One metric.
    pub fn metric(&self, metric: Metric) -> &OverSeeds {
        &self.metrics[metric as usize]
    }

    /// Each image's error, prediction minus target, mean over the seeds; `of` is applied to each
    /// seed's before.
    pub fn errors(&self, of: impl Fn(f64) -> f64) -> Vec<f64> {
        let error = |set: &Predictions, row: usize| of(set.predictions[row] - set.targets[row]);
        let mean = |row| {
            let sum: f64 = self.sets.iter().map(|set| error(set, row)).sum();
            sum / self.sets.len() as f64
        };
        (0..self.images()).map(mean).collect()
    }
}

/// Models that were judged on the same images.
#[derive(Debug)]
pub struct Board {
    /// The best first, by mean PC.
    pub models: Vec<Judged>,
    /// By places in `models`.
    pub contrasts: Vec<Contrast>,
}

impl Board {
    /// The difference of the best to the one in this place.
    pub fn to_best(&self, place: usize, metric: Metric) -> Option<&Contrast> {
        let mut all = self.contrasts.iter();
        all.find(|c| c.first == 0 && c.second == place && c.metric == metric)
    }
}

/// What the models came to.
#[derive(Debug, Default)]
pub struct Boards {
    /// The one with the most models first.
    pub boards: Vec<Board>,
    /// Why models are left out, or not compared.
    pub notes: Vec<String>,
}

/// The test split, or validation where a run that is done has no test images.
pub fn usual_split(runs: &[FoundRun]) -> Split {
    let mut done = runs.iter().filter_map(FoundRun::outcome);
    if done.any(|outcome| outcome.test.is_none()) { Split::Val } else { Split::Test }
}

/// Judges every model that has a seed with all its runs done. Models are compared where they were
/// judged on the same images with the same targets.
///
/// # Errors
/// Predictions that cannot be read.
pub fn judge(models: &[Model], split: Split) -> Result<Boards> {
    let mut boards: Vec<(ImageKeys, Board)> = Vec::new();
    let mut notes = Vec::new();
    for (index, model) in models.iter().enumerate() {
        let mut sets: Vec<(ImageKeys, Vec<Pooled>)> = Vec::new();
        for (seed, runs) in model.by_seed() {
            let Some(pooled) = pool(model, seed, &runs, split, &mut notes)? else {
                continue;
            };
            let images = images(&pooled.predictions);
            match sets.iter_mut().find(|(known, _)| *known == images) {
                Some((_, seeds)) => seeds.push(pooled),
                None => sets.push((images, vec![pooled])),
            }
        }
        if sets.len() > 1 {
            notes.push(format!(
                "{}: its seeds were judged on different images and are listed apart; data.seed gives all seeds the same ones",
                model.name
            ));
        }
        let apart = sets.len() > 1;
        for (images, seeds) in sets {
            let mut judged = over_seeds(model, index, seeds, split)
                .with_context(|| format!("the seeds of {} cannot be put together", model.name))?;
            if apart {
                let seeds: Vec<String> = judged.seeds.iter().map(u64::to_string).collect();
                judged.name = format!("{}, seed {}", model.name, seeds.join(" and "));
            }
            match boards.iter_mut().find(|(known, _)| *known == images) {
                Some((_, board)) => board.models.push(judged),
                None => {
                    let board = Board { models: vec![judged], contrasts: Vec::new() };
                    boards.push((images, board));
                }
            }
        }
    }
    boards.sort_by_key(|(_, board)| std::cmp::Reverse(board.models.len()));
    if let [(first, a), others @ ..] = &boards[..] {
        for (images, b) in others {
            notes.push(format!(
                "{} and {} are not compared: {}",
                names(a),
                names(b),
                difference(first, images)
            ));
        }
    }
    for (_, board) in &mut boards {
        // A model that predicts one value is worse than any other.
        let pc = |judged: &Judged| judged.metric(Metric::Pc).mean.unwrap_or(f64::NEG_INFINITY);
        board.models.sort_by(|a, b| pc(b).total_cmp(&pc(a)));
        let replicates: Vec<&Replicates> = board.models.iter().map(|m| &m.replicates).collect();
        board.contrasts = contrasts(&replicates);
    }
    Ok(Boards { boards: boards.into_iter().map(|(_, board)| board).collect(), notes })
}

/// Images and the bits of their targets, in one order.
type ImageKeys = Vec<(String, u64)>;

fn images(predictions: &Predictions) -> ImageKeys {
    let targets = predictions.targets.iter().map(|target| target.to_bits());
    predictions.images.iter().cloned().zip(targets).collect()
}

fn names(board: &Board) -> String {
    match &board.models[..] {
        [only] => only.name.clone(),
        [first, rest @ ..] => format!("{} (and {} more)", first.name, rest.len()),
        [] => String::new(),
    }
}

fn difference(a: &ImageKeys, b: &ImageKeys) -> String {
    if a.len() != b.len() {
        format!("they were judged on {} and {} images", a.len(), b.len())
    } else {
        match a.iter().zip(b).find(|(a, b)| a != b) {
            Some((a, b)) if a.0 == b.0 => format!(
                "{} has the target {} for one and {} for the other",
                a.0,
                f64::from_bits(a.1),
                f64::from_bits(b.1)
            ),
            Some((a, b)) => {
                format!("they were judged on different images, {} for one only", (&a.0).min(&b.0))
            }
            None => "they were judged on the same images".to_string(),
        }
    }
}

/// One seed's predictions of all folds, and what its runs came to.
struct Pooled {
    seed: u64,
    folds: usize,
    predictions: Predictions,
    outcomes: Vec<Outcome>,
}

/// `None` where a run is not done, or has no images in the split.
fn pool(
    model: &Model,
    seed: u64,
    runs: &[&FoundRun],
    split: Split,
    notes: &mut Vec<String>,
) -> Result<Option<Pooled>> {
    let done: Option<Vec<&Outcome>> = runs.iter().map(|run| run.outcome()).collect();
    let folds = model.folds().len();
    let Some(outcomes) = done.filter(|_| folds == 0 || runs.len() == folds) else {
        notes.push(format!(
            "{}, seed {seed}, is left out: not all of its runs are done",
            model.name
        ));
        return Ok(None);
    };
    if split == Split::Test && outcomes.iter().any(|outcome| outcome.test.is_none()) {
        notes.push(format!(
            "{}, seed {seed}, is left out: it has no test images; --split val judges it",
            model.name
        ));
        return Ok(None);
    }
    let mut runs = runs.to_vec();
    runs.sort_by_key(|run| run.config.as_ref().map(|config| config.data.split.clone()));
    let mut predictions = Predictions::default();
    for run in runs {
        predictions.append(Predictions::read(&RunDir::predictions_in(&run.folder, split))?);
    }
    Ok(Some(Pooled {
        seed,
        folds,
        predictions: predictions.sorted(),
        outcomes: outcomes.into_iter().cloned().collect(),
    }))
}

fn over_seeds(model: &Model, index: usize, seeds: Vec<Pooled>, split: Split) -> Result<Judged> {
    let sets: Vec<&Predictions> = seeds.iter().map(|seed| &seed.predictions).collect();
    let replicates = Bootstrap::default().replicate(&aligned(&sets)?)?;
    let [pc, mae, rmse, srcc] = Metric::ALL.map(|metric| OverSeeds::new(&replicates, metric));
    let outcomes = || seeds.iter().flat_map(|seed| &seed.outcomes);
    let speeds = outcomes().filter_map(|outcome| outcome.images_per_second);
    let seconds = outcomes().map(|outcome| outcome.seconds);
    let folds = seeds.first().map_or(0, |seed| seed.folds);
    let baselines = outcomes().next().and_then(|outcome| match split {
        Split::Test => outcome.baselines.test,
        _ => Some(outcome.baselines.val),
    });
    Ok(Judged {
        model: index,
        name: model.name.clone(),
        seeds: seeds.iter().map(|seed| seed.seed).collect(),
        folds,
        metrics: [pc?, mae?, rmse?, srcc?],
        parameters: outcomes().next().map_or(0, |outcome| outcome.parameters),
        flops: 2 * summarize(&model.config)?.multiply_adds,
        images_per_second: mean(speeds.collect()),
        seconds: mean(seconds.collect()).unwrap_or(0.0),
        baselines: baselines.filter(|_| folds == 0),
        replicates: Replicates::mean(&replicates)?,
        sets: seeds.into_iter().map(|seed| seed.predictions).collect(),
    })
}

fn mean(values: Vec<f64>) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    mean.is_finite().then_some(mean)
}
