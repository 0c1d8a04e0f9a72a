//! The images of a pretraining run.

use std::sync::Arc;

use anyhow::Result;
use rayon::prelude::*;

use crate::config::{Config, DataConfig};
use crate::data::{self, ImageDataset, Sample, Split};

/// Training and validation images. Test images are not opened.
pub(super) struct TrainAndVal {
    pub train: Arc<ImageDataset>,
    pub val: Arc<ImageDataset>,
    /// Rows of the two splits that were skipped.
    pub skipped: usize,
    /// A hash of the training images' names and contents, in order.
    pub fingerprint: String,
}

impl TrainAndVal {
    /// Loads the dataset with the augmentation of the config's section `pretrain`. Returns an error
    /// that names missing or damaged data.
    pub(super) fn load(config: &Config) -> Result<Self> {
        let data = DataConfig { augment: config.pretrain.augment.clone(), ..config.data.clone() };
        let load = |split| data::load_split(&data, config.seed, split);
        let (train, skipped) = load(Split::Train)?;
        let (val, skipped_val) = load(Split::Val)?;
        Ok(Self {
            fingerprint: fingerprint(&train)?,
            train: Arc::new(ImageDataset::new(train, &data)?),
            val: Arc::new(ImageDataset::new(val, &data)?),
            skipped: skipped.len() + skipped_val.len(),
        })
    }
}

fn fingerprint(samples: &[Sample]) -> Result<String> {
    let contents = samples.par_iter().map(Sample::content_hash);
    let contents: Vec<blake3::Hash> = contents.collect::<Result<_>>()?;
    let mut hasher = blake3::Hasher::new();
    for (sample, content) in samples.iter().zip(contents) {
        hasher.update(&(sample.id.len() as u64).to_le_bytes());
        hasher.update(sample.id.as_bytes());
        hasher.update(content.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
