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

mod globals;
mod machine;

use std::sync::Arc;

use anyhow::Result;
use tch::Kind;

use globals::Global;
pub use globals::storage_type;
use machine::Machine;

/// A value's index in [`Pickle::values`].
pub type Id = usize;

/// A value of a pickle, as far as loading weights needs it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(Arc<str>),
    Int(i64),
    /// A tuple, a list or a set.
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
pub struct Storage {
    /// Name in the archive, below `data/`.
    pub key: Arc<str>,
    pub kind: Kind,
    /// Number of elements according to the pickle.
    pub len: i64,
}

/// A tensor: a strided view of a storage, not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorView {
    pub storage: Storage,
    pub offset: i64,
    pub size: Vec<i64>,
    /// Elements from one index to the next in each dimension.
    pub stride: Vec<i64>,
}

#[derive(Debug)]
pub struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Machine::run(bytes)
    }

    pub fn root(&self) -> &Value {
        &self.values[self.root]
    }

    /// Returns a dictionary's entries with string keys; `None` if the value is not a dictionary.
    pub fn entries<'a>(&'a self, value: &'a Value) -> Option<Vec<(&'a str, &'a Value)>> {
        let Value::Dict(entries) = value else {
            return None;
        };
        let named = entries.iter().filter_map(|&(key, value)| {
            let Value::Text(key) = &self.values[key] else {
                return None;
            };
            Some((&**key, &self.values[value]))
        });
        Some(named.collect())
    }
}
