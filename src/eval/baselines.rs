//! What a model has to beat: the mean of the training scores, that of the image's group, and a
//! linear model on small gray images.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::evaluate::values;
use super::metrics::Metrics;
use super::ridge::Ridge;
use crate::config::Config;
use crate::data::{ImageDataset, Loader, LoaderOptions, Sample, scores_by_group};
use crate::features;
use crate::models::images::upload;

/// Side of the gray images.
const SIDE: i64 = 16;
/// Ridge penalties to choose from.
const PENALTIES: [f64; 9] = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];

/// The baselines' metrics on one split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// Metrics of the training scores' mean for every image: the correlations are undefined.
    pub constant: Metrics,
    /// Metrics of ridge regression on 16×16 gray pixels; the penalty is chosen by leave-one-out
    /// error on the training images.
    pub linear: Metrics,
    /// Metrics of the mean training score of the image's group (of all images if the group is
    /// unknown); `None` where the training images are not of several groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Metrics>,
}

impl Baselines {
    /// Iterates over the baselines with their names, the most informed first.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Metrics)> {
        [
            ("linear model on 16×16 gray pixels", Some(self.linear)),
            ("mean of the group's training scores", self.group),
            ("mean of the training scores", Some(self.constant)),
        ]
        .into_iter()
        .filter_map(|(name, metrics)| Some((name, metrics?)))
    }
}

/// Fits the baselines on the training images and evaluates them on each of the other splits.
pub fn baselines(
    train: &Arc<ImageDataset>,
    others: &[&Arc<ImageDataset>],
    options: LoaderOptions,
) -> Result<Vec<Baselines>> {
    let pixels: Result<Vec<Tensor>> =
        std::iter::once(&train).chain(others).map(|images| gray_pixels(images, options)).collect();
    evaluate(train, others, &pixels?)
}

/// As [`baselines`], from gray pixels that are kept with the features of frozen backbones.
pub fn kept_baselines(
    train: &Arc<ImageDataset>,
    others: &[&Arc<ImageDataset>],
    config: &Config,
) -> Result<Vec<Baselines>> {
    let splits: Vec<_> = std::iter::once(train).chain(others.iter().copied()).collect();
    let name = ("gray pixels", (SIDE * SIDE) as usize);
    let pixels = features::pixel_features(name, gray, config, &splits)?;
    let pixels = pixels.iter().map(|pixels| pixels.to_kind(Kind::Double) / 255.0);
    evaluate(train, others, &pixels.collect::<Vec<_>>())
}

/// Fits the baselines on the training images, whose gray pixels are the first.
fn evaluate(
    train: &ImageDataset,
    others: &[&Arc<ImageDataset>],
    pixels: &[Tensor],
) -> Result<Vec<Baselines>> {
    let _guard = tch::no_grad_guard();
    let (x, of_others) = pixels.split_first().context("internal: there are no pixels")?;
    let y = scores(train);
    let mean_y = y.mean(Kind::Double).double_value(&[]);
    let ridge = Ridge::fit(x, &y, &PENALTIES);
    let group_means = GroupMeans::new(train.samples());
    let evaluate = |(images, x): (&&Arc<ImageDataset>, &Tensor)| {
        let targets = values(&scores(images))?;
        let linear = values(&ridge.predict(x))?;
        Ok(Baselines {
            constant: Metrics::new(&vec![mean_y; targets.len()], &targets)?,
            linear: Metrics::new(&linear, &targets)?,
            group: group_means
                .as_ref()
                .map(|means| Metrics::new(&means.predict(images.samples(), mean_y), &targets))
                .transpose()?,
        })
    };
    others.iter().zip(of_others).map(evaluate).collect()
}

/// Returns the scores in double precision: (n).
pub(crate) fn scores(images: &ImageDataset) -> Tensor {
    let scores: Vec<f64> = images.samples().iter().map(Sample::target).collect();
    Tensor::from_slice(&scores)
}

/// The mean training score of each group.
struct GroupMeans<'a>(BTreeMap<&'a str, f64>);

impl<'a> GroupMeans<'a> {
    /// Returns `None` for fewer than two groups.
    fn new(samples: &'a [Sample]) -> Option<Self> {
        let scores = scores_by_group(samples);
        let several = scores.len() > 1;
        let mean = |scores: Vec<f64>| scores.iter().sum::<f64>() / scores.len() as f64;
        let means = scores.into_iter().map(|(group, scores)| (group, mean(scores)));
        several.then(|| Self(means.collect()))
    }

    /// Returns the mean of each image's group, `otherwise` where it is unknown.
    fn predict(&self, samples: &[Sample], otherwise: f64) -> Vec<f64> {
        let mean = |sample: &Sample| self.0.get(sample.group.as_deref()?).copied();
        samples.iter().map(|sample| mean(sample).unwrap_or(otherwise)).collect()
    }
}

/// Returns the images as rows of gray pixels: (n, 256), from 0 to 1.
fn gray_pixels(images: &Arc<ImageDataset>, options: LoaderOptions) -> Result<Tensor> {
    let mut rows = Vec::new();
    for batch in Loader::new(Arc::clone(images), options)? {
        rows.push(gray(&upload(&batch?, Device::Cpu)?)?.to_kind(Kind::Double) / 255.0);
    }
    Ok(Tensor::f_cat(&rows, 0)?)
}

/// Returns uint8 pixels (n, 3, h, w) as rows of gray ones: (n, 256), from 0 to 255.
fn gray(pixels: &Tensor) -> Result<Tensor> {
    let mean = pixels.to_kind(Kind::Float).f_mean_dim([1i64].as_slice(), true, Kind::Float)?;
    Ok(mean.f_adaptive_avg_pool2d([SIDE, SIDE])?.f_flatten(1, -1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;

    #[test]
    fn a_known_group_is_predicted_by_its_mean_and_an_unknown_one_by_that_of_all() {
        let sample = |score, group: Option<&str>| {
            let source = Source::File("a.png".into());
            Sample::new("a", source, score, group.map(String::from))
        };
        let train = [
            sample(1.0, Some("x")),
            sample(2.0, Some("x")),
            sample(5.0, Some("y")),
            sample(9.0, None),
        ];
        let means = GroupMeans::new(&train).unwrap();
        let asked = [Some("y"), Some("x"), Some("z"), None].map(|group| sample(0.0, group));
        assert_eq!(means.predict(&asked, 4.25), [5.0, 1.5, 4.25, 4.25]);
        assert!(GroupMeans::new(&train[..2]).is_none());
        assert!(GroupMeans::new(&train[3..]).is_none());
    }
}
