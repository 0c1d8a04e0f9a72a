//! Reads the pickle of a PyTorch checkpoint without running anything.
//!
//! A pickle is a program for a small stack machine; its danger lies in two instructions, of which
//! one looks up a Python object by name and the other calls it. Here a name is looked up in a fixed
//! table of what PyTorch writes for tensors and plain values, and a call builds a value of ours.
//! Any other name ends the reading with an error that states it. Instructions: Python's
//! `pickletools`, protocols 2 to 5.
//!
//! Values live in one list and refer to each other by index, so a pickle that nests a million lists
//! or holds itself costs neither stack nor time.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tch::Kind;

/// More values than any checkpoint of a backbone has, optimizer included; it bounds the memory that
/// a pickle can ask for.
const MAX_VALUES: usize = 1_000_000;
/// More dimensions than any weight has.
const MAX_DIMENSIONS: usize = 8;

/// A value's index in [`Pickle::values`].
pub type Id = usize;

/// What a pickle is made of, as far as loading weights needs it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text: dictionary keys, above all.
    Text(Arc<str>),
    /// A whole number.
    Int(i64),
    /// Also stands for lists and sets.
    Sequence(Vec<Id>),
    /// In the order of writing; of equal keys the last counts.
    Dict(Vec<(Id, Id)>),
    /// A name of the table, not called yet.
    Global(Global),
    /// The bytes behind tensors, which lie outside the pickle.
    Storage(Storage),
    /// A view of a storage.
    Tensor(TensorView),
    /// Something plain whose content does not matter: a float, `None`, a Namespace, a numpy scalar.
    Plain,
}

/// A block of values in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Its name in the archive, below `data/`.
    pub key: Arc<str>,
    /// Type of its elements.
    pub kind: Kind,
    /// How many elements it says it has.
    pub len: i64,
}

/// A tensor: which elements of a storage, in what order. Nothing of it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorView {
    /// Where the elements are.
    pub storage: Storage,
    /// Index of the first element.
    pub offset: i64,
    /// Shape.
    pub size: Vec<i64>,
    /// Elements from one index to the next, by dimension.
    pub stride: Vec<i64>,
}

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    /// A function that makes a tensor from a storage.
    RebuildTensor,
    /// A function that makes a parameter from a tensor.
    RebuildParameter,
    /// The type of a storage.
    StorageType(Kind),
    /// A kind of dictionary.
    DictType,
    /// A kind of sequence.
    SequenceType,
    /// Something that makes a plain value.
    PlainType,
}

impl Global {
    /// The whole table: tensors, plain containers and values, and `argparse.Namespace`. Nothing in
    /// it does anything in Python but hold values.
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch", storage) if storage.ends_with("Storage") => {
                Self::StorageType(storage_kind(storage)?)
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
            // Numbers of numpy, as training loops keep of their best metrics.
            ("numpy", "dtype") => Self::PlainType,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Self::PlainType,
            ("_codecs", "encode") => Self::PlainType, // how protocol 2 writes the bytes of such a number
            _ => return None,
        })
    }
}

fn storage_kind(name: &str) -> Option<Kind> {
    Some(match name {
        "FloatStorage" => Kind::Float,
        "DoubleStorage" => Kind::Double,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        _ => return None,
    })
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Reads a whole pickle.
    ///
    /// # Errors
    /// It names something outside the table, it is damaged, or it has more values than a checkpoint
    /// can have.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut machine = Machine {
            input: bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        Ok(Self { values: machine.values, root })
    }

    /// The outermost value.
    pub fn root(&self) -> &Value {
        &self.values[self.root]
    }

    /// A dictionary's entries whose keys are texts; `None` for a value that is no dictionary.
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

