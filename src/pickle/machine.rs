//! The stack machine whose programs pickles are: the opcodes that build plain values.

use std::collections::HashMap;
use std::path::Path;

use super::{Id, Names, Value};
use crate::error::{Error, Result};

/// The most values, memo entries and stack entries: a batch of CIFAR-10 has 20,000 values.
pub(super) const MAX_VALUES: usize = 1 << 20;
/// The most containers open at once; Python's own pickler stops at a recursion depth of 1000.
const MAX_DEPTH: usize = 1000;

/// What a pickle's program works on.
pub(super) struct Machine<'p, 'a> {
    path: &'p Path,
    bytes: &'a [u8],
    names: Names,
    at: usize,
    pub(super) values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Lengths of the stack at which the open containers begin.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
    /// How many items of lists were copied.
    n_copied: usize,
}

impl<'p, 'a> Machine<'p, 'a> {
    pub(super) fn new(path: &'p Path, bytes: &'a [u8], names: Names) -> Self {
        Self {
            path,
            bytes,
            names,
            at: 0,
            values: vec![],
            stack: vec![],
            marks: vec![],
            memo: HashMap::new(),
            n_copied: 0,
        }
    }

    /// Executes a program that must be all there is; gives all values and the one that it leaves.
    pub(super) fn run_to_end(self) -> Result<(Vec<Value<'a>>, Id)> {
        let (path, n_bytes) = (self.path, self.bytes.len());
        match self.run()? {
            (values, root, n_read) if n_read == n_bytes => Ok((values, root)),
            (.., n_read) => Err(Error::format(path, format!("pickle, byte {n_read}: goes on after its value"))),
        }
    }

    /// Executes one program; gives all values, the one that it leaves, and the program's length.
    pub(super) fn run(mut self) -> Result<(Vec<Value<'a>>, Id, usize)> {
        match *self.bytes {
            [0x80, 2..=5, ..] => {}
            [0x80, protocol, ..] => return Err(self.error(format!("protocol {protocol}; expected 2 to 5"))),
            _ => return Err(Error::format(self.path, "is no Python pickle of protocol 2 to 5")),
        }
        loop {
            match self.byte()? {
                // PROTO, FRAME: nothing to do.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => break,

                b'(' => {
                    if self.marks.len() >= MAX_DEPTH {
                        return Err(self.error(format!("more than {MAX_DEPTH} open containers")));
                    }
                    self.marks.push(self.stack.len());
                }
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),

                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => {
                    let bits = self.uint(4)? as u32;
                    self.push(Value::Int(i64::from(bits.cast_signed())))?;
                }
                0x8a => self.long()?,
                b'G' => {
                    let bits = self.uint(8)?.swap_bytes();
                    self.push(Value::Float(f64::from_bits(bits)))?;
                }
                // Strings of Python 2, bytes, bytearray; the number is the width of the length.
                b'U' | b'C' => self.byte_string(1)?,
                b'T' | b'B' => self.byte_string(4)?,
                0x8e | 0x96 => self.byte_string(8)?,
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                0x8d => self.text(8)?,

                b']' => self.push(Value::List(vec![]))?,
                b')' => self.push(Value::Tuple(vec![]))?,
                b'}' => self.push(Value::Dict(vec![]))?,
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::List(items))?;
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                0x85 => self.small_tuple(1)?,
                0x86 => self.small_tuple(2)?,
                0x87 => self.small_tuple(3)?,
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Dict(vec![]))?;
                    self.set_items(&items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }

