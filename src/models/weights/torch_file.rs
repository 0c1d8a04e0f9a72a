//! Checkpoints of torch.save (`.pth`, `.pt`, `.bin`): a pickle that lists the tensors, and storages
//! with their values.
//!
//! The file is not mapped into memory: if another program truncates it meanwhile, the result must
//! be an error, not a signal.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::pickle::{Pickle, Storage, TensorView, Value};
use super::{StateDict, StoredTensor, printable_start};

/// The tensors of a file by name.
type Tensors = BTreeMap<String, StoredTensor>;

/// The entries of a dictionary whose keys are strings.
type Entries<'a> = Vec<(&'a str, &'a Value)>;

/// Keys of the state dict, in the order in which they are tried. (Self-distillation trains a
/// student to follow a teacher, its moving average, which is the better network.)
const MODEL_KEYS: [&str; 5] = ["model", "state_dict", "model_state", "model_state_dict", "teacher"];
/// More dictionaries than any checkpoint has; without a limit, a long one could be that of many
/// keys.
const MAX_DICTS: usize = 100;
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

/// Finds every tensor of a pickle's state dict in its storage; `place` finds a storage. Returns a
/// note, too, if there were several state dicts.
pub(super) fn tensors(
    pickle: &Pickle,
    wanted: StateDict,
    mut place: impl FnMut(&Storage) -> Result<Place>,
) -> Result<(Tensors, Option<String>)> {
    let (entries, note) = state_dict(pickle, wanted)?;
    let mut tensors = Tensors::new();
    for (name, value) in entries {
        let Value::Tensor(view) = value else {
            continue;
        };
        ensure!(name.len() <= MAX_NAME, "the name of a tensor has {} bytes", name.len());
        let stored =
            find(view, &mut place).with_context(|| format!("tensor {}", printable_start(name)))?;
        tensors.insert(name.to_string(), stored);
    }
    Ok((tensors, note))
}

/// Finds a tensor, which must be inside its storage. The range is the tensor's own, even if other
/// tensors share the storage.
fn find(
    view: &TensorView,
    place: &mut impl FnMut(&Storage) -> Result<Place>,
) -> Result<StoredTensor> {
    if let Some(kind) = view.unreadable {
        let (kind, size) = (Err(kind.to_string()), view.size.clone());
        return Ok(StoredTensor { kind, size, stride: None, range: 0..0, entry: None });
    }
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

/// Chooses the state dict. Of a model it is what is under a known key, or else the dictionary with
/// the most tensors, which may be the file itself; of EMA weights the first whose key says so.
/// Returns a note if others could have been meant.
fn state_dict(pickle: &Pickle, wanted: StateDict) -> Result<(Entries<'_>, Option<String>)> {
    let root = pickle.root();
    ensure!(matches!(root, Value::Dict(_)), "it holds no dictionary of tensors");
    let is_tensor = |(_, value): &(&str, &Value)| matches!(value, Value::Tensor(_));
    // Dictionaries are counted, not copied: a file may name a long one many times.
    let count = |value| pickle.entries(value).filter(is_tensor).count();
    let dicts = || pickle.entries(root).filter(|(_, value)| matches!(value, Value::Dict(_)));
    ensure!(
        dicts().count() <= MAX_DICTS,
        "it holds more than {MAX_DICTS} dictionaries: save the state dict alone with torch.save"
    );
    let mut found: Vec<(&str, &Value, usize)> = Vec::new();
    for (key, value) in dicts() {
        found.retain(|(known, ..)| *known != key); // of equal keys the last counts
        found.push((key, value, count(value)));
    }
    found.retain(|(.., tensors)| *tensors > 0);
    let (ema, mut models): (Vec<_>, Vec<_>) = found.into_iter().partition(|(key, ..)| is_ema(key));
    if wanted == StateDict::Ema {
        let (_, first, _) = ema.first().with_context(|| {
            let keys = first_keys(pickle, root);
            format!("it has no EMA weights, as under model_ema; it has {keys}")
        })?;
        return Ok((pickle.entries(first).collect(), None));
    }
    let known = |key: &str| MODEL_KEYS.iter().position(|known| *known == key);
    let loose = count(root);
    models.retain(|(key, _, tensors)| known(key).is_some() || *tensors > loose);
    models.sort_by_key(|(key, _, tensors)| {
        (known(key).unwrap_or(MODEL_KEYS.len()), Reverse(*tensors))
    });
    let note = match &models[..] {
        [(first, ..), others @ ..] if !others.is_empty() => {
            let others: Vec<String> = others.iter().map(|(key, ..)| shown_key(key)).collect();
            Some(format!("loaded what is under {}, not {}", shown_key(first), others.join(", ")))
        }
        _ => None,
    };
    if let Some((_, first, _)) = models.first() {
        return Ok((pickle.entries(first).collect(), note));
    }
    if let ([(key, ..), ..], 0) = (&ema[..], loose) {
        bail!("it has EMA weights alone, under {}: set weights_ema: true", shown_key(key));
    }
    ensure!(
        loose > 0,
        "it holds no state dict, neither itself nor under a key; it has {}: save the state dict \
         alone with torch.save",
        first_keys(pickle, root)
    );
    Ok((pickle.entries(root).collect(), None))
}

/// Returns whether a key is that of EMA weights: `model_ema`, `state_dict_ema`, `ema`.
fn is_ema(key: &str) -> bool {
    key.split(['_', '.', '-']).any(|word| word.eq_ignore_ascii_case("ema"))
}

fn shown_key(key: &str) -> String {
    printable_start(key).chars().take(40).collect()
}

fn first_keys(pickle: &Pickle, dict: &Value) -> String {
    let keys: Vec<String> = pickle.entries(dict).take(10).map(|(key, _)| shown_key(key)).collect();
    match keys[..] {
        [] => "nothing in it".to_string(),
        _ => format!("the keys {}", keys.join(", ")),
    }
}
