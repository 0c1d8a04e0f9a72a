//! What a data set's label lists say, before any image is opened.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use unicode_normalization::UnicodeNormalization;

use super::dataset::{Sample, Source, Split};

/// One row of a label list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) sample: Sample,
    /// Why the row's image cannot be used, where its file is not there.
    pub(crate) missing: Option<String>,
    /// Equal for rows that stand for the same image, however they spell it.
    pub(crate) key: String,
    /// Who is in the image, where the data set says.
    pub(crate) person: Option<String>,
    /// Equal for rows that must stay on one side of a split; the key, unless
    /// [`units`](super::units) binds more rows.
    pub(crate) unit: String,
}

impl Row {
    /// A row whose image is the file that was found, or was not.
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
        // Links to one file are one image. A missing file goes by the name that it would have.
        let key = fs::canonicalize(&path).unwrap_or_else(|_| path.components().collect());
        let key = composed(&key.to_string_lossy());
        let sample = Sample::new(id, Source::File(path), score, group);
        Self { sample, missing, person: None, unit: key.clone(), key }
    }
}

/// The rows of each split.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Listing {
    rows: [Vec<Row>; 3],
    notes: Vec<String>,
}

impl Listing {
    pub(crate) fn new(train: Vec<Row>, val: Vec<Row>, test: Vec<Row>) -> Self {
        Self { rows: [train, val, test], notes: Vec::new() }
    }

    pub(crate) fn with_notes(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
    }

    pub(crate) fn add_notes(&mut self, notes: Vec<String>) {
        self.notes.extend(notes);
    }

    /// Oddities of the lists that are worth a person's look.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(crate) fn rows(&self, split: Split) -> &Vec<Row> {
        &self.rows[split as usize]
    }

    pub(crate) fn rows_mut(&mut self, split: Split) -> &mut Vec<Row> {
        &mut self.rows[split as usize]
    }

    /// The keys of a split's images.
    pub(crate) fn keys(&self, split: Split) -> HashSet<&str> {
        self.rows(split).iter().map(|row| row.key.as_str()).collect()
    }
}

/// `name` with accented letters as single characters (Unicode NFC).
pub(crate) fn composed(name: &str) -> String {
    name.nfc().collect()
}
