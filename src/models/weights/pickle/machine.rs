//! The stack machine that runs a pickle's instructions.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::super::printable_start;
use super::{Global, Id, Pickle, Storage, TensorView, Value};

/// More values than any checkpoint of a backbone has, optimizer included; bounds the memory that a
/// pickle can ask for.
const MAX_VALUES: usize = 1_000_000;
/// More bytes than any key of a storage has: a number, or before PyTorch 1.6 an address.
const MAX_KEY: usize = 100;
/// More dimensions than any weight has.
const MAX_DIMENSIONS: usize = 8;

pub(super) struct Machine<'a> {
    input: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs the pickle that `input` begins with, and moves `input` behind it.
    pub(super) fn run(input: &mut &'a [u8]) -> Result<Pickle> {
        let mut machine = Self {
            input,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        loop {
            let [opcode] = machine.array()?;
            if opcode == b'.' {
                let root = machine.pop()?;
                *input = machine.input;
                return Ok(Pickle { values: machine.values, root });
            }
            machine.step(opcode)?;
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

    /// Reads the argument of a text instruction: a line, returned without its end.
    fn line(&mut self) -> Result<String> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let end = end.context("its pickle is cut short")?;
        let line = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.skip(1)?;
        Ok(line)
    }

    /// Reads bytes with a length of 1, 4 or 8 bytes before them.
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
            "its pickle holds more than {MAX_VALUES} values: it is not a backbone's checkpoint"
        );
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
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
        let mark =
            self.marks.pop().context("its pickle is damaged: it pops a mark that was not set")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        // Values below the last mark are out of reach, as in Python.
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(|values| values.last());
        top.copied().context("its pickle is damaged: it pops a value from an empty stack")
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
        self.stack
            .push(id.context("its pickle is damaged: it gets a memo entry that was not put")?);
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
            _ => bail!("its pickle is damaged: it appends to a value that is not a list"),
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
            _ => bail!("its pickle is damaged: it sets items of a value that is not a dictionary"),
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
                _ => bail!("its pickle is damaged: a name is not a string"),
            }
        };
        let global = Global::named(&module, &name).with_context(|| {
            format!(
                "its pickle names {}.{}, and only tensors, plain containers and \
                 argparse.Namespace are read; nothing in it was run",
                printable_start(&module),
                printable_start(&name)
            )
        })?;
        self.push(Value::Global(global))
    }

    /// REDUCE, NEWOBJ and NEWOBJ_EX: the arguments are above the callee.
    fn call(&mut self, opcode: u8) -> Result<()> {
        if opcode == 0x92 {
            self.pop()?; // keyword arguments
        }
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Sequence(arguments) = &self.values[arguments] else {
            bail!("its pickle is damaged: it calls without arguments");
        };
        let Value::Global(callee) = self.values[callee] else {
            bail!("its pickle is damaged: it calls a value that is not callable");
        };
        let last = arguments.last().map(|&last| (last, &self.values[last]));
        let result = match (callee, last) {
            (Global::RebuildTensor(_) | Global::RebuildParameter, _) => {
                Value::Tensor(self.rebuilt(callee, arguments)?)
            }
            // A tensor with attributes: (function, class, arguments of the function, attributes).
            (Global::RebuildFromType, _) => {
                let values = arguments.iter().take(3).map(|&id| &self.values[id]);
                let [Value::Global(function), _, Value::Sequence(arguments)] =
                    values.collect::<Vec<_>>()[..]
                else {
                    bail!("its pickle is damaged: a tensor's subclass without a tensor");
                };
                Value::Tensor(self.rebuilt(*function, arguments)?)
            }
            // `Counter({…})` and `set([…])`: the argument is used instead of a copy, for many
            // copies of a long list would fill the memory.
            (Global::DictType, Some((id, Value::Dict(_))))
            | (Global::SequenceType, Some((id, Value::Sequence(_)))) => {
                self.stack.push(id);
                return Ok(());
            }
            (Global::DictType, None | Some((_, Value::Global(_)))) => Value::Dict(Vec::new()),
            (Global::SequenceType, None) => Value::Sequence(Vec::new()),
            (Global::PlainType, _) => Value::Plain,
            _ => bail!("its pickle builds a container in a way that torch.save does not write"),
        };
        self.push(result)
    }

    fn rebuilt(&self, function: Global, arguments: &[Id]) -> Result<TensorView> {
        let first = arguments.first().map(|&id| &self.values[id]);
        match (function, first) {
            (Global::RebuildTensor(unreadable), _) => self.tensor(arguments, unreadable),
            (Global::RebuildParameter, Some(Value::Tensor(tensor))) => Ok(tensor.clone()),
            _ => bail!("its pickle is damaged: a parameter without a tensor"),
        }
    }

    /// Returns the tensor of the arguments `(storage, offset, size, stride, …)`.
    fn tensor(&self, arguments: &[Id], unreadable: Option<&'static str>) -> Result<TensorView> {
        let [storage, offset, size, stride, ..] = arguments[..] else {
            bail!("its pickle is damaged: a tensor without its four arguments");
        };
        match (&self.values[storage], &self.values[offset]) {
            (Value::Storage(storage), &Value::Int(offset)) => Ok(TensorView {
                storage: storage.clone(),
                offset,
                size: self.integers(size)?,
                stride: self.integers(stride)?,
                unreadable,
            }),
            _ => bail!("its pickle is damaged: a tensor without a storage"),
        }
    }

    fn integers(&self, id: Id) -> Result<Vec<i64>> {
        let Value::Sequence(items) = &self.values[id] else {
            bail!("its pickle is damaged: a shape that is not a list");
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
                _ => bail!("its pickle is damaged: a shape that is not of integers"),
            })
            .collect()
    }

    /// BINPERSID: `("storage", type, key, device, length)`, before PyTorch 1.6 with a sixth field.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Value::Sequence(fields) = &self.values[id] else {
            bail!("its pickle refers to something that is not a storage");
        };
        // One by one: a tuple may be of any length, and be used many times.
        let field = |index: usize| fields.get(index).map(|&field| &self.values[field]);
        let storage = match (field(0), field(1), field(2), field(4)) {
            (
                Some(Value::Text(tag)),
                Some(Value::Global(Global::StorageType(kind))),
                Some(Value::Text(key)),
                Some(Value::Int(len)),
            ) if **tag == *"storage" => Storage { key: key.clone(), kind: *kind, len: *len },
            _ => bail!("its pickle refers to something that is not a storage of numbers"),
        };
        ensure!(
            storage.key.len() <= MAX_KEY,
            "its pickle is damaged: the key of a storage has {} bytes",
            storage.key.len()
        );
        ensure!(
            matches!(field(5), None | Some(Value::Plain)),
            "its pickle has a view of a storage, which PyTorch wrote before 0.4: open it with \
             torch.load and save it again with torch.save"
        );
        self.push(Value::Storage(storage))
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    ensure!(items.len().is_multiple_of(2), "its pickle is damaged: a key without a value");
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Reads little-endian two's complement of any length. An integer that does not fit 64 bits is not
/// a size or offset, so its value does not matter.
fn integer(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Plain;
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}
