//! What the runs of a sweep have trained, as their folders say, for the search.

use std::path::Path;
use std::sync::Mutex;

use anyhow::Result;
use indexmap::IndexMap;

use super::grid::SweepRun;
use super::halving::{Next, Outcome, Recorded, Scheduler};
use super::search::{Search, SearchName};
use crate::run::{Pause, PauseRule, RunDir, Status};

/// The learning curves of the runs that a search is of.
pub(super) struct Curves<'a> {
    search: &'a Search,
    runs: &'a [&'a SweepRun],
    root: &'a Path,
    /// Whether runs that failed are run again.
    retry_failed: bool,
    /// The best score of each run up to each epoch, as far as the median stopping rule needs it.
    curves: Mutex<Vec<Vec<f64>>>,
}

impl<'a> Curves<'a> {
    /// Reads what the runs in the sweep's folder `root` have trained, and returns it with the
    /// scheduler of the rest. Returns an error if a folder holds another run, or cannot be read.
    pub(super) fn read(
        search: &'a Search,
        runs: &'a [&'a SweepRun],
        root: &'a Path,
        retry_failed: bool,
    ) -> Result<(Self, Scheduler)> {
        let mut curves = Self { search, runs, root, retry_failed, curves: Mutex::default() };
        let recorded = runs.iter().map(|run| curves.recorded(run)).collect::<Result<Vec<_>>>()?;
        let scheduler = match search.name {
            SearchName::Asha => Scheduler::new(trials(runs), &search.rungs, search.eta, &recorded),
            SearchName::Grid | SearchName::Random => {
                let alone = (0..runs.len()).map(|run| vec![run]).collect();
                Scheduler::new(alone, &[usize::MAX], search.eta, &recorded)
            }
        };
        if search.median_stop.is_some() {
            let recorded = recorded.into_iter().map(|recorded| recorded.curve);
            curves.curves = Mutex::new(recorded.collect());
        }
        Ok((curves, scheduler))
    }

    fn recorded(&self, run: &SweepRun) -> Result<Recorded> {
        let status = run.status(self.root)?;
        let folder = run.folder(self.root);
        let mut recorded = Recorded {
            started: matches!(status, Status::Stopped | Status::Paused(_)),
            finished: matches!(status, Status::Finished(_)),
            ended: self.has_ended(&status),
            curve: Vec::new(),
        };
        if self.search.compares() && !matches!(status, Status::Pending) {
            recorded.curve = self.search.curve(&RunDir::metrics_in(&folder)?);
        }
        if let Status::Paused(pause) = status
            && pause.rule == PauseRule::Median
        {
            // What it trained until it obeyed was compared with nothing.
            recorded.curve.truncate(pause.epoch);
        }
        Ok(recorded)
    }

    /// Records the pause of each run that was at the end of a rung when the sweep was killed.
    /// Returns an error if a folder cannot be read or written.
    pub(super) fn pause_at_rungs(&self) -> Result<()> {
        let Some((_, rungs)) = self.search.rungs.split_last() else { return Ok(()) };
        for run in self.runs {
            if run.status(self.root)? == Status::Stopped {
                let folder = run.folder(self.root);
                let trained = RunDir::metrics_in(&folder)?.len();
                let rung = rungs.iter().position(|&at| at == trained);
                rung.map_or(Ok(()), |rung| self.search.pause(rung).write(&folder))?;
            }
        }
        Ok(())
    }

    /// Returns whether a run with this status is not run again, though it has not finished.
    fn has_ended(&self, status: &Status) -> bool {
        status.summary().is_none() && self.search.is_over(status, self.retry_failed)
    }

    /// Returns the outcome of training a run up to a rung, if nothing of that is left.
    pub(super) fn outcome(&self, run: &SweepRun, rung: usize) -> Result<Option<Outcome>> {
        let status = run.status(self.root)?;
        if self.has_ended(&status) {
            return Ok(Some(Outcome::Ended));
        }
        let finished = matches!(status, Status::Finished(_));
        if !self.search.compares() {
            return Ok(finished.then_some(Outcome::Finished(f64::NEG_INFINITY)));
        }
        let curve = self.search.curve(&RunDir::metrics_in(&run.folder(self.root))?);
        let score = |at: usize| curve.get(at).copied().unwrap_or(f64::NEG_INFINITY);
        if finished {
            return Ok(Some(Outcome::Finished(score(curve.len().saturating_sub(1)))));
        }
        let limit = self.search.stop_after(rung).filter(|limit| *limit <= curve.len());
        Ok(limit.map(|limit| Outcome::Paused(score(limit - 1))))
    }

    /// [Compares](Self::compare) a run that is to stop if the median rule says so. Records the
    /// pause.
    pub(super) fn stop(&self, index: usize) -> Result<Option<Pause>> {
        let pause = self.compare(index)?;
        if let Some(pause) = &pause {
            pause.write(&self.runs[index].folder(self.root))?;
            // What it trains until it obeys is compared with nothing.
            if let Ok(mut curves) = self.curves.lock() {
                curves[index].truncate(pause.epoch);
            }
        }
        Ok(pause)
    }

    /// Compares a run with the others after each epoch that it has trained since the last call.
    /// Returns why it is to stop, if it is. Returns an error if its metrics cannot be read.
    pub(super) fn compare(&self, index: usize) -> Result<Option<Pause>> {
        let (run, Some(rule)) = (self.runs[index], self.search.median_stop) else {
            return Ok(None);
        };
        let now = self.search.curve(&RunDir::metrics_in(&run.folder(self.root))?);
        let Ok(mut curves) = self.curves.lock() else { return Ok(None) };
        let seen = curves[index].len();
        curves[index].clone_from(&now);
        // The last epoch needs no stop.
        for epoch in seen + 1..=now.len().min(run.config.train.epochs - 1) {
            let others = self.runs.iter().zip(&*curves).enumerate();
            let others = others.filter(|(other, (of, _))| *other != index && of.fold == run.fold);
            let others: Vec<&[f64]> = others.map(|(_, (_, curve))| curve.as_slice()).collect();
            if let Some(median) = rule.stops(&now[..epoch], &others) {
                let reason = format!(
                    "stopped by the median rule after epoch {epoch}: {} {:.4}, median {:.4}",
                    self.search.metric.title(),
                    self.search.value(now[epoch - 1]),
                    self.search.value(median),
                );
                return Ok(Some(Pause { rule: PauseRule::Median, epoch, reason }));
            }
        }
        Ok(None)
    }
}

