//! The network as an ONNX graph. Each layer adds its nodes in a function next to its forward pass,
//! through the `Graph` here, and nothing is traced.

mod graph;
mod proto;
mod scan;
#[cfg(test)]
mod tests;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use prost::Message;

pub(super) use self::graph::{Graph, Value, float, int, ints};
use self::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
pub(super) use self::scan::{ScanValues, selective_scan};

/// The version of ONNX's operators.
const OPSET: i64 = 18;
/// The version of the file format that came with it.
const IR_VERSION: i64 = 8;
/// The largest file that a reader of protocol buffers accepts.
const MAX_BYTES: usize = i32::MAX as usize;

/// How the selective scan is written; the variants' comments are the program's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ScanForm {
    /// An ONNX Scan, a loop over the tokens
    #[default]
    Loop,
    /// Doubling steps of Mul, Add, Pad and Slice, for runtimes without loops; takes more memory
    Unrolled,
}

/// The type of the graph's input; the variants' comments are the program's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum InputType {
    /// [batch, height, width, 3], pixels from 0 to 255, as images lie in memory
    #[default]
    Uint8,
    /// [batch, 3, height, width], float32, pixels from 0 to 1
    Float,
}

/// How a network is written as ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnnxOptions {
    /// How the selective scan is written.
    pub scan: ScanForm,
    /// The type of the input.
    pub input: InputType,
    /// Whether scores and branch weights are the means over each image and its mirror image.
    pub test_time_flip: bool,
}

/// A network as ONNX.
#[derive(Debug)]
pub struct OnnxModel(ModelProto);

impl OnnxModel {
    /// Adds an entry to the file's metadata.
    pub fn describe(&mut self, key: &str, value: &str) {
        let entry = StringStringEntryProto { key: key.to_string(), value: value.to_string() };
        self.0.metadata_props.push(entry);
    }

    /// Returns the names of the outputs.
    pub fn outputs(&self) -> Vec<String> {
        let outputs = self.0.graph.iter().flat_map(|graph| &graph.output);
        outputs.map(|output| output.name.clone()).collect()
    }

    /// Returns the content of the .onnx file. Returns an error if it is larger than the format
    /// allows.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes = self.0.encoded_len();
        ensure!(
            bytes <= MAX_BYTES,
            "the model takes {:.1} GB, and an ONNX file holds 2.1 GB: train with smaller \
             model.vit.embed_dim, model.mamba.embed_dim or depth, or use --format safetensors",
            bytes as f64 / 1e9
        );
        Ok(self.0.encode_to_vec())
    }
}

impl Graph {
    /// Returns the finished model.
    pub(super) fn into_model(self) -> Result<OnnxModel> {
        Ok(OnnxModel(ModelProto {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_string(),
            producer_version: env!("CARGO_PKG_VERSION").to_string(),
            graph: Some(self.into_proto()?),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: Vec::new(),
        }))
    }
}