                b'q' => {
                    let key = self.length(1)?;
                    self.memoize(key)?;
                }
                b'r' => {
                    let key = self.length(4)?;
                    self.memoize(key)?;
                }
                0x94 => self.memoize(self.memo.len())?,
                b'h' => self.recall(1)?,
                b'j' => self.recall(4)?,

                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop_text()?, self.pop_text()?);
                    self.global(&module, &name)?;
                }
                b'R' => match self.names {
                    Names::NumpyU8 => self.numpy_reduce()?,
                    Names::Torch => self.torch_reduce()?,
                },
                b'b' => match self.names {
                    Names::NumpyU8 => self.numpy_build()?,
                    Names::Torch => self.torch_build()?,
                },
                b'Q' if self.names == Names::Torch => self.torch_outside()?,
                // NEWOBJ, NEWOBJ_EX, EMPTY_SET, ADDITEMS, FROZENSET.
                0x81 if self.names == Names::Torch => self.torch_reduce()?,
                0x92 if self.names == Names::Torch => {
                    self.pop()?;
                    self.torch_reduce()?;
                }
                0x8f if self.names == Names::Torch => self.push(Value::Opaque("set"))?,
                0x90 if self.names == Names::Torch => {
                    self.pop_to_mark()?;
                    let set = self.top()?;
                    if self.values[set.0] != Value::Opaque("set") {
                        return Err(self.error("adds items to what is no set"));
                    }
                }
                0x91 if self.names == Names::Torch => {
                    self.pop_to_mark()?;
                    self.push(Value::Opaque("frozenset"))?;
                }
                opcode => {
                    let message = format!("opcode {opcode:#04x} makes no plain value, so it is refused");
                    return Err(self.error(message));
                }
            }
        }
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(self.error("goes on after its value"));
        }
        Ok((self.values, root, self.at))
    }

    /// An error at the byte after the last one read.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::format(self.path, format!("pickle, byte {}: {}", self.at, message.into()))
    }

    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..n_bytes));
        let taken = taken.ok_or_else(|| self.error(format!("ends where {n_bytes} more bytes are announced")))?;
        self.at += n_bytes;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian unsigned integer of at most 8 bytes.
    fn uint(&mut self, n_bytes: usize) -> Result<u64> {
        Ok(self.take(n_bytes)?.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    fn length(&mut self, n_bytes: usize) -> Result<usize> {
        let length = self.uint(n_bytes)?;
        usize::try_from(length).map_err(|_| self.error(format!("a length of {length}")))
    }

    /// Two lines of text name a function: `module\nname\n`.
    fn line(&mut self) -> Result<String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        // No name that is accepted is longer; a longer one is cut, and so refused.
        let rest = &rest[..rest.len().min(100)];
        let n_bytes = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        let line = self.take(n_bytes)?.escape_ascii().to_string();
        self.take(1)?;
        Ok(line)
    }

    /// The meaning of a function's or class's name.
    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match self.names {
            Names::NumpyU8 => self.numpy_global(module, name),
            Names::Torch => self.torch_global(module, name),
        }
    }

    pub(super) fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= MAX_VALUES {
            return Err(self.error(format!("more than {MAX_VALUES} values on the stack")));
        }
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.values.len() >= MAX_VALUES {
            return Err(self.error(format!("more than {MAX_VALUES} values")));
        }
        self.values.push(value);
        self.push_id(Id(self.values.len() - 1))
    }

    pub(super) fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let id = if self.stack.len() > floor { self.stack.pop() } else { None };
        id.ok_or_else(|| self.error("takes a value where there is none"))
    }

    /// Accounts for `n` items of a list that are about to be copied: however often it is, that must not cost more than
    /// the bytes read so far.
    pub(super) fn copies(&mut self, n: usize) -> Result<()> {
        self.n_copied += n;
        if self.n_copied > self.at { Err(self.error("copies lists over and over")) } else { Ok(()) }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.error("closes a container that is not open"))?;
        Ok(self.stack.split_off(mark))
    }

    /// The top of the stack, which stays there.
    pub(super) fn top(&mut self) -> Result<Id> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    fn pop_text(&mut self) -> Result<String> {
        let id = self.pop()?;
        match &self.values[id.0] {
            // As in `line`: long names are cut, and so refused.
            Value::Str(text) => Ok(text.chars().take(100).flat_map(char::escape_default).collect()),
            _ => Err(self.error("a name that is no string")),
        }
    }

    fn int(&mut self, n_bytes: usize) -> Result<()> {
        let n = self.uint(n_bytes)?;
        self.push(Value::Int(n.cast_signed()))
    }

    /// A two's complement integer of any number of bytes, of which 8 are supported.
    fn long(&mut self) -> Result<()> {
        let n_bytes = self.length(1)?;
        let n = match n_bytes {
            0 => 0,
            1..=8 => {
                let n_unused_bits = 64 - 8 * n_bytes;
                (self.uint(n_bytes)? << n_unused_bits).cast_signed() >> n_unused_bits
            }
            // Such as the state of a random generator.
            _ if self.names == Names::Torch => {
                self.take(n_bytes)?;
                return self.push(Value::Opaque("int of more than 64 bits"));
            }
            _ => return Err(self.error(format!("an integer of {n_bytes} bytes; expected at most 8"))),
        };
        self.push(Value::Int(n))
    }

    fn byte_string(&mut self, n_length_bytes: usize) -> Result<()> {
        let n_bytes = self.length(n_length_bytes)?;
        let bytes = self.take(n_bytes)?;
        self.push(Value::Bytes(bytes))
    }

    fn text(&mut self, n_length_bytes: usize) -> Result<()> {
        let n_bytes = self.length(n_length_bytes)?;
        let bytes = self.take(n_bytes)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error("a string that is not UTF-8"))?;
        self.push(Value::Str(text))
    }

    fn small_tuple(&mut self, n_items: usize) -> Result<()> {
        let mut items = (0..n_items).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn append(&mut self, items: &[Id]) -> Result<()> {
        let list = self.top()?;
        match &mut self.values[list.0] {
            Value::List(list) => list.extend(items),
            _ => return Err(self.error("appends to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, odd) = items.as_chunks::<2>();
        match &mut self.values[dict.0] {
            Value::Dict(dict) if odd.is_empty() => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err(self.error("sets items of what is no dict, or a key without a value")),
        }
        Ok(())
    }

    fn memoize(&mut self, key: usize) -> Result<()> {
        let id = self.top()?;
        if self.memo.len() >= MAX_VALUES {
            return Err(self.error(format!("more than {MAX_VALUES} remembered values")));
        }
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, n_bytes: usize) -> Result<()> {
        let key = self.length(n_bytes)?;
        let id = self.memo.get(&key).copied();
        self.push_id(id.ok_or_else(|| self.error(format!("recalls value {key}, which was never remembered")))?)
    }
}