/// Returns of each run in the sweep's folder `root`, with its status, whether the sweep may train
/// it yet, if that runs failed ones again as stated; nothing is written. Returns an error as
/// `Curves::read` does.
pub fn left(
    search: &Search,
    (runs, statuses): (&[&SweepRun], &[Status]),
    root: &Path,
    retry_failed: bool,
) -> Result<Vec<bool>> {
    let (_, mut scheduler) = Curves::read(search, runs, root, retry_failed)?;
    // Which paused runs are promoted depends on those that are trained before.
    let done = scheduler.suggest() == Next::Done;
    let left = statuses.iter().map(|status| !done && !search.is_over(status, retry_failed));
    Ok(left.collect())
}

/// Returns the indices of the runs of each point.
fn trials(runs: &[&SweepRun]) -> Vec<Vec<usize>> {
    let mut trials: IndexMap<&str, Vec<usize>> = IndexMap::new();
    for (index, run) in runs.iter().enumerate() {
        trials.entry(&run.point).or_default().push(index);
    }
    trials.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::super::SearchConfig;
    use super::super::launch::tests::{median_stop, runs, search};
    use super::*;
    use crate::config::Monitor;
    use crate::run::{Failure, RunKind};

    /// Writes a run that was stopped after epochs with these training losses.
    fn write(run: &SweepRun, root: &Path, losses: &[f64]) {
        let folder = run.folder(root);
        fs::create_dir_all(&folder).unwrap();
        let records = losses.iter().zip(1..).map(|(loss, epoch)| {
            json!({
                "epoch": epoch, "step": epoch, "train_loss": loss, "lr": 0.1, "backbone_lr": 0.1,
                "val": {"pc": 0.5, "mae": 0.5, "rmse": 0.5, "srcc": 0.5, "n": 9},
                "fusion_weights": null, "images_per_second": 1.0, "data_wait": 0.0,
                "seconds": 1.0, "skipped_steps": 0, "best": true,
            })
        });
        let records: Vec<_> = records.collect();
        let folder = RunDir::create(&folder, RunKind::Train, &run.config).unwrap();
        folder.write_metrics(&records).unwrap();
    }

    fn by_loss(config: SearchConfig) -> SearchConfig {
        SearchConfig { metric: Some(Monitor::TrainLoss), ..config }
    }

    #[test]
    fn a_curve_is_cut_only_where_the_median_rule_stops_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let runs = runs(&["a", "b", "c", "d"]);
        let search = search(&by_loss(median_stop(Some(0.0))), &runs);
        runs[1..].iter().for_each(|run| write(run, dir.path(), &[0.3; 3]));
        let all: Vec<&SweepRun> = runs.iter().collect();
        for stops in [false, true] {
            let (curves, _) = Curves::read(&search, &all, dir.path(), false).unwrap();
            write(&runs[0], dir.path(), &[0.5, 0.2, 0.1]);
            let pause = if stops { curves.stop(0) } else { curves.compare(0) };
            assert_eq!(pause.unwrap().unwrap().epoch, 1);
            assert_eq!(runs[0].status(dir.path()).unwrap().is_paused(), stops);
            assert_eq!(curves.curves.lock().unwrap()[0].len(), if stops { 1 } else { 3 });
            fs::remove_dir_all(runs[0].folder(dir.path())).unwrap();
        }
    }

    #[test]
    fn paused_runs_are_left_while_one_may_be_promoted_and_asking_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let runs = runs(&["a", "b", "c"]);
        let all: Vec<&SweepRun> = runs.iter().collect();
        let config = SearchConfig { name: SearchName::Asha, ..SearchConfig::default() };
        let search = search(&by_loss(config), &runs);
        runs.iter().for_each(|run| write(run, dir.path(), &[0.3]));
        let left = |retry_failed| {
            let statuses: Vec<Status> =
                runs.iter().map(|run| run.status(dir.path()).unwrap()).collect();
            left(&search, (&all, &statuses), dir.path(), retry_failed).unwrap()
        };
        assert_eq!(left(false), [true; 3]);
        assert!(runs.iter().all(|run| run.status(dir.path()).unwrap() == Status::Stopped));
        let (curves, _) = Curves::read(&search, &all, dir.path(), false).unwrap();
        curves.pause_at_rungs().unwrap();
        assert!(runs.iter().all(|run| run.status(dir.path()).unwrap().is_paused()));
        assert_eq!(left(false), [true; 3]);
        let failure = Failure { error: String::new(), code: Some(1) };
        runs.iter().for_each(|run| failure.write(&run.folder(dir.path())).unwrap());
        assert_eq!((left(false), left(true)), (vec![false; 3], vec![true; 3]));
    }

    #[test]
    fn a_run_that_the_median_rule_stopped_is_left_once_the_rule_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let runs = runs(&["a"]);
        write(&runs[0], dir.path(), &[0.3]);
        let pause = Pause { rule: PauseRule::Median, epoch: 1, reason: String::new() };
        pause.write(&runs[0].folder(dir.path())).unwrap();
        for (margin, expected) in [(Some(0.1), false), (None, true)] {
            let search = search(&median_stop(margin), &runs);
            let statuses = [runs[0].status(dir.path()).unwrap()];
            let left = left(&search, (&[&runs[0]], &statuses), dir.path(), false).unwrap();
            assert_eq!(left, [expected]);
        }
    }
}
