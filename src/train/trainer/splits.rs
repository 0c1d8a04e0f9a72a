//! What a run trains on and is judged by.

use std::sync::Arc;

use anyhow::Result;

use crate::config::Config;
use crate::data::{self, Pictures, Sample};

/// The pictures of the three splits.
pub(super) struct Splits {
    pub train: Arc<Pictures>,
    pub val: Arc<Pictures>,
    /// None where there are no test pictures, or the config leaves them unread.
    pub test: Option<Arc<Pictures>>,
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
        let pictures = |samples: Vec<Sample>| {
            Ok::<_, anyhow::Error>(Arc::new(Pictures::new(samples, &config.data)?))
        };
        Ok(Self {
            skipped: dataset.skipped.len(),
            train: pictures(dataset.train)?,
            val: pictures(dataset.val)?,
            test: match config.train.evaluate_test && !dataset.test.is_empty() {
                true => Some(pictures(dataset.test)?),
                false => None,
            },
        })
    }

    /// Of every picture's name and score, in order: a run can only go on with the same ones.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for pictures in [Some(&self.train), Some(&self.val), self.test.as_ref()] {
            for sample in pictures.into_iter().flat_map(|pictures| pictures.samples()) {
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
        let test = self.test.as_ref().map_or(0, |pictures| pictures.len());
        [self.train.len(), self.val.len(), test]
    }
}
