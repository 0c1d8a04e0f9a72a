//! The time that the runs of a sweep take, from measurements of a few of their configurations.

use std::collections::HashMap;

use anyhow::{Context, Result};

use super::estimate::{TrainEstimate, estimate_train};
use crate::config::Config;
use crate::models::summary::summarize;
use crate::sweep::SweepRun;

/// The maximum number of configurations that are measured.
const MAX_MEASURED: usize = 12;
/// Keys, or sections, that do not change the time of a step.
const COSTLESS: [&str; 19] = [
    "name",
    "seed",
    "data.seed",
    "data.split",
    "train.epochs",
    "train.loss",
    "train.label_distribution",
    "train.optimizer.lr",
    "train.optimizer.backbone_lr",
    "train.optimizer.layer_decay",
    "train.optimizer.weight_decay",
    "train.schedule",
    "train.monitor",
    "train.early_stopping",
    "train.explain_every",
    "train.checkpoint_minutes",
    "train.tensorboard",
    "model.head.dropout",
    "pretrain",
];

/// Estimates of the runs of a sweep.
#[derive(Debug, Default)]
pub struct RunsEstimate {
    /// Of each run, in order: the estimate of its configuration, and the factor of its time.
    runs: Vec<(usize, f64)>,
    estimates: Vec<TrainEstimate>,
    /// The number of configurations of different cost.
    pub configurations: usize,
}

impl RunsEstimate {
    /// Returns the number of configurations that were measured.
    pub fn measured(&self) -> usize {
        self.estimates.len()
    }

    /// Returns the seconds of this number of epochs of the run with an index.
    pub fn seconds(&self, run: usize, epochs: usize) -> Option<f64> {
        let (estimate, factor) = self.runs.get(run)?;
        Some(factor * self.estimates.get(*estimate)?.seconds(epochs))
    }
}

/// A configuration: runs that differ in nothing that costs time.
struct Configuration<'a> {
    first: &'a SweepRun,
    multiply_adds: f64,
}

/// Measures the configurations of runs, each once as [`estimate_train`] does and with a number of
/// `threads` unless its config sets one, but at most twelve, from the cheapest to the dearest. The
/// time of another one is that of the measured one with the nearest number of multiply-adds, in
/// proportion to them. `progress` is told the run that is measured, and how many are. Returns an
/// error that names the run if one cannot be measured.
pub fn estimate_runs(
    runs: &[&SweepRun],
    threads: usize,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<RunsEstimate> {
    let mut by_cost: HashMap<String, usize> = HashMap::new();
    let mut configurations: Vec<Configuration> = Vec::new();
    let mut of_run = Vec::new();
    for run in runs {
        let next = configurations.len();
        let index = *by_cost.entry(cost_key(&run.config)?).or_insert(next);
        of_run.push(index);
        if index == next {
            let cost = summarize(&run.config).with_context(|| run.name.clone())?;
            let multiply_adds = cost.multiply_adds.max(1) as f64;
            configurations.push(Configuration { first: run, multiply_adds });
        }
    }
    let mut order: Vec<usize> = (0..configurations.len()).collect();
    order.sort_by(|&a, &b| {
        configurations[a].multiply_adds.total_cmp(&configurations[b].multiply_adds)
    });
    let measured = spread(&order, MAX_MEASURED);
    let mut estimates = Vec::new();
    for (done, &index) in measured.iter().enumerate() {
        let run = configurations[index].first;
        progress(&run.name, done + 1, measured.len());
        let mut config = run.config.clone();
        config.train.threads.get_or_insert(threads);
        estimates.push(estimate_train(&config).with_context(|| run.name.clone())?);
    }
    let nearest = |index: usize| {
        let cost = configurations[index].multiply_adds;
        let factors = measured.iter().map(|&other| cost / configurations[other].multiply_adds);
        let nearest =
            factors.enumerate().min_by(|(_, a), (_, b)| a.ln().abs().total_cmp(&b.ln().abs()));
        nearest.unwrap_or((0, 1.0))
    };
    let runs = of_run.into_iter().map(|index| {
        let own = measured.iter().position(|&measured| measured == index);
        own.map_or_else(|| nearest(index), |own| (own, 1.0))
    });
    Ok(RunsEstimate { runs: runs.collect(), estimates, configurations: configurations.len() })
}

/// Chooses up to `count` items, evenly from the first to the last.
fn spread(items: &[usize], count: usize) -> Vec<usize> {
    if items.len() <= count {
        return items.to_vec();
    }
    (0..count).map(|i| items[i * (items.len() - 1) / (count - 1)]).collect()
}

/// Returns the keys and values that change the time of a step.
fn cost_key(config: &Config) -> Result<String> {
    let is_costless = |key: &str| {
        COSTLESS.iter().any(|costless| {
            key.strip_prefix(costless).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let keys = config.flat_keys()?.into_iter().filter(|(key, _)| !is_costless(key));
    Ok(keys.map(|(key, value)| format!("{key}={value:?}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reference;

    fn run(set: &str) -> SweepRun {
        let text = "data: {dataset: synthetic, image_size: 32, \
                    synthetic: {train: 16, val: 4, test: 4}}\n\
                    model: {vit: {name: vit_micro_patch8_64, depth: 1}, \
                    mamba: {name: vim_micro_patch8_64, depth: 1}}\n\
                    train: {batch_size: 4}\n";
        let set: Vec<String> = set.split_whitespace().map(str::to_string).collect();
        let config = Config::from_yaml(text, "small", &set).unwrap();
        let name = set.join(",");
        SweepRun { point: name.clone(), name, values: Vec::new(), config, fold: None }
    }

    #[test]
    fn runs_that_differ_in_nothing_that_costs_time_are_measured_once() {
        let runs = ["seed=1", "seed=2 train.epochs=7 train.optimizer.lr=1e-2", "model.vit.depth=2"];
        let runs = runs.map(run);
        let mut seen = Vec::new();
        let found = estimate_runs(&runs.each_ref(), 1, &mut |name, done, total| {
            seen.push((name.to_string(), done, total));
        });
        let found = found.unwrap();
        assert_eq!((found.measured(), found.configurations), (2, 2));
        assert_eq!(seen, [("seed=1".to_string(), 1, 2), ("model.vit.depth=2".to_string(), 2, 2)]);
        let seconds = |run, epochs| found.seconds(run, epochs).unwrap();
        assert_eq!(seconds(0, 7), seconds(1, 7));
        assert!(seconds(1, 7) > seconds(1, 1) && seconds(1, 1) > 0.0);
        assert_eq!(found.seconds(3, 1), None);
    }

    #[test]
    fn measured_configurations_are_spread_from_the_cheapest_to_the_dearest() {
        let items: Vec<usize> = (0..100).collect();
        let chosen = spread(&items, 12);
        assert_eq!((chosen.len(), chosen[0], chosen[11]), (12, 0, 99));
        assert_eq!(spread(&items[..3], 12), [0, 1, 2]);
    }

    #[test]
    fn every_key_without_cost_exists() {
        let keys: Vec<String> = reference().into_iter().map(|row| row.key).collect();
        for costless in COSTLESS {
            let section = format!("{costless}.");
            assert!(
                keys.iter().any(|key| key == costless || key.starts_with(&section)),
                "{costless}"
            );
        }
    }
}
