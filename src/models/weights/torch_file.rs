//! Checkpoints of torch.save (`.pth`, `.pt`, `.bin`): a pickle that lists the tensors, and storages
//! with their values.
//!
//! The file is not mapped into memory: if another program truncates it meanwhile, the result must
//! be an error, not a signal.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::pickle::{Pickle, Storage, TensorView, Value};
use super::{StateDict, StoredTensor, printable_start};

/// The tensors of a file by name.
type Tensors = BTreeMap<String, StoredTensor>;

/// Keys of the state dict, in the order in which they are tried; without any of them, the file is a
/// state dict itself.
const MODEL_KEYS: [&str; 4] = ["model", "state_dict", "model_state", "model_state_dict"];
/// Keys of the EMA weights: Vim's, DeiT's and timm's names.
const EMA_KEYS: [&str; 3] = ["model_ema", "state_dict_ema", "model_state_ema"];
/// Longer than the name of any parameter; without a limit, one long name could be that of many.
const MAX_NAME: usize = 500;
/// A compressed storage is unpacked for each of its tensors. It may be this many times as long as
/// the tensor, and this many bytes longer: a bomb of zeros ends here.
const MAX_UNPACKED: (u64, u64) = (16, 1 << 20);

/// Where a storage's values are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The first byte of the values: in the file, or in the unpacked entry.
    pub start: u64,
    /// Their number of bytes.
    pub length: u64,
    /// Index of the compressed zip entry that holds the values.
    pub entry: Option<usize>,
}

/// Finds every tensor of a pickle's state dict in its storage; `place` finds a storage.
pub(super) fn tensors(
    pickle: &Pickle,
    wanted: StateDict,
    mut place: impl FnMut(&Storage) -> Result<Place>,
) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    for (name, view) in state_dict(pickle, wanted)? {
        let stored =
            find(view, &mut place).with_context(|| format!("tensor {}", printable_start(&name)))?;
        tensors.insert(name, stored);
    }
    Ok(tensors)
}

/// Finds a tensor, which must be inside its storage. The range is the tensor's own, even if other
/// tensors share the storage.
fn find(
    view: &TensorView,
    place: &mut impl FnMut(&Storage) -> Result<Place>,
) -> Result<StoredTensor> {
    let (span, storage) = (span(view)?, &view.storage);
    let room = storage.len.checked_sub(view.offset);
    ensure!(
        view.offset >= 0 && room.is_some_and(|room| span <= room),
        "of shape {:?} and strides {:?} at offset {} reaches beyond its storage of {} elements",
        view.size,
        view.stride,
        view.offset,
        storage.len
    );
    let place = place(storage)?;
    let width = storage.kind.elt_size_in_bytes() as u64;
    let expected = storage.len as u128 * u128::from(width);
    ensure!(
        expected == place.length.into(),
        "has a storage of {} bytes, where {} elements of {:?} need {expected}",
        place.length,
        storage.len,
        storage.kind
    );
    let bytes = span as u64 * width;
    let (times, more) = MAX_UNPACKED;
    ensure!(
        place.entry.is_none() || place.length <= more + bytes.saturating_mul(times),
        "has {bytes} bytes in a compressed storage of {}: save the file again with torch.save",
        place.length
    );
    let start = place.start + view.offset as u64 * width;
    Ok(StoredTensor {
        kind: Ok(storage.kind),
        size: view.size.clone(),
        stride: Some(view.stride.clone()),
        range: start..start + bytes,
        entry: place.entry,
    })
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

fn state_dict(pickle: &Pickle, wanted: StateDict) -> Result<BTreeMap<String, &TensorView>> {
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
    let mut tensors = BTreeMap::new();
    for (name, value) in &entries {
        let Value::Tensor(view) = value else {
            continue;
        };
        ensure!(name.len() <= MAX_NAME, "the name of a tensor has {} bytes", name.len());
        tensors.insert(name.to_string(), view);
    }
    ensure!(
        !tensors.is_empty(),
        "it holds no state dict, neither itself nor under {}; it has {}: save the state dict alone \
         with torch.save",
        MODEL_KEYS.join(", "),
        first_keys(&entries)
    );
    Ok(tensors)
}

fn first_keys(entries: &[(&str, &Value)]) -> String {
    if entries.is_empty() {
        return "nothing in it".to_string();
    }
    let shortened = |(key, _): &(&str, &Value)| printable_start(key).chars().take(40).collect();
    let keys: Vec<String> = entries.iter().take(10).map(shortened).collect();
    format!("the keys {}", keys.join(", "))
}
