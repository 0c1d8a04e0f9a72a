//! The format of torch.save before PyTorch 1.6, which torch.load still reads: five pickles (a magic
//! number, a version, the machine, the checkpoint, and the keys of its storages), and the values of
//! each storage behind their number.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::pickle::Pickle;
use super::torch_file::{Place, tensors};
use super::torch_zip::MAX_PICKLE;
use super::{StateDict, WeightsFile, printable_start};

/// The first pickle without its two bytes of protocol: LONG1 of 10 bytes, and STOP.
const MAGIC: &[u8] = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

/// Returns whether a file that begins with these bytes has the format.
pub(super) fn begins(start: &[u8]) -> bool {
    start.first() == Some(&0x80) && start.get(2..).is_some_and(|rest| rest.starts_with(MAGIC))
}

/// Opens a file, reads the pickles, and finds every tensor of the state dict in the file.
pub(super) fn open(mut file: File, wanted: StateDict) -> Result<WeightsFile> {
    let length = file.metadata()?.len();
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(MAX_PICKLE).read_to_end(&mut start)?;
    let mut rest = &start[2 + MAGIC.len()..];
    for _ in ["version", "machine"] {
        Pickle::read(&mut rest)?;
    }
    let pickle = Pickle::read(&mut rest)?;
    let keys = Pickle::read(&mut rest)?;
    let keys = keys.strings().context("its list of storages is damaged")?;
    let values = (start.len() - rest.len()) as u64;
    let places = places(&mut file, length, values, &pickle, &keys)?;
    let (tensors, note) = tensors(&pickle, wanted, |storage| {
        let place = places.get(&storage.key);
        place
            .copied()
            .with_context(|| format!("it has no storage {}", printable_start(&storage.key)))
    })?;
    let (archive, metadata) = (None, HashMap::new());
    Ok(WeightsFile { file, archive, tensors, big_endian: false, metadata, note })
}

/// Returns where the values of each storage are; the first one begins at `at`.
fn places(
    file: &mut File,
    length: u64,
    mut at: u64,
    pickle: &Pickle,
    keys: &[&Arc<str>],
) -> Result<HashMap<Arc<str>, Place>> {
    let kinds: HashMap<&Arc<str>, _> =
        pickle.storages().map(|storage| (&storage.key, storage.kind)).collect();
    let mut places = HashMap::new();
    for &key in keys {
        let kind = kinds.get(key).context("its list of storages is damaged")?;
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut count).context("it is cut short")?;
        let bytes = u64::from_le_bytes(count).checked_mul(kind.elt_size_in_bytes() as u64);
        let start = at + count.len() as u64;
        let bytes = bytes
            .filter(|bytes| *bytes <= length.saturating_sub(start))
            .context("it is cut short")?;
        places.insert(key.clone(), Place { start, length: bytes, entry: None });
        at = start + bytes;
    }
    Ok(places)
}
