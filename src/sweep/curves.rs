//! What the runs of a sweep have trained, as their folders say, for the search.

use std::path::Path;
use std::sync::Mutex;

use anyhow::Result;

use super::grid::SweepRun;
use super::halving::{Outcome, Recorded, Scheduler};
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
            ended: self.is_over(&status),
            curve: Vec::new(),
        };
        if self.search.compares() && !matches!(status, Status::Pending) {
            recorded.curve = self.search.curve(&RunDir::metrics_in(&folder)?);
        }
        match status {
            // What it trained until it obeyed was compared with nothing.
            Status::Paused(pause) if pause.rule == PauseRule::Median => {
                recorded.curve.truncate(pause.epoch);
            }
            // The sweep was killed when the run was at the end of a rung.
            Status::Stopped => {
                let rung = self.search.rungs.iter().position(|&at| at == recorded.curve.len());
                rung.map_or(Ok(()), |rung| self.search.pause(rung).write(&folder))?;
            }
            _ => {}
        }
        Ok(recorded)
    }

    /// Returns whether a run with this status is not run again, though it has not finished.
    fn is_over(&self, status: &Status) -> bool {
        match status {
            Status::Failed(_) => !self.retry_failed,
            Status::Paused(pause) => {
                pause.rule == PauseRule::Median && self.search.median_stop.is_some()
            }
            _ => false,
        }
    }

    /// Returns the outcome of training a run up to a rung, if nothing of that is left.
    pub(super) fn outcome(&self, run: &SweepRun, rung: usize) -> Result<Option<Outcome>> {
        let status = run.status(self.root)?;
        if self.is_over(&status) {
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
                curves[index].truncate(epoch);
                return Ok(Some(Pause { rule: PauseRule::Median, epoch, reason }));
            }
        }
        Ok(None)
    }
}

/// Returns the indices of the runs of each point.
fn trials(runs: &[&SweepRun]) -> Vec<Vec<usize>> {
    let mut trials: Vec<(&str, Vec<usize>)> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        match trials.iter_mut().find(|(point, _)| *point == run.point) {
            Some((_, runs)) => runs.push(index),
            None => trials.push((&run.point, vec![index])),
        }
    }
    trials.into_iter().map(|(_, runs)| runs).collect()
}
