//! The Python names that a checkpoint's pickle may hold.

use tch::Kind;

/// PyTorch's storage types, by the type of their elements.
const STORAGES: [(&str, Kind); 10] = [
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
];

/// Returns the name of the storage type for elements of this type, if there is one.
pub fn storage_type(kind: Kind) -> Option<&'static str> {
    STORAGES.iter().find(|(_, known)| *known == kind).map(|(name, _)| *name)
}

/// A Python object that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    RebuildTensor,
    RebuildParameter,
    StorageType(Kind),
    DictType,
    SequenceType,
    PlainType,
}

impl Global {
    /// Looks a name up in the table: tensors, plain containers and values, and
    /// `argparse.Namespace`. All of them only hold values in Python too.
    pub fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
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
            ("torch", "device" | "float16" | "bfloat16" | "float32" | "float64") => Self::PlainType,
            ("torch", "uint8" | "int8" | "int16" | "int32" | "int64" | "bool") => Self::PlainType,
            // numpy scalars, which training loops store as their best metrics.
            ("numpy", "dtype") => Self::PlainType,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Self::PlainType,
            // Protocol 2 writes the bytes of a numpy scalar with it.
            ("_codecs", "encode") => Self::PlainType,
            _ => return None,
        })
    }
}
