//! Images that more than one split holds, and what `data.overlap` does with them.

use std::collections::HashSet;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::config::Overlap;
use crate::data::dataset::{Skipped, Split};
use crate::data::listing::{Listing, Row};

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
    let keys = Split::ALL.map(|split| listing.keys(split));
    let mut seen = HashSet::new();
    let mut leaked = Vec::new();
    for row in Split::ALL.iter().flat_map(|&split| listing.rows(split)) {
        let key = row.key.as_str();
        let splits: Vec<Split> =
            Split::ALL.into_iter().filter(|&split| keys[split as usize].contains(key)).collect();
        if splits.len() > 1 && seen.insert(key) {
            leaked.push(LeakedImage { id: row.sample.id.clone(), splits });
        }
    }
    leaked
}

/// Applies the configured rule to images that are in two splits. Returns the removed rows.
pub(crate) fn resolve_overlaps(listing: &mut Listing, rule: Overlap) -> Result<Vec<Skipped>> {
    let leaked = leaked_images(listing);
    if leaked.is_empty() || rule == Overlap::Allow {
        return Ok(Vec::new());
    }
    if rule == Overlap::Error {
        let named: Vec<String> = leaked.iter().take(3).map(LeakedImage::to_string).collect();
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
    let mut removed = Vec::new();
    for (split, later) in
        [(Split::Train, &[Split::Val, Split::Test][..]), (Split::Val, &[Split::Test])]
    {
        let taken: HashSet<String> =
            later.iter().flat_map(|&later| listing.keys(later)).map(str::to_string).collect();
        let rows = std::mem::take(listing.rows_mut(split));
        let (gone, kept): (Vec<Row>, _) =
            rows.into_iter().partition(|row| taken.contains(&row.key));
        *listing.rows_mut(split) = kept;
        removed.extend(gone.into_iter().map(|row| Skipped {
            split,
            id: row.sample.id,
            reason: "is in a later split too (data.overlap: drop)".to_string(),
        }));
    }
    Ok(removed)
}

impl std::fmt::Display for LeakedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let splits: Vec<&str> = self.splits.iter().map(|split| split.name()).collect();
        write!(f, "{} ({})", self.id, splits.join(" and "))
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

    #[test]
    fn allowing_keeps_every_row() {
        let mut listing = overlapping();
        assert!(resolve_overlaps(&mut listing, Overlap::Allow).unwrap().is_empty());
        assert_eq!(listing, overlapping());
    }
}
