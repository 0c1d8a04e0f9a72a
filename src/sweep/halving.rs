//! The scheduler of a sweep's runs: asynchronous successive halving (Li et al., arXiv 1810.05934),
//! of which training all runs to the end is the case with one rung.
//!
//! It knows numbers alone, so that a simulation on recorded curves and the processes of a sweep
//! share it. Its state follows from what the runs have trained: there is no log of decisions.
//!
//! The number of trials is fixed. So lower rungs are filled first, where the paper, which samples
//! without end, promotes first, from the highest rung: each promotion is decided among as many
//! results as there are by then. With one job that is synchronous successive halving.

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Train a run up to the end of a rung.
    Train {
        /// Index of the run.
        run: usize,
        /// Index of the rung; the last is the end of training.
        rung: usize,
    },
    /// Nothing can be decided before a run that is being trained is reported.
    Wait,
    /// Nothing is left.
    Done,
}

/// How training a run up to a rung ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// It has reached the rung with this score; more is better.
    Paused(f64),
    /// It has finished with this score: it needs no more training.
    Finished(f64),
    /// It failed or was stopped for good: its trial is not promoted.
    Ended,
}

/// What a run has trained before the scheduler starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorded {
    /// The best score up to each epoch; more is better.
    pub curve: Vec<f64>,
    /// Whether it has started.
    pub started: bool,
    /// Whether it has finished.
    pub finished: bool,
    /// Whether it failed or was stopped for good.
    pub ended: bool,
}

/// Where a trial is.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// Not started.
    Waiting,
    /// On its way to the rung `.0`: runs that are left to start, and the number under way.
    Training(usize, Vec<usize>, usize),
    /// At the end of a rung.
    Paused(usize),
    /// It needs no more training; whether that is because it is trained to the end.
    Ended(bool),
}

/// A point of a sweep: its runs are promoted together.
#[derive(Debug, Clone)]
struct Trial {
    phase: Phase,
    /// Its runs, each with its last score, and whether it has finished.
    runs: Vec<(usize, f64, bool)>,
}

/// Decides which run is trained next, and up to which rung.
#[derive(Debug, Clone)]
pub struct Scheduler {
    eta: usize,
    rungs: usize,
    trials: Vec<Trial>,
    /// The trial of each run.
    trial_of: Vec<usize>,
    /// The score of each trial that has come to the end of a rung, by rung.
    results: Vec<Vec<(usize, f64)>>,
}

impl Scheduler {
    /// Creates the scheduler of `trials`, each of which is the indices of its runs; they are 0, 1,
    /// … over all trials, in any order. `rungs` are the epochs at which runs are compared, the last
    /// of which is the end of training; `recorded` is what each run has trained before. A trial's
    /// score is the mean over its runs.
    pub fn new(
        trials: Vec<Vec<usize>>,
        rungs: &[usize],
        eta: usize,
        recorded: &[Recorded],
    ) -> Self {
        let mut scheduler = Self {
            eta: eta.max(2),
            rungs: rungs.len(),
            trial_of: vec![0; recorded.len()],
            trials: Vec::new(),
            results: vec![Vec::new(); rungs.len()],
        };
        for (index, runs) in trials.into_iter().enumerate() {
            runs.iter().for_each(|&run| scheduler.trial_of[run] = index);
            let members: Vec<(usize, &Recorded)> =
                runs.into_iter().map(|run| (run, &recorded[run])).collect();
            scheduler.restore(index, &members, rungs);
        }
        scheduler
    }

