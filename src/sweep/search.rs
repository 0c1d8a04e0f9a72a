//! The search of a sweep: which points are run, and how long each is trained.

use serde::Serialize;

use crate::config::names::names;
use crate::config::section::section;
use crate::config::{Config, Monitor};
use crate::run::{EpochRecord, Pause, PauseRule, Status};
use crate::train::monitor;

names! {
    /// Which points of a sweep are run, and how long each is trained.
    pub enum SearchName {
        /// Every combination of the axes, to the last epoch.
        Grid = "grid",
        /// A random sample of them (Bergstra and Bengio, "Random search for hyper-parameter
        /// optimization", JMLR 13, 2012), to the last epoch.
        Random = "random",
        /// Asynchronous successive halving (Li et al., arXiv 1810.05934): all points for a few
        /// epochs, the best of them for more.
        Asha = "asha",
    }
}

section! {
    /// Which points are run, and how long each is trained.
    pub struct SearchConfig {
        /// `grid` runs every combination of the axes, `random` a sample of them, both to the last
        /// epoch. `asha` (asynchronous successive halving) trains all points for a few epochs, and
        /// only the best of them for more.
        pub name: SearchName = SearchName::Grid,
        /// Number of points that `random` samples, each of which is run with every seed on every
        /// fold. A larger budget adds points to those of a smaller one.
        pub budget: Option<usize> = None,
        /// Seed of the sample.
        pub seed: u64 = 0,
        /// The metric that `asha` and `median_stop` compare, `pc`, `mae`, `rmse`, `srcc` or
        /// `train_loss`; `null` is the config's `train.monitor`.
        pub metric: Option<Monitor> = None,
        /// `asha` promotes one of this many points from each rung to the next, which has this many
        /// times the epochs.
        pub eta: usize = 3,
        /// Epochs of the first rung of `asha`.
        pub min_epochs: usize = 1,
        /// Number of points that `asha` samples; `null` is every combination, where all axes are
        /// lists. A larger number adds points to those of a smaller one.
        pub max_runs: Option<usize> = None,
        /// The median stopping rule, for `grid` and `random`.
        pub median_stop: MedianStopConfig = MedianStopConfig::default(),
    }
}

section! {
    /// The median stopping rule.
    pub struct MedianStopConfig {
        /// Stops a run whose best metric is worse than the median of the other runs' at the same
        /// epoch by more than this, in the metric's own units; `null` stops none.
        pub margin: Option<f64> = None,
        /// Least number of epochs that each run is trained.
        pub min_epochs: usize = 1,
    }
}

impl SearchConfig {
    /// Returns the number of points that are sampled; `None` for all combinations.
    pub(super) fn points(&self) -> Option<usize> {
        match self.name {
            SearchName::Grid => None,
            SearchName::Random => self.budget,
            SearchName::Asha => self.max_runs,
        }
    }

    /// Calls `wrong` with the keys that lead to each wrong value, and a message about it.
    pub(super) fn check(&self, wrong: &mut dyn FnMut(&[&str], String)) {
        let defaults = Self::default();
        let asha = self.name == SearchName::Asha;
        let median = self.median_stop.margin.is_some();
        let random = self.name == SearchName::Random;
        for (key, stated, applies, remedy) in [
            ("budget", self.budget.is_some(), random, "name: random"),
            ("max_runs", self.max_runs.is_some(), asha, "name: asha"),
            ("eta", self.eta != defaults.eta, asha, "name: asha"),
            ("min_epochs", self.min_epochs != defaults.min_epochs, asha, "name: asha"),
            ("median_stop", median, !asha, "name: grid or random; asha stops runs itself"),
            ("metric", self.metric.is_some(), asha || median, "name: asha and median_stop"),
        ] {
            if stated && !applies {
                let name = self.name;
                let message =
                    format!("search.{key} is for {remedy}, not for name: {name}; remove it");
                wrong(&["search", key], message);
            }
        }
        if random && self.budget.is_none() {
            wrong(&["search", "budget"], "search.budget is missing".to_string());
        }
        let mut at_least = |path: &[&str], least: usize, value: usize| {
            if value < least {
                let key = path.join(".");
                wrong(path, format!("{key} must be at least {least}, is {value}"));
            }
        };
        at_least(&["search", "budget"], 1, self.budget.unwrap_or(1));
        at_least(&["search", "max_runs"], 1, self.max_runs.unwrap_or(1));
        at_least(&["search", "eta"], 2, self.eta);
        at_least(&["search", "min_epochs"], 1, self.min_epochs);
        let MedianStopConfig { margin, min_epochs } = self.median_stop;
        at_least(&["search", "median_stop", "min_epochs"], 1, min_epochs);
        if let Some(margin) = margin.filter(|margin| !(*margin >= 0.0 && margin.is_finite())) {
            let message = format!("search.median_stop.margin must be 0 or more, is {margin}");
            wrong(&["search", "median_stop", "margin"], message);
        }
    }
}