struct Machine<'a> {
    input: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => self.skip(1)?, // PROTO
            0x95 => self.skip(8)?, // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'q' | b'r' | 0x94 => self.put(opcode)?,
            b'h' | b'j' => self.get(opcode)?,
            b'N' | 0x88 | 0x89 => self.push(Value::Plain)?, // NONE, NEWTRUE, NEWFALSE
            b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.number(opcode)?,
            b'X' | b'U' | b'T' | 0x8c | 0x8d => self.text(opcode)?,
            b'B' | b'C' | 0x8e | 0x96 => {
                self.counted(opcode)?;
                self.push(Value::Plain)?;
            }
            b')' | b']' | 0x8f => self.push(Value::Sequence(Vec::new()))?,
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Value::Sequence(items))?;
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Value::Sequence(items))?;
            }
            b'a' | b'e' | 0x90 => self.append(opcode)?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_mark()?;
                let entries = pairs(&items)?;
                self.push(Value::Dict(entries))?;
            }
            b's' | b'u' => self.set_items(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 | 0x92 => self.call(opcode)?,
            // BUILD: the attributes of a Namespace, or of an OrderedDict, are not needed.
            b'b' => drop(self.pop()?),
            b'Q' => self.persistent()?,
            other => bail!(
                "its pickle has the instruction {other:#04x}, which torch.save does not write"
            ),
        }
        Ok(())
    }

    fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(drop)
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let (taken, rest) =
            self.input.split_at_checked(count).context("its pickle is cut short")?;
        self.input = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A line of a text instruction, without its end.
    fn line(&mut self) -> Result<String> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let end = end.context("its pickle is cut short")?;
        let line = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.skip(1)?;
        Ok(line)
    }

    /// The bytes behind a length of 1, 4 or 8 bytes.
    fn counted(&mut self, opcode: u8) -> Result<&[u8]> {
        let length = match opcode {
            b'U' | b'C' | 0x8c => u64::from(self.array::<1>()?[0]),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.array()?),
            _ => u64::from(u32::from_le_bytes(self.array()?)),
        };
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn text(&mut self, opcode: u8) -> Result<()> {
        let text = String::from_utf8_lossy(self.counted(opcode)?).into();
        self.push(Value::Text(text))
    }

    fn number(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.array::<1>()?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'G' => {
                self.skip(8)?;
                Value::Plain
            }
            _ => {
                let length = match opcode {
                    0x8a => usize::from(self.array::<1>()?[0]),
                    _ => u32::from_le_bytes(self.array()?) as usize,
                };
                integer(self.take(length)?)
            }
        };
        self.push(value)
    }

    fn push(&mut self, value: Value) -> Result<()> {
        ensure!(
            self.values.len() < MAX_VALUES,
            "its pickle holds more than {MAX_VALUES} values: it is no checkpoint of a backbone"
        );
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// What was pushed since the last mark is out of reach, as in Python.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        Ok(items)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self
            .marks
            .pop()
            .context("its pickle is damaged: it takes a mark where there is none")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        ensure!(
            self.stack.len() > self.floor(),
            "its pickle is damaged: it takes a value where there is none"
        );
        self.stack.last().copied().context("its pickle is damaged")
    }

    fn put(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'q' => self.array::<1>()?[0].into(),
            b'r' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len())?,
        };
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'h' => self.array::<1>()?[0].into(),
            _ => u32::from_le_bytes(self.array()?),
        };
        let id = self.memo.get(&key).copied();
        self.stack.push(id.context("its pickle is damaged: it takes a note that was not made")?);
        Ok(())
    }

    fn append(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            _ => self.pop_mark()?,
        };
        let list = self.top()?;
        match &mut self.values[list] {
            Value::Sequence(list) => list.extend(items),
            Value::Plain => {}
            _ => bail!("its pickle is damaged: it appends to what is no list"),
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b's' => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let dict = self.top()?;
        let new = pairs(&items)?;
        match &mut self.values[dict] {
            Value::Dict(entries) => entries.extend(new),
            Value::Plain => {}
            _ => bail!("its pickle is damaged: it sets items of what is no dictionary"),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<()> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.values[module], &self.values[name]) {
                (Value::Text(module), Value::Text(name)) => (module.to_string(), name.to_string()),
                _ => bail!("its pickle is damaged: it names something without a name"),
            }
        };
        let global = Global::named(&module, &name).with_context(|| {
            format!(
                "its pickle names {}.{}, and only tensors, plain containers and argparse.Namespace are read; \
                 nothing in it was run",
                printable(&module),
                printable(&name)
            )
        })?;
        self.push(Value::Global(global))
    }

    /// REDUCE, NEWOBJ and NEWOBJ_EX: the arguments lie above what is called.
    fn call(&mut self, opcode: u8) -> Result<()> {
        if opcode == 0x92 {
            self.pop()?; // keyword arguments
        }
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Sequence(arguments) = &self.values[arguments] else {
            bail!("its pickle is damaged: it calls without arguments");
        };
        let Value::Global(callee) = self.values[callee] else {
            bail!("its pickle is damaged: it calls what cannot be called");
        };
        let last = arguments.last().map(|&last| (last, &self.values[last]));
        let result = match (callee, last) {
            (Global::RebuildTensor, _) => Value::Tensor(self.tensor(arguments)?),
            (Global::RebuildParameter, _) => match arguments.first().map(|&i| &self.values[i]) {
                Some(Value::Tensor(tensor)) => Value::Tensor(tensor.clone()),
                _ => bail!("its pickle is damaged: a parameter without a tensor"),
            },
            // `Counter({…})` and `set([…])`: the argument stands for its copy, or many copies of a
            // long list would fill the memory.
            (Global::DictType, Some((id, Value::Dict(_))))
            | (Global::SequenceType, Some((id, Value::Sequence(_)))) => {
                self.stack.push(id);
                return Ok(());
            }
            (Global::DictType, None | Some((_, Value::Global(_)))) => Value::Dict(Vec::new()),
            (Global::SequenceType, None) => Value::Sequence(Vec::new()),
            (Global::PlainType, _) => Value::Plain,
            _ => bail!("its pickle makes a container in a way that torch.save does not write"),
        };
        self.push(result)
    }

    /// `(storage, offset, size, stride, …)`.
    fn tensor(&self, arguments: &[Id]) -> Result<TensorView> {
        let [storage, offset, size, stride, ..] = arguments[..] else {
            bail!("its pickle is damaged: a tensor without its four parts");
        };
        match (&self.values[storage], &self.values[offset]) {
            (Value::Storage(storage), &Value::Int(offset)) => Ok(TensorView {
                storage: storage.clone(),
                offset,
                size: self.integers(size)?,
                stride: self.integers(stride)?,
            }),
            _ => bail!("its pickle is damaged: a tensor without a storage"),
        }
    }

    fn integers(&self, id: Id) -> Result<Vec<i64>> {
        let Value::Sequence(items) = &self.values[id] else {
            bail!("its pickle is damaged: a shape that is no list");
        };
        // Without a limit, one long list could be copied into many tensors.
        ensure!(
            items.len() <= MAX_DIMENSIONS,
            "its pickle has a tensor of {} dimensions",
            items.len()
        );
        items
            .iter()
            .map(|&item| match self.values[item] {
                Value::Int(value) => Ok(value),
                _ => bail!("its pickle is damaged: a shape that is not of numbers"),
            })
            .collect()
    }

    /// BINPERSID: `("storage", type, key, device, length)`.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = match &self.values[id] {
            Value::Sequence(parts) => {
                match parts.iter().map(|&part| &self.values[part]).collect::<Vec<_>>()[..] {
                    [
                        Value::Text(tag),
                        Value::Global(Global::StorageType(kind)),
                        Value::Text(key),
                        _,
                        Value::Int(len),
                        ..,
                    ] if **tag == *"storage" => {
                        Storage { key: key.clone(), kind: *kind, len: *len }
                    }
                    _ => bail!("its pickle refers to something that is no storage of numbers"),
                }
            }
            _ => bail!("its pickle refers to something that is no storage"),
        };
        self.push(Value::Storage(storage))
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    ensure!(items.len().is_multiple_of(2), "its pickle is damaged: a key without a value");
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Little-endian two's complement of any length; what does not fit 64 bits is no size or offset.
fn integer(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Plain;
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut whole = [if negative { 0xff } else { 0 }; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

/// A name from the file for an error of one line.
fn printable(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}
