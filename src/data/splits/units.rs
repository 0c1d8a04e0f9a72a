//! Units of rows that must stay in one split.

use std::collections::HashMap;

use super::contents;
use crate::data::listing::{Row, first_by_key, repeated};

/// Assigns the same [`Row::unit`] to rows of one image file, of files of the same content, and,
/// if the dataset names persons, of the same person.
pub(crate) fn bind(rows: &mut [Row]) {
    let copies = contents::copies(&first_by_key(rows.iter()));
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
    drop((copies, keys, by_key, by_person));
    for (index, row) in rows.iter_mut().enumerate() {
        row.unit = sets.root(index) as u32;
    }
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
        bind(&mut rows[..6]);
        let units = |rows: &[Row]| rows.iter().map(|row| row.unit).collect::<Vec<_>>();
        assert_eq!(units(&rows[..6]), [0, 1, 0, 1, 4, 0]);
        bind(&mut rows);
        assert_eq!(units(&rows), [0, 0, 0, 0, 4, 0, 0, 7]);
    }
}
