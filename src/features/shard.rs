//! A file of rows: fixed numbers of bytes, each under a key.
//!
//! Magic number, bytes of a row and number of rows (8 bytes each), the keys, the rows, and the
//! BLAKE3 hash of all before it.

use std::fs::File;
use std::io::Read;
#[cfg(unix)]
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::{open_regular, write_atomic};

/// The first bytes of a file; the digit is the version of its format.
const MAGIC: [u8; 8] = *b"vmbrows1";
const HEADER: u64 = 24;
const HASH: u64 = 32;
/// The suffix of the files' names.
const SUFFIX: &str = "rows";

/// The name of a row: a BLAKE3 hash.
pub(super) type Key = [u8; HASH as usize];

/// A complete file of rows.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    keys: Vec<Key>,
    row: usize,
}

impl Shard {
    /// Returns whether a file may be one, by its name.
    pub(super) fn is_named(path: &Path) -> bool {
        path.extension().is_some_and(|ending| ending == SUFFIX)
    }

    /// Opens a file of rows of `row` bytes; `None` if it is another one, incomplete or damaged.
    pub(super) fn open(path: &Path, row: usize) -> Option<Self> {
        let mut file = open_regular(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut header = [0; HEADER as usize];
        file.read_exact(&mut header).ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(header[at..at + 8].try_into().ok()?));
        let count = number(16)?;
        let content = count.checked_mul(HASH + row as u64)?.checked_add(HEADER)?;
        let fits = header[..8] == MAGIC && number(8)? == row as u64;
        if !fits || content.checked_add(HASH)? != length {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        let mut keys = Vec::new();
        for _ in 0..count {
            let mut key = Key::default();
            file.read_exact(&mut key).ok()?;
            hasher.update(&key);
            keys.push(key);
        }
        hasher.update_reader((&file).take(count * row as u64)).ok()?;
        let mut hash = Key::default();
        file.read_exact(&mut hash).ok()?;
        (hasher.finalize() == hash).then(|| Self { path: path.to_path_buf(), file, keys, row })
    }

    /// Writes rows to a file in `folder`, named by its hash, and opens it.
    pub(super) fn write(folder: &Path, row: usize, keys: &[Key], rows: &[u8]) -> Result<Self> {
        let sizes = [row as u64, keys.len() as u64].map(u64::to_le_bytes);
        let content = || [&MAGIC[..], &sizes[0], &sizes[1], keys.as_flattened(), rows];
        let mut hasher = blake3::Hasher::new();
        content().into_iter().for_each(|bytes| _ = hasher.update(bytes));
        let hash = hasher.finalize();
        let path = folder.join(&hash.to_hex()[..32]).with_extension(SUFFIX);
        write_atomic(&path, |file| {
            content().into_iter().try_for_each(|bytes| file.write_all(bytes))?;
            Ok(file.write_all(hash.as_bytes())?)
        })?;
        let changed = || format!("{} was changed while it was written", path.display());
        Self::open(&path, row).with_context(changed)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of the rows.
    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Reads a row into `out`.
    pub(super) fn read(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let start = HEADER + HASH * self.keys.len() as u64 + (index * self.row) as u64;
        #[cfg(unix)]
        let read = self.file.read_exact_at(out, start);
        #[cfg(not(unix))]
        let read = read_exact_at(&self.file, out, start);
        read.with_context(|| format!("cannot read {}", self.path.display()))
    }
}

#[cfg(not(unix))]
fn read_exact_at(file: &File, mut out: &mut [u8], mut start: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, out, start)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let rest = out;
        out = &mut rest[count..];
        start += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn rows_read_back_and_a_file_with_any_change_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, rows) = ([[1; 32], [2; 32], [3; 32]], [[5u8; 8], [6; 8], [7; 8]].concat());
        let shard = Shard::write(dir.path(), 8, &keys, &rows).unwrap();
        let mut out = [0; 8];
        shard.read(1, &mut out).unwrap();
        assert_eq!((out, shard.keys()), ([6; 8], &keys[..]));
        assert!(Shard::open(&shard.path, 16).is_none());
        let complete = fs::read(&shard.path).unwrap();
        for at in 0..complete.len() {
            let mut bytes = complete.clone();
            bytes[at] ^= 1;
            fs::write(&shard.path, bytes).unwrap();
            assert!(Shard::open(&shard.path, 8).is_none(), "byte {at}");
        }
        for end in [0, 8, 24, complete.len() - 1] {
            fs::write(&shard.path, &complete[..end]).unwrap();
            assert!(Shard::open(&shard.path, 8).is_none(), "{end} bytes");
        }
        fs::write(&shard.path, complete).unwrap();
        assert!(Shard::open(&shard.path, 8).is_some());
    }
}
