//! Keeps splits apart: seeded hold-outs, and what to do when two splits hold the same image.

use std::collections::HashSet;

use anyhow::{Result, bail};
use serde::Serialize;

use super::draws::Draws;
use super::listing::{Listing, Row};
use super::{Skipped, Split, units};
use crate::config::{DataConfig, Overlap};

/// An image that stands in more than one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedImage {
    /// Its name, as the first of the splits has it.
    pub id: String,
    /// The splits, in the order train, val, test.
    pub splits: Vec<Split>,
}

/// Moves `fraction` of the images out of `rows`: returns those that stay and those that were held
/// out, each in their order. The choice depends on the seed and `purpose` alone, and is stratified:
/// sorted by score, each run of 1/`fraction` images gives one. Rows of one unit (an image, or a
/// person) stay together.
pub(crate) fn hold_out(
    rows: Vec<Row>,
    fraction: f64,
    seed: u64,
    purpose: &str,
) -> (Vec<Row>, Vec<Row>) {
    let mut seen = HashSet::new();
    let mut images: Vec<&Row> = rows.iter().filter(|row| seen.insert(&row.unit)).collect();
    // Ties go by name, so that the order of the list does not matter.
    images.sort_by(|a, b| {
        let by_score = a.sample.score.total_cmp(&b.sample.score);
        by_score.then_with(|| a.sample.id.cmp(&b.sample.id))
    });
    let total = images.len();
    if fraction <= 0.0 || total < 2 {
        return (rows, Vec::new());
    }
    let held = ((total as f64 * fraction).round() as usize).clamp(1, total - 1);
    let mut draws = Draws::new(seed, 0, 0, purpose);
    let units: HashSet<String> = (0..held)
        .map(|stratum| {
            let (start, end) = (stratum * total / held, (stratum + 1) * total / held);
            images[start + draws.below(end - start)].unit.clone()
        })
        .collect();
    let (held, kept) = rows.into_iter().partition(|row| units.contains(&row.unit));
    (kept, held)
}

/// The splits of a data set that may name none: without `has_splits`, all rows are in train, and
/// test and validation rows are held out by the seed; with it, validation rows are where there are
/// none. Rows of one image or person stay together.
pub(crate) fn complete(
    mut splits: [Vec<Row>; 3],
    has_splits: bool,
    config: &DataConfig,
    seed: u64,
) -> Listing {
    splits.iter_mut().for_each(|rows| units::bind(rows));
    let [mut train, mut val, mut test] = splits;
    let mut val_fraction = config.val_fraction;
    if !has_splits {
        (train, test) = hold_out(train, config.test_fraction, seed, "test");
        // The fraction is of all rows, and the test rows are gone already.
        val_fraction /= 1.0 - config.test_fraction;
    }
    if val.is_empty() {
        (train, val) = hold_out(train, val_fraction, seed, "val");
    }
    Listing::new(train, val, test)
}

/// The images that stand in more than one split, in the order in which the splits list them.
pub(crate) fn shared_images(listing: &Listing) -> Vec<SharedImage> {
    let keys = Split::ALL.map(|split| listing.keys(split));
    let mut seen = HashSet::new();
    let mut shared = Vec::new();
    for row in Split::ALL.iter().flat_map(|&split| listing.rows(split)) {
        let key = row.key.as_str();
        let splits: Vec<Split> =
            Split::ALL.into_iter().filter(|&split| keys[split as usize].contains(key)).collect();
        if splits.len() > 1 && seen.insert(key) {
            shared.push(SharedImage { id: row.sample.id.clone(), splits });
        }
    }
    shared
}

/// Applies the configured rule to images that stand in two splits. Returns the rows that it
/// removed.
///
/// # Errors
/// When there are such images and the configuration does not say what to do.
pub(crate) fn resolve_overlaps(listing: &mut Listing, rule: Overlap) -> Result<Vec<Skipped>> {
    let shared = shared_images(listing);
    if shared.is_empty() || rule == Overlap::Allow {
        return Ok(Vec::new());
    }
    if rule == Overlap::Error {
        let named: Vec<String> = shared.iter().take(3).map(SharedImage::to_string).collect();
        let stand = if shared.len() == 1 { "image stands" } else { "images stand" };
        let more = if shared.len() > named.len() { ", ..." } else { "" };
        bail!(
            "{} {stand} in two splits, which would flatter the results: {}{more}. Set data.overlap to drop (train gives way to val and test, val to test) or to allow",
            shared.len(),
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
            reason: "stands in a later split too (data.overlap: drop)".to_string(),
        }));
    }
    Ok(removed)
}

