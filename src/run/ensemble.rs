//! Several runs whose predictions are averaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use image::RgbImage;

use super::trained::Run;
use crate::data::{EvalTransform, FileBatch, FileLoader, single};
use crate::eval::evaluate::{score_pixels, short_values, values};
use crate::eval::feature_distribution::{FeatureDistribution, ImageFeatures};
use crate::eval::pixel_statistics::pixel_statistics;
use crate::eval::statistics::mean_and_sd;
use crate::faces::{Cropper, Found};
use crate::models::Slicer;
use crate::models::images::upload_pixels;

/// One run or several, whose predictions are averaged.
#[derive(Debug)]
pub struct Ensemble {
    runs: Vec<Run>,
    /// For each run, the index of its transform.
    views: Vec<usize>,
    slicers: Vec<Arc<Slicer>>,
    /// The distribution of each run's training images, if the run has it.
    distributions: Vec<Option<FeatureDistribution>>,
    /// The transforms of all runs, each once.
    transforms: Vec<EvalTransform>,
    batch_size: usize,
    cropper: Option<Arc<Cropper>>,
}

/// The prediction for an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The mean over the runs, in the dataset's score units.
    pub mean: f64,
    /// The standard deviation over the runs (n - 1), if there are several.
    pub sd: Option<f64>,
    /// Each run's prediction.
    pub runs: Vec<f64>,
    /// The weights of the ViT and the Mamba branch, the mean over the runs, if all runs have some.
    pub weights: Option<[f64; 2]>,
    /// The faces of the image, if one was cropped.
    pub found: Option<Found>,
    /// Whether the image is like the training images: of the runs that know those, more than half
    /// accept it. `None` if no run does.
    pub in_distribution: Option<bool>,
}

/// Gets a file and its score, or why it cannot be read. Its error ends the prediction.
pub type OnScore<'a> = dyn FnMut(&Path, Result<Score>) -> Result<()> + 'a;

impl Ensemble {
    /// Creates the ensemble of these runs. Returns an error if a run's weights cannot be applied
    /// to images of its configured size, the distribution of its training images cannot be read, or
    /// there is no run.
    pub fn new(runs: Vec<Run>) -> Result<Self> {
        let (mut transforms, mut views, mut slicers) = (Vec::new(), Vec::new(), Vec::new());
        for (index, run) in runs.iter().enumerate() {
            run.config.check_image_sizes()?;
            let transform = EvalTransform::new(&run.config.data)?;
            let known = transforms.iter().position(|known| *known == transform);
            views.push(known.unwrap_or(transforms.len()));
            if known.is_none() {
                transforms.push(transform);
            }
            let settings = |run: &Run| (run.config.train.slice, run.net.device());
            let same = (0..index).find(|&other| settings(&runs[other]) == settings(run));
            slicers.push(match same {
                Some(other) => Arc::clone(&slicers[other]),
                None => Arc::new(Slicer::new(run.config.train.slice, run.net.device())?),
            });
        }
        let batch_size = runs.iter().map(|run| run.config.train.batch_size).min();
        let batch_size = batch_size.context("an ensemble needs a run")?;
        let distributions = runs.iter().map(Run::feature_distribution).collect::<Result<_>>()?;
        Ok(Self { views, slicers, distributions, transforms, batch_size, runs, cropper: None })
    }

    /// Returns the ensemble that predicts the face that is cropped from each image; one without a
    /// face has no score.
    pub fn with_cropper(self, cropper: Cropper) -> Self {
        Self { cropper: Some(Arc::new(cropper)), ..self }
    }

    /// Returns the runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Predicts image files with every run, each file decoded once, by as many threads as rayon
    /// has. `each` is called with a file and its score, or why it cannot be read, in order. Memory
    /// does not grow with the number of files, which may still be written while the first are
    /// scored. Returns an error if the threads cannot be started, a network fails, or `files` or
    /// `each` return one, which ends the prediction.
    pub fn predict(
        &self,
        files: impl IntoIterator<Item = Result<PathBuf>, IntoIter: Send + 'static>,
        each: &mut OnScore,
    ) -> Result<()> {
        let workers = rayon::current_num_threads();
        let cropper = self.cropper.clone();
        let crop = move |image: RgbImage| match &cropper {
            None => Ok((image, None)),
            Some(cropper) => {
                let crop = cropper.crop(&image)?.context("no face was found")?;
                Ok((crop.image, Some(crop.found)))
            }
        };
        let transforms = self.transforms.clone();
        let loader = FileLoader::prepared(files, transforms, self.batch_size, workers, crop)?;
        for batch in loader {
            let batch = batch?;
            let mut scores = self.score(&batch)?.into_iter();
            for (file, read) in batch.files {
                let score = read.and_then(|found| {
                    let score = scores.next();
                    let score = score.context("internal: the image has no score")?;
                    Ok(Score { found, ..score })
                });
                each(&file, score)?;
            }
        }
        Ok(())
    }

    fn score<T>(&self, batch: &FileBatch<T>) -> Result<Vec<Score>> {
        if batch.len == 0 {
            return Ok(Vec::new());
        }
        let _guard = tch::no_grad_guard();
        let mut of_runs: Vec<Vec<f64>> = Vec::with_capacity(self.runs.len());
        let mut weights: Option<Vec<[f64; 2]>> = Some(vec![[0.0; 2]; batch.len]);
        let mut accepted: Vec<Vec<bool>> = Vec::new();
        let runs = self.runs.iter().zip(&self.distributions);
        for (((run, distribution), &view), slicer) in runs.zip(&self.views).zip(&self.slicers) {
            let size = self.transforms[view].size();
            let pixels = upload_pixels(&batch.views[view], batch.len, size, run.net.device())?;
            let flip = run.config.data.test_time_flip;
            let scored = score_pixels(&run.net, &pixels, flip, slicer)?;
            of_runs.push(short_values(&scored.scores)?);
            if let Some(distribution) = distribution {
                let (features, pixels) = (scored.features, pixel_statistics(&pixels)?);
                accepted.push(distribution.contains(&ImageFeatures { features, pixels })?);
            }
            weights = match (weights, scored.weights) {
                (Some(mut sums), Some(of_run)) => {
                    for branch in 0..2 {
                        let of_branch = values(&of_run.select(1, branch as i64))?;
                        for (sum, weight) in sums.iter_mut().zip(of_branch) {
                            sum[branch] += weight / self.runs.len() as f64;
                        }
                    }
                    Some(sums)
                }
                _ => None,
            };
        }
        let score = |image: usize| {
            let runs: Vec<f64> = of_runs.iter().map(|scores| scores[image]).collect();
            let (mean, sd) = mean_and_sd(&runs);
            let weights = weights.as_ref().map(|weights| weights[image].map(single));
            let votes = accepted.iter().filter(|of_run| of_run[image]).count();
            let in_distribution = (!accepted.is_empty()).then_some(2 * votes > accepted.len());
            let (mean, sd) = (single(mean.unwrap_or(f64::NAN)), sd.map(single));
            Score { mean, sd, runs, weights, found: None, in_distribution }
        };
        Ok((0..batch.len).map(score).collect())
    }
}
