//! The distribution of the training images' features, which a run keeps.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::trained::Run;
use crate::config::{Cache, Config, DataConfig};
use crate::data::{ImageDataset, Sample};
use crate::eval::feature_distribution::{FeatureDistribution, image_features};
use crate::models::weights::{self, WeightsFile};
use crate::models::{BeautyNet, Slicer};

/// The file in the folder of the weights that it belongs to.
pub const FEATURE_DISTRIBUTION_FILE: &str = "feature_distribution.safetensors";
/// The metadata key of the hash of the weights.
const WEIGHTS_KEY: &str = "weights";
/// Maximum number of images of a split whose features are computed.
const MAX_IMAGES: usize = 2000;

/// Returns the indices of the images of a split whose features describe it: all, or evenly spaced
/// ones.
pub fn representative_images(count: usize) -> Vec<usize> {
    let chosen = count.min(MAX_IMAGES);
    (0..chosen).map(|at| at * count / chosen).collect()
}

/// Returns the [representative](representative_images) images of a split as a dataset.
pub fn representative_dataset(samples: &[Sample], config: &Config) -> Result<Arc<ImageDataset>> {
    let chosen = representative_images(samples.len()).into_iter();
    let chosen = chosen.map(|index| samples[index].clone()).collect();
    // Each is read once, so that memory would keep it for nothing.
    let cache = if config.data.cache == Cache::Memory { Cache::None } else { config.data.cache };
    let config = DataConfig { cache, ..config.data.clone() };
    Ok(Arc::new(ImageDataset::new(chosen, &config)?))
}

/// Writes the distribution of features into a file, for the weights that the network has.
pub fn write_feature_distribution(
    path: &Path,
    distribution: &FeatureDistribution,
    net: &BeautyNet,
) -> Result<()> {
    let metadata = HashMap::from([(WEIGHTS_KEY.to_string(), hash(net)?)]);
    weights::save(path, &distribution.tensors(), metadata)
}

fn hash(net: &BeautyNet) -> Result<String> {
    Ok(weights::content_hash(&net.parameters())?.to_hex().to_string())
}

impl Run {
    /// Reads the distribution of the training images' features; `None` if there is none for the
    /// weights of the run. Returns an error if the file cannot be read.
    pub fn feature_distribution(&self) -> Result<Option<FeatureDistribution>> {
        let path = self.weights.with_file_name(FEATURE_DISTRIBUTION_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let remedy = || {
            format!(
                "cannot read {}: `vmbeauty evaluate {} --feature-distribution` writes it again",
                path.display(),
                self.weights.with_file_name("").display()
            )
        };
        let mut file = WeightsFile::open(&path).with_context(remedy)?;
        if file.metadata().get(WEIGHTS_KEY) != Some(&hash(&self.net)?) {
            return Ok(None);
        }
        FeatureDistribution::from_tensors(|name| file.tensor(name)).with_context(remedy).map(Some)
    }

    /// Computes the distribution from training and validation images, and writes it next to the
    /// weights. Returns an error if an image cannot be read or the file cannot be written.
    pub fn write_feature_distribution(&self, [train, val]: [&[Sample]; 2]) -> Result<()> {
        let slicer = Slicer::new(self.config.train.slice, self.net.device())?;
        let features = |samples| {
            let images = representative_dataset(samples, &self.config)?;
            image_features(&self.net, &images, &self.config, &slicer, &mut |_| Ok(()))
        };
        let distribution = FeatureDistribution::fit(&features(train)?, &features(val)?)?;
        let path = self.weights.with_file_name(FEATURE_DISTRIBUTION_FILE);
        write_feature_distribution(&path, &distribution, &self.net)
    }
}