impl std::fmt::Display for SharedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let splits: Vec<&str> = self.splits.iter().map(|split| split.name()).collect();
        write!(f, "{} ({})", self.id, splits.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Sample, Source};

    fn row(id: &str, score: f32) -> Row {
        let sample = Sample::new(id, Source::File(id.into()), score, None);
        Row { sample, missing: None, key: id.to_string(), person: None, unit: id.to_string() }
    }

    fn rows(range: std::ops::Range<u32>) -> Vec<Row> {
        // Scores in an order that differs from that of the names.
        range.map(|index| row(&format!("{index:04}"), (index * 37 % 101) as f32)).collect()
    }

    fn ids(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.sample.id.as_str()).collect()
    }

    #[test]
    fn a_hold_out_depends_on_the_seed_alone() {
        let (kept, held) = hold_out(rows(0..200), 0.1, 3, "val");
        assert_eq!((kept.len(), held.len()), (180, 20));
        let mut reversed = rows(0..200);
        reversed.reverse();
        let (_, mut again) = hold_out(reversed, 0.1, 3, "val");
        again.reverse();
        assert_eq!(ids(&held), ids(&again));
        let (_, other) = hold_out(rows(0..200), 0.1, 4, "val");
        assert_ne!(ids(&held), ids(&other));
    }

    #[test]
    fn a_hold_out_covers_the_range_of_scores() {
        for seed in 0..20 {
            let (_, held) = hold_out(rows(0..101), 0.1, seed, "val");
            let mut scores: Vec<f32> = held.iter().map(|row| row.sample.score).collect();
            scores.sort_by(f32::total_cmp);
            // One from each tenth of the scores 0 to 100.
            assert_eq!(scores.len(), 10);
            for (tenth, score) in scores.iter().enumerate() {
                assert!((score / 10.1 - tenth as f32).abs() < 1.2, "{scores:?}");
            }
        }
    }

    #[test]
    fn rows_of_one_image_stay_together() {
        let doubled: Vec<Row> =
            rows(0..50).into_iter().flat_map(|row| [row.clone(), row]).collect();
        let (kept, held) = hold_out(doubled, 0.2, 1, "val");
        assert_eq!((kept.len(), held.len()), (80, 20));
        assert!(shared_images(&Listing::new(kept, held, Vec::new())).is_empty());
    }

    #[test]
    fn extreme_fractions_leave_something_to_train_on() {
        assert_eq!(hold_out(rows(0..10), 0.0, 1, "val").1.len(), 0);
        assert_eq!(hold_out(rows(0..10), 0.01, 1, "val").1.len(), 1);
        assert_eq!(hold_out(rows(0..10), 1.0, 1, "val").0.len(), 1);
        assert_eq!(hold_out(rows(0..1), 0.5, 1, "val").0.len(), 1);
    }

    fn overlapping() -> Listing {
        Listing::new(rows(0..10), rows(8..14), rows(12..20))
    }

    #[test]
    fn an_overlap_is_an_error_that_names_the_remedy() {
        let error = resolve_overlaps(&mut overlapping(), Overlap::Error).unwrap_err().to_string();
        for part in
            ["4 images", "0008 (train and val)", "0012 (val and test)", ", ...", "data.overlap"]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn dropping_gives_the_later_split_the_image() {
        let mut listing = overlapping();
        let removed = resolve_overlaps(&mut listing, Overlap::Drop).unwrap();
        assert_eq!(removed.len(), 4);
        assert_eq!(listing.rows(Split::Train).len(), 8);
        assert_eq!(listing.rows(Split::Val).len(), 4);
        assert_eq!(listing.rows(Split::Test).len(), 8);
        assert!(shared_images(&listing).is_empty());
    }

    #[test]
    fn allowing_keeps_every_row() {
        let mut listing = overlapping();
        assert!(resolve_overlaps(&mut listing, Overlap::Allow).unwrap().is_empty());
        assert_eq!(listing, overlapping());
    }
}
