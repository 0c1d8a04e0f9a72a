//! Successive halving simulated on recorded learning curves.

use super::halving::{Next, Outcome, Recorded, Scheduler};

/// What a search trains, one run at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// Each step: a run, and the epochs that it is trained up to.
    pub steps: Vec<(usize, usize)>,
    /// Epochs of all steps together; none is trained twice.
    pub epochs: usize,
    /// The epochs of each run.
    pub trained: Vec<usize>,
    /// The runs that are trained to the end.
    pub complete: Vec<usize>,
}

/// Searches recorded runs instead of training any: `curves` are the best score of each up to each
/// epoch, more is better, and the last of the `rungs` is their length.
pub fn simulate(curves: &[Vec<f64>], rungs: &[usize], eta: usize) -> Simulation {
    let trials = (0..curves.len()).map(|run| vec![run]).collect();
    let mut scheduler =
        Scheduler::new(trials, rungs, eta, &vec![Recorded::default(); curves.len()]);
    let mut trained = vec![0; curves.len()];
    let (mut steps, mut complete) = (Vec::new(), Vec::new());
    while let Next::Train { run, rung } = scheduler.suggest() {
        let epochs = rungs[rung].min(curves[run].len());
        let score = epochs.checked_sub(1).map_or(f64::NEG_INFINITY, |at| curves[run][at]);
        let finished = epochs == curves[run].len();
        let outcome = if finished { Outcome::Finished(score) } else { Outcome::Paused(score) };
        steps.push((run, epochs));
        trained[run] = epochs;
        complete.extend(finished.then_some(run));
        scheduler.report(run, outcome);
    }
    Simulation { steps, epochs: trained.iter().sum(), trained, complete }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::random_stream::RandomStream;

    const RUNGS: [usize; 3] = [1, 3, 9];

    /// Learning curves of the form q (1 - exp(-(e + 1) / t)) after epoch e, with a quality q from
    /// [0.5, 0.9), a time constant t from [1, 3) epochs and noise of up to 0.02: the best score up
    /// to each epoch.
    pub(crate) fn curves(count: u64, epochs: usize, seed: u64) -> Vec<Vec<f64>> {
        let curve = |run| {
            let mut stream = RandomStream::new(seed, 0, run, "curve");
            let (quality, time) = (stream.uniform(0.5, 0.9), stream.uniform(1.0, 3.0));
            let mut best = f64::NEG_INFINITY;
            let scores = (1..=epochs).map(|epoch| {
                let learned = 1.0 - (-(epoch as f64) / time).exp();
                best = best.max(quality * learned + stream.uniform(-0.02, 0.02));
                best
            });
            scores.collect()
        };
        (0..count).map(curve).collect()
    }

    #[test]
    fn each_rung_promotes_the_best_third_and_the_search_ends_with_a_trained_run() {
        // Run r always has the score r.
        let curves: Vec<Vec<f64>> = (0..9).map(|run| vec![f64::from(run); 9]).collect();
        let simulation = simulate(&curves, &RUNGS, 3);
        let first = (0..9).map(|run| (run, 1));
        let steps: Vec<(usize, usize)> = first.chain([(8, 3), (7, 3), (6, 3), (8, 9)]).collect();
        assert_eq!(simulation.steps, steps);
        assert_eq!((simulation.epochs, simulation.complete), (9 + 3 * 2 + 6, vec![8]));
        // Of two runs, no third is promoted; the better one is trained to the end all the same.
        assert_eq!(simulate(&curves[..2], &RUNGS, 3).complete, [1]);
        assert_eq!(simulate(&[], &RUNGS, 3).steps, []);
        // With one rung, all runs are trained to the end, in order.
        assert_eq!(simulate(&curves, &[9], 3).complete, Vec::from_iter(0..9));
    }

    #[test]
    fn asha_finds_the_best_of_most_grids_in_a_third_of_their_epochs() {
        let (mut found, mut missed) = (0, 0.0);
        for seed in 0..100 {
            let curves = curves(16, 8, seed);
            let simulation = simulate(&curves, &[1, 2, 4, 8], 2);
            assert_eq!((simulation.epochs, simulation.complete.len()), (16 + 8 + 4 * 2 + 2 * 4, 2));
            assert!(3 * simulation.epochs <= 16 * 8);
            let best = |runs: &mut dyn Iterator<Item = usize>| {
                runs.map(|run| curves[run][7]).fold(f64::NEG_INFINITY, f64::max)
            };
            let gap = best(&mut (0..16)) - best(&mut simulation.complete.iter().copied());
            found += usize::from(gap == 0.0);
            missed += gap / 100.0;
        }
        // The curves cross: a run that learns slowly is stopped before it is the best.
        assert!(found > 50, "the best run of {found} of 100 grids");
        assert!(missed < 0.015, "{missed} below the best, in the mean");
    }

    #[test]
    fn equals_are_promoted_in_the_order_of_the_sweep_and_undefined_scores_last() {
        let undefined = f64::NEG_INFINITY;
        let curves: Vec<Vec<f64>> =
            [undefined, 0.5, 0.5].map(|score| vec![score; 9]).into_iter().collect();
        assert_eq!(simulate(&curves, &RUNGS, 3).complete, [1]);
        assert_eq!(simulate(&[vec![undefined; 9], vec![undefined; 9]], &RUNGS, 3).complete, [0]);
    }
}
