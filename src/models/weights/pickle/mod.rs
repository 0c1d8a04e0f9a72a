//! Reads the pickle of a PyTorch checkpoint without running anything.
//!
//! A pickle is a program for a stack machine. Two of its instructions are dangerous: one looks up a
//! Python object by name, the other calls it. Here a name is looked up in a fixed table of what
//! PyTorch writes for tensors and plain values, and a call builds one of our own values. Any other
//! name ends the reading with an error that states it. Instructions: Python's `pickletools`,
//! protocols 2 to 5.
//!
//! Values are in one list and refer to each other by index, so a pickle that nests a million lists
//! or contains itself costs neither stack nor time.

mod machine;

use std::sync::Arc;

use anyhow::Result;
use tch::Kind;

use machine::Machine;

/// A value's index in [`Pickle::values`].
pub(super) type Id = usize;

/// A value of a pickle, as far as loading weights needs it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(Arc<str>),
    Int(i64),
    Sequence(Vec<Id>),
    /// A dictionary in the order of writing; of equal keys the last counts.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// A storage of tensors, whose bytes are outside the pickle.
    Storage(Storage),
    Tensor(TensorView),
    /// A value whose content does not matter: a float, `None`, a Namespace, a numpy scalar.
    Plain,
}

/// A storage: a block of values in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub key: Arc<str>,
    pub kind: Kind,
    pub len: i64,
}

/// A tensor: a strided view of a storage, not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorView {
    pub storage: Storage,
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
    /// The name of its type, if that is none of [`Kind`]: its values are not read.
    pub unreadable: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Reads the pickle that `bytes` begin with, and moves `bytes` behind it.
    pub(super) fn read(bytes: &mut &[u8]) -> Result<Self> {
        Machine::run(bytes)
    }

    pub(super) fn root(&self) -> &Value {
        &self.values[self.root]
    }

    /// Returns the strings of a list; `None` if the pickle is not one.
    pub(super) fn strings(&self) -> Option<Vec<&Arc<str>>> {
        let Value::Sequence(items) = self.root() else {
            return None;
        };
        let strings = items.iter().map(|&item| match &self.values[item] {
            Value::Text(text) => Some(text),
            _ => None,
        });
        strings.collect()
    }

    /// Returns every storage that the pickle names, as often as it does.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    /// Iterates over the entries of a dictionary whose keys are strings; another value has none.
    pub(super) fn entries<'a>(
        &'a self,
        value: &'a Value,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let entries = match value {
            Value::Dict(entries) => &entries[..],
            _ => &[],
        };
        entries.iter().filter_map(|&(key, value)| match &self.values[key] {
            Value::Text(key) => Some((&**key, &self.values[value])),
            _ => None,
        })
    }
}

/// PyTorch's storage types, by the type of their elements.
const STORAGES: [(&str, Kind); 12] = [
    ("FloatStorage", Kind::Float),
    ("DoubleStorage", Kind::Double),
    ("HalfStorage", Kind::Half),
    ("BFloat16Storage", Kind::BFloat16),
    ("LongStorage", Kind::Int64),
    ("IntStorage", Kind::Int),
    ("ShortStorage", Kind::Int16),
    ("CharStorage", Kind::Int8),
    ("ByteStorage", Kind::Uint8),
    ("BoolStorage", Kind::Bool),
    ("ComplexFloatStorage", Kind::ComplexFloat),
    ("ComplexDoubleStorage", Kind::ComplexDouble),
];

pub(super) fn storage_type(kind: Kind) -> Option<&'static str> {
    STORAGES.iter().find(|(_, known)| *known == kind).map(|(name, _)| *name)
}

/// A Python object that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// A function that builds a tensor, perhaps of a type that is not read.
    RebuildTensor(Option<&'static str>),
    RebuildParameter,
    RebuildFromType,
    StorageType(Kind),
    DictType,
    SequenceType,
    PlainType,
}

impl Global {
    /// Looks a name up in the table: tensors, plain containers and values, and
    /// `argparse.Namespace`. All of them only hold values in Python too.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor(None),
            ("torch._utils", "_rebuild_qtensor") => Self::RebuildTensor(Some("a quantized tensor")),
            ("torch._utils", "_rebuild_tensor_v3") => {
                Self::RebuildTensor(Some("float8 or wide unsigned integers"))
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Self::PlainType,
            ("torch.storage", "UntypedStorage") => Self::StorageType(Kind::Uint8),
            // Of quantized tensors, whose values are not read.
            ("torch", "QInt8Storage" | "QUInt8Storage") => Self::StorageType(Kind::Int8),
            ("torch", "QInt32Storage") => Self::StorageType(Kind::Int),
            ("torch", "per_tensor_affine" | "per_channel_affine") => Self::PlainType,
            ("torch", storage) if storage.ends_with("Storage") => {
                let (_, kind) = STORAGES.iter().find(|(name, _)| *name == storage)?;
                Self::StorageType(*kind)
            }
            ("collections", "OrderedDict" | "defaultdict" | "Counter") => Self::DictType,
            ("builtins" | "__builtin__", "dict") => Self::DictType,
            ("builtins" | "__builtin__", "list" | "tuple" | "set" | "frozenset") => {
                Self::SequenceType
            }
            ("torch", "Size") => Self::SequenceType,
            ("builtins" | "__builtin__", "int" | "float" | "bool" | "str" | "complex") => {
                Self::PlainType
            }
            ("builtins" | "__builtin__", "bytearray" | "bytes") => Self::PlainType,
            ("argparse", "Namespace") => Self::PlainType,
            ("torch", "device" | "bool") => Self::PlainType,
            ("torch", dtype) if is_dtype(dtype) => Self::PlainType,
            ("torch.serialization", "_get_layout") => Self::PlainType,
            // Training loops store the folders of their data with their settings.
            ("pathlib", "Path" | "PosixPath" | "PurePosixPath") => Self::PlainType,
            ("pathlib", "WindowsPath" | "PureWindowsPath") => Self::PlainType,
            // numpy scalars, which training loops store as their best metrics.
            ("numpy", "dtype") => Self::PlainType,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Self::PlainType,
            // Protocol 2 writes the bytes of a numpy scalar with it.
            ("_codecs", "encode") => Self::PlainType,
            _ => return None,
        })
    }
}

/// Returns whether torch has a type of numbers of this name: `float32`, `uint8`, `float8_e4m3fn`.
fn is_dtype(name: &str) -> bool {
    let kinds = ["float", "bfloat", "complex", "int", "uint", "qint", "quint"];
    let width =
        |kind: &&str| name.strip_prefix(kind).is_some_and(|w| w.starts_with(char::is_numeric));
    kinds.iter().any(width)
}
