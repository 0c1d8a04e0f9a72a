//! What a check reports.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::scores::ScoreSummary;
use crate::data::dataset::{Skipped, Split};
use crate::data::splits::LeakedImage;

/// The result of [`check`](super::check).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetCheck {
    /// Rows, scores and groups of each split.
    pub splits: Vec<SplitCheck>,
    /// Rows whose image is missing.
    pub missing: Vec<Skipped>,
    /// Rows whose image exists but cannot be read.
    pub unreadable: Vec<Skipped>,
    /// Images that are in more than one split, by path.
    pub overlaps: Vec<LeakedImage>,
    /// Images that are in one split more than once.
    pub repeated: Vec<RepeatedImage>,
    /// Files of the same content under several names.
    pub duplicates: Vec<DuplicateFiles>,
    /// Files of different content that look the same: another size, format or quality of one
    /// image.
    pub near_duplicates: Vec<NearDuplicate>,
    /// Scores far from the others, and images too small or too narrow for the model.
    pub outliers: Vec<Skipped>,
    /// The scores of each group's usable rows, over all splits.
    pub group_scores: BTreeMap<String, ScoreSummary>,
    /// The bounds of the bins of [`SplitCheck::histogram`], one more than there are bins.
    pub score_bins: Vec<f64>,
    /// Other inconsistencies of the lists.
    pub notes: Vec<String>,
    /// The existing files, for the manifest and the images of the HTML page.
    #[serde(skip)]
    pub(super) files: Vec<CheckedFile>,
}

/// The rows, scores and groups of one split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitCheck {
    /// The split.
    pub split: Split,
    /// The number of rows in its list.
    pub rows: usize,
    /// The number of rows whose image can be read.
    pub usable: usize,
    /// The number of rows whose image is missing.
    pub missing: usize,
    /// The number of rows whose image exists but cannot be read.
    pub unreadable: usize,
    /// The scores of the usable rows, if any.
    pub score: Option<ScoreSummary>,
    /// The number of usable rows of each group.
    pub groups: BTreeMap<String, usize>,
    /// The number of usable rows in each bin of [`DatasetCheck::score_bins`].
    pub histogram: Vec<usize>,
}

/// An image that is in a split more than once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RepeatedImage {
    /// The split.
    pub split: Split,
    /// The image's name in its first row.
    pub id: String,
    /// The score of each of its rows.
    pub scores: Vec<f32>,
}

/// Files of the same content under several names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DuplicateFiles {
    /// Each name, with its split.
    pub images: Vec<SplitImage>,
    /// Whether they are in more than one split, so that one of them leaks.
    pub across_splits: bool,
}

/// Two files that look the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NearDuplicate {
    /// Both names, with their splits.
    pub images: [SplitImage; 2],
    /// The number of bits, of 256, in which their perceptual hashes differ.
    pub distance: u32,
    /// Whether they are in different splits, so that one of them leaks.
    pub across_splits: bool,
}

/// An image in a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitImage {
    /// The split.
    pub split: Split,
    /// The image's name.
    pub id: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct CheckedFile {
    pub(super) image: SplitImage,
    pub(super) path: PathBuf,
    pub(super) score: f32,
    pub(super) group: Option<String>,
    /// Hash of its content (BLAKE3), width and height; `None` if it cannot be read.
    pub(super) content: Option<(String, u32, u32)>,
}

impl DatasetCheck {
    /// Returns the number of rows that can be used, and of all rows.
    pub fn usable_rows(&self) -> (usize, usize) {
        let sum = |count: fn(&SplitCheck) -> usize| self.splits.iter().map(count).sum();
        (sum(|split| split.usable), sum(|split| split.rows))
    }

    /// Returns whether no problem was found.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.unreadable.is_empty()
            && self.overlaps.is_empty()
            && self.repeated.is_empty()
            && self.duplicates.is_empty()
            && self.near_duplicates.is_empty()
            && self.outliers.is_empty()
            && self.notes.is_empty()
    }
}
