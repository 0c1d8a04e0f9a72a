//! Reads PyTorch's zip files (`.pth`, `.pt`, `.bin`): a pickle that lists the tensors, and their
//! values.
//!
//! torch.save stores the values uncompressed, so a tensor is read directly from its offset in the
//! file. The file is not mapped into memory: if another program truncates it meanwhile, the result
//! must be an error, not a signal.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipResult;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Pickle, TensorView, Value};
use super::{StateDict, StoredTensor};

/// The tensors of a file by name.
type Tensors = BTreeMap<String, StoredTensor>;

/// Longer than any pickle of a ViT's or Vim's training checkpoint, which has less than a megabyte.
const MAX_PICKLE: u64 = 16 << 20;
/// Keys of the state dict, in the order in which they are tried; without any of them, the file is a
/// state dict itself.
const MODEL_KEYS: [&str; 4] = ["model", "state_dict", "model_state", "model_state_dict"];
/// Keys of the EMA weights: Vim's, DeiT's and timm's names.
const EMA_KEYS: [&str; 3] = ["model_ema", "state_dict_ema", "model_state_ema"];

/// Opens a file, reads the pickle, and finds every tensor of the state dict in the file.
pub(super) fn open(path: &Path, wanted: StateDict) -> Result<(File, Tensors)> {
    let mut archive = Archive::open(path)?;
    let pickle = Pickle::read(&archive.read("data.pkl", MAX_PICKLE)?)?;
    if archive.entries.contains_key("byteorder") {
        let order = archive.read("byteorder", 16)?;
        ensure!(
            order == b"little",
            "it was written on a big-endian machine: save it again on a little-endian one"
        );
    }
    let mut tensors = Tensors::new();
    let mut storages = HashMap::new();
    for (name, view) in state_dict(&pickle, wanted)? {
        let stored = archive.find(view, &mut storages);
        let stored = stored.with_context(|| format!("tensor {name}"))?;
        tensors.insert(name, stored);
    }
    Ok((File::open(path)?, tensors))
}

struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// Index of each entry, by its name below the archive's one folder.
    entries: HashMap<String, usize>,
    length: u64,
}

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let zip = open_zip(file)
            .map_err(|error| anyhow::anyhow!("it is a damaged zip file, or cut short: {error}"))?;
        let names: Vec<Option<String>> = (0..zip.len())
            .map(|index| Some(zip.name_for_index(index)?.ok()?.into_owned()))
            .collect();
        let folder =
            names.iter().flatten().find_map(|name| name.strip_suffix("data.pkl")).context(
                "it is a zip file, but not one that torch.save wrote: it has no data.pkl",
            )?;
        let entries: HashMap<String, usize> = names
            .iter()
            .enumerate()
            .filter_map(|(index, name)| {
                let name = name.as_ref()?.strip_prefix(folder)?;
                Some((name.to_string(), index))
            })
            .collect();
        ensure!(
            !entries.contains_key("constants.pkl"),
            "it is a TorchScript program: save its state_dict() with torch.save instead"
        );
        Ok(Self { zip, entries, length })
    }

    /// Returns start and length of an entry, which must be stored uncompressed.
    fn stored(&mut self, name: &str) -> Result<(u64, u64)> {
        let index = *self.entries.get(name).with_context(|| format!("it has no {name}"))?;
        let entry = self
            .zip
            .by_index_raw(index)
            .map_err(|error| anyhow::anyhow!("its entry {name} is damaged: {error}"))?;
        ensure!(
            entry.compression() == CompressionMethod::Stored && !entry.encrypted(),
            "its entry {name} is compressed, which torch.save never does: save it again with \
             torch.save"
        );
        let (start, length) = (entry.data_start(), entry.size());
        let start = start.with_context(|| format!("its entry {name} is damaged"))?;
        let end = start.checked_add(length);
        ensure!(
            length == entry.compressed_size() && end.is_some_and(|end| end <= self.length),
            "its entry {name} reaches beyond the file's end"
        );
        Ok((start, length))
    }

    fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>> {
        let (_, length) = self.stored(name)?;
        ensure!(
            length <= most,
            "its {name} has {length} bytes, more than the {most} of any checkpoint of a backbone"
        );
        let mut bytes = Vec::with_capacity(length as usize);
        self.zip
            .by_index_raw(self.entries[name])?
            .read_to_end(&mut bytes)
            .with_context(|| format!("its entry {name} cannot be read"))?;
        Ok(bytes)
    }

    /// Finds a tensor, which must be inside its storage, and the storage inside the file; `found`
    /// caches start and length of the storages by key. The range is the tensor's own, even if other
    /// tensors share the storage.
    fn find(
        &mut self,
        view: TensorView,
        found: &mut HashMap<String, (u64, u64)>,
    ) -> Result<StoredTensor> {
        let (span, storage) = (span(&view)?, &view.storage);
        let room = storage.len.checked_sub(view.offset);
        ensure!(
            view.offset >= 0 && room.is_some_and(|room| span <= room),
            "of shape {:?} and strides {:?} at offset {} reaches beyond its storage of {} elements",
            view.size,
            view.stride,
            view.offset,
            storage.len
        );
        let (start, length) = match found.get(&*storage.key) {
            Some(storage) => *storage,
            None => {
                let found_storage = self.stored(&format!("data/{}", storage.key))?;
                found.insert(storage.key.to_string(), found_storage);
                found_storage
            }
        };
        let width = storage.kind.elt_size_in_bytes() as u64;
        let expected = storage.len as u128 * u128::from(width);
        ensure!(
            expected == length.into(),
            "has a storage of {length} bytes, where {} elements of {:?} need {expected}",
            storage.len,
            storage.kind
        );
        let start = start + view.offset as u64 * width;
        Ok(StoredTensor {
            kind: Ok(storage.kind),
            size: view.size,
            stride: Some(view.stride),
            range: start..start + span as u64 * width,
        })
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
fn open_zip(file: File) -> ZipResult<ZipArchive<BufReader<File>>> {
    let archive_offset = ArchiveOffset::Known(0);
    ZipArchive::with_config(Config { archive_offset }, BufReader::new(file))
}

fn span(view: &TensorView) -> Result<i64> {
    let dimensions = || view.size.iter().zip(&view.stride);
    ensure!(
        view.size.len() == view.stride.len()
            && dimensions().all(|(&size, &stride)| size >= 0 && stride >= 0),
        "has the shape {:?} and the strides {:?}",
        view.size,
        view.stride
    );
    if view.size.contains(&0) {
        return Ok(0);
    }
    let last = dimensions()
        .try_fold(0i64, |sum, (size, stride)| sum.checked_add((size - 1).checked_mul(*stride)?));
    let elements = view.size.iter().try_fold(1i64, |product, &size| product.checked_mul(size));
    match (last.and_then(|last| last.checked_add(1)), elements) {
        (Some(span), Some(_)) => Ok(span),
        _ => bail!("has the shape {:?}, which is too large for any memory", view.size),
    }
}

fn state_dict(pickle: &Pickle, wanted: StateDict) -> Result<BTreeMap<String, TensorView>> {
    let root = pickle.entries(pickle.root()).context("it holds no dictionary of tensors")?;
    let find = |keys: &[&str]| {
        let found = keys.iter().find_map(|name| {
            let (_, value) = root.iter().rfind(|(key, _)| key == name)?;
            pickle.entries(value)
        });
        found.filter(|entries| entries.iter().any(|(_, value)| matches!(value, Value::Tensor(_))))
    };
    let entries = match wanted {
        StateDict::Model => find(&MODEL_KEYS).unwrap_or_else(|| root.clone()),
        StateDict::Ema => find(&EMA_KEYS).with_context(|| {
            let keys = EMA_KEYS.join(", ");
            format!("it has no EMA weights ({keys}); it has {}", first_keys(&root))
        })?,
    };
    let tensors: BTreeMap<String, TensorView> = entries
        .iter()
        .filter_map(|(name, value)| match value {
            Value::Tensor(view) => Some((name.to_string(), view.clone())),
            _ => None,
        })
        .collect();
    ensure!(
        !tensors.is_empty(),
        "it holds no state dict, neither itself nor under {}; it has {}",
        MODEL_KEYS.join(", "),
        first_keys(&entries)
    );
    Ok(tensors)
}

fn first_keys(entries: &[(&str, &Value)]) -> String {
    if entries.is_empty() {
        return "nothing in it".to_string();
    }
    let shortened = |(key, _): &(&str, &Value)| key.escape_debug().take(40).collect();
    let keys: Vec<String> = entries.iter().take(10).map(shortened).collect();
    format!("the keys {}", keys.join(", "))
}
