//! Cross-validation folds from a seed: every image is in the test split of exactly one.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::holdout::hold_out;
use super::units;
use crate::config::Fold;
use crate::data::dataset::Split;
use crate::data::listing::{Listing, Row};
use crate::data::random_stream::RandomStream;

/// Assigns all rows of `listing`, of whatever split, to folds: `fold` is the test split, and
/// `val_fraction` of the others is held out for validation. Images of the same content and images
/// of one person, if the dataset names persons, stay in one split. The folds are stratified by
/// score and group, and depend on the seed alone.
pub(crate) fn assign_folds(
    mut listing: Listing,
    fold: Fold,
    val_fraction: f64,
    seed: u64,
) -> Result<Listing> {
    let notes = std::mem::take(&mut listing.notes);
    let rows = Split::ALL.into_iter().flat_map(|split| std::mem::take(listing.rows_mut(split)));
    let (mut rows, missing): (Vec<Row>, Vec<Row>) =
        rows.partition(|row| row.missing_reason().is_none());
    units::bind_with_copies(&mut rows);
    let fold_of = assign(&rows, fold.of, seed)?;
    let in_fold = |row: &mut Row| fold_of.get(&row.unit) == Some(&(fold.number - 1));
    let test = rows.extract_if(.., in_fold).collect();
    let (mut train, val) = hold_out(rows, val_fraction, seed, "val");
    // They are reported and skipped later, like every row without an image.
    train.extend(missing);
    Ok(Listing { notes, copies_united: true, ..Listing::new(train, val, test) })
}

/// Rows that must stay in one fold.
struct Unit<'a> {
    number: u32,
    /// The smallest key of its rows, which does not depend on the order of the list.
    name: &'a str,
    group: Option<&'a str>,
    score: f64,
    rows: usize,
}

