//! Weights files: reads and writes safetensors and PyTorch's zip files, tensor by tensor.

mod fit;
mod pickle;
mod resample;
mod safetensors_file;
mod torch_file;
mod torch_writer;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tch::{Device, Kind, Tensor};

pub use fit::{load, load_backbone};
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

/// An open weights file of either format; tensors are read one at a time.
#[derive(Debug)]
pub struct WeightsFile {
    file: File,
    tensors: BTreeMap<String, StoredTensor>,
    metadata: HashMap<String, String>,
}

/// The place and the layout of a tensor's values in a file.
#[derive(Debug)]
struct StoredTensor {
    /// Or the name of a type that torch does not have.
    kind: Result<Kind, String>,
    size: Vec<i64>,
    /// `None` if the values are in row-major order.
    stride: Option<Vec<i64>>,
    /// The range of the values in the file, in bytes.
    range: Range<u64>,
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
        let mut start = Vec::new();
        File::open(path)?.take(32).read_to_end(&mut start)?;
        if start.starts_with(b"PK\x03\x04") {
            let (file, tensors) = torch_file::open(path, wanted)?;
            return Ok(Self { file, tensors, metadata: HashMap::new() });
        }
        if start.starts_with(b"\x80\x02\x8a\x0a") {
            bail!(
                "it is in the format of PyTorch before 1.6: open it with torch.load and save it \
                 again with torch.save"
            );
        }
        if start.starts_with(b"version https://git-lfs") {
            bail!("it is a Git LFS pointer, not the file: fetch the file with git lfs pull");
        }
        if wanted == StateDict::Ema {
            bail!("it has no EMA weights: a safetensors file holds one state dict");
        }
        safetensors_file::open(path)
    }

    /// Returns names and shapes, sorted by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<i64>> {
        self.tensors.iter().map(|(name, stored)| (name.clone(), stored.size.clone())).collect()
    }

    /// Returns the free-form metadata, which only safetensors files have.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.metadata.clone()
    }

    /// Reads one tensor, on the CPU, with the type and the strides that it is stored with.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let stored =
            self.tensors.get(name).with_context(|| format!("there is no tensor {name}"))?;
        let StoredTensor { kind, size, stride, range } = stored;
        let kind = match kind {
            Ok(kind) => *kind,
            Err(kind) => bail!("tensor {name}: is stored as {kind}, which is not supported"),
        };
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.seek(SeekFrom::Start(range.start))?;
        self.file.read_exact(&mut bytes)?;
        let Some(stride) = stride else {
            return Ok(Tensor::f_from_data_size(&bytes, size, kind)?);
        };
        let values = (bytes.len() / kind.elt_size_in_bytes()) as i64;
        Ok(Tensor::f_from_data_size(&bytes, &[values], kind)?.f_as_strided(size, stride, 0)?)
    }
}

/// Returns a tensor's bytes in row-major order, as both formats store them.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
