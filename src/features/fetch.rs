//! Finds the rows of images, and computes those that are missing.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::compute::{Encoder, RowKind};
use super::shard::Key;
use super::store::Store;
use super::view::ViewedImage;
use super::{Fetched, Progress, ViewedSplit};
use crate::config::DataConfig;
use crate::data::Sample;
use crate::files::user_cache;
use crate::models::Slicer;

/// Changes when rows that this program computes would differ from those of one before it.
const VERSION: u32 = 1;
/// Rows of a split and encoder that have no more bytes are copied to memory; others are read from
/// disk whenever they are needed.
const MEMORY: usize = 512 << 20;
const POLL: Duration = Duration::from_millis(100);

/// The rows of a split, in the order of its images, and of its views for each.
#[derive(Debug)]
pub(super) struct Rows {
    keys: Vec<Key>,
    store: Arc<Store>,
    /// All rows, if they fit.
    memory: Option<Vec<u8>>,
}

impl Rows {
    fn new(keys: Vec<Key>, store: &Arc<Store>) -> Result<Self> {
        let row = store.row();
        let memory = (keys.len() * row <= MEMORY).then(|| -> Result<_> {
            let mut bytes = vec![0; keys.len() * row];
            for (key, out) in keys.iter().zip(bytes.chunks_exact_mut(row)) {
                store.read(key, out)?;
            }
            Ok(bytes)
        });
        Ok(Self { keys, store: Arc::clone(store), memory: memory.transpose()? })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns rows by index: float (rows, width).
    pub(super) fn tensor(&self, rows: &[usize]) -> Result<Tensor> {
        let size = self.store.row();
        let mut bytes = vec![0; rows.len() * size];
        for (&row, out) in rows.iter().zip(bytes.chunks_exact_mut(size)) {
            match &self.memory {
                Some(memory) => out.copy_from_slice(&memory[row * size..(row + 1) * size]),
                None => self.store.read(&self.keys[row], out)?,
            }
        }
        let shape = [rows.len() as i64, (size / Kind::Float.elt_size_in_bytes()) as i64];
        Ok(Tensor::f_from_data_size(&bytes, &shape, Kind::Float)?)
    }
}

/// Returns the rows of each split by each encoder. An encoder whose rows another process is
/// computing waits for the others.
pub(super) fn fetch(
    encoders: &[Encoder],
    config: &DataConfig,
    splits: &[ViewedSplit],
    slicer: &Slicer,
    report: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Fetched<Vec<Rows>>> {
    let images = splits.iter().map(viewed).collect::<Result<Vec<Vec<(ViewedImage, Key)>>>>()?;
    let open = |rows: &RowKind, device: Device| {
        let row = rows.width * Kind::Float.elt_size_in_bytes();
        Store::open(folder(rows, device, config, splits), row)
    };
    let mut stores: Vec<Store> =
        encoders.iter().map(|encoder| open(&encoder.rows, encoder.device)).collect();
    let mut computed = 0;
    let mut left: Vec<usize> = (0..encoders.len()).collect();
    while !left.is_empty() {
        let before = left.len();
        let mut busy = Vec::new();
        for of in left {
            if missing(&stores[of], &images).is_empty() {
                continue;
            }
            let Some(_claim) = stores[of].claim() else {
                busy.push(of);
                continue;
            };
            if let Some(longer) = &encoders[of].longer {
                let longer = open(longer, encoders[of].device);
                copy_starts(&longer, &mut stores[of], &images)?;
            }
            computed += complete(&encoders[of], &mut stores[of], &images, slicer, report)?;
        }
        left = busy;
        if left.len() == before {
            report(Progress::Waiting)?;
            thread::sleep(POLL);
            left.iter().for_each(|&of| stores[of].refresh());
        }
    }
    let problem = stores.iter().find_map(|store| store.problem().map(str::to_string));
    let stores: Vec<Arc<Store>> = stores.into_iter().map(Arc::new).collect();
    let of_split = |images: &Vec<(ViewedImage, Key)>| {
        let keys: Vec<Key> = images.iter().map(|(_, key)| *key).collect();
        stores.iter().map(|store| Rows::new(keys.clone(), store)).collect::<Result<Vec<Rows>>>()
    };
    let count: usize = images.iter().map(Vec::len).sum();
    Ok(Fetched {
        splits: images.iter().map(of_split).collect::<Result<_>>()?,
        rows: count * encoders.len(),
        computed,
        bytes: count * stores.iter().map(|store| store.row()).sum::<usize>(),
        problem,
    })
}

/// Returns the views of a split's images with the keys of their rows.
fn viewed(split: &ViewedSplit) -> Result<Vec<(ViewedImage<'_>, Key)>> {
    let samples = split.images.samples();
    let contents: Vec<blake3::Hash> =
        samples.par_iter().map(Sample::content_hash).collect::<Result<_>>()?;
    let all = contents.into_iter().enumerate().flat_map(|(index, content)| {
        let view = move |&view| ViewedImage { images: &split.images, index, content, view };
        split.views.iter().map(view)
    });
    Ok(all.map(|image| (image, image.key())).collect())
}

/// Returns the images whose rows are missing, those of one row once.
fn missing<'a>(
    store: &Store,
    images: &[Vec<(ViewedImage<'a>, Key)>],
) -> Vec<(ViewedImage<'a>, Key)> {
    let mut seen = HashSet::new();
    let all = images.iter().flatten();
    all.filter(|(_, key)| !store.has(key) && seen.insert(*key)).copied().collect()
}

/// Adds the missing rows that the rows of another store begin with.
fn copy_starts(
    longer: &Store,
    store: &mut Store,
    images: &[Vec<(ViewedImage, Key)>],
) -> Result<()> {
    let mut row = vec![0; longer.row()];
    for (_, key) in missing(store, images).iter().filter(|(_, key)| longer.has(key)) {
        longer.read(key, &mut row)?;
        store.add(&[*key], &row[..store.row()])?;
    }
    store.flush()
}

/// Computes the missing rows, and returns their number.
fn complete(
    encoder: &Encoder,
    store: &mut Store,
    images: &[Vec<(ViewedImage, Key)>],
    slicer: &Slicer,
    report: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<usize> {
    let missing = missing(store, images);
    let (name, total, mut done) = (encoder.name.as_str(), missing.len(), 0);
    let result = encoder.compute(&missing, slicer, &mut |keys, rows| {
        store.add(keys, rows)?;
        done += keys.len();
        report(Progress::Computed { name, done, total })
    });
    // What a stopped run has computed is kept.
    store.flush()?;
    result.map(|()| done)
}

/// Returns the folder of an encoder's rows; `None` if the user has no cache folder.
fn folder(
    rows: &RowKind,
    device: Device,
    config: &DataConfig,
    splits: &[ViewedSplit],
) -> Option<PathBuf> {
    let root = match &config.cache_dir {
        Some(folder) => folder.join("features"),
        None => user_cache()?.join("vm-beautynet/features"),
    };
    let transform = splits.first().map(|split| split.images.transform().eval());
    let device = if device.is_cuda() { "cuda" } else { "cpu" };
    let RowKind { identity, width } = rows;
    let program = env!("CARGO_PKG_VERSION");
    let name = format!("{VERSION} {program} {identity} {width} {transform:?} {device}");
    Some(root.join(&blake3::hash(name.as_bytes()).to_hex()[..32]))
}
