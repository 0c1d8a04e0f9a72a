//! Writes PyTorch's zip files: `{"model": OrderedDict of tensors}`, as the training checkpoints of
//! timm, DeiT and Vim.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tch::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::bytes;
use super::pickle::storage_type;
use crate::files::write_atomic;

const FOLDER: &str = "archive";

/// Writes tensors as `torch.save({"model": state_dict}, path)` does, atomically.
pub fn save_torch(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    write_atomic(path, |file| {
        let mut zip = ZipWriter::new_stream(file);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let mut entry = |name: &str, bytes: &[u8]| -> Result<()> {
            // The zip writer does not know an entry's length when it begins: large ones must ask
            // for the wider fields.
            let large = bytes.len() >= u32::MAX as usize;
            zip.start_file(format!("{FOLDER}/{name}"), options.large_file(large))?;
            Ok(zip.write_all(bytes)?)
        };
        entry("data.pkl", &pickle(tensors)?)?;
        entry("byteorder", b"little")?;
        for (index, (name, tensor)) in tensors.iter().enumerate() {
            let values = bytes(tensor).with_context(|| name.clone())?;
            entry(&format!("data/{index}"), &values)?;
        }
        entry("version", b"3\n")?;
        zip.finish()?;
        Ok(())
    })
}

/// Returns a pickle of protocol 2 without a memo: each tensor repeats all of its arguments.
fn pickle(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut out = b"\x80\x02}".to_vec(); // PROTO 2, EMPTY_DICT
    text(&mut out, "model");
    global(&mut out, "collections", "OrderedDict");
    out.extend(b")R("); // called without arguments; MARK
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut out, name);
        global(&mut out, "torch._utils", "_rebuild_tensor_v2");
        out.extend(b"((");
        text(&mut out, "storage");
        let kind = tensor.kind();
        let storage = storage_type(kind)
            .with_context(|| format!("{name} has type {kind:?}, which is not written"))?;
        global(&mut out, "torch", storage);
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.numel() as i64);
        out.extend(b"tQK\x00"); // the tuple names a storage; offset 0
        let size = tensor.size();
        let strides = contiguous_strides(&size);
        for shape in [&size, &strides] {
            out.push(b'(');
            shape.iter().for_each(|&n| integer(&mut out, n));
            out.push(b't');
        }
        out.push(0x89); // requires_grad: False
        global(&mut out, "collections", "OrderedDict");
        out.extend(b")RtR"); // no hooks; the call
    }
    out.extend(b"us."); // SETITEMS of the state dict, SETITEM "model", STOP
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").as_bytes());
}

/// Appends a LONG1 of 8 bytes.
fn integer(out: &mut Vec<u8>, value: i64) {
    out.extend([0x8a, 8]);
    out.extend(value.to_le_bytes());
}

fn contiguous_strides(size: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; size.len()];
    for dimension in (1..size.len()).rev() {
        strides[dimension - 1] = strides[dimension] * size[dimension].max(1);
    }
    strides
}
