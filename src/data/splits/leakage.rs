//! Images that more than one split holds, and what `data.overlap` does with them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Result, bail};
use indexmap::IndexMap;
use serde::Serialize;

use super::contents;
use crate::config::Overlap;
use crate::data::dataset::{Skipped, Split};
use crate::data::listing::{Listing, Row, repeated};
use crate::files::printable;

/// An image that is in more than one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeakedImage {
    /// Its name in the first of the splits.
    pub id: String,
    /// The splits, in the order train, val, test.
    pub splits: Vec<Split>,
}

/// Finds the images that are in more than one split, in the order in which the splits list them.
pub(crate) fn leaked_images(listing: &Listing) -> Vec<LeakedImage> {
    leaked_keys(listing).into_values().collect()
}

fn leaked_keys(listing: &Listing) -> IndexMap<Arc<str>, LeakedImage> {
    let repeated = repeated(listing.all_rows().map(|(_, row)| &*row.key));
    let mut images: IndexMap<Arc<str>, LeakedImage> = IndexMap::new();
    for (split, row) in listing.all_rows().filter(|(_, row)| repeated.contains(&*row.key)) {
        let image = || LeakedImage { id: row.id.to_string(), splits: Vec::new() };
        let splits = &mut images.entry(Arc::clone(&row.key)).or_insert_with(image).splits;
        // The rows of a split follow each other.
        if splits.last() != Some(&split) {
            splits.push(split);
        }
    }
    images.retain(|_, image| image.splits.len() > 1);
    images
}

/// Returns a warning if files of different splits have the same content, as copies and hard links
/// have. It is not an error: published splits have copies too, and results on them are compared.
pub(crate) fn copies_warning(listing: &Listing) -> Option<String> {
    if listing.copies_united {
        return None;
    }
    let copies = contents::copies(&listing.files());
    let mut classes: BTreeMap<u32, Vec<(Split, &Row)>> = BTreeMap::new();
    for (split, row) in listing.all_rows() {
        if let Some(&class) = copies.get(&*row.key) {
            classes.entry(class).or_default().push((split, row));
        }
    }
    let other = |rows: &[(Split, &Row)]| rows.iter().position(|(split, _)| *split != rows[0].0);
    classes.retain(|_, rows| other(rows).is_some());
    let rows = classes.values().next()?;
    let ((a_split, a), (b_split, b)) = (rows[0], rows[other(rows)?]);
    let count = classes.len();
    let images = if count == 1 { "image is" } else { "images are" };
    Some(format!(
        "{count} {images} in more than one split under different names, which inflates the \
         results: {} ({a_split}) and {} ({b_split}){}. `vmbeauty data check` lists them first; \
         remove their rows from all splits but one, or set data.overlap to allow",
        printable(&a.id),
        printable(&b.id),
        if count == 1 { "" } else { ", ..." }
    ))
}

/// Applies the configured rule to images that are in two splits. Returns the removed rows.
pub(crate) fn resolve_overlaps(listing: &mut Listing, rule: Overlap) -> Result<Vec<Skipped>> {
    let leaked = leaked_keys(listing);
    if leaked.is_empty() || rule == Overlap::Allow {
        return Ok(Vec::new());
    }
    if rule == Overlap::Error {
        let named: Vec<String> = leaked.values().take(3).map(ToString::to_string).collect();
        let images = if leaked.len() == 1 { "image is" } else { "images are" };
        let more = if leaked.len() > named.len() { ", ..." } else { "" };
        bail!(
            "{} {images} in two splits, which would inflate the results: {}{more}. Set \
             data.overlap to drop (removes them from train in favor of val and test, from val in \
             favor of test) or to allow",
            leaked.len(),
            named.join(", "),
        );
    }
    let reason: Arc<str> = "is in a later split too (data.overlap: drop)".into();
    let last: HashMap<Arc<str>, Split> =
        leaked.into_iter().filter_map(|(key, image)| Some((key, *image.splits.last()?))).collect();
    let mut removed = Vec::new();
    for split in [Split::Train, Split::Val] {
        let is_later = |row: &mut Row| last.get(&row.key).is_some_and(|&last| last > split);
        let gone = listing.rows_mut(split).extract_if(.., is_later);
        let skipped = |row: Row| Skipped { split, id: row.id, reason: Arc::clone(&reason) };
        removed.extend(gone.map(skipped));
    }
    Ok(removed)
}

impl std::fmt::Display for LeakedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let splits: Vec<&str> = self.splits.iter().map(|split| split.name()).collect();
        write!(f, "{} ({})", printable(&self.id), splits.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::splits::test_rows::rows;

    fn overlapping() -> Listing {
        Listing::new(rows(0..10), rows(8..14), rows(12..20))
    }

    #[test]
    fn an_overlap_is_an_error_that_names_the_remedy() {
        let error = resolve_overlaps(&mut overlapping(), Overlap::Error).unwrap_err().to_string();
        for text in
            ["4 images", "0008 (train and val)", "0012 (val and test)", ", ...", "data.overlap"]
        {
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn dropping_keeps_the_image_in_the_later_split() {
        let mut listing = overlapping();
        let removed = resolve_overlaps(&mut listing, Overlap::Drop).unwrap();
        assert_eq!(removed.len(), 4);
        assert_eq!(listing.rows(Split::Train).len(), 8);
        assert_eq!(listing.rows(Split::Val).len(), 4);
        assert_eq!(listing.rows(Split::Test).len(), 8);
        assert!(leaked_images(&listing).is_empty());
    }
}