/// The search of a sweep, with what its configs say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Search {
    /// Which search it is.
    pub name: SearchName,
    /// The metric that runs are compared by.
    pub metric: Monitor,
    /// The epochs of the rungs of `asha`, the last of which is `train.epochs`; empty for others.
    pub rungs: Vec<usize>,
    /// `asha` promotes one of this many points from each rung to the next.
    pub eta: usize,
    /// The median stopping rule, if there is one.
    pub median_stop: Option<MedianStop>,
}

/// Stops runs that are worse than the median of the others by a margin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MedianStop {
    /// The margin, in the metric's own units.
    pub margin: f64,
    /// Epochs that each run is trained at least.
    pub min_epochs: usize,
}

/// The number of other runs that a median is taken of at least.
const MIN_OTHERS: usize = 3;

impl MedianStop {
    /// Compares a run with the others after its last epoch. The curves hold each run's best score
    /// up to each epoch, more is better; a run that has not come as far does not count. Returns the
    /// median if the run is worse than it by more than the margin.
    pub fn stops(&self, curve: &[f64], others: &[&[f64]]) -> Option<f64> {
        let score = *curve.last().filter(|_| curve.len() >= self.min_epochs)?;
        let at = curve.len() - 1;
        let mut scores: Vec<f64> =
            others.iter().filter_map(|other| other.get(at)).copied().collect();
        if scores.len() < MIN_OTHERS {
            return None;
        }
        scores.sort_unstable_by(f64::total_cmp);
        let (low, high) = (scores[(scores.len() - 1) / 2], scores[scores.len() / 2]);
        let median = if low == high { low } else { (low + high) / 2.0 };
        (score < median - self.margin).then_some(median)
    }
}

impl Search {
    /// Resolves a search for runs of these configs. Calls `wrong` with the key in `search`, and a
    /// message about it, where they do not fit.
    pub(super) fn new<'a>(
        config: &SearchConfig,
        mut configs: impl Iterator<Item = &'a Config>,
        wrong: &mut dyn FnMut(&str, String),
    ) -> Self {
        let (name, eta) = (config.name, config.eta);
        let MedianStopConfig { margin, min_epochs } = config.median_stop;
        let median_stop = margin.map(|margin| MedianStop { margin, min_epochs });
        let default = Config::default();
        let first = configs.next().unwrap_or(&default);
        let (epochs, monitor) = (first.train.epochs, first.train.monitor);
        let asha = name == SearchName::Asha;
        if asha || median_stop.is_some() {
            let (mut one_monitor, mut one_length) = (true, true);
            for config in configs {
                one_monitor &= config.train.monitor == monitor;
                one_length &= config.train.epochs == epochs;
            }
            if config.metric.is_none() && !one_monitor {
                let message = "search.metric is missing: train.monitor differs between runs, so \
                               name the metric that compares them";
                wrong("metric", message.to_string());
            }
            if asha && !one_length {
                let message = "search: asha compares runs at the same epoch of the same schedule: \
                               remove train.epochs from axes";
                wrong("name", message.to_string());
            }
        }
        if asha && config.min_epochs >= epochs {
            let message = format!(
                "search.min_epochs must be less than train.epochs, which is {epochs}, is {}",
                config.min_epochs
            );
            wrong("min_epochs", message);
        }
        Self {
            name,
            metric: config.metric.unwrap_or(monitor),
            rungs: if asha { rungs(config.min_epochs, eta, epochs) } else { Vec::new() },
            eta,
            median_stop,
        }
    }

    /// Returns the best score by the metric up to each epoch; more is better, and an undefined one
    /// is worse than any other.
    pub fn curve(&self, records: &[EpochRecord]) -> Vec<f64> {
        let mut best = f64::NEG_INFINITY;
        let scores = records.iter().map(|record| {
            best = best.max(monitor::score(self.metric, record).unwrap_or(best));
            best
        });
        scores.collect()
    }
}

