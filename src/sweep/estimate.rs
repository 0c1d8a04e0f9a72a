//! How long the runs of a sweep take, by those that have finished.

use std::collections::HashMap;

use super::grid::SweepRun;

/// An estimate of how long runs take, from those that have finished.
#[derive(Debug, Clone, Default)]
pub struct Estimate {
    /// Sum of the seconds and number of runs.
    by_point: HashMap<String, (f64, usize)>,
    all: (f64, usize),
}

impl Estimate {
    /// Adds a finished run.
    pub fn add(&mut self, run: &SweepRun, seconds: f64) {
        let of_point = self.by_point.entry(run.point.clone()).or_default();
        for (sum, count) in [of_point, &mut self.all] {
            *sum += seconds;
            *count += 1;
        }
    }

    /// Returns the mean seconds of the runs at the same point of the grid; `None` if none has
    /// finished.
    pub fn of_point(&self, run: &SweepRun) -> Option<f64> {
        self.by_point.get(&run.point).map(|(sum, count)| sum / *count as f64)
    }

    /// Returns the seconds that a run will take: the mean of those at the same point of the grid,
    /// else of all; `None` if none has finished.
    pub fn of(&self, run: &SweepRun) -> Option<f64> {
        let (sum, count) = self.all;
        self.of_point(run).or_else(|| (count > 0).then(|| sum / count as f64))
    }
}
