//! Weights files: finds them here or on the Hugging Face hub, reads and writes safetensors and
//! checkpoints of torch.save, tensor by tensor.

mod architecture;
mod clip;
mod fit;
mod hub;
mod locate;
mod pickle;
mod resample;
mod safetensors_file;
mod torch_file;
mod torch_legacy;
mod torch_writer;
mod torch_zip;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor};
use zip::ZipArchive;

use crate::files::{open_regular, printable};

pub use fit::{Note, load, load_backbone, load_model};
pub use hub::{Download, OnDownload, sha256};
pub use locate::{Located, download, locate};
pub use safetensors_file::save;
pub use torch_writer::save_torch;

/// The state dicts of a training checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateDict {
    /// The trained weights.
    Model,
    /// The EMA weights.
    Ema,
}

type Archive = ZipArchive<BufReader<File>>;

/// An open weights file of any format; tensors are read one at a time.
#[derive(Debug)]
pub struct WeightsFile {
    file: File,
    /// For the values that are compressed.
    archive: Option<Archive>,
    tensors: BTreeMap<String, StoredTensor>,
    big_endian: bool,
    metadata: HashMap<String, String>,
    /// Which of several state dicts it is.
    note: Option<String>,
}

/// The place and the layout of a tensor's values in a file.
#[derive(Debug)]
struct StoredTensor {
    /// Or the name of a type that torch does not have.
    kind: Result<Kind, String>,
    size: Vec<i64>,
    /// `None` if the values are in row-major order.
    stride: Option<Vec<i64>>,
    /// The range of the values in bytes: in the file, or in the unpacked entry.
    range: Range<u64>,
    /// Index of the compressed zip entry that holds the values.
    entry: Option<usize>,
}

impl WeightsFile {
    /// Opens a file and checks its header. Its first bytes decide its format, not its name.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_state_dict(path, StateDict::Model)
    }

    /// As [`open`](Self::open), for one of the state dicts of a training checkpoint.
    pub fn open_state_dict(path: &Path, wanted: StateDict) -> Result<Self> {
        Self::open_format(path, wanted)
            .with_context(|| format!("cannot read weights {}", path.display()))
    }

    fn open_format(path: &Path, wanted: StateDict) -> Result<Self> {
        let mut file = open_regular(path)?;
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(512).read_to_end(&mut start)?;
        file.rewind()?;
        if start.starts_with(b"PK\x03\x04") {
            return torch_zip::open(file, wanted);
        }
        if torch_legacy::begins(&start) {
            return torch_legacy::open(file, wanted);
        }
        if start.get(257..).is_some_and(|rest| rest.starts_with(b"ustar")) {
            bail!(
                "it is a tar file; that of PyTorch before 0.1.10 is not read: open it with \
                 torch.load and save it again with torch.save"
            );
        }
        if start.starts_with(b"version https://git-lfs") {
            bail!("it is a Git LFS pointer, not the file: fetch the file with git lfs pull");
        }
        if wanted == StateDict::Ema {
            bail!("it has no EMA weights: a safetensors file holds one state dict");
        }
        safetensors_file::open(file)
    }

    /// Returns names and shapes, sorted by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<i64>> {
        self.tensors.iter().map(|(name, stored)| (name.clone(), stored.size.clone())).collect()
    }

    /// Returns the free-form metadata, which only safetensors files have.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.metadata.clone()
    }

    /// Returns the name and the type of a tensor of a quantized model, if it is one.
    fn quantized(&self) -> Option<(&str, String)> {
        let weights = self.tensors.iter().filter(|(name, _)| name.contains("weight"));
        let mut quantized = weights.filter_map(|(name, stored)| match &stored.kind {
            Ok(kind @ (Kind::Int8 | Kind::Uint8)) => Some((name.as_str(), format!("{kind:?}"))),
            Ok(_) => None,
            Err(kind) => Some((name.as_str(), kind.clone())),
        });
        quantized.next()
    }

    /// Reads one tensor, on the CPU, with the type and the strides that it is stored with.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let shown = printable_start(name);
        let stored =
            self.tensors.get(name).with_context(|| format!("there is no tensor {shown}"))?;
        let StoredTensor { kind, size, stride, range, entry } = stored;
        let kind = match kind {
            Ok(kind) => *kind,
            Err(kind) => bail!("tensor {shown}: is stored as {kind}, which is not supported"),
        };
        let length = range.end - range.start;
        let bytes = match (entry, &mut self.archive) {
            (Some(entry), Some(archive)) => {
                let mut unpacked = archive.by_index(*entry)?;
                io::copy(&mut unpacked.by_ref().take(range.start), &mut io::sink())?;
                read_values(unpacked, length)
            }
            _ => {
                self.file.seek(SeekFrom::Start(range.start))?;
                read_values(&self.file, length)
            }
        };
        let mut bytes = bytes.with_context(|| format!("tensor {shown} cannot be read"))?;
        if self.big_endian {
            let parts =
                if matches!(kind, Kind::ComplexFloat | Kind::ComplexDouble) { 2 } else { 1 };
            bytes.chunks_exact_mut(kind.elt_size_in_bytes() / parts).for_each(<[u8]>::reverse);
        }
        let Some(stride) = stride else {
            return Ok(Tensor::f_from_data_size(&bytes, size, kind)?);
        };
        let values = (bytes.len() / kind.elt_size_in_bytes()) as i64;
        Ok(Tensor::f_from_data_size(&bytes, &[values], kind)?.f_as_strided(size, stride, 0)?)
    }
}

/// Returns the start of a name from a file in a form that fits a one-line error.
fn printable_start(name: &str) -> String {
    printable(name.chars().take(200).collect::<String>())
}

/// Reads a tensor's values. Returns an error if they do not fit into memory, or end early.
fn read_values(source: impl Read, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ensure!(
        bytes.try_reserve_exact(usize::try_from(length)?).is_ok(),
        "it has {} GiB, more than the memory that is free",
        length >> 30
    );
    source.take(length).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 == length, "the file ends within it");
    Ok(bytes)
}

/// Returns the BLAKE3 hash of parameters: their names, shapes and values.
pub fn content_hash(parameters: &[(String, Tensor)]) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in parameters {
        hasher.update(format!("{name} {:?}\n", tensor.size()).as_bytes());
        hasher.update(&bytes(tensor)?);
    }
    Ok(hasher.finalize())
}

/// Returns a tensor's bytes in row-major order, as both formats store them.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
