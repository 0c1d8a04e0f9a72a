//! How unlike the training images an image is: the distance of its features from theirs.
//!
//! The features of the training images are described by probabilistic principal component analysis
//! (Tipping and Bishop, Journal of the Royal Statistical Society B 61, 1999): a normal distribution
//! with the largest variances of theirs, and in all other directions the mean of the smaller ones,
//! which shrinks what few images cannot tell. The distance is Mahalanobis' (Lee, Lee, Lee and Shin,
//! arXiv 1807.03888). The pixels have a distribution of their own: a small model that was trained
//! on faces alone does not tell them from a flat image.
//!
//! The threshold comes from images that the model was not trained on: training has drawn the
//! training images together, so that new images of the same kind are farther away.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use super::evaluate::values;
use super::pixel_statistics::pixel_statistics;
use super::statistics::mean_and_sd;
use crate::config::Config;
use crate::data::{ImageDataset, Loader, LoaderOptions};
use crate::models::images::upload;
use crate::models::{BeautyNet, Images, Slicer};

/// The largest numbers of directions with a variance of their own: of features and of pixels.
const COMPONENTS: [i64; 2] = [64, 16];
/// The fraction of images like the training images that the threshold is to accept.
const ACCEPTED: f64 = 0.999;
/// Its quantile of the normal distribution.
const ACCEPTED_SIGMAS: f64 = 3.090_232;
/// How far the distance of one image may differ with its batch, relatively.
const ROUNDING: f64 = 1e-3;

/// What a model and the pixels say of some images, a row each.
#[derive(Debug)]
pub struct ImageFeatures {
    /// (n, d): the feature vectors of the model's branches.
    pub features: Tensor,
    /// (n, s): the [`pixel_statistics`].
    pub pixels: Tensor,
}

/// Describes images, in order, on the CPU. `progress` is called with the number of images of each
/// batch. Returns an error if there is no image, or
/// one cannot be read or has a size that the model does not accept.
pub fn image_features(
    net: &BeautyNet,
    images: &Arc<ImageDataset>,
    config: &Config,
    slicer: &Slicer,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<ImageFeatures> {
    let (mut features, mut statistics) = (Vec::new(), Vec::new());
    for batch in Loader::new(Arc::clone(images), LoaderOptions::for_evaluation(config))? {
        let batch = batch?;
        let pixels = upload(&batch, net.device())?;
        let output = net.infer(Images::Pixels(&pixels), slicer)?;
        features.push(output.features()?.f_to_device(Device::Cpu)?);
        statistics.push(pixel_statistics(&pixels)?.f_to_device(Device::Cpu)?);
        progress(batch.len)?;
    }
    let [features, pixels] = [Tensor::f_cat(&features, 0)?, Tensor::f_cat(&statistics, 0)?];
    Ok(ImageFeatures { features, pixels })
}

/// The distribution of the features of a model's training images.
#[derive(Debug)]
pub struct FeatureDistribution {
    features: Gaussian,
    pixels: Gaussian,
}

impl FeatureDistribution {
    /// Describes training images, and takes the thresholds from other images of the same kind: the
    /// 99.9th percentile of their distances; of fewer than a thousand the largest, or, if that is
    /// more, the percentile of a log-normal distribution with their mean and deviation. Returns an
    /// error if there are fewer than two training images or no others, or a feature is not finite.
    pub fn fit(train: &ImageFeatures, others: &ImageFeatures) -> Result<Self> {
        Ok(Self {
            features: Gaussian::fit(&train.features, &others.features, COMPONENTS[0])?,
            pixels: Gaussian::fit(&train.pixels, &others.pixels, COMPONENTS[1])?,
        })
    }

    /// Returns whether each image is within both thresholds; one whose features are not finite is
    /// not.
    pub fn contains(&self, images: &ImageFeatures) -> Result<Vec<bool>> {
        let within = |gaussian: &Gaussian, rows: &Tensor| -> Result<Vec<bool>> {
            let distances = gaussian.distances(rows)?.into_iter();
            Ok(distances.map(|distance| distance <= gaussian.threshold).collect())
        };
        let features = within(&self.features, &images.features)?;
        let pixels = within(&self.pixels, &images.pixels)?;
        Ok(features.into_iter().zip(pixels).map(|(a, b)| a && b).collect())
    }

    /// Returns its tensors by name.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let of = |prefix: &'static str, gaussian: &Gaussian| {
            gaussian.tensors().into_iter().map(move |(name, of)| (format!("{prefix}.{name}"), of))
        };
        of("features", &self.features).chain(of("pixels", &self.pixels)).collect()
    }

    /// Takes [`tensors`](Self::tensors), which `get` returns by name. Returns an error if one is
    /// missing or has another shape.
    pub fn from_tensors(mut get: impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        let mut of = |prefix: &str| Gaussian::from_tensors(|name| get(&format!("{prefix}.{name}")));
        Ok(Self { features: of("features")?, pixels: of("pixels")? })
    }
}

