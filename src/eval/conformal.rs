//! Conformal prediction intervals: how far a prediction may be from the rating, measured on images
//! that the model was not trained on.
//!
//! Of one model, or of several that share their calibration images, this is split conformal
//! prediction (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Lei,
//! G'Sell, Rinaldo, Tibshirani and Wasserman, JASA 113, 2018): the half-width is the k-th smallest
//! of the n absolute residuals, k = ceil((n + 1) level). If new images are exchangeable with the
//! calibration images, the interval covers at least `level` of them on average over calibration
//! sets. Of one set of n images, the coverage of infinitely many new ones varies as
//! Beta(k, n + 1 - k).
//!
//! Of the models of a cross-validation it is CV+ (Barber, Candès, Ramdas and Tibshirani,
//! "Predictive inference with the jackknife+", Annals of Statistics 49, 2021): every residual
//! counts from the prediction of the model that was not trained on its image. The interval covers
//! at least `2 level - 1` or so whatever the models are, and about `level` in practice.

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use super::predictions::Predictions;
use super::statistics::Interval;
use crate::data::single;

/// Calibration images of models that were trained on none of them.
#[derive(Debug, Clone)]
pub struct CalibrationSet {
    /// The indices of the models whose mean is calibrated here.
    pub models: Vec<usize>,
    /// The absolute differences between the models' mean prediction and the rating.
    pub residuals: Vec<f64>,
}

/// Intervals of one level for the predictions of one model or of several.
#[derive(Debug, Clone)]
pub struct Conformal {
    sets: Vec<CalibrationSet>,
    level: f64,
    images: usize,
    /// The rank, from 1, of the residual that bounds an interval.
    rank: usize,
}

impl Conformal {
    /// Calibrates intervals that cover a fraction `level` of new ratings: with a single set of
    /// images by split conformal prediction, with several, one for each fold, by CV+. Returns an
    /// error if the images are too few for the level, whose interval would be infinite, or a
    /// residual is not finite.
    pub fn new(sets: Vec<CalibrationSet>, level: f64) -> Result<Self> {
        ensure!(0.0 < level && level < 1.0, "the level must be between 0 and 1, is {level}");
        let residuals = || sets.iter().flat_map(|set| &set.residuals);
        ensure!(
            residuals().all(|r| r.is_finite()),
            "a prediction for a calibration image is not finite"
        );
        let images = residuals().count();
        let Some(rank) = rank(images, level) else {
            bail!(
                "an interval of level {level} needs {} images to calibrate on, there are {images}: \
                 it would be infinite; ask for a lower level, or hold out more images",
                images_needed(level)
            );
        };
        Ok(Self { sets, level, images, rank })
    }

    /// Returns the fraction of ratings that the intervals are to cover.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// Returns the number of calibration images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Returns `split` or `cv+`.
    pub fn method(&self) -> &'static str {
        if self.sets.len() == 1 { "split" } else { "cv+" }
    }

    /// Returns the interval of an image from each model's prediction. It may exceed the scale of
    /// the ratings.
    pub fn interval(&self, predictions: &[f64]) -> Interval {
        let ends = |sign: f64| {
            let mut ends = Vec::with_capacity(self.images);
            for CalibrationSet { models, residuals } in &self.sets {
                let sum: f64 = models.iter().map(|&model| predictions[model]).sum();
                let center = sign * sum / models.len() as f64;
                ends.extend(residuals.iter().map(|residual| center + residual));
            }
            *ends.select_nth_unstable_by(self.rank - 1, f64::total_cmp).1
        };
        Interval { lo: single(-ends(-1.0)), hi: single(ends(1.0)) }
    }
}

/// How many ratings intervals cover that were not calibrated on them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Coverage {
    /// The fraction of ratings that the intervals are to cover.
    pub level: f64,
    /// The fraction that they cover.
    pub coverage: f64,
    /// The mean width of the intervals, in score units.
    pub mean_width: f64,
    /// `split` or `cv+`.
    pub method: &'static str,
    /// The number of calibration images.
    pub calibration_images: usize,
}

impl Conformal {
    /// Measures the coverage of the ratings of some images, from each model's predictions for them.
    pub fn coverage(&self, models: &[Predictions]) -> Coverage {
        let targets = models.first().map_or(&[][..], |first| &first.targets);
        let (mut covered, mut width) = (0, 0.0);
        for (row, &target) in targets.iter().enumerate() {
            let predictions: Vec<f64> = models.iter().map(|of| of.predictions[row]).collect();
            let interval = self.interval(&predictions);
            covered += usize::from(interval.contains(target));
            width += interval.hi - interval.lo;
        }
        let images = targets.len() as f64;
        Coverage {
            level: self.level,
            coverage: covered as f64 / images,
            mean_width: single(width / images),
            method: self.method(),
            calibration_images: self.images,
        }
    }
}