    /// Adds a trial in the phase that follows from what its runs have trained.
    fn restore(&mut self, index: usize, members: &[(usize, &Recorded)], rungs: &[usize]) {
        let last = rungs.len() - 1;
        // The rungs whose end a run has reached. That of the last one is the end of the run.
        let reached = |run: &Recorded| {
            let counts = |epochs: &&usize| **epochs <= run.curve.len();
            let count = rungs[..last].iter().take_while(counts).count();
            if run.finished { count + 1 } else { count }
        };
        let score = |run: &Recorded, rung: usize| {
            let at = rungs[rung].min(run.curve.len());
            at.checked_sub(1).map_or(f64::NEG_INFINITY, |at| run.curve[at])
        };
        let finished = members.iter().all(|(_, run)| run.finished);
        let left = members.iter().filter(|(_, run)| !run.finished);
        let done = if finished {
            members.iter().map(|(_, run)| reached(run)).max()
        } else {
            left.clone().map(|(_, run)| reached(run)).min()
        };
        let done = done.unwrap_or(0).min(rungs.len());
        for rung in 0..done {
            let scores: Vec<f64> = members.iter().map(|(_, run)| score(run, rung)).collect();
            self.results[rung].push((index, mean(&scores)));
        }
        let on_the_way = |run: &Recorded| match done.checked_sub(1) {
            Some(rung) => run.curve.len() > rungs[rung],
            None => run.started,
        };
        let to_start = left.clone().filter(|(_, run)| reached(run) <= done).map(|(run, _)| *run);
        let phase = if finished {
            Phase::Ended(true)
        } else if members.iter().any(|(_, run)| run.ended) {
            self.results[done].push((index, f64::NEG_INFINITY));
            Phase::Ended(false)
        } else if left.clone().any(|(_, run)| on_the_way(run)) {
            Phase::Training(done, to_start.collect(), 0)
        } else {
            done.checked_sub(1).map_or(Phase::Waiting, Phase::Paused)
        };
        let runs = members.iter().map(|&(index, run)| {
            // A run may be ahead of its trial: its score there is that of the trial's rung.
            (index, score(run, done.min(last)), run.finished)
        });
        self.trials.push(Trial { phase, runs: runs.collect() });
    }

    /// Decides what to train next, and takes it as being trained until it is
    /// [reported](Self::report).
    pub fn suggest(&mut self) -> Next {
        let started =
            |trial: &Trial| matches!(&trial.phase, Phase::Training(_, l, _) if !l.is_empty());
        let index = self.trials.iter().position(started).or_else(|| {
            let waiting = self.trials.iter().position(|trial| trial.phase == Phase::Waiting);
            waiting.map(|index| (index, 0)).or_else(|| self.promotion()).map(|(index, rung)| {
                self.start(index, rung);
                index
            })
        });
        let Some(index) = index else {
            return if self.is_training() { Next::Wait } else { Next::Done };
        };
        match &mut self.trials[index].phase {
            Phase::Training(rung, left, under_way) if !left.is_empty() => {
                *under_way += 1;
                Next::Train { run: left.remove(0), rung: *rung }
            }
            _ => Next::Wait,
        }
    }

    fn is_training(&self) -> bool {
        self.trials.iter().any(|trial| matches!(trial.phase, Phase::Training(..)))
    }

    fn start(&mut self, index: usize, rung: usize) {
        let trial = &mut self.trials[index];
        let left = trial.runs.iter().filter(|(.., finished)| !finished).map(|(run, ..)| *run);
        trial.phase = Phase::Training(rung, left.collect(), 0);
    }

    /// Returns a paused trial to promote, and the rung to promote it to: of the lowest rung that
    /// has one, the best of those among the best 1/eta of all that have reached the rung's end. So
    /// that a search ends with a trial that is trained to the end, the best of the highest rung is
    /// promoted once nothing else is left.
    fn promotion(&self) -> Option<(usize, usize)> {
        let paused = |rung: usize, count: Option<usize>| {
            let results = self.ranked(rung);
            let count = count.unwrap_or(results.len());
            let best = results.into_iter().take(count);
            let mut best = best.filter(|&trial| self.trials[trial].phase == Phase::Paused(rung));
            best.next().map(|trial| (trial, rung + 1))
        };
        let rungs = 0..self.rungs.saturating_sub(1);
        let among_best = |rung| paused(rung, Some(self.results[rung].len() / self.eta));
        rungs.clone().find_map(among_best).or_else(|| {
            let complete = |trial: &Trial| trial.phase == Phase::Ended(true);
            let over = self.is_training() || self.trials.iter().any(complete);
            if over { None } else { rungs.rev().find_map(|rung| paused(rung, None)) }
        })
    }