/// A normal distribution with a threshold.
#[derive(Debug)]
struct Gaussian {
    /// (1, d), in double precision, as all others.
    mean: Tensor,
    /// (d, k): orthonormal directions.
    components: Tensor,
    /// (k): their variances.
    variances: Tensor,
    /// The variance in each other direction.
    residual_variance: f64,
    /// The largest distance of images like the training images.
    threshold: f64,
}

impl Gaussian {
    /// Describes rows (n, d) with up to `components` directions of their own variance, and takes
    /// the threshold from the distances of `others` (m, d).
    fn fit(train: &Tensor, others: &Tensor, components: i64) -> Result<Self> {
        let (n, d) = train.size2()?;
        ensure!(n > 1 && others.size()[0] > 0, "there are too few images");
        let (train, others) = (train.to_kind(Kind::Double), others.to_kind(Kind::Double));
        let mean = train.mean_dim([0i64].as_slice(), true, Kind::Double);
        let centered = &train - &mean;
        let covariance = centered.transpose(0, 1).f_matmul(&centered)? / (n - 1) as f64;
        let total = covariance.trace().double_value(&[]);
        ensure!(total.is_finite(), "a feature is not finite");
        let (eigenvalues, basis) = covariance.f_linalg_eigh("L")?;
        let k = components.min(d).min((n - 1) / 2).max(1);
        let variances = eigenvalues.f_narrow(0, d - k, k)?;
        let rest = (total - variances.sum(Kind::Double).double_value(&[])) / (d - k).max(1) as f64;
        // Features may be constant, or linear in others.
        let smallest = (1e-6 * total / d as f64).max(f64::MIN_POSITIVE);
        let mut gaussian = Self {
            components: basis.f_narrow(1, d - k, k)?.contiguous(),
            variances: variances.clamp_min(smallest),
            residual_variance: rest.max(smallest),
            threshold: f64::INFINITY,
            mean,
        };
        let distances = gaussian.distances(&others)?;
        ensure!(distances.iter().all(|of| of.is_finite()), "a feature is not finite");
        gaussian.threshold = threshold(distances);
        Ok(gaussian)
    }

    /// Returns the Mahalanobis distances of rows (b, d) from the mean.
    fn distances(&self, rows: &Tensor) -> Result<Vec<f64>> {
        let x = rows.to_device(self.mean.device()).to_kind(Kind::Double);
        let x = x.f_sub(&self.mean)?;
        let projected = x.f_matmul(&self.components)?; // (b, k)
        let squares = |x: &Tensor| x.square().sum_dim_intlist([1i64].as_slice(), false, x.kind());
        let within = squares(&(&projected / self.variances.sqrt()));
        let residual = squares(&(x - projected.f_matmul(&self.components.transpose(0, 1))?));
        values(&(within + residual / self.residual_variance).sqrt())
    }

    /// Returns its tensors by name.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let scalar = |value: f64| Tensor::from_slice(&[value]);
        let named = [
            ("mean", self.mean.shallow_clone()),
            ("components", self.components.shallow_clone()),
            ("variances", self.variances.shallow_clone()),
            ("residual_variance", scalar(self.residual_variance)),
            ("threshold", scalar(self.threshold)),
        ];
        named.map(|(name, tensor)| (name.to_string(), tensor)).into()
    }

    fn from_tensors(mut get: impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        let mut get = |name: &str| Ok::<_, anyhow::Error>(get(name)?.to_kind(Kind::Double));
        let (mean, components, variances) = (get("mean")?, get("components")?, get("variances")?);
        let (d, k) = components.size2().context("`components` is no matrix")?;
        ensure!(mean.size() == [1, d] && variances.size() == [k], "its tensors have other sizes");
        let mut scalar = |name: &str| {
            let tensor = get(name)?;
            ensure!(tensor.numel() == 1, "`{name}` is no number");
            Ok(tensor.double_value(&[0]))
        };
        let (residual_variance, threshold) = (scalar("residual_variance")?, scalar("threshold")?);
        Ok(Self { mean, components, variances, residual_variance, threshold })
    }
}

