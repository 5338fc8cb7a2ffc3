//! What numpy's `u8` arrays and Python 3's bytes are made of: the only names that a pickle may load, and what
//! stands for calling them.

use std::borrow::Cow;

use super::machine::Machine;
use super::{Id, Pickle, Value};
use crate::error::Result;

/// The functions and classes that a pickle may name, and what they make before it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The function that makes an array without content.
    Reconstruct,
    /// The function that makes an array from bytes.
    FromBuffer,
    /// The class `ndarray`.
    NdArray,
    /// The class `dtype`.
    DType,
    /// `_codecs.encode`, with which Python 3 writes bytes in protocol 2.
    Encode,
    /// The type of `u8` items.
    DTypeU8,
    /// An array without content.
    EmptyArray,
}

impl Machine<'_, '_> {
    /// The meaning of a function's or class's name.
    pub(super) fn numpy_global(&mut self, module: &str, name: &str) -> Result<()> {
        let part = match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Part::Reconstruct,
            ("numpy.core.numeric" | "numpy._core.numeric" | "numpy.core.multiarray", "_frombuffer") => Part::FromBuffer,
            ("numpy", "ndarray") => Part::NdArray,
            ("numpy", "dtype") => Part::DType,
            ("_codecs", "encode") => Part::Encode,
            _ => {
                let message = format!(
                    "refuses to load {module}.{name}: a data file may load only what numpy's u8 arrays are made of"
                );
                return Err(self.error(message));
            }
        };
        self.push(Value::Numpy(part))
    }

    /// Stands for the call of one of the known functions.
    pub(super) fn numpy_reduce(&mut self) -> Result<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(args) = &self.values[args.0] else { return Err(self.error("calls without a tuple")) };
        let arg = |i: usize| args.get(i).map(|id| &self.values[id.0]);
        let made = match (&self.values[function.0], args.len()) {
            (Value::Numpy(Part::Reconstruct), 3) if arg(0) == Some(&Value::Numpy(Part::NdArray)) => {
                Value::Numpy(Part::EmptyArray)
            }
            (Value::Numpy(Part::DType), 1..=3) => match arg(0).and_then(Value::as_text) {
                Some("u1" | "|u1" | "B" | "uint8") => Value::Numpy(Part::DTypeU8),
                _ => return Err(self.error("an array whose items are not u8")),
            },
            (Value::Numpy(Part::FromBuffer), 4) if arg(1) == Some(&Value::Numpy(Part::DTypeU8)) => {
                let is_column_major = match arg(3).and_then(Value::as_text) {
                    Some("C") => false,
                    Some("F") => true,
                    _ => return Err(self.error("an array whose order is neither C nor F")),
                };
                Value::Array { shape: args[2], is_column_major, bytes: args[0] }
            }
            (Value::Numpy(Part::Encode), 2) => match (arg(0), arg(1).and_then(Value::as_text)) {
                (Some(Value::Str(text)), Some("latin1")) => Value::Latin1(text),
                _ => return Err(self.error("encodes something other than a string as latin1")),
            },
            _ => return Err(self.error("refuses to call this value with these arguments")),
        };
        self.push(made)
    }

    /// Completes an array or an item type.
    pub(super) fn numpy_build(&mut self) -> Result<()> {
        let (state, target) = (self.pop()?, self.top()?);
        let Value::Tuple(state) = &self.values[state.0] else { return Err(self.error("a state that is no tuple")) };
        let part = |i: usize| state.get(i).map(|id| &self.values[id.0]);
        let built = match (&self.values[target.0], state.len()) {
            (Value::Numpy(Part::EmptyArray), 5) if part(2) == Some(&Value::Numpy(Part::DTypeU8)) => {
                let is_column_major = match part(3) {
                    Some(Value::Bool(flag)) => *flag,
                    Some(Value::Int(flag)) => *flag != 0,
                    _ => return Err(self.error("an array whose order is neither true nor false")),
                };
                Value::Array { shape: state[1], is_column_major, bytes: state[4] }
            }
            // (version, byte order, subtype, names, fields, ...): u8 has no byte order, and none of the rest.
            (Value::Numpy(Part::DTypeU8), 5..) if (2..5).all(|i| part(i) == Some(&Value::None)) => return Ok(()),
            _ => return Err(self.error("refuses to set the state of this value")),
        };
        self.values[target.0] = built;
        Ok(())
    }
}

impl<'a> Pickle<'a> {
    /// An array's shape and its items with the last axis fastest.
    ///
    /// # Errors
    /// A sentence, without the file's name, when `value` is no array of `u8` or its parts do not fit together.
    pub fn array_u8(&self, value: &Value<'a>) -> Result<(Vec<usize>, Cow<'a, [u8]>), String> {
        let Value::Array { shape, is_column_major, bytes } = value else {
            return Err("is no numpy array".into());
        };
        let Value::Tuple(dims) = self.value(*shape) else { return Err("is an array without a shape".into()) };
        let dim = |id: &Id| if let Value::Int(n) = self.value(*id) { usize::try_from(*n).ok() } else { None };
        let shape: Vec<usize> =
            dims.iter().map(dim).collect::<Option<_>>().ok_or("is an array whose shape is not made of sizes")?;
        let bytes = match self.value(*bytes) {
            Value::Bytes(bytes) => Cow::Borrowed(*bytes),
            Value::Latin1(text) => {
                let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
                Cow::Owned(bytes.ok_or("is an array with a character beyond Latin-1")?)
            }
            _ => return Err("is an array whose items are not bytes".into()),
        };
        let n_items = shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim));
        if n_items != Some(bytes.len()) {
            return Err(format!("is an array of shape {shape:?} with {} items", bytes.len()));
        }
        match (*is_column_major, &shape[..]) {
            (false, _) | (true, [] | [_]) => Ok((shape, bytes)),
            (true, &[n_rows, n_columns]) => {
                let items = (0..n_rows).flat_map(|r| (0..n_columns).map(move |c| (r, c)));
                let items = items.map(|(r, c)| bytes[c * n_rows + r]).collect();
                Ok((shape, Cow::Owned(items)))
            }
            (true, _) => Err(format!("is a column-major array of {} axes; expected at most 2", shape.len())),
        }
    }
}
