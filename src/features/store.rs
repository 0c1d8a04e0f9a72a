//! A folder of rows, which several processes share, or the memory where there is none.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::shard::{Key, Shard};
use crate::files::{open_in_place, remove_leftovers};

/// Rows are written when they have this many bytes, or this much time has gone by since the last:
/// what a stopped run has computed is not lost.
const SHARD_BYTES: usize = 256 << 20;
const SHARD_TIME: Duration = Duration::from_secs(120);
/// The capacity of the memory that takes the place of a folder.
const MEMORY_LIMIT: usize = 4 << 30;

/// The rows of one encoder by key.
#[derive(Debug)]
pub(super) struct Store {
    /// `None` if rows are kept in memory only.
    folder: Option<PathBuf>,
    /// Bytes of a row.
    row: usize,
    shards: Vec<Shard>,
    seen: HashSet<PathBuf>,
    places: HashMap<Key, Place>,
    memory: Vec<u8>,
    unwritten: (Vec<Key>, Vec<u8>),
    written: Instant,
    /// Why rows could not be written.
    problem: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// The index of the shard, and that of the row in it.
    Shard(usize, usize),
    /// The index of the row.
    Memory(usize),
}

/// The right to add to a folder, held by one process at a time.
pub(super) struct Claim(#[expect(dead_code)] Option<File>);

impl Store {
    /// Opens a folder, which is created if it is missing. Where that fails, rows are kept in
    /// memory.
    pub(super) fn open(folder: Option<PathBuf>, row: usize) -> Self {
        let mut store = Self {
            folder: None,
            row,
            shards: Vec::new(),
            seen: HashSet::new(),
            places: HashMap::new(),
            memory: Vec::new(),
            unwritten: Default::default(),
            written: Instant::now(),
            problem: None,
        };
        let created = |folder: PathBuf| match fs::create_dir_all(&folder) {
            Ok(()) => Ok(folder),
            Err(error) => Err(format!("cannot create the folder {}: {error}", folder.display())),
        };
        match folder.map(created) {
            Some(Ok(folder)) => store.folder = Some(folder),
            Some(Err(problem)) => store.problem = Some(problem),
            None => {}
        }
        store.refresh();
        store
    }

    /// Opens the files that other processes have added.
    pub(super) fn refresh(&mut self) {
        let Some(folder) = &self.folder else { return };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.retain(|file| Shard::is_named(file) && !self.seen.contains(file));
        files.sort();
        for file in files {
            if let Some(shard) = Shard::open(&file, self.row) {
                self.register(shard);
            }
            self.seen.insert(file);
        }
    }

    fn register(&mut self, shard: Shard) {
        for (row, &key) in shard.keys().iter().enumerate() {
            self.places.entry(key).or_insert(Place::Shard(self.shards.len(), row));
        }
        self.shards.push(shard);
    }

    /// Bytes of a row.
    pub(super) fn row(&self) -> usize {
        self.row
    }

    /// Returns whether there is a row with this key.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    /// Why rows could not be written, if so.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Claims the folder, whose rows are then complete; `None` if another process has claimed it.
    /// On a file system without locks every process may add.
    pub(super) fn claim(&mut self) -> Option<Claim> {
        let Some(folder) = &self.folder else {
            return Some(Claim(None));
        };
        let lock = open_in_place(&folder.join("lock")).ok();
        match lock.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => return None,
            Some(Ok(())) => remove_leftovers(folder),
            _ => {}
        }
        self.refresh();
        Some(Claim(lock))
    }

    /// Adds rows. Returns an error if they can neither be written nor kept in memory.
    pub(super) fn add(&mut self, keys: &[Key], rows: &[u8]) -> Result<()> {
        self.unwritten.0.extend_from_slice(keys);
        self.unwritten.1.extend_from_slice(rows);
        let due = self.unwritten.1.len() >= SHARD_BYTES || self.written.elapsed() >= SHARD_TIME;
        if due { self.flush() } else { Ok(()) }
    }

    /// Writes the added rows. Returns an error as [`add`](Self::add) does.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.written = Instant::now();
        let (keys, rows) = std::mem::take(&mut self.unwritten);
        if keys.is_empty() {
            return Ok(());
        }
        if let Some(folder) = &self.folder {
            match Shard::write(folder, self.row, &keys, &rows) {
                Ok(shard) => {
                    self.seen.insert(shard.path().to_path_buf());
                    self.register(shard);
                    return Ok(());
                }
                Err(error) => self.problem = Some(format!("{error:#}")),
            }
            self.folder = None;
        }
        ensure!(
            self.memory.len() + rows.len() <= MEMORY_LIMIT,
            "the features of frozen backbones are larger than {} GiB and cannot be kept on disk{}: \
             set data.cache_dir to a folder with more space, or train.freeze.cache to false",
            MEMORY_LIMIT >> 30,
            self.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default()
        );
        let first = self.memory.len() / self.row.max(1);
        self.memory.extend(rows);
        let places = keys.into_iter().enumerate();
        self.places.extend(places.map(|(index, key)| (key, Place::Memory(first + index))));
        Ok(())
    }

    /// Reads the row with this key into `out`.
    pub(super) fn read(&self, key: &Key, out: &mut [u8]) -> Result<()> {
        match self.places.get(key).context("internal: a row was not computed")? {
            &Place::Shard(shard, row) => self.shards[shard].read(row, out),
            Place::Memory(row) => {
                let start = row * self.row;
                out.copy_from_slice(&self.memory[start..start + self.row]);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(store: &Store, key: u8) -> [u8; 4] {
        let mut out = [0; 4];
        store.read(&[key; 32], &mut out).unwrap();
        out
    }

    #[test]
    fn one_process_at_a_time_adds_rows_and_the_next_one_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = || Some(dir.path().join("features"));
        let (mut first, mut second) = (Store::open(folder(), 4), Store::open(folder(), 4));
        let claim = first.claim().unwrap();
        assert!(second.claim().is_none());
        first.add(&[[1; 32], [2; 32]], &[1, 1, 1, 1, 2, 2, 2, 2]).unwrap();
        first.flush().unwrap();
        drop(claim);
        assert!(!second.has(&[2; 32]));
        let _claim = second.claim().unwrap();
        assert_eq!([read(&second, 1), read(&second, 2)], [[1; 4], [2; 4]]);
        assert!(!second.has(&[3; 32]));
    }

    #[test]
    fn damaged_and_foreign_files_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(Some(dir.path().to_path_buf()), 4);
        store.add(&[[1; 32]], &[9; 4]).unwrap();
        store.flush().unwrap();
        let shard = store.shards[0].path().to_path_buf();
        fs::write(dir.path().join("foreign.rows"), "mine").unwrap();
        fs::create_dir(dir.path().join("folder.rows")).unwrap();
        let bytes = fs::read(&shard).unwrap();
        fs::write(&shard, &bytes[..bytes.len() - 3]).unwrap();
        let mut again = Store::open(Some(dir.path().to_path_buf()), 4);
        assert!(!again.has(&[1; 32]));
        again.add(&[[1; 32]], &[9; 4]).unwrap();
        again.flush().unwrap();
        assert_eq!(fs::read(&shard).unwrap(), bytes);
        assert!(Store::open(Some(dir.path().to_path_buf()), 4).has(&[1; 32]));
        assert_eq!(fs::read(dir.path().join("foreign.rows")).unwrap(), b"mine");
    }

    #[test]
    fn without_a_folder_rows_are_kept_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for folder in [None, Some(file.join("features"))] {
            let expected = folder.is_some();
            let mut store = Store::open(folder, 4);
            assert_eq!(store.problem().is_some(), expected);
            assert!(store.claim().is_some());
            for key in 1..4 {
                store.add(&[[key; 32]], &[key; 4]).unwrap();
                store.flush().unwrap();
            }
            assert_eq!([read(&store, 3), read(&store, 1)], [[3; 4], [1; 4]]);
        }
    }
}
