//! Reads and writes safetensors files, tensor by tensor.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use tch::{Kind, Tensor};

use super::{StoredTensor, WeightsFile, bytes};
use crate::files::write_atomic;

/// Longer than any model's header; keeps a broken file from asking for all memory.
const MAX_HEADER: u64 = 16 << 20;

/// Opens a file and checks its header against its length.
pub(super) fn open(mut file: File) -> Result<WeightsFile> {
    let length = file.metadata()?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).context("it is too short to be a safetensors file")?;
    let header_length = u64::from_le_bytes(prefix);
    ensure!(
        header_length <= MAX_HEADER.min(length.saturating_sub(8)),
        "it is neither a safetensors file nor one of torch.save, or it is cut short"
    );
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header)?;
    // This also checks that the tensors are contiguous and have the sizes of their shapes.
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|error| anyhow::anyhow!("its header is damaged: {error}"))?;
    let data_start = 8 + header_length;
    let data_length = header.data_len() as u64;
    ensure!(
        length - data_start == data_length,
        "it has {} bytes of values where its header says {data_length}: it was cut short or \
         extended",
        length - data_start
    );
    let stored = |info: &TensorInfo| StoredTensor {
        kind: kind_of(info.dtype).ok_or_else(|| format!("{:?}", info.dtype)),
        size: info.shape.iter().map(|&n| n as i64).collect(),
        stride: None,
        entry: None,
        range: data_start + info.data_offsets.0 as u64..data_start + info.data_offsets.1 as u64,
    };
    let tensors = header.tensors().into_iter().map(|(name, info)| (name, stored(info))).collect();
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(WeightsFile { file, archive: None, tensors, big_endian: false, metadata })
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
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
        _ => return None,
    })
}

/// Writes tensors to a safetensors file, atomically.
pub fn save(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: HashMap<String, String>,
) -> Result<()> {
    let bytes = serialize(tensors, metadata)
        .with_context(|| format!("cannot write weights {}", path.display()))?;
    write_atomic(path, |file| Ok(file.write_all(&bytes)?))
}

fn serialize(tensors: &[(String, Tensor)], metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            Kind::Int64 => Dtype::I64,
            Kind::Uint8 => Dtype::U8,
            other => bail!("{name} has type {other:?}, which is not written"),
        };
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        stored.push((name.as_str(), dtype, shape, bytes(tensor)?));
    }
    let views = stored
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize(views, Some(metadata))?)
}
