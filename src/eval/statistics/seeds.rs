//! Several runs of one model: what varies with the seed, and what with the images.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::interval::Interval;
use super::metric::Metric;
use super::replicates::Replicates;

/// One metric of a model that was trained with several seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OverSeeds {
    /// Over the seeds.
    pub mean: Option<f64>,
    /// Standard deviation over the seeds (n - 1), on the same images: what another seed would
    /// change. `None` for one seed.
    pub sd_over_seeds: Option<f64>,
    /// Of the mean, over images with the seeds as they are: what other images would change.
    pub ci_over_images: Option<Interval>,
    /// Number of seeds.
    pub seeds: usize,
}

impl OverSeeds {
    /// Of replicates that were drawn together, one for each seed.
    ///
    /// # Errors
    /// There are none.
    pub fn new(seeds: &[Replicates], metric: Metric) -> Result<Self> {
        let values: Vec<f64> = seeds.iter().map(|seed| seed.estimate(metric)).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (squares / (n - 1.0)).sqrt();
        Ok(Self {
            mean: finite(mean),
            sd_over_seeds: finite(sd),
            ci_over_images: Replicates::mean(seeds)?.interval(metric),
            seeds: values.len(),
        })
    }
}

/// How much one model's metric exceeds another's on the same images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The first minus the second.
    pub difference: Option<f64>,
    /// Of the difference, over images.
    pub ci: Option<Interval>,
    /// Two-sided, of no difference.
    pub p: Option<f64>,
}

/// The paired bootstrap: two models' replicates that were drawn together.
pub fn compare(a: &Replicates, b: &Replicates, metric: Metric) -> Difference {
    let difference = a.minus(b);
    Difference {
        difference: finite(difference.estimate(metric)),
        ci: difference.interval(metric),
        p: difference.p_value(metric),
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