/// Returns the fold, from 0, of each unit. Of the units sorted by group and score, each run of
/// `count` contributes one to every fold, the largest to the fold with the fewest rows.
fn assign(rows: &[Row], count: usize, seed: u64) -> Result<HashMap<u32, usize>> {
    let mut units: HashMap<u32, Unit> = HashMap::new();
    for row in rows {
        let unit = units.entry(row.unit).or_insert_with(|| Unit {
            number: row.unit,
            name: &row.key,
            group: row.group(),
            score: 0.0,
            rows: 0,
        });
        unit.name = unit.name.min(&row.key);
        unit.score += f64::from(row.score);
        unit.rows += 1;
    }
    ensure!(
        units.len() >= count,
        "data.split: {count} folds need at least {count} distinct images or persons; there are {}: \
         choose fewer folds",
        units.len()
    );
    let mut units: Vec<Unit> = units.into_values().collect();
    units.sort_by(|a, b| {
        let mean = |unit: &Unit| unit.score / unit.rows as f64;
        let by_score = a.group.cmp(&b.group).then_with(|| mean(a).total_cmp(&mean(b)));
        by_score.then_with(|| a.name.cmp(b.name))
    });
    let mut rng = RandomStream::new(seed, 0, 0, "folds");
    let mut sizes = vec![0; count];
    let mut fold_of = HashMap::new();
    for run in units.chunks_mut(count) {
        let mut folds: Vec<usize> = (0..count).collect();
        rng.shuffle(&mut folds);
        folds.sort_by_key(|&fold| sizes[fold]); // the shuffle breaks ties
        run.sort_by_key(|unit| std::cmp::Reverse(unit.rows));
        if run.iter().all(|unit| unit.rows == run[0].rows) {
            rng.shuffle(run);
        }
        for (unit, &fold) in run.iter().zip(&folds) {
            sizes[fold] += unit.rows;
            fold_of.insert(unit.number, fold);
        }
    }
    Ok(fold_of)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;

    use super::*;
    use crate::data::listing::RowImage;
    use crate::data::splits::test_rows::row;

    /// Rows of a third as many persons in two groups; scores in an order that is not the names'.
    fn listing(count: usize, persons: bool) -> Listing {
        let row = |index: usize| {
            let group = ["a", "b"][usize::from(index.is_multiple_of(4))];
            let row = row(&format!("{index:04}"), (index * 37 % 101) as f32);
            let mut row = row.with_group(Some(group));
            row.labels_mut().person = persons.then(|| format!("person {}", index / 3).into());
            row
        };
        let rows = |range: std::ops::Range<usize>| range.map(row).collect::<Vec<_>>();
        let (a, b) = (count * 7 / 10, count * 8 / 10);
        Listing::new(rows(0..a), rows(a..b), rows(b..count))
    }

    fn all_folds(listing: &Listing, of: usize, seed: u64) -> Vec<Listing> {
        (1..=of)
            .map(|number| assign_folds(listing.clone(), Fold { number, of }, 0.1, seed).unwrap())
            .collect()
    }

    fn names(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| &*row.id).collect()
    }

    #[test]
    fn every_image_is_tested_once_and_never_trained_on_in_that_fold() {
        for of in [2, 5, 7, 10] {
            let mut tested = Vec::new();
            let folds = all_folds(&listing(203, false), of, 1);
            for fold in &folds {
                let [train, val, test] = Split::ALL.map(|split| fold.rows(split));
                assert_eq!(train.len() + val.len() + test.len(), 203);
                assert!((203 / of..=203 / of + 1).contains(&test.len()));
                assert!(!val.is_empty());
                let sides: HashSet<&str> = names(train).into_iter().chain(names(val)).collect();
                assert!(names(test).iter().all(|name| !sides.contains(name)));
                tested.extend(names(test));
            }
            tested.sort_unstable();
            tested.dedup();
            assert_eq!(tested.len(), 203);
        }
    }

    #[test]
    fn folds_are_stratified_by_score_and_group() {
        let folds = all_folds(&listing(400, false), 5, 3);
        for fold in &folds {
            let test = fold.rows(Split::Test);
            let mean = test.iter().map(|row| row.score).sum::<f32>() / test.len() as f32;
            assert!((mean - 50.0).abs() < 2.0, "{mean}");
            let group = test.iter().filter(|row| row.group() == Some("b")).count();
            assert!((19..=21).contains(&group), "{group} of 100");
        }
    }

    #[test]
    fn a_person_is_in_one_split_only() {
        let folds = all_folds(&listing(300, true), 4, 9);
        for fold in &folds {
            let persons = Split::ALL.map(|split| {
                let rows = fold.rows(split).iter();
                rows.map(|row| row.person().map(str::to_string)).collect::<HashSet<_>>()
            });
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                assert!(persons[a].is_disjoint(&persons[b]));
            }
            assert!((72..=78).contains(&fold.rows(Split::Test).len()));
        }
    }

    #[test]
    fn images_of_the_same_content_are_in_one_split_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = listing(40, false);
        for split in Split::ALL {
            for row in all.rows_mut(split) {
                let number: usize = row.key.parse().unwrap();
                let path = folder.path().join(&*row.key);
                fs::write(&path, [number as u8 % 20]).unwrap();
                row.image = RowImage::File(path.into());
            }
        }
        for fold in all_folds(&all, 5, 2) {
            let test = fold.rows(Split::Test);
            assert_eq!(test.len(), 8);
            let contents: HashSet<usize> =
                test.iter().map(|row| row.key.parse::<usize>().unwrap() % 20).collect();
            assert_eq!(contents.len(), 4, "each content has two names");
        }
    }

    #[test]
    fn folds_depend_on_the_seed_and_not_on_the_order_of_the_list() {
        let tested = |listing: &Listing, seed| {
            let fold = assign_folds(listing.clone(), Fold { number: 2, of: 3 }, 0.1, seed).unwrap();
            let rows = fold.rows(Split::Test).iter();
            rows.map(|row| row.key.clone()).collect::<HashSet<_>>()
        };
        let plain = listing(60, false);
        let mut turned = plain.clone();
        Split::ALL.iter().for_each(|&split| turned.rows_mut(split).reverse());
        assert_eq!(tested(&plain, 1), tested(&turned, 1));
        assert_ne!(tested(&plain, 1), tested(&plain, 2));
    }

    #[test]
    fn more_folds_than_images_are_an_error() {
        let fold = Fold { number: 1, of: 5 };
        let error = assign_folds(listing(12, true), fold, 0.1, 1).unwrap_err().to_string();
        assert!(error.contains("there are 4"), "{error}");
    }
}
