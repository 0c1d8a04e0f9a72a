//! Samples, splits and the data set that they make up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::datasets::synthetic::FaceSeed;

/// One rated image.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The image's name, as the data set has it.
    pub id: String,
    /// Where its pixels come from.
    pub source: Source,
    /// The mean rating, in the data set's own units.
    pub score: f32,
    /// The part of the population that the data set counts it to, as `female/asian`.
    pub group: Option<String>,
    /// How much it counts, for losses that weigh images; 1 where the data set says nothing.
    pub weight: f32,
    /// What each rater gave it, in the data set's own units, without the raters who gave nothing;
    /// empty where only the mean is known.
    pub votes: Vec<f32>,
}

impl Sample {
    /// An image that counts once and whose raters are not known one by one.
    pub fn new(id: impl Into<String>, source: Source, score: f32, group: Option<String>) -> Self {
        Self { id: id.into(), source, score, group, weight: 1.0, votes: Vec::new() }
    }
}

/// The scores of each group's images; images of no group are left out.
pub fn scores_by_group<'a>(
    samples: impl IntoIterator<Item = &'a Sample>,
) -> BTreeMap<&'a str, Vec<f64>> {
    let mut scores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        if let Some(group) = &sample.group {
            scores.entry(group).or_default().push(sample.score.into());
        }
    }
    scores
}

/// Where an image's pixels come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// An image file.
    File(PathBuf),
    /// A face drawn from its seed.
    Synthetic(FaceSeed),
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What chooses the best epoch.
    Val,
    /// What is reported.
    Test,
}

impl Split {
    /// All three, in order.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// `train`, `val` or `test`.
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

/// A row that is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The split that lists it.
    pub split: Split,
    /// The image's name, as the data set has it.
    pub id: String,
    /// Why it is left out.
    pub reason: String,
}

/// A data set, ready to train on.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// Samples to learn from; never empty.
    pub train: Vec<Sample>,
    /// Samples that choose the best epoch; never empty.
    pub val: Vec<Sample>,
    /// Samples to report on; may be empty.
    pub test: Vec<Sample>,
    /// Rows left out: without an image, unreadable, or given up to another split.
    pub skipped: Vec<Skipped>,
}

impl Dataset {
    /// The samples of one split.
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
