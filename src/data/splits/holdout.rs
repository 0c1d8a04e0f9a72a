//! Holding out validation and test rows by a seed.

use std::collections::HashSet;

use super::units;
use crate::config::DataConfig;
use crate::data::listing::{Listing, Row};
use crate::data::random_stream::RandomStream;

/// Moves `fraction` of the images out of `rows`: returns those that stay and those that were held
/// out, each in their order. The choice depends on the seed and `purpose` alone, and is stratified:
/// sorted by score, each run of 1/`fraction` images contributes one. Rows of one unit (an image, or
/// a person) stay together: [`units`] has bound them.
pub(crate) fn hold_out(
    mut rows: Vec<Row>,
    fraction: f64,
    seed: u64,
    purpose: &str,
) -> (Vec<Row>, Vec<Row>) {
    let mut images: Vec<&Row> = rows.iter().collect();
    // Ties are broken by name, and the lowest row represents its unit, so that the order of the
    // list does not matter.
    images.sort_by(|a, b| a.score.total_cmp(&b.score).then_with(|| a.id.cmp(&b.id)));
    let mut seen = HashSet::new();
    images.retain(|row| seen.insert(row.unit));
    let total = images.len();
    if fraction <= 0.0 || total < 2 {
        return (rows, Vec::new());
    }
    let held = ((total as f64 * fraction).round() as usize).clamp(1, total - 1);
    let mut rng = RandomStream::new(seed, 0, 0, purpose);
    let units: HashSet<u32> = (0..held)
        .map(|stratum| {
            let (start, end) = (stratum * total / held, (stratum + 1) * total / held);
            images[start + rng.below(end - start)].unit
        })
        .collect();
    let held = rows.extract_if(.., |row| units.contains(&row.unit)).collect();
    // A list may have a million rows.
    rows.shrink_to_fit();
    (rows, held)
}

/// Completes the splits of a dataset: without `has_splits`, all rows are in train, and test and
/// validation rows are held out by the seed; with it, validation rows are held out if there are
/// none. Rows of one image, one content or one person stay together, but for rows whose split the
/// dataset states.
pub(crate) fn complete_splits(
    splits: [Vec<Row>; 3],
    has_splits: bool,
    config: &DataConfig,
    seed: u64,
) -> Listing {
    let [mut train, mut val, mut test] = splits;
    if has_splits && !val.is_empty() {
        return Listing::new(train, val, test);
    }
    units::bind(&mut train);
    let mut val_fraction = config.val_fraction;
    if !has_splits {
        (train, test) = hold_out(train, config.test_fraction, seed, "test");
        // The fraction is of all rows, and the test rows are gone already.
        val_fraction /= 1.0 - config.test_fraction;
    }
    (train, val) = hold_out(train, val_fraction, seed, "val");
    let mut splits = [train, val, test];
    units::unite_copies(if has_splits { &mut splits[..2] } else { &mut splits });
    Listing { copies_united: !has_splits, rows: splits, notes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::data::Split;
    use crate::data::listing::RowImage;
    use crate::data::splits::leakage::{copies_warning, leaked_images};
    use crate::data::splits::test_rows::rows;

    fn ids(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| &*row.id).collect()
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
            let mut scores: Vec<f32> = held.iter().map(|row| row.score).collect();
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
        let mut doubled: Vec<Row> =
            rows(0..50).into_iter().flat_map(|row| [row.clone(), row]).collect();
        units::bind(&mut doubled);
        let (kept, held) = hold_out(doubled, 0.2, 1, "val");
        assert_eq!((kept.len(), held.len()), (80, 20));
        assert!(leaked_images(&Listing::new(kept, held, Vec::new())).is_empty());
    }

    #[test]
    fn rows_of_units_are_held_out_whatever_their_order() {
        let held = |reverse: bool| {
            let mut rows = rows(0..90);
            for row in &mut rows {
                let number: u32 = row.id.parse().unwrap();
                row.labels_mut().person = Some((number % 30).to_string().into());
            }
            if reverse {
                rows.reverse();
            }
            units::bind(&mut rows);
            let held = hold_out(rows, 0.2, 1, "val").1;
            held.iter().map(|row| row.id.to_string()).collect::<BTreeSet<_>>()
        };
        assert_eq!(held(false).len(), 18);
        assert_eq!(held(false), held(true));
    }

    #[test]
    fn the_held_out_images_are_the_same_where_the_training_files_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let row = |row: Row| {
            let number: u32 = row.id.parse().unwrap();
            let path = folder.path().join(&*row.id);
            // The last 40 are copies of others.
            fs::write(&path, if number < 80 { number } else { number * 7 % 80 }.to_le_bytes())
                .unwrap();
            Row { image: RowImage::File(path.into()), ..row }
        };
        let rows: Vec<Row> = rows(0..120).into_iter().map(row).collect();
        let draw = |has_splits: bool| {
            let splits = [rows.clone(), Vec::new(), Vec::new()];
            complete_splits(splits, has_splits, &DataConfig::default(), 1)
        };
        let all = draw(false);
        assert!(copies_warning(&Listing { copies_united: false, ..all.clone() }).is_none());
        for row in all.rows(Split::Train) {
            fs::remove_file(row.path().unwrap()).unwrap();
        }
        let without_train = draw(false);
        fs::remove_dir_all(folder.path()).unwrap();
        let without_files = draw(false);
        for split in [Split::Val, Split::Test] {
            assert_eq!(ids(all.rows(split)), ids(without_train.rows(split)));
            assert_eq!(without_files.rows(split).len(), 12);
        }
        assert!(all.rows(Split::Test).len() > 12, "copies joined those that were drawn");
        let trained = ids(all.rows(Split::Train));
        assert!(without_files.rows(Split::Test).iter().all(|row| !trained.contains(&&*row.id)));
    }

    #[test]
    fn extreme_fractions_leave_training_rows() {
        assert_eq!(hold_out(rows(0..10), 0.0, 1, "val").1.len(), 0);
        assert_eq!(hold_out(rows(0..10), 0.01, 1, "val").1.len(), 1);
        assert_eq!(hold_out(rows(0..10), 1.0, 1, "val").0.len(), 1);
        assert_eq!(hold_out(rows(0..1), 0.5, 1, "val").0.len(), 1);
    }
}
