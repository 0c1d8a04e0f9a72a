//! The rows of a dataset's label lists, before any image is opened.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use unicode_normalization::UnicodeNormalization;

use super::dataset::{Sample, Source, Split};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) sample: Sample,
    /// Why the row's image file is missing, if it is.
    pub(crate) missing: Option<String>,
    /// Identifies the image: equal for rows of the same image, however they spell its path.
    pub(crate) key: String,
    pub(crate) person: Option<String>,
    /// Equal for rows that must stay in one split: the key, unless
    /// [`units`](super::splits::units) binds more rows.
    pub(crate) unit: String,
}

impl Row {
    /// Creates a row of an image that exists and may be in any split.
    pub(crate) fn new(sample: Sample, key: String) -> Self {
        Self { sample, missing: None, person: None, unit: key.clone(), key }
    }

    /// Creates a row from the file that was found, or the reason why it was not.
    pub(crate) fn file(
        id: &str,
        expected: PathBuf,
        found: Result<PathBuf, String>,
        score: f32,
        group: Option<String>,
    ) -> Self {
        let (path, missing) = match found {
            Ok(path) => (path, None),
            Err(reason) => (expected, Some(reason)),
        };
        // Links to one file are one image. A missing file has the key of its expected path.
        let key = fs::canonicalize(&path).unwrap_or_else(|_| path.components().collect());
        let key = composed(&key.to_string_lossy());
        Self { missing, ..Self::new(Sample::new(id, Source::File(path), score, group), key) }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Listing {
    pub(crate) rows: [Vec<Row>; 3],
    pub(crate) notes: Vec<String>,
}

impl Listing {
    pub(crate) fn new(train: Vec<Row>, val: Vec<Row>, test: Vec<Row>) -> Self {
        Self { rows: [train, val, test], notes: Vec::new() }
    }

    pub(crate) fn rows(&self, split: Split) -> &Vec<Row> {
        &self.rows[split as usize]
    }

    pub(crate) fn rows_mut(&mut self, split: Split) -> &mut Vec<Row> {
        &mut self.rows[split as usize]
    }

    pub(crate) fn keys(&self, split: Split) -> HashSet<&str> {
        self.rows(split).iter().map(|row| row.key.as_str()).collect()
    }
}

/// Composes accented letters to single characters (Unicode NFC).
pub(crate) fn composed(name: &str) -> String {
    name.nfc().collect()
}
