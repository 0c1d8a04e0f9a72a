//! Units of rows that must stay in one split.

use std::collections::HashMap;

use super::contents;
use crate::data::listing::{Row, first_by_key, repeated};

/// Assigns the same [`Row::unit`] to rows of one image file and, if the dataset names persons, of
/// the same person. No file is opened.
pub(crate) fn bind(rows: &mut [Row]) {
    let units = units(rows, &HashMap::new());
    rows.iter_mut().zip(units).for_each(|(row, unit)| row.unit = unit);
}

/// Binds rows as [`bind`] does, and also those of files of the same content.
pub(crate) fn bind_with_copies(rows: &mut [Row]) {
    let units = units(rows, &contents::copies(&first_by_key(rows.iter())));
    rows.iter_mut().zip(units).for_each(|(row, unit)| row.unit = unit);
}

/// Moves copies of one image, with all rows of their units, into one of the splits, if a draw by
/// units has divided them: into the one with most of these rows, of equals into the last, so that
/// both of a pair are held out.
///
/// The draw itself looks into no file. So it is the same where files are missing, and what was held
/// out with the copies of all files is not trained on.
pub(crate) fn unite_copies(splits: &mut [Vec<Row>]) {
    if splits.iter().skip(1).all(Vec::is_empty) {
        return;
    }
    let copies = contents::copies(&first_by_key(splits.iter().flatten()));
    let last = splits.iter().flatten().map(|row| row.unit as usize).max();
    let mut sets = DisjointSets::new(last.map_or(0, |last| last + 1));
    let mut by_content: HashMap<u32, usize> = HashMap::new();
    for row in splits.iter().flatten() {
        if let Some(&content) = copies.get(&*row.key) {
            let unit = row.unit as usize;
            sets.join(unit, *by_content.entry(content).or_insert(unit));
        }
    }
    let roots = by_content.into_values().map(|unit| sets.root(unit));
    let mut counts: HashMap<usize, [usize; 3]> = roots.map(|root| (root, [0; 3])).collect();
    for (split, row) in
        splits.iter().enumerate().flat_map(|(i, rows)| rows.iter().map(move |r| (i, r)))
    {
        if let Some(counts) = counts.get_mut(&sets.root(row.unit as usize)) {
            counts[split] += 1;
        }
    }
    let mut home = |row: &Row| {
        let counts = counts.get(&sets.root(row.unit as usize))?;
        (0..counts.len()).max_by_key(|&split| counts[split])
    };
    for split in 0..splits.len() {
        let strays = splits[split].extract_if(.., |row| home(row).is_some_and(|at| at != split));
        for row in strays.collect::<Vec<_>>() {
            splits[home(&row).unwrap_or(split)].push(row);
        }
    }
}

/// Returns the unit of each row: the index of the first row of those that stay together. `copies`
/// holds an equal number for the keys of copies.
fn units(rows: &[Row], copies: &HashMap<&str, u32>) -> Vec<u32> {
    let keys = repeated(rows.iter().map(|row| &*row.key));
    let mut sets = DisjointSets::new(rows.len());
    let mut by_key: HashMap<&str, usize> = HashMap::new();
    let mut by_person: HashMap<&str, usize> = HashMap::new();
    let mut by_content: HashMap<u32, usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        if let Some(&key) = keys.get(&*row.key) {
            sets.join(index, *by_key.entry(key).or_insert(index));
        }
        if let Some(person) = row.person() {
            sets.join(index, *by_person.entry(person).or_insert(index));
        }
        if let Some(&content) = copies.get(&*row.key) {
            sets.join(index, *by_content.entry(content).or_insert(index));
        }
    }
    (0..rows.len()).map(|index| sets.root(index) as u32).collect()
}

/// Disjoint sets (union-find) with path halving.
struct DisjointSets(Vec<u32>);

impl DisjointSets {
    fn new(count: usize) -> Self {
        Self((0..count as u32).collect())
    }

    fn root(&mut self, mut item: usize) -> usize {
        while self.0[item] as usize != item {
            self.0[item] = self.0[self.0[item] as usize];
            item = self.0[item] as usize;
        }
        item
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b) as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::listing::RowImage;

    #[test]
    fn persons_and_contents_bind_rows_through_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let row = |key: &str, person: &str, content: &str| {
            let path = folder.path().join(key);
            fs::write(&path, content).unwrap();
            let mut row = Row::new(key, RowImage::File(path.into()), key.into(), 0.0);
            row.labels_mut().person = Some(person).filter(|name| !name.is_empty()).map(Into::into);
            row
        };
        let mut rows = [
            row("c", "anna", "1"),
            row("b", "", "2"),
            row("a", "anna", "3"),
            row("e", "ben", "2"),
            row("d", "", "4"),
            row("c", "", "1"),
            row("f", "ben", "3"),
            row("g", "", "5"),
        ];
        bind_with_copies(&mut rows[..6]);
        let units = |rows: &[Row]| rows.iter().map(|row| row.unit).collect::<Vec<_>>();
        assert_eq!(units(&rows[..6]), [0, 1, 0, 1, 4, 0]);
        bind_with_copies(&mut rows);
        assert_eq!(units(&rows), [0, 0, 0, 0, 4, 0, 0, 7]);
        bind(&mut rows);
        assert_eq!(units(&rows), [0, 1, 0, 3, 4, 0, 3, 7]);
    }

    #[test]
    fn divided_copies_join_the_split_with_most_of_their_rows_of_equals_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let row = |key: &str, unit: u32| {
            let path = folder.path().join(key);
            fs::write(&path, &key[..1]).unwrap();
            Row { unit, ..Row::new(key, RowImage::File(path.into()), key.into(), 0.0) }
        };
        let mut splits = [
            vec![row("a1", 0), row("b1", 1), row("b2", 2), row("c1", 3), row("d1", 3), row("e", 4)],
            vec![row("c2", 5), row("f1", 6)],
            vec![row("a2", 7), row("b3", 8), row("f2", 9), row("g1", 10), row("g2", 10)],
        ];
        unite_copies(&mut splits);
        let keys =
            splits.map(|rows| rows.iter().map(|row| row.key.to_string()).collect::<Vec<_>>());
        assert_eq!(keys[0], ["b1", "b2", "c1", "d1", "e", "c2", "b3"]);
        assert_eq!(keys[1], [""; 0]);
        assert_eq!(keys[2], ["a2", "f2", "g1", "g2", "a1", "f1"]);
    }
}
