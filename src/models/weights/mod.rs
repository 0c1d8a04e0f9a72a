//! Weights files: reads and writes safetensors and PyTorch's zip files, tensor by tensor.

mod fit;
mod pickle;
mod resample;
mod safetensors_file;
mod torch_file;
mod torch_writer;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tch::{Device, Tensor};

pub use fit::{load, load_backbone};
pub use safetensors_file::save;
pub use torch_writer::save_torch;

use safetensors_file::SafetensorsFile;
use torch_file::TorchFile;

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
pub enum WeightsFile {
    /// A safetensors file.
    Safetensors(SafetensorsFile),
    /// A zip file of PyTorch.
    Torch(TorchFile),
}

impl WeightsFile {
    /// Opens a file and checks its header. Its first bytes decide its format, not its name. Returns
    /// an error with the file and what is wrong with it.
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
            return Ok(Self::Torch(TorchFile::open(path, wanted)?));
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
        Ok(Self::Safetensors(SafetensorsFile::open(path)?))
    }

    /// Returns names and shapes, sorted by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<i64>> {
        match self {
            Self::Safetensors(file) => file.shapes(),
            Self::Torch(file) => file.shapes(),
        }
    }

    /// Returns the free-form metadata, which only safetensors files have.
    pub fn metadata(&self) -> HashMap<String, String> {
        match self {
            Self::Safetensors(file) => file.metadata(),
            Self::Torch(_) => HashMap::new(),
        }
    }

    /// Reads one tensor, on the CPU, with the type and the strides that it is stored with. Returns
    /// an error if there is no such tensor, its type is not one of torch's, or the file cannot be
    /// read.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.tensor(name),
            Self::Torch(file) => file.tensor(name),
        }
    }
}

/// Returns a tensor's bytes in row-major order, as both formats store them.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
