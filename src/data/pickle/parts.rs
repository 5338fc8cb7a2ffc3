//! What numpy's `u8` arrays and Python 3's bytes are made of: the only names that a pickle may load, and what
//! stands for calling them.

use super::machine::Machine;
use super::{Part, Value};
use crate::error::Result;

impl Machine<'_, '_> {
    /// The meaning of a function's or class's name.
    pub(super) fn global(&mut self, module: &str, name: &str) -> Result<()> {
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
        self.push(Value::Part(part))
    }

    /// Stands for the call of one of the known functions.
    pub(super) fn reduce(&mut self) -> Result<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(args) = &self.values[args.0] else { return Err(self.error("calls without a tuple")) };
        let arg = |i: usize| args.get(i).map(|id| &self.values[id.0]);
        let made = match (&self.values[function.0], args.len()) {
            (Value::Part(Part::Reconstruct), 3) if arg(0) == Some(&Value::Part(Part::NdArray)) => {
                Value::Part(Part::EmptyArray)
            }
            (Value::Part(Part::DType), 1..=3) => match arg(0).and_then(as_text) {
                Some("u1" | "|u1" | "B" | "uint8") => Value::Part(Part::DTypeU8),
                _ => return Err(self.error("an array whose items are not u8")),
            },
            (Value::Part(Part::FromBuffer), 4) if arg(1) == Some(&Value::Part(Part::DTypeU8)) => {
                let is_column_major = match arg(3).and_then(as_text) {
                    Some("C") => false,
                    Some("F") => true,
                    _ => return Err(self.error("an array whose order is neither C nor F")),
                };
                Value::Array { shape: args[2], is_column_major, bytes: args[0] }
            }
            (Value::Part(Part::Encode), 2) => match (arg(0), arg(1).and_then(as_text)) {
                (Some(Value::Str(text)), Some("latin1")) => Value::Latin1(text),
                _ => return Err(self.error("encodes something other than a string as latin1")),
            },
            _ => return Err(self.error("refuses to call this value with these arguments")),
        };
        self.push(made)
    }

    /// Completes an array or an item type.
    pub(super) fn build(&mut self) -> Result<()> {
        let (state, target) = (self.pop()?, self.top()?);
        let Value::Tuple(state) = &self.values[state.0] else { return Err(self.error("a state that is no tuple")) };
        let part = |i: usize| state.get(i).map(|id| &self.values[id.0]);
        let built = match (&self.values[target.0], state.len()) {
            (Value::Part(Part::EmptyArray), 5) if part(2) == Some(&Value::Part(Part::DTypeU8)) => {
                let is_column_major = match part(3) {
                    Some(Value::Bool(flag)) => *flag,
                    Some(Value::Int(flag)) => *flag != 0,
                    _ => return Err(self.error("an array whose order is neither true nor false")),
                };
                Value::Array { shape: state[1], is_column_major, bytes: state[4] }
            }
            // (version, byte order, subtype, names, fields, ...): u8 has no byte order, and none of the rest.
            (Value::Part(Part::DTypeU8), 5..) if (2..5).all(|i| part(i) == Some(&Value::None)) => return Ok(()),
            _ => return Err(self.error("refuses to set the state of this value")),
        };
        self.values[target.0] = built;
        Ok(())
    }
}

/// A string of Python 2 or 3.
fn as_text<'a>(value: &Value<'a>) -> Option<&'a str> {
    match value {
        Value::Str(text) => Some(text),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}
