//! What PyTorch's state dicts are made of: the only names that a checkpoint may load, and what stands for calling them.
//!
//! Source: what `torch.save` writes of state dicts of modules and optimisers, from PyTorch 0.1 to 2.15.

use super::machine::Machine;
use super::{Id, Value};
use crate::error::Result;

/// The type of a storage's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 64 bits.
    F64,
    /// IEEE 754, 16 bits.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// A byte that is 0 or not.
    Bool,
}

impl Item {
    /// The size of one item.
    pub fn n_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    fn of_class(name: &str) -> Option<Self> {
        let kind = name.strip_suffix("Storage").or_else(|| name.strip_suffix("Tensor"))?;
        Some(match kind {
            "Float" => Self::F32,
            "Double" => Self::F64,
            "Half" => Self::F16,
            "BFloat16" => Self::BF16,
            "Long" => Self::I64,
            "Int" => Self::I32,
            "Short" => Self::I16,
            "Char" => Self::I8,
            "Byte" => Self::U8,
            "Bool" => Self::Bool,
            _ => return None,
        })
    }
}

/// The functions and classes that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch.Size`, a tuple.
    Size,
    /// A class of storages, or, in the tar format, of tensors.
    Class(Item),
    /// The function that makes a tensor of a storage, an offset, a shape and strides.
    RebuildTensor,
    /// The same, with what automatic differentiation needs.
    RebuildTensorV2,
    /// The function that makes a parameter of a tensor.
    RebuildParameter,
}

impl<'a> Machine<'_, 'a> {
    /// The meaning of a function's or class's name.
    pub(super) fn torch_global(&mut self, module: &str, name: &str) -> Result<()> {
        let part = match (module, name) {
            ("collections", "OrderedDict") => Some(Part::OrderedDict),
            ("torch", "Size") => Some(Part::Size),
            ("torch._utils", "_rebuild_tensor") => Some(Part::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Part::RebuildTensorV2),
            ("torch._utils", "_rebuild_parameter") => Some(Part::RebuildParameter),
            // The second module is that of the tar format.
            ("torch" | "torch.cuda", class) => Item::of_class(class).map(Part::Class),
            _ => None,
        };
        let refused = || {
            self.error(format!(
                "refuses to load {module}.{name}: a checkpoint may load only what tensors are made of \
                 (of a model, save its state_dict)"
            ))
        };
        let part = part.ok_or_else(refused)?;
        self.push(Value::Torch(part))
    }

    /// Stands for the call of one of the known functions.
    pub(super) fn torch_reduce(&mut self) -> Result<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(args) = &self.values[args.0] else { return Err(self.error("calls without a tuple")) };
        let (Value::Torch(function), args) = (&self.values[function.0], &args[..]) else {
            return Err(self.error("calls what is no function"));
        };
        match (function, args) {
            (Part::OrderedDict, []) => self.push(Value::Dict(vec![])),
            // So Python 2 writes it, with a list of lists of two.
            (Part::OrderedDict, &[pairs]) => {
                let pairs = self.pairs(pairs)?;
                self.push(Value::Dict(pairs))
            }
            (Part::Size, &[shape]) if matches!(self.values[shape.0], Value::Tuple(_)) => self.push_id(shape),
            (Part::RebuildTensor, &[storage, offset, shape, strides])
            | (Part::RebuildTensorV2, &[storage, offset, shape, strides, _, _]) => {
                self.tensor(storage, offset, shape, strides)
            }
            // The last says whether the numbers are to be negated or conjugated.
            (Part::RebuildTensorV2, &[storage, offset, shape, strides, _, _, notes]) => {
                match &self.values[notes.0] {
                    Value::None => {}
                    Value::Dict(notes) if notes.is_empty() => {}
                    _ => return Err(self.error("a tensor with notes (negated or conjugated) is not supported")),
                }
                self.tensor(storage, offset, shape, strides)
            }
            (Part::RebuildParameter, &[tensor, _, _]) if self.is_tensor(tensor) => self.push_id(tensor),
            _ => Err(self.error("refuses to call this value with these arguments")),
        }
    }

    /// Sets attributes of a dict, of which `state_dict` has one, `_metadata`, with versions of modules: passed over.
    pub(super) fn torch_build(&mut self) -> Result<()> {
        let (state, target) = (self.pop()?, self.top()?);
        match (&self.values[target.0], &self.values[state.0]) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            _ => Err(self.error("refuses to set the state of this value")),
        }
    }

    /// A reference to what lies outside the pickle.
    pub(super) fn torch_outside(&mut self) -> Result<()> {
        let id = self.pop()?;
        let parts = match &self.values[id.0] {
            // In the tar format, a number is all.
            Value::Str(_) | Value::Bytes(_) | Value::Int(_) => return self.push(Value::Outside(id)),
            Value::Tuple(parts) => parts,
            _ => return Err(self.error("refers to something other than a storage")),
        };
        let (kind, class, key, n_items, view) = match parts[..] {
            [kind, class, key, _location, n_items] => (kind, class, key, n_items, None),
            [kind, class, key, _location, n_items, view] => (kind, class, key, n_items, Some(view)),
            _ => return Err(self.error(format!("refers to a storage in {} parts; expected 5 or 6", parts.len()))),
        };
        let is_storage = self.values[kind.0].as_text() == Some("storage");
        match self.values[class.0] {
            Value::Torch(Part::Class(item)) if is_storage => {
                let view = view.filter(|view| self.values[view.0] != Value::None);
                self.push(Value::Storage { item, key, n_items, view })
            }
            _ => Err(self.error("refers to something other than a storage")),
        }
    }

    fn tensor(&mut self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<()> {
        if !matches!(self.values[storage.0], Value::Storage { .. } | Value::Outside(_)) {
            return Err(self.error("a tensor without a storage"));
        }
        self.push(Value::Tensor { storage, offset, shape, strides })
    }

    fn is_tensor(&self, id: Id) -> bool {
        matches!(self.values[id.0], Value::Tensor { .. } | Value::Outside(_))
    }

    /// The keys and values of a list of pairs.
    fn pairs(&mut self, list: Id) -> Result<Vec<(Id, Id)>> {
        let Value::List(items) = &self.values[list.0] else {
            return Err(self.error("makes a dict of what is no list"));
        };
        let n_items = items.len();
        let pair = |item: &Id| match &self.values[item.0] {
            Value::List(pair) | Value::Tuple(pair) => <[Id; 2]>::try_from(&pair[..]).ok().map(|[k, v]| (k, v)),
            _ => None,
        };
        if n_items > self.n_copies_left {
            return Err(self.error("copies lists over and over"));
        }
        let pairs = items.iter().map(pair).collect::<Option<_>>();
        self.n_copies_left -= n_items;
        pairs.ok_or_else(|| self.error("makes a dict of something other than pairs"))
    }
}
