//! The images that a run reads.

use std::sync::Arc;

use anyhow::Result;

use super::dataset::{Sample, Split};
use super::image_dataset::ImageDataset;
use super::load::load;
use crate::config::Config;

/// The images of the three splits that a run reads.
pub struct RunImages {
    /// The training images.
    pub train: Arc<ImageDataset>,
    /// The validation images.
    pub val: Arc<ImageDataset>,
    /// `None` if there are no test images, or the config does not evaluate them.
    pub test: Option<Arc<ImageDataset>>,
    /// Rows that were skipped.
    pub skipped: usize,
    /// What makes results on the dataset doubtful.
    pub warnings: Vec<String>,
}

impl RunImages {
    /// Loads the dataset of a config. Returns an error that names data that are missing or damaged.
    pub fn load(config: &Config) -> Result<Self> {
        let dataset = load(&config.data, config.seed)?;
        let images = |samples: Vec<Sample>| {
            Ok::<_, anyhow::Error>(Arc::new(ImageDataset::new(samples, &config.data)?))
        };
        Ok(Self {
            skipped: dataset.skipped.len(),
            warnings: dataset.warnings,
            train: images(dataset.train)?,
            val: images(dataset.val)?,
            test: if config.train.evaluate_test && !dataset.test.is_empty() {
                Some(images(dataset.test)?)
            } else {
                None
            },
        })
    }

    /// Returns a hash of every image's name and score, in order: a run resumes with the same only.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for images in [Some(&self.train), Some(&self.val), self.test.as_ref()] {
            for sample in images.into_iter().flat_map(|images| images.samples()) {
                hasher.update(&(sample.id.len() as u64).to_le_bytes());
                hasher.update(sample.id.as_bytes());
                hasher.update(&sample.score.to_bits().to_le_bytes());
            }
            hasher.update(&u64::MAX.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Iterates over the splits to evaluate a model on.
    pub fn evaluated(&self) -> impl Iterator<Item = (Split, &Arc<ImageDataset>)> {
        let test = self.test.iter().map(|images| (Split::Test, images));
        std::iter::once((Split::Val, &self.val)).chain(test)
    }

    /// Returns the numbers of training, validation and test images.
    pub fn counts(&self) -> [usize; 3] {
        let test = self.test.as_ref().map_or(0, |images| images.len());
        [self.train.len(), self.val.len(), test]
    }
}
