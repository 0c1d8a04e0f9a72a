//! What a run trains on and is judged by.

use std::sync::Arc;

use anyhow::Result;

use crate::config::Config;
use crate::data::{self, ImageDataset, Sample};

/// The images of the three splits.
pub(super) struct Splits {
    pub train: Arc<ImageDataset>,
    pub val: Arc<ImageDataset>,
    /// None where there are no test images, or the config leaves them unread.
    pub test: Option<Arc<ImageDataset>>,
    /// Rows that were left out.
    pub skipped: usize,
}

impl Splits {
    /// As the config says.
    ///
    /// # Errors
    /// Data that are missing or damaged, by name.
    pub fn load(config: &Config) -> Result<Self> {
        let dataset = data::load(&config.data, config.seed)?;
        let images = |samples: Vec<Sample>| {
            Ok::<_, anyhow::Error>(Arc::new(ImageDataset::new(samples, &config.data)?))
        };
        Ok(Self {
            skipped: dataset.skipped.len(),
            train: images(dataset.train)?,
            val: images(dataset.val)?,
            test: if config.train.evaluate_test && !dataset.test.is_empty() {
                Some(images(dataset.test)?)
            } else {
                None
            },
        })
    }

    /// Of every image's name and score, in order: a run can only go on with the same ones.
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

    /// Of training, validation and test.
    pub fn counts(&self) -> [usize; 3] {
        let test = self.test.as_ref().map_or(0, |images| images.len());
        [self.train.len(), self.val.len(), test]
    }
}
