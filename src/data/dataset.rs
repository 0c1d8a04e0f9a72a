//! Samples, splits and the dataset that they make up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::datasets::synthetic::FaceSeed;
use super::decimal::shortest;
use crate::files::open_regular;

/// One rated image.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The image's name in the dataset.
    pub id: String,
    /// The source of its pixels.
    pub source: Source,
    /// The mean rating, on the dataset's own scale.
    pub score: f32,
    /// The demographic group, such as `female/asian`, if the dataset names one.
    pub group: Option<String>,
    /// Its weight in the loss; 1 if the dataset names none.
    pub weight: f32,
    /// The rating of each rater, on the dataset's own scale; empty if only the mean is known.
    pub votes: Vec<f32>,
}

impl Sample {
    /// Creates a sample of weight 1 whose individual ratings are unknown.
    pub fn new(id: impl Into<String>, source: Source, score: f32, group: Option<String>) -> Self {
        Self { id: id.into(), source, score, group, weight: 1.0, votes: Vec::new() }
    }

    /// Returns the hash of what its pixels depend on: the content of its file, or the seed of its
    /// face. Returns an error that names the file if it cannot be read.
    pub fn content_hash(&self) -> Result<blake3::Hash> {
        match &self.source {
            Source::File(path) => {
                let mut hasher = blake3::Hasher::new();
                open_regular(path)
                    .and_then(|file| Ok(hasher.update_reader(file)?.finalize()))
                    .with_context(|| format!("cannot read {}", path.display()))
            }
            Source::Synthetic(face) => Ok(blake3::hash(format!("{face:?}").as_bytes())),
        }
    }

    /// Returns the score in double precision, as the number that the list says: 2.62 and not
    /// 2.619999885559082.
    pub fn target(&self) -> f64 {
        shortest(self.score.into())
    }
}

/// Collects the scores of each group's images; images of no group are skipped.
pub fn scores_by_group<'a>(
    samples: impl IntoIterator<Item = &'a Sample>,
) -> BTreeMap<&'a str, Vec<f64>> {
    let mut scores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        if let Some(group) = &sample.group {
            scores.entry(group).or_default().push(sample.target());
        }
    }
    scores
}

/// The source of an image's pixels.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// An image file.
    File(PathBuf),
    /// A synthetic face, rendered from its seed.
    Synthetic(FaceSeed),
}

/// A split of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The training split.
    Train,
    /// The split that selects the best epoch.
    Val,
    /// The split that results are reported on.
    Test,
}

impl Split {
    /// All three splits, in order.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// Returns `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "train" | "training" => Ok(Split::Train),
            "val" | "valid" | "validation" | "dev" => Ok(Split::Val),
            "test" | "testing" => Ok(Split::Test),
            _ => bail!("there is no split {text:?}; use train, val or test"),
        }
    }
}

/// A row that is skipped, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The split of its list.
    pub split: Split,
    /// The image's name in the dataset.
    pub id: Arc<str>,
    /// Why it is skipped.
    pub reason: Arc<str>,
}

/// A dataset that is ready to train on.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// Samples to train on; never empty.
    pub train: Vec<Sample>,
    /// Samples that select the best epoch; never empty.
    pub val: Vec<Sample>,
    /// Samples to report on; may be empty.
    pub test: Vec<Sample>,
    /// Skipped rows: without an image, unreadable, or dropped in favor of another split.
    pub skipped: Vec<Skipped>,
    /// What makes results on the dataset doubtful, a sentence each.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// Returns the samples of one split.
    pub fn samples(&self, split: Split) -> &[Sample] {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
            Split::Test => &self.test,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_read_by_their_usual_names() {
        for (text, split) in
            [("train", Split::Train), ("Validation", Split::Val), ("TEST", Split::Test)]
        {
            assert_eq!(text.parse::<Split>().unwrap(), split);
        }
        assert!("".parse::<Split>().is_err());
    }
}
