//! Files of the same content under several names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::Hash;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;

use crate::data::listing::Row;
use crate::files::open_regular;

/// The last bytes of a file that are compared before the whole of it: images of one size mostly
/// differ there, and many begin alike.
const TAIL: u64 = 4096;

/// Finds files of the same content among those of `rows`, each file once. Returns the key of each
/// file that has a copy, with a number that is equal for copies. Only files of the same size are
/// opened, and only those with the same end are read completely. A file that cannot be read has no
/// copy; loading reports it.
pub(crate) fn copies<'a>(rows: &[&'a Row]) -> HashMap<&'a str, u32> {
    let files = rows.iter().filter_map(|row| {
        let path = row.path()?;
        Some(Candidate { key: &row.key, path, class: () })
    });
    let sized = refine(files.collect(), |path| {
        // Failed downloads are empty, and no copies of one image.
        fs::metadata(path).ok().map(|metadata| metadata.len()).filter(|&length| length > 0)
    });
    let tailed = refine(sized, |path| tail_hash(&mut open_regular(path).ok()?));
    let same = refine(tailed, |path| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(open_regular(path).ok()?).ok()?;
        Some(hasher.finalize())
    });
    let mut numbers = HashMap::new();
    same.into_iter()
        .map(|file| {
            let next = numbers.len() as u32;
            (file.key, *numbers.entry(file.class).or_insert(next))
        })
        .collect()
}

/// A file that may have a copy, among those of its class.
struct Candidate<'a, C> {
    key: &'a str,
    path: &'a Path,
    class: C,
}

/// Splits the classes of files by a property, and drops the files that are alone in their class.
fn refine<'a, C, P>(
    files: Vec<Candidate<'a, C>>,
    property: impl Fn(&Path) -> Option<P> + Sync,
) -> Vec<Candidate<'a, (C, P)>>
where
    C: Copy + Eq + Hash + Send,
    P: Copy + Eq + Hash + Send,
{
    let files: Vec<_> = files
        .into_par_iter()
        .filter_map(|Candidate { key, path, class }| {
            Some(Candidate { key, path, class: (class, property(path)?) })
        })
        .collect();
    let mut sizes: HashMap<(C, P), u32> = HashMap::new();
    files.iter().for_each(|file| *sizes.entry(file.class).or_default() += 1);
    files.into_iter().filter(|file| sizes[&file.class] > 1).collect()
}

fn tail_hash(file: &mut File) -> Option<blake3::Hash> {
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::with_capacity(TAIL as usize);
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    Some(blake3::hash(&tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::splits::test_rows::row;

    #[test]
    fn only_files_of_equal_content_are_copies() {
        let folder = tempfile::tempdir().unwrap();
        let long = |first: u8, last: u8| [vec![first], vec![7; 9000], vec![last]].concat();
        for (name, content) in [
            ("a", long(1, 1)),
            ("b", long(2, 1)),
            ("c", long(1, 2)),
            ("d", long(2, 1)),
            ("e", vec![7; 9000]),
            ("f", vec![]),
            ("i", vec![]),
            ("g", long(1, 1)),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        fs::hard_link(folder.path().join("a"), folder.path().join("h")).unwrap();
        let rows: Vec<Row> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "gone"]
            .map(|name| Row { key: name.into(), ..Row::file(name, &folder.path().join(name), 1.0) })
            .into();
        let found = copies(&rows.iter().collect::<Vec<_>>());
        let mut keys: Vec<&str> = found.keys().copied().collect();
        keys.sort_unstable();
        assert_eq!(keys, ["a", "b", "d", "g", "h"]);
        assert!(found["a"] == found["g"] && found["a"] == found["h"] && found["b"] == found["d"]);
        assert_ne!(found["a"], found["b"]);
        assert!(copies(&[&row("nowhere", 1.0)]).is_empty());
    }
}
