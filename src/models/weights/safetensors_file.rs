//! Reads and writes safetensors files, tensor by tensor.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use tch::{Kind, Tensor};

use super::{StoredTensor, WeightsFile, bytes};
use crate::files::write_atomic;

/// Longer than any model's header; keeps a broken file from asking for all memory.
const MAX_HEADER: u64 = 16 << 20;
/// Metadata key of the BLAKE3 hash of the other metadata and the values, in files of this program.
const CHECKSUM_KEY: &str = "vmbeauty.blake3";

/// Opens a file, checks its header against its length, and its values against their checksum if it
/// has one.
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
    let mut metadata = header.metadata().clone().unwrap_or_default();
    if let Some(written) = metadata.remove(CHECKSUM_KEY) {
        file.seek(SeekFrom::Start(data_start))?;
        ensure!(
            checksum(&metadata.iter().collect(), &file)? == written,
            "it is damaged, or another program has rewritten it: its checksum is not that of its \
             content; use a copy of it, or, to accept it as it is, remove the key {CHECKSUM_KEY} \
             from its metadata"
        );
    }
    Ok(WeightsFile { file, archive: None, tensors, big_endian: false, metadata, note: None })
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

/// Returns the hash of a file's metadata and values.
fn checksum(metadata: &BTreeMap<&String, &String>, values: impl Read) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&serde_json::to_vec(metadata)?);
    hasher.update_reader(values)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Writes tensors to a safetensors file with a checksum, atomically. Equal tensors and metadata
/// make equal files.
pub fn save(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: HashMap<String, String>,
) -> Result<()> {
    let bytes =
        serialize(tensors).with_context(|| format!("cannot write weights {}", path.display()))?;
    let (header, values) = split(&bytes)?;
    let header = with_metadata(header, metadata, values)?;
    write_atomic(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        Ok(file.write_all(values)?)
    })
}

/// Splits a file into its header and its values.
fn split(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk().context("there is no header")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let (header, values) = rest.split_at_checked(length).context("the header is cut short")?;
    Ok((std::str::from_utf8(header)?, values))
}

/// Puts the metadata, in the order of their keys, and the checksum into a header without any.
fn with_metadata(
    header: &str,
    mut metadata: HashMap<String, String>,
    values: &[u8],
) -> Result<String> {
    let checksum = checksum(&metadata.iter().collect(), values)?;
    metadata.insert(CHECKSUM_KEY.to_string(), checksum);
    let metadata = serde_json::to_string(&metadata.iter().collect::<BTreeMap<_, _>>())?;
    let tensors = header.trim_end().strip_prefix('{').context("the header is no object")?;
    let comma = if tensors == "}" { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{metadata}{comma}{tensors}");
    // The values begin at a multiple of eight bytes. (A width in `format!` has 16 bits.)
    let padding = header.len().next_multiple_of(8) - header.len();
    header.extend(std::iter::repeat_n(' ', padding));
    Ok(header)
}

fn serialize(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
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
    Ok(safetensors::serialize(views, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_that_of_this_program_and_one_that_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let open_with = |key: &str| {
            let metadata = HashMap::from([key, "author"].map(|key| (key.into(), "me".into())));
            let view = TensorView::new(Dtype::U8, vec![2], &[1, 2]).unwrap();
            let bytes = safetensors::serialize([("x", view)], Some(metadata)).unwrap();
            std::fs::write(&path, bytes).unwrap();
            WeightsFile::open(&path)
        };
        assert_eq!(open_with("blake3").unwrap().metadata()["blake3"], "me");
        let error = format!("{:#}", open_with(CHECKSUM_KEY).unwrap_err());
        assert!(error.contains("another program has rewritten it"), "{error}");
        assert!(error.contains("remove the key vmbeauty.blake3 from its metadata"), "{error}");
    }

    #[test]
    fn a_header_longer_than_64_kib_is_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let tensors: Vec<(String, Tensor)> = (0..1200)
            .map(|i| (format!("vit.blocks.{i}.weight"), Tensor::from_slice(&[i as f32])))
            .collect();
        super::super::save(&path, &tensors, HashMap::new()).unwrap();
        let mut file = WeightsFile::open(&path).unwrap();
        assert_eq!(file.tensor("vit.blocks.1199.weight").unwrap().double_value(&[0]), 1199.0);
    }
}
