//! Units of rows that must stay in one split.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::data::dataset::Source;
use crate::data::image::decode;
use crate::data::listing::Row;

/// Assigns the same [`Row::unit`] to rows of the same image file or, if the dataset names persons,
/// the same person.
pub(crate) fn bind(rows: &mut [Row]) {
    bind_all(rows, &vec![None; rows.len()]);
}

/// Binds rows as [`bind`] does, and also those whose files have the same content: every file is
/// read. A file that cannot be read binds nothing; loading reports it.
pub(crate) fn bind_with_contents(rows: &mut [Row]) {
    let contents: Vec<Option<blake3::Hash>> = rows
        .par_iter()
        .map(|row| match &row.sample.source {
            Source::File(path) if row.missing.is_none() => {
                Some(blake3::hash(&decode::read_file(path).ok()?))
            }
            _ => None,
        })
        .collect();
    bind_all(rows, &contents);
}

fn bind_all(rows: &mut [Row], contents: &[Option<blake3::Hash>]) {
    let mut sets = DisjointSets::new(rows.len());
    let mut by_key: HashMap<&str, usize> = HashMap::new();
    let mut by_person: HashMap<&str, usize> = HashMap::new();
    let mut by_content: HashMap<blake3::Hash, usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        sets.join(index, *by_key.entry(&row.key).or_insert(index));
        if let Some(person) = &row.person {
            sets.join(index, *by_person.entry(person).or_insert(index));
        }
        if let Some(content) = contents[index] {
            sets.join(index, *by_content.entry(content).or_insert(index));
        }
    }
    // The smallest key, so that the unit's name does not depend on the order of the list.
    let mut names: HashMap<usize, String> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let name = names.entry(sets.root(index)).or_insert_with(|| row.key.clone());
        if row.key < *name {
            *name = row.key.clone();
        }
    }
    for (index, row) in rows.iter_mut().enumerate() {
        if let Some(name) = names.get(&sets.root(index)) {
            row.unit = name.clone();
        }
    }
}

/// Disjoint sets (union-find) with path halving.
struct DisjointSets(Vec<usize>);

impl DisjointSets {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&mut self, mut item: usize) -> usize {
        while self.0[item] != item {
            self.0[item] = self.0[self.0[item]];
            item = self.0[item];
        }
        item
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sample;

    fn row(key: &str, person: Option<&str>) -> Row {
        let sample = Sample::new(key, Source::File(key.into()), 0.0, None);
        Row {
            sample,
            missing: None,
            key: key.to_string(),
            person: person.map(str::to_string),
            unit: key.to_string(),
        }
    }

    #[test]
    fn persons_and_contents_bind_rows_through_each_other() {
        let (anna, ben) = (Some("anna"), Some("ben"));
        let mut rows = [
            row("c", anna),
            row("b", None),
            row("a", anna),
            row("e", ben),
            row("d", None),
            row("c", None),
        ];
        bind(&mut rows);
        let units = |rows: &[Row]| rows.iter().map(|row| row.unit.clone()).collect::<Vec<_>>();
        assert_eq!(units(&rows), ["a", "b", "a", "e", "d", "a"]);
        let content = |byte: u8| Some(blake3::hash(&[byte]));
        let contents = [content(1), content(2), content(3), content(2), None, None];
        bind_all(&mut rows, &contents);
        assert_eq!(units(&rows), ["a", "b", "a", "b", "d", "a"]);
    }

    #[test]
    fn units_do_not_depend_on_the_order_of_the_list() {
        let mut rows = [row("b", Some("x")), row("a", Some("x")), row("c", None)];
        bind(&mut rows);
        let forward: Vec<(String, String)> =
            rows.iter().map(|r| (r.key.clone(), r.unit.clone())).collect();
        rows.reverse();
        bind(&mut rows);
        rows.reverse();
        let again: Vec<(String, String)> =
            rows.iter().map(|r| (r.key.clone(), r.unit.clone())).collect();
        assert_eq!(forward, again);
    }
}
