//! The rows of a dataset's label lists, before any image is opened.
//!
//! A list may have a million rows: a row is small, and rows of one image share its strings.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use unicode_normalization::UnicodeNormalization;

use super::dataset::{Sample, Source, Split};
use super::datasets::synthetic::FaceSeed;
use super::decimal::shortest;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The image's name in the dataset.
    pub(crate) id: Arc<str>,
    pub(crate) image: RowImage,
    /// Identifies the image: equal for rows of the same image, however they spell its path.
    pub(crate) key: Arc<str>,
    pub(crate) score: f32,
    /// Equal for rows that must stay in one split, once [`units`](super::splits::units) has
    /// assigned it.
    pub(crate) unit: u32,
    /// What the dataset states of the image besides its score, if anything.
    pub(crate) labels: Option<Box<Labels>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RowImage {
    File(Arc<Path>),
    Synthetic(FaceSeed),
    /// There is no file, for this reason.
    Missing(Arc<str>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Labels {
    pub(crate) group: Option<Arc<str>>,
    pub(crate) person: Option<Arc<str>>,
    pub(crate) weight: f32,
    pub(crate) votes: Vec<f32>,
}

impl Default for Labels {
    fn default() -> Self {
        Self { group: None, person: None, weight: 1.0, votes: Vec::new() }
    }
}

impl Row {
    pub(crate) fn new(id: &str, image: RowImage, key: Arc<str>, score: f32) -> Self {
        Self { id: id.into(), image, key, score, unit: 0, labels: None }
    }

    /// Creates a row of an existing file. Links to one file are one image.
    pub(crate) fn file(id: &str, path: &Path, score: f32) -> Self {
        let key = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let key = composed(&key.to_string_lossy());
        Self::new(id, RowImage::File(path.into()), key.into(), score)
    }

    /// Creates a row without a file; `name` is equal for rows that mean the same one.
    pub(crate) fn missing(id: &str, name: &str, reason: &Arc<str>, score: f32) -> Self {
        Self::new(id, RowImage::Missing(Arc::clone(reason)), composed(name).into(), score)
    }

    pub(crate) fn with_group(mut self, group: Option<impl Into<Arc<str>>>) -> Self {
        if let Some(group) = group {
            self.labels_mut().group = Some(group.into());
        }
        self
    }

    pub(crate) fn labels_mut(&mut self) -> &mut Labels {
        self.labels.get_or_insert_default()
    }

    /// Returns the score in double precision, as [`Sample::target`] does.
    pub(crate) fn target(&self) -> f64 {
        shortest(self.score.into())
    }

    pub(crate) fn weight(&self) -> f32 {
        self.labels.as_ref().map_or(1.0, |labels| labels.weight)
    }

    pub(crate) fn group(&self) -> Option<&str> {
        self.labels.as_ref()?.group.as_deref()
    }

    pub(crate) fn person(&self) -> Option<&str> {
        self.labels.as_ref()?.person.as_deref()
    }

    /// Returns the path of the row's file, if there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.image {
            RowImage::File(path) => Some(path),
            _ => None,
        }
    }

    /// Returns why the row's file is missing, if it is.
    pub(crate) fn missing_reason(&self) -> Option<&str> {
        match &self.image {
            RowImage::Missing(reason) => Some(reason),
            _ => None,
        }
    }

    /// Converts the row to a sample; `None` if its file is missing.
    pub(crate) fn into_sample(self) -> Option<Sample> {
        let source = match self.image {
            RowImage::File(path) => Source::File(path.to_path_buf()),
            RowImage::Synthetic(face) => Source::Synthetic(face),
            RowImage::Missing(_) => return None,
        };
        let Labels { group, weight, votes, .. } = self.labels.map(|l| *l).unwrap_or_default();
        let group = group.map(|group| group.to_string());
        Some(Sample { weight, votes, ..Sample::new(&*self.id, source, self.score, group) })
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Listing {
    pub(crate) rows: [Vec<Row>; 3],
    pub(crate) notes: Vec<String>,
    /// Whether all splits were drawn here, so that no two hold copies of one image.
    pub(crate) copies_united: bool,
}

impl Listing {
    pub(crate) fn new(train: Vec<Row>, val: Vec<Row>, test: Vec<Row>) -> Self {
        Self { rows: [train, val, test], ..Self::default() }
    }

    pub(crate) fn rows(&self, split: Split) -> &Vec<Row> {
        &self.rows[split as usize]
    }

    pub(crate) fn rows_mut(&mut self, split: Split) -> &mut Vec<Row> {
        &mut self.rows[split as usize]
    }

    /// Iterates over the rows of all splits, in the order train, val, test.
    pub(crate) fn all_rows(&self) -> impl Iterator<Item = (Split, &Row)> + Clone {
        Split::ALL
            .into_iter()
            .flat_map(|split| self.rows(split).iter().map(move |row| (split, row)))
    }

    /// Returns the first row of each file.
    pub(crate) fn files(&self) -> Vec<&Row> {
        first_by_key(self.all_rows().map(|(_, row)| row).filter(|row| row.path().is_some()))
    }
}

/// Returns the first row of each key, in order.
pub(crate) fn first_by_key<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Vec<&'a Row> {
    let mut repeated: HashMap<&str, bool> =
        repeated(rows.clone().map(|row| &*row.key)).into_iter().map(|key| (key, false)).collect();
    rows.filter(|row| match repeated.get_mut(&*row.key) {
        Some(seen) => !std::mem::replace(seen, true),
        None => true,
    })
    .collect()
}

/// Returns the names that occur more than once. Of a million different names, only eight bytes each
/// are held.
pub(crate) fn repeated<'a>(names: impl Iterator<Item = &'a str> + Clone) -> HashSet<&'a str> {
    let state = RandomState::new();
    let mut hashes: Vec<u64> = names.clone().map(|name| state.hash_one(name)).collect();
    hashes.sort_unstable();
    let twice: HashSet<u64> =
        hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    drop(hashes);
    if twice.is_empty() {
        return HashSet::new();
    }
    let mut seen: HashMap<&str, bool> = HashMap::new();
    for name in names.filter(|name| twice.contains(&state.hash_one(name))) {
        seen.entry(name).and_modify(|again| *again = true).or_insert(false);
    }
    seen.into_iter().filter_map(|(name, again)| again.then_some(name)).collect()
}