/// Returns the threshold for the distances of images, of which there is at least one.
fn threshold(mut distances: Vec<f64>) -> f64 {
    distances.sort_by(f64::total_cmp);
    let rank = ((distances.len() + 1) as f64 * ACCEPTED).ceil() as usize;
    let largest = distances.last().copied().unwrap_or(0.0);
    let empirical = distances.get(rank.max(1) - 1).copied();
    let logarithms: Vec<f64> = distances.iter().map(|of| of.max(f64::MIN_POSITIVE).ln()).collect();
    let (mean, sd) = mean_and_sd(&logarithms);
    let extrapolated = mean.unwrap_or(0.0) + ACCEPTED_SIGMAS * sd.unwrap_or(0.0);
    empirical.unwrap_or_else(|| largest.max(extrapolated.exp())) * (1.0 + ROUNDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: i64, shift: f64) -> ImageFeatures {
        let normal = |d: i64| Tensor::randn([n, d], (Kind::Float, Device::Cpu)) + shift;
        // A direction without variance, and one that repeats another.
        let features = normal(6);
        let repeated = features.narrow(1, 0, 1) * 3.0;
        let features =
            Tensor::cat(&[features, repeated, Tensor::ones([n, 1], (Kind::Float, Device::Cpu))], 1);
        ImageFeatures { features, pixels: normal(30) }
    }

    #[test]
    fn images_of_the_same_kind_are_within_and_others_are_not_also_from_a_file() {
        tch::manual_seed(1);
        let distribution = FeatureDistribution::fit(&rows(300, 0.0), &rows(1200, 0.0)).unwrap();
        let tensors = distribution.tensors();
        let get = |name: &str| {
            let found = tensors.iter().find(|(known, _)| known == name).context("missing")?;
            Ok(found.1.shallow_clone())
        };
        let read = FeatureDistribution::from_tensors(get).unwrap();
        let accepted = |images: &ImageFeatures| {
            let within = distribution.contains(images).unwrap();
            assert_eq!(read.contains(images).unwrap(), within);
            within.iter().filter(|&&within| within).count()
        };
        assert!(accepted(&rows(1000, 0.0)) > 990);
        assert_eq!(accepted(&rows(1000, 9.0)), 0);
        let (same, other) = (rows(10, 0.0), rows(10, 9.0));
        let mixed = ImageFeatures { features: other.features, pixels: same.pixels.shallow_clone() };
        assert_eq!(accepted(&mixed), 0);
        assert_eq!(accepted(&ImageFeatures { features: same.features, pixels: other.pixels }), 0);
        let not_finite =
            ImageFeatures { features: mixed.features * f64::NAN, pixels: mixed.pixels };
        assert_eq!(accepted(&not_finite), 0);
        assert!(FeatureDistribution::fit(&not_finite, &rows(5, 0.0)).is_err());
        assert!(FeatureDistribution::from_tensors(|_| anyhow::bail!("no tensor")).is_err());
    }

    #[test]
    fn the_threshold_is_the_percentile_of_a_thousand_distances_and_of_few_at_least_the_largest() {
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        let thousand = threshold((1..=2000).map(f64::from).collect());
        assert!(close(thousand, 1999.0 * (1.0 + ROUNDING)), "{thousand}");
        let outlier = threshold(vec![1.0, 1.1, 0.9, 1.0, 50.0]);
        assert!(outlier >= 50.0);
        let few = threshold(vec![1.0, 2.0]);
        assert!(few > 2.0 && few < 10.0, "{few}");
        assert!(close(threshold(vec![3.0]), 3.0 * (1.0 + ROUNDING)));
    }
}
