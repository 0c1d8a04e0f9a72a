//! Weights files: safetensors in and out, tensor by tensor.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, Metadata, TensorView};
use tch::{Device, Kind, Tensor};

use crate::files::write_whole;

/// A header this long is not one of a model: it keeps a broken file from asking for all memory.
const MAX_HEADER: u64 = 64 << 20;
/// How many names of each kind an error lists.
const LISTED: usize = 20;

/// An open safetensors file: the header is read and checked, tensors are read one at a time.
#[derive(Debug)]
pub struct WeightsFile {
    file: File,
    header: Metadata,
    data_start: u64,
}

impl WeightsFile {
    /// Opens a file and checks its header against its length.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read_header(path).with_context(|| format!("cannot read weights {}", path.display()))
    }

    fn read_header(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix)
            .context("it is too short to be a safetensors file")?;
        let header_length = u64::from_le_bytes(prefix);
        ensure!(
            header_length <= MAX_HEADER.min(length.saturating_sub(8)),
            "it is not a safetensors file, or it is cut short (PyTorch's .pth and .bin are not read by this version: convert them with safetensors.torch.save_file)"
        );
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header)?;
        // Reading it also checks that the tensors lie one behind the other and have the sizes of their shapes.
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| anyhow::anyhow!("its header is damaged: {error}"))?;
        let data_start = 8 + header_length;
        ensure!(
            data_start + header.data_len() as u64 == length,
            "it is {length} bytes long where its header says {}: it was cut short or added to",
            data_start + header.data_len() as u64
        );
        Ok(Self {
            file,
            header,
            data_start,
        })
    }

    /// Names and shapes, sorted by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<i64>> {
        let shape = |shape: &[usize]| shape.iter().map(|&n| n as i64).collect();
        self.header
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, shape(&info.shape)))
            .collect()
    }

    /// The file's free-form metadata.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.header.metadata().clone().unwrap_or_default()
    }

    /// One tensor, on the CPU, in the type that it is stored in.
    ///
    /// # Errors
    /// There is no such tensor, its type is not one of torch's, or the file cannot be read.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let info = self
            .header
            .info(name)
            .with_context(|| format!("there is no tensor {name}"))?;
        let (start, end) = info.data_offsets;
        let kind = kind_of(info.dtype).with_context(|| format!("tensor {name}"))?;
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))?;
        self.file.read_exact(&mut bytes)?;
        Ok(Tensor::f_from_data_size(&bytes, &shape, kind)?)
    }
}

fn kind_of(dtype: Dtype) -> Result<Kind> {
    Ok(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        other => bail!("is stored as {other:?}, which is not supported"),
    })
}

/// Writes tensors as one safetensors file, whole or not at all.
///
/// # Errors
/// Names the file where it cannot be written.
pub fn save(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: HashMap<String, String>,
) -> Result<()> {
    let bytes = serialize(tensors, metadata)
        .with_context(|| format!("cannot write weights {}", path.display()))?;
    write_whole(path, |file| Ok(file.write_all(&bytes)?))
}

fn serialize(tensors: &[(String, Tensor)], metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            Kind::Int64 => Dtype::I64,
            Kind::Uint8 => Dtype::U8,
            other => bail!("{name} has type {other:?}, which is not written"),
        };
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        stored.push((name.as_str(), dtype, shape, bytes));
    }
    let views = stored
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// Loads every one of `parameters` from a file that has exactly those names and shapes: a run's own weights.
///
/// # Errors
/// Names the file, and the names that are missing, unexpected or of another shape.
pub fn load(parameters: &[(String, Tensor)], path: &Path) -> Result<()> {
    let mut file = WeightsFile::open(path)?;
    let targets: BTreeMap<&str, &Tensor> = parameters
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    copy_all(&mut file, &targets, &|_| false)
        .with_context(|| format!("cannot use weights {}", path.display()))
}

/// Loads a published backbone into the parameters under `prefix` (`vit.` or `mamba.`); the file's names have no prefix, and its
/// classifier (`head.*`) is left out.
///
/// # Errors
/// Names the file, and the names that are missing, unexpected or of another shape.
pub fn load_backbone(parameters: &[(String, Tensor)], prefix: &str, path: &Path) -> Result<()> {
    let mut file = WeightsFile::open(path)?;
    let targets: BTreeMap<&str, &Tensor> = parameters
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
        .collect();
    copy_all(&mut file, &targets, &|name| name.starts_with("head."))
}

fn copy_all(
    file: &mut WeightsFile,
    targets: &BTreeMap<&str, &Tensor>,
    left_out: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let shapes = file.shapes();
    let missing = targets
        .keys()
        .filter(|name| !shapes.contains_key(**name))
        .map(|name| name.to_string());
    let unexpected = shapes
        .keys()
        .filter(|name| !targets.contains_key(name.as_str()) && !left_out(name))
        .cloned();
    let misshaped = targets.iter().filter_map(|(name, tensor)| {
        let shape = shapes.get(*name)?;
        let expected = tensor.size();
        (*shape != expected)
            .then(|| format!("{name} ({shape:?} in the file, {expected:?} in the model)"))
    });
    let problems: Vec<String> = [
        listed("missing", missing.collect()),
        listed("unexpected", unexpected.collect()),
        listed("of another shape", misshaped.collect()),
    ]
    .into_iter()
    .flatten()
    .collect();
    ensure!(
        problems.is_empty(),
        "the names do not fit: {}; check the preset and its sizes",
        problems.join("; ")
    );
    let _guard = tch::no_grad_guard();
    for (name, target) in targets {
        let tensor = file.tensor(name)?;
        target.shallow_clone().f_copy_(&tensor)?;
    }
    Ok(())
}

fn listed(what: &str, names: Vec<String>) -> Option<String> {
    let more = names.len().saturating_sub(LISTED);
    let shown = names[..names.len() - more].join(", ");
    match (names.len(), more) {
        (0, _) => None,
        (_, 0) => Some(format!("{what}: {shown}")),
        _ => Some(format!("{what}: {shown} and {more} more")),
    }
}