/// Returns k = ceil((n + 1) level); `None` if there is no k-th of n residuals.
fn rank(n: usize, level: f64) -> Option<usize> {
    // Ten times 0.7 is above 7 in doubles, and its rank is 7.
    let rank = ((n + 1) as f64 * level - 1e-9).ceil() as usize;
    (rank <= n).then_some(rank.max(1))
}

/// Returns the smallest number of residuals with a rank.
pub fn images_needed(level: f64) -> usize {
    (level / (1.0 - level) - 1e-9).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random_stream::RandomStream;

    fn single(residuals: Vec<f64>) -> Vec<CalibrationSet> {
        vec![CalibrationSet { models: vec![0], residuals }]
    }

    #[test]
    fn the_half_width_is_the_residual_of_rank_n_plus_one_times_the_level() {
        let residuals: Vec<f64> = (1..=19).rev().map(f64::from).collect();
        for (level, half) in [(0.9, 18.0), (0.5, 10.0), (0.95, 19.0), (0.01, 1.0)] {
            let interval =
                Conformal::new(single(residuals.clone()), level).unwrap().interval(&[3.0]);
            assert_eq!(interval, Interval { lo: 3.0 - half, hi: 3.0 + half }, "{level}");
        }
        assert_eq!([rank(9, 0.7), rank(9, 0.9), rank(8, 0.9)], [Some(7), Some(9), None]);
    }

    #[test]
    fn too_few_images_are_an_error_that_says_how_many_are_needed() {
        for (level, needed) in [(0.9, 9), (0.95, 19), (0.99, 99), (0.5, 1)] {
            let of = |n: usize| Conformal::new(single(vec![1.0; n]), level);
            assert!(of(needed).is_ok(), "{level}");
            let error = of(needed - 1).unwrap_err().to_string();
            assert!(error.contains(&format!("needs {needed} images to calibrate on")), "{error}");
            assert!(error.contains("infinite"), "{error}");
        }
        assert!(Conformal::new(single(vec![f64::NAN; 20]), 0.9).is_err());
        assert!(Conformal::new(single(vec![1.0; 20]), 1.0).is_err());
    }

    #[test]
    fn residuals_of_a_fold_count_from_its_own_models() {
        let set = |models: &[usize], residuals: &[f64]| CalibrationSet {
            models: models.to_vec(),
            residuals: residuals.to_vec(),
        };
        let sets = vec![set(&[0, 1], &[1.0, 2.0]), set(&[2], &[0.5, 4.0])];
        let conformal = Conformal::new(sets, 0.5).unwrap();
        assert_eq!((conformal.method(), conformal.images()), ("cv+", 4));
        // The means are 3 and 5. Upper ends 4, 5, 5.5 and 9, lower ends 4.5, 2, 1 and 1: k = 3.
        assert_eq!(conformal.interval(&[2.0, 4.0, 5.0]), Interval { lo: 1.0, hi: 5.5 });
    }

    #[test]
    fn ninety_percent_intervals_cover_ninety_percent_of_simulated_ratings() {
        let (trials, n, tests) = (400, 99, 50);
        let mut covered = 0;
        for trial in 0..trials {
            let mut stream = RandomStream::new(7, trial, 0, "conformal");
            let residuals = (0..n).map(|_| stream.normal().abs()).collect();
            let interval = Conformal::new(single(residuals), 0.9).unwrap().interval(&[0.0]);
            covered += (0..tests).filter(|_| interval.contains(stream.normal())).count();
        }
        // sd of the mean over trials: 0.3 %, of the calibration sets and the test images.
        let coverage = covered as f64 / (trials * tests) as f64;
        assert!((0.89..0.91).contains(&coverage), "{coverage}");
    }

    #[test]
    fn cross_validated_means_are_covered_as_often_as_asked() {
        // Each model is the mean of the ratings of the other folds: few, so that it matters which
        // model a residual belongs to.
        let (trials, folds, size, tests) = (300, 5, 8, 50);
        let mut covered = 0;
        for trial in 0..trials {
            let mut stream = RandomStream::new(8, trial, 0, "conformal");
            let mut fold = || (0..size).map(|_| stream.normal()).collect::<Vec<f64>>();
            let ratings: Vec<Vec<f64>> = (0..folds).map(|_| fold()).collect();
            let sum: f64 = ratings.iter().flatten().sum();
            let mean =
                |fold: &Vec<f64>| (sum - fold.iter().sum::<f64>()) / ((folds - 1) * size) as f64;
            let means: Vec<f64> = ratings.iter().map(mean).collect();
            let set = |model: usize| CalibrationSet {
                models: vec![model],
                residuals: ratings[model].iter().map(|r| (r - means[model]).abs()).collect(),
            };
            let conformal = Conformal::new((0..folds).map(set).collect(), 0.9).unwrap();
            let interval = conformal.interval(&means);
            covered += (0..tests).filter(|_| interval.contains(stream.normal())).count();
        }
        let coverage = covered as f64 / (trials as usize * tests) as f64;
        assert!((0.88..0.94).contains(&coverage), "{coverage}");
    }
}