    /// Returns the trials that have come to the end of a rung, the best first; of equals, the one
    /// that comes first in the sweep.
    fn ranked(&self, rung: usize) -> Vec<usize> {
        let mut results = self.results[rung].clone();
        results.sort_unstable_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
        results.into_iter().map(|(trial, _)| trial).collect()
    }

    /// Takes the outcome of training a run as [suggested](Self::suggest).
    pub fn report(&mut self, run: usize, outcome: Outcome) {
        let index = self.trial_of[run];
        let Trial { phase, runs } = &mut self.trials[index];
        let rung = match phase {
            Phase::Training(rung, _, under_way) => {
                *under_way = under_way.saturating_sub(1);
                *rung
            }
            // Another run of the trial has ended it.
            _ => return,
        };
        let score = match outcome {
            Outcome::Paused(score) | Outcome::Finished(score) => score,
            Outcome::Ended => {
                *phase = Phase::Ended(false);
                self.results[rung].push((index, f64::NEG_INFINITY));
                return;
            }
        };
        if let Some(member) = runs.iter_mut().find(|(member, ..)| *member == run) {
            (member.1, member.2) = (score, matches!(outcome, Outcome::Finished(_)));
        }
        if !matches!(phase, Phase::Training(_, left, 0) if left.is_empty()) {
            return;
        }
        let scores: Vec<f64> = runs.iter().map(|(_, score, _)| *score).collect();
        let finished = runs.iter().all(|(.., finished)| *finished);
        *phase = if finished { Phase::Ended(true) } else { Phase::Paused(rung) };
        self.results[rung].push((index, mean(&scores)));
    }
}

fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::simulation::simulate;
    use super::super::simulation::tests::curves;
    use super::*;
    use crate::data::random_stream::RandomStream;

    const RUNGS: [usize; 3] = [1, 3, 9];

    fn scheduler(recorded: &[Recorded]) -> Scheduler {
        let trials = (0..recorded.len()).map(|run| vec![run]).collect();
        Scheduler::new(trials, &RUNGS, 3, recorded)
    }

    fn outcome(curves: &[Vec<f64>], run: usize, rung: usize) -> Outcome {
        let score = curves[run][RUNGS[rung] - 1];
        if rung + 1 == RUNGS.len() { Outcome::Finished(score) } else { Outcome::Paused(score) }
    }

    #[test]
    fn a_search_that_is_restored_after_any_step_continues_as_if_it_had_not_been_stopped() {
        let curves = curves(13, 9, 5);
        let whole = simulate(&curves, &RUNGS, 3).steps;
        for stopped in 0..whole.len() {
            // What the next step has trained when it is killed.
            for within in 0..3 {
                let mut recorded = vec![Recorded::default(); curves.len()];
                for &(run, epochs) in &whole[..stopped] {
                    let (curve, finished) = (curves[run][..epochs].to_vec(), epochs == 9);
                    recorded[run] = Recorded { curve, started: true, finished, ended: false };
                }
                let (run, epochs) = whole[stopped];
                let before = recorded[run].curve.len();
                let trained = (before + within).min(epochs - 1);
                recorded[run].curve = curves[run][..trained].to_vec();
                recorded[run].started = true;
                let mut restored = scheduler(&recorded);
                for &(run, epochs) in &whole[stopped..] {
                    let rung = RUNGS.iter().position(|&rung| rung == epochs).unwrap();
                    let next = restored.suggest();
                    assert_eq!(next, Next::Train { run, rung }, "{stopped}, {within}");
                    restored.report(run, outcome(&curves, run, rung));
                }
                assert_eq!(restored.suggest(), Next::Done);
            }
        }
    }

    #[test]
    fn several_jobs_train_each_epoch_once_and_wait_only_for_each_other() {
        for seed in 0..20 {
            let curves = curves(16, 9, seed);
            let mut scheduler = scheduler(&vec![Recorded::default(); 16]);
            let mut order = RandomStream::new(seed, 0, 0, "order");
            let (mut under_way, mut steps) = (Vec::new(), BTreeSet::new());
            loop {
                match scheduler.suggest() {
                    Next::Train { run, rung } => {
                        assert!(steps.insert((run, rung)), "{run} is trained to {rung} twice");
                        assert!(rung == 0 || steps.contains(&(run, rung - 1)));
                        under_way.push((run, rung));
                        if under_way.len() < 4 {
                            continue;
                        }
                    }
                    Next::Wait => assert!(!under_way.is_empty()),
                    Next::Done => break,
                }
                let (run, rung) = under_way.swap_remove(order.below(under_way.len()));
                scheduler.report(run, outcome(&curves, run, rung));
            }
            assert!(under_way.is_empty());
            let at = |rung| steps.iter().filter(|(_, at)| *at == rung).count();
            assert_eq!(at(0), 16);
            assert!((5..=8).contains(&at(1)) && (1..=3).contains(&at(2)), "{} {}", at(1), at(2));
        }
    }

    #[test]
    fn the_runs_of_a_trial_are_promoted_together_by_their_mean() {
        let trials = vec![vec![0, 2], vec![1, 3], vec![4, 5]];
        let mut scheduler =
            Scheduler::new(trials.clone(), &[1, 3], 3, &vec![Recorded::default(); 6]);
        let scores = [0.9, 0.5, 0.1, 0.7, 0.2, 0.2];
        for run in [0, 2, 1, 3, 4, 5] {
            assert_eq!(scheduler.suggest(), Next::Train { run, rung: 0 });
            scheduler.report(run, Outcome::Paused(scores[run]));
        }
        assert_eq!(scheduler.suggest(), Next::Train { run: 1, rung: 1 });
        assert_eq!(scheduler.suggest(), Next::Train { run: 3, rung: 1 });
        assert_eq!(scheduler.suggest(), Next::Wait);
        scheduler.report(1, Outcome::Finished(0.5));
        scheduler.report(3, Outcome::Finished(0.7));
        assert_eq!(scheduler.suggest(), Next::Done);
        // One of its runs was killed after the promotion, before the other one started.
        let paused = |curve: Vec<f64>| Recorded { curve, started: true, ..Recorded::default() };
        let mut recorded: Vec<Recorded> = scores.map(|score| paused(vec![score])).into();
        recorded[1].curve.push(0.6);
        let mut scheduler = Scheduler::new(trials, &[1, 3], 3, &recorded);
        assert_eq!(scheduler.suggest(), Next::Train { run: 1, rung: 1 });
        assert_eq!(scheduler.suggest(), Next::Train { run: 3, rung: 1 });
        assert_eq!(scheduler.suggest(), Next::Wait);
    }

    #[test]
    fn a_trial_that_failed_counts_and_is_not_promoted() {
        let mut scheduler = scheduler(&vec![Recorded::default(); 3]);
        for run in 0..3 {
            assert_eq!(scheduler.suggest(), Next::Train { run, rung: 0 });
            let failed = run == 2;
            scheduler.report(run, if failed { Outcome::Ended } else { Outcome::Paused(0.5) });
        }
        assert_eq!(scheduler.suggest(), Next::Train { run: 0, rung: 1 });
        scheduler.report(0, Outcome::Ended);
        // The next best is trained to the end in its place.
        assert_eq!(scheduler.suggest(), Next::Train { run: 1, rung: 1 });
        scheduler.report(1, Outcome::Finished(0.1));
        assert_eq!(scheduler.suggest(), Next::Done);
    }
}