impl Search {
    /// Returns whether runs are compared while they are trained, so that some end early.
    pub fn compares(&self) -> bool {
        !self.rungs.is_empty() || self.median_stop.is_some()
    }

    /// Returns whether a run with this status is not trained any more. One that is paused at the
    /// end of a rung may be promoted.
    pub fn is_over(&self, status: &Status, retry_failed: bool) -> bool {
        match status {
            Status::Finished(_) => true,
            Status::Failed(_) => !retry_failed,
            Status::Paused(pause) => pause.rule == PauseRule::Median && self.median_stop.is_some(),
            Status::Pending | Status::Stopped | Status::Running => false,
        }
    }

    /// Returns the epochs that a run is stopped after at the end of a rung; `None` for the last.
    pub(super) fn stop_after(&self, rung: usize) -> Option<usize> {
        let (_, rungs) = self.rungs.split_last()?;
        rungs.get(rung).copied()
    }

    /// Returns why a run at the end of a rung is paused.
    pub(super) fn pause(&self, rung: usize) -> Pause {
        let (epoch, count) = (self.rungs[rung], self.rungs.len());
        let reason = format!("paused at rung {} of {count}, epoch {epoch}", rung + 1);
        Pause { rule: PauseRule::Rung, epoch, reason }
    }

    /// Returns the metric that a score is of.
    pub(super) fn value(&self, score: f64) -> f64 {
        self.metric.score(score)
    }
}

/// Returns `min_epochs` · `eta`^k below `epochs`, and `epochs`.
fn rungs(min_epochs: usize, eta: usize, epochs: usize) -> Vec<usize> {
    let next = |rung: &usize| rung.checked_mul(eta.max(2));
    let rungs = std::iter::successors(Some(min_epochs.max(1)), next);
    rungs.take_while(|rung| *rung < epochs).chain([epochs]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_grow_by_eta_up_to_all_epochs() {
        assert_eq!(rungs(1, 3, 9), [1, 3, 9]);
        assert_eq!(rungs(2, 4, 30), [2, 8, 30]);
        assert_eq!(rungs(1, 2, 1), [1]);
        assert_eq!(rungs(5, usize::MAX, 6), [5, 6]);
    }

    #[test]
    fn a_run_worse_than_the_median_by_the_margin_is_stopped_and_no_sooner() {
        let rule = MedianStop { margin: 0.1, min_epochs: 2 };
        let others: [&[f64]; 4] = [&[0.1, 0.5, 0.6], &[0.2, 0.7], &[0.3, 0.9, 0.9], &[0.9]];
        assert_eq!(rule.stops(&[0.0, 0.55], &others), Some(0.7));
        assert_eq!(rule.stops(&[0.0, 0.65], &others), None, "within the margin");
        assert_eq!(rule.stops(&[0.0], &others), None, "too early");
        assert_eq!(rule.stops(&[0.0, 0.0, 0.0], &others), None, "two others are no median");
        let even = MedianStop { margin: 0.0, min_epochs: 1 };
        assert_eq!(even.stops(&[0.2], &others), Some(0.25));
        assert_eq!(even.stops(&[0.25], &others), None);
        assert_eq!(even.stops(&[], &others), None);
        let undefined = f64::NEG_INFINITY;
        assert_eq!(even.stops(&[undefined], &[&[undefined][..]; 3]), None);
    }
}
