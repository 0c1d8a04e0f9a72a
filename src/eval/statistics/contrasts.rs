//! Many models on the same images: which differ from which.

use serde::Serialize;

use super::holm::holm;
use super::metric::Metric;
use super::replicates::Replicates;
use super::seeds::{Difference, compare};

/// Up to so many models, each is compared with each; beyond that, each with the first.
const MOST_IN_PAIRS: usize = 25;

/// Two of several models, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Contrast {
    /// The one that comes first.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// Which metric.
    pub metric: Metric,
    /// The first's minus the second's.
    #[serde(flatten)]
    pub difference: Difference,
    /// p times Holm's factor for all contrasts of this metric.
    pub p_holm: Option<f64>,
}

/// The models' differences by the paired bootstrap, metric by metric. Their replicates must have
/// been drawn from the same images in the same order, which they are where number and seed are the
/// same. Up to 25 models are all compared in pairs, more of them each with the first, which should
/// be the best.
pub fn contrasts(models: &[&Replicates]) -> Vec<Contrast> {
    let firsts = if models.len() <= MOST_IN_PAIRS { models.len() } else { 1 };
    let pairs: Vec<(usize, usize)> =
        (0..firsts).flat_map(|a| (a + 1..models.len()).map(move |b| (a, b))).collect();
    let mut all = Vec::new();
    for metric in Metric::ALL {
        let differences: Vec<Difference> =
            pairs.iter().map(|&(a, b)| compare(models[a], models[b], metric)).collect();
        let p: Vec<f64> = differences.iter().map(|d| d.p.unwrap_or(f64::NAN)).collect();
        for ((&(first, second), difference), p) in pairs.iter().zip(differences).zip(holm(&p)) {
            all.push(Contrast {
                first,
                second,
                metric,
                difference,
                p_holm: p.is_finite().then_some(p),
            });
        }
    }
    all
}
