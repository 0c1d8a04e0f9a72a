//! The zip file around a checkpoint of torch.save.
//!
//! torch.save stores the values uncompressed, so a tensor is read directly from its offset in the
//! file. Another program may have packed the file again and compressed it: torch.load reads that,
//! and so does this.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};

use anyhow::{Context, Result, bail, ensure};
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipResult;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::Pickle;
use super::torch_file::{Place, tensors};
use super::{Archive, StateDict, WeightsFile, printable_start};

/// Longer than any pickle of a ViT's or Vim's training checkpoint, which has less than a megabyte.
pub(super) const MAX_PICKLE: u64 = 16 << 20;

/// Opens a file, reads the pickle, and finds every tensor of the state dict in the file.
pub(super) fn open(file: File, wanted: StateDict) -> Result<WeightsFile> {
    let mut entries = Entries::open(file.try_clone()?)?;
    let pickle = entries.read("data.pkl", MAX_PICKLE)?;
    let pickle = Pickle::read(&mut &pickle[..])?;
    let big_endian = entries.is_big_endian()?;
    let mut found = HashMap::new();
    let (tensors, note) = tensors(&pickle, wanted, |storage| {
        if let Some(place) = found.get(&storage.key) {
            return Ok(*place);
        }
        let place = entries.place(&format!("data/{}", storage.key))?;
        found.insert(storage.key.clone(), place);
        Ok(place)
    })?;
    let archive = Some(entries.archive);
    Ok(WeightsFile { file, archive, tensors, big_endian, metadata: HashMap::new(), note })
}

struct Entries {
    archive: Archive,
    /// Index of each entry, by its name below the archive's one folder.
    indices: HashMap<String, usize>,
    length: u64,
}

impl Entries {
    fn open(file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        let archive = open_archive(file)
            .map_err(|error| anyhow::anyhow!("it is a damaged zip file, or cut short: {error}"))?;
        let names: Vec<Option<String>> = (0..archive.len())
            .map(|index| Some(archive.name_for_index(index)?.ok()?.into_owned()))
            .collect();
        let folder =
            names.iter().flatten().find_map(|name| name.strip_suffix("data.pkl")).context(
                "it is a zip file, but not one that torch.save wrote: it has no data.pkl",
            )?;
        let indices: HashMap<String, usize> = names
            .iter()
            .enumerate()
            .filter_map(|(index, name)| {
                let name = name.as_ref()?.strip_prefix(folder)?;
                Some((name.to_string(), index))
            })
            .collect();
        ensure!(
            !indices.contains_key("constants.pkl"),
            "it is a TorchScript program: save its state_dict() with torch.save instead"
        );
        Ok(Self { archive, indices, length })
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.indices
            .get(name)
            .copied()
            .with_context(|| format!("it has no {}", printable_start(name)))
    }

    /// Returns where an entry's values are.
    fn place(&mut self, name: &str) -> Result<Place> {
        let (index, name) = (self.index(name)?, printable_start(name));
        let entry = self
            .archive
            .by_index_raw(index)
            .map_err(|error| anyhow::anyhow!("its entry {name} is damaged: {error}"))?;
        let method = entry.compression();
        ensure!(
            [CompressionMethod::Stored, CompressionMethod::DEFLATE].contains(&method)
                && !entry.encrypted(),
            "its entry {name} is encrypted, or compressed in a way that torch.load does not read \
             either ({method:?}): save it again with torch.save"
        );
        let start = entry.data_start();
        let start = start.with_context(|| format!("its entry {name} is damaged"))?;
        let (length, stored) = (entry.size(), entry.compressed_size());
        let is_compressed = method == CompressionMethod::DEFLATE;
        let end = start.checked_add(stored);
        ensure!(
            (is_compressed || length == stored) && end.is_some_and(|end| end <= self.length),
            "its entry {name} reaches beyond the file's end"
        );
        Ok(Place {
            start: if is_compressed { 0 } else { start },
            length,
            entry: is_compressed.then_some(index),
        })
    }

    fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>> {
        let place = self.place(name)?;
        ensure!(
            place.length <= most,
            "its {name} has {} bytes, more than the {most} of any checkpoint of a backbone",
            place.length
        );
        let index = self.index(name)?;
        let mut bytes = Vec::new();
        match place.entry {
            Some(_) => self.archive.by_index(index)?.take(place.length).read_to_end(&mut bytes),
            None => self.archive.by_index_raw(index)?.read_to_end(&mut bytes),
        }
        .with_context(|| format!("its entry {name} cannot be read"))?;
        Ok(bytes)
    }

    fn is_big_endian(&mut self) -> Result<bool> {
        if !self.indices.contains_key("byteorder") {
            return Ok(false);
        }
        match &self.read("byteorder", 16)?[..] {
            b"little" => Ok(false),
            b"big" => Ok(true),
            _ => bail!("its byteorder is neither little nor big: it is damaged"),
        }
    }
}

/// Opens the zip file around a checkpoint, which begins with the file's first byte.
///
/// The zip crate must not guess where the archive begins, as it does by default. It takes the
/// central directory to end where the end record begins, but torch.save writes a zip64 end record
/// and its locator between them: 76 bytes. The first entry of the directory has 76 bytes too where
/// the file's stem had 21 characters when it was saved (46, the stem, and "/data.pkl"), as
/// `vit_small_patch16_224` has. The crate (9.8) then takes the second entry for the first, and
/// every offset is wrong.
fn open_archive(file: File) -> ZipResult<Archive> {
    let archive_offset = ArchiveOffset::Known(0);
    ZipArchive::with_config(Config { archive_offset }, BufReader::new(file))
}