/// Composes accented letters to single characters (Unicode NFC).
pub(crate) fn composed(name: &str) -> String {
    if name.is_ascii() { name.to_string() } else { name.nfc().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_occur_twice_are_found_among_many() {
        let names: Vec<String> = (0..1000).map(|i| (i % 993).to_string()).collect();
        let found = repeated(names.iter().map(String::as_str));
        assert_eq!(found, HashSet::from(["0", "1", "2", "3", "4", "5", "6"]));
    }

    #[test]
    fn a_file_that_many_rows_name_is_one_file() {
        let row = |index: usize| {
            let name: Arc<str> = ["a", "b", "gone"][index % 3].into();
            let path: Arc<Path> = Path::new(&*name).into();
            let file = RowImage::File(path);
            let image = if index % 3 == 2 { RowImage::Missing(name.clone()) } else { file };
            Row::new(&format!("{index}"), image, name, 1.0)
        };
        let rows = |range: std::ops::Range<usize>| range.map(row).collect();
        let listing = Listing::new(rows(1..900), rows(900..950), Vec::new());
        let files: Vec<&str> = listing.files().iter().map(|row| &*row.id).collect();
        assert_eq!(files, ["1", "3"]);
    }

    #[test]
    fn a_row_is_small() {
        assert!(size_of::<Row>() <= 72, "{} bytes", size_of::<Row>());
    }
}
