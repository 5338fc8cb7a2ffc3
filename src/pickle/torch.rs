//! What PyTorch's state dicts are made of, and the plain things that programs save beside them: the only names that a
//! checkpoint may load, and what stands for calling them. Of things that mean nothing to us nothing is made but
//! [`Value::Opaque`].
//!
//! Source: what `torch.save` writes of state dicts of modules and optimisers, from PyTorch 0.1 to 2.15; Python's
//! `pickle`.

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
    /// `collections.defaultdict`, a dict.
    DefaultDict,
    /// `_codecs.encode`, with which Python 3 writes bytes in protocol 2.
    Encode,
    /// A class or function, by name, whose values mean nothing to us.
    Opaque(&'static str),
}

/// The type of the values that a class or function gives which mean nothing to us; `None` for any other name.
fn opaque(module: &str, name: &str) -> Option<&'static str> {
    Some(match (module, name) {
        ("torch", "device") => "torch.device",
        ("argparse", "Namespace") => "argparse.Namespace",
        ("types", "SimpleNamespace") => "types.SimpleNamespace",
        ("collections", "Counter") => "collections.Counter",
        ("numpy", "dtype") => "numpy.dtype",
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => "a numpy scalar",
        // An array without content, which is set afterwards; its class; in protocol 5, an array from bytes.
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct")
        | ("numpy", "ndarray")
        | ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => "a numpy array",
        ("datetime", "datetime" | "date" | "time" | "timedelta" | "timezone") => "a date or time",
        (
            "pathlib" | "pathlib._local",
            "PosixPath" | "WindowsPath" | "PurePosixPath" | "PureWindowsPath" | "Path" | "PurePath",
        ) => "pathlib.Path",
        // Python 3 writes the first in protocol 2, for Python 2.
        ("__builtin__" | "builtins", name) => match name {
            "set" => "set",
            "frozenset" => "frozenset",
            "bytes" => "bytes",
            "bytearray" => "bytearray",
            "complex" => "complex",
            // What a defaultdict makes; in protocol 2, `int` and `str` go by their names in Python 2.
            "int" | "long" | "float" | "bool" | "str" | "unicode" | "list" | "tuple" | "dict" => "a class",
            _ => return None,
        },
        _ => return None,
    })
}

/// Whether `torch.name` is a type of items, which is a value and not called.
fn is_dtype(name: &str) -> bool {
    let is_alias = matches!(name, "half" | "float" | "double" | "short" | "int" | "long");
    let is_whole =
        matches!(name, "bool" | "int8" | "int16" | "int32" | "int64" | "uint8" | "uint16" | "uint32" | "uint64");
    let is_real = matches!(name, "float16" | "bfloat16" | "float32" | "float64");
    is_alias || is_whole || is_real || matches!(name, "complex32" | "complex64" | "complex128")
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
            ("collections", "defaultdict") => Some(Part::DefaultDict),
            ("_codecs", "encode") => Some(Part::Encode),
            ("torch", name) if is_dtype(name) => return self.push(Value::Opaque("torch.dtype")),
            // The second module is that of the tar format.
            ("torch" | "torch.cuda", class) if Item::of_class(class).is_some() => {
                Item::of_class(class).map(Part::Class)
            }
            _ => opaque(module, name).map(Part::Opaque),
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
            // Its items are set afterwards.
            (Part::DefaultDict, [] | [_]) => self.push(Value::Dict(vec![])),
            (Part::Encode, &[text, encoding]) => match (&self.values[text.0], self.values[encoding.0].as_text()) {
                (&Value::Str(text), Some("latin1")) => self.push(Value::Latin1(text)),
                _ => Err(self.error("encodes something other than a string as latin1")),
            },
            (&Part::Opaque(name), _) => self.push(Value::Opaque(name)),
            _ => Err(self.error("refuses to call this value with these arguments")),
        }
    }

    /// Sets attributes: of a dict, of which `state_dict` has one, `_metadata`, with versions of modules, or of a value
    /// that means nothing to us. They are passed over.
    pub(super) fn torch_build(&mut self) -> Result<()> {
        let (state, target) = (self.pop()?, self.top()?);
        match (&self.values[target.0], &self.values[state.0]) {
            (Value::Dict(_), Value::Dict(_)) | (Value::Opaque(_), _) => Ok(()),
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
        let n_items = if let Value::List(items) = &self.values[list.0] { items.len() } else { 0 };
        self.copies(n_items)?;
        let pair = |item: &Id| match &self.values[item.0] {
            Value::List(pair) | Value::Tuple(pair) => <[Id; 2]>::try_from(&pair[..]).ok().map(|[k, v]| (k, v)),
            _ => None,
        };
        let pairs = match &self.values[list.0] {
            Value::List(items) => items.iter().map(pair).collect::<Option<_>>(),
            _ => None,
        };
        pairs.ok_or_else(|| self.error("makes a dict of something other than a list of pairs"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::{Names, Pickle};
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
        Pickle::parse(Path::new("p"), bytes, Names::Torch)
    }

    fn message(bytes: &[u8]) -> String {
        parse(bytes).unwrap_err().to_string()
    }

    /// A reference to 6 items of `class` called "0".
    fn storage(class: &str) -> Vec<u8> {
        [b"(X\x07\0\0\0storagec", class.as_bytes(), b"\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"].concat()
    }

    /// A pickle that calls `function` with a storage and `args`.
    fn tensor(function: &str, args: &[u8]) -> Vec<u8> {
        let head = [b"\x80\x02ctorch._utils\n", function.as_bytes(), b"\n("].concat();
        [&head, &storage("torch\nFloatStorage")[..], args, b"tR."].concat()
    }

    #[test]
    fn a_tensor_is_a_storage_an_offset_a_shape_and_strides() {
        let args: [(&str, &[u8]); 4] = [
            ("_rebuild_tensor", b"K\x01K\x02K\x03\x86K\x03K\x01\x86"),
            ("_rebuild_tensor_v2", b"K\x01K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)R"),
            ("_rebuild_tensor_v2", b"K\x01K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)R}"),
            ("_rebuild_tensor_v2", b"K\x01ctorch\nSize\nK\x02K\x03\x86\x85RK\x03K\x01\x86\x89NN"),
        ];
        for (function, args) in args {
            let bytes = tensor(function, args);
            let pickle = parse(&bytes).unwrap();
            let Value::Tensor { storage, offset, shape, strides } = pickle.root() else {
                panic!("{:?}", pickle.root())
            };
            let Value::Storage { item: Item::F32, key, n_items, view: None } = pickle.value(*storage) else { panic!() };
            assert_eq!((pickle.text(*key), pickle.value(*n_items).as_size()), (Some("0"), Some(6)));
            assert_eq!(pickle.value(*offset).as_size(), Some(1));
            for (tuple, expected) in [(shape, [2, 3]), (strides, [3, 1])] {
                let Value::Tuple(ids) = pickle.value(*tuple) else { panic!() };
                assert_eq!(ids.iter().map(|id| pickle.value(*id).as_size().unwrap()).collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn an_ordered_dict_is_a_dict_whatever_python_wrote_it() {
        // Python 3, with the attribute that a state_dict has; Python 2, which pickles a list of lists.
        let python_3 = b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0aK\x01u}X\x09\0\0\0_metadata}sb.";
        let python_2 = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01ee\x85R.";
        for bytes in [&python_3[..], python_2] {
            let pickle = parse(bytes).unwrap();
            assert_eq!(pickle.get(pickle.root(), "a"), Some(&Value::Int(1)));
            assert!(matches!(pickle.root(), Value::Dict(pairs) if pairs.len() == 1));
        }
        assert!(message(b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R.").contains("other than a list of pairs"));
        assert!(message(b"\x80\x02ccollections\nOrderedDict\nN\x85R.").contains("other than a list of pairs"));
        // The same list over and over.
        let pair = b"](K\x01K\x01eq\x01";
        let list = [&b"](h\x01"[..], &b"h\x01".repeat(100), b"eq\x02"].concat();
        let calls = b"ccollections\nOrderedDict\nh\x02\x85R0".repeat(100);
        let bytes = [b"\x80\x02", &pair[..], b"0", &list, b"0", &calls, b"N."].concat();
        assert!(message(&bytes).contains("copies lists over and over"), "{}", message(&bytes));
    }

    #[test]
    fn plain_things_beside_weights_are_read_over_and_nothing_is_made_of_them() {
        // As Python writes them.
        let dtype = b"cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\
            \xff\xffK\0tb";
        let bytes = "c_codecs\nencode\nX\u{4}\0\0\0é\u{1}?X\u{6}\0\0\0latin1".as_bytes();
        let scalar = [&b"cnumpy.core.multiarray\nscalar\n"[..], dtype, bytes, b"\x86R\x86R"].concat();
        let array = [
            &b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85X\x01\0\0\0b\x87R(K\x01K\x01\x85"[..],
            dtype,
            b"\x89",
            bytes,
            b"\x86Rtb",
        ]
        .concat();
        let from_buffer =
            [&b"cnumpy._core.numeric\n_frombuffer\n("[..], bytes, b"\x86R", dtype, b"K\x01\x85X\x01\0\0\0CtR"].concat();
        let date = [b"cdatetime\ndatetime\n", bytes, b"\x86R\x85R"].concat();
        let cases: [(&[u8], &str); 24] = [
            (b"ctorch\ndevice\nX\x04\0\0\0cudaK\0\x86R", "torch.device"),
            (b"ctorch\nfloat32\n", "torch.dtype"),
            (b"ctorch\nbfloat16\n", "torch.dtype"),
            (b"ctorch\nuint8\n", "torch.dtype"),
            (b"ctorch\ncomplex64\n", "torch.dtype"),
            (b"cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG?\xe0\0\0\0\0\0\0sb", "argparse.Namespace"),
            (b"ctypes\nSimpleNamespace\n)R}X\x01\0\0\0aNsb", "types.SimpleNamespace"),
            (b"c__builtin__\nset\n](K\x01K\x02e\x85R", "set"),
            (b"c__builtin__\nfrozenset\n]\x85R", "frozenset"),
            (b"\x8f(K\x01K\x02\x90", "set"),
            (b"(K\x01K\x02\x91", "frozenset"),
            (b"c__builtin__\nbytes\n)R", "bytes"),
            (b"c__builtin__\nbytearray\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R", "bytearray"),
            (b"cbuiltins\ncomplex\nG?\xe0\0\0\0\0\0\0G?\xe0\0\0\0\0\0\0\x86R", "complex"),
            (b"ccollections\nCounter\n}X\x01\0\0\0aK\x02s\x85R", "collections.Counter"),
            (dtype, "numpy.dtype"),
            (&scalar, "a numpy scalar"),
            (&array, "a numpy array"),
            (&from_buffer, "a numpy array"),
            (&date, "a date or time"),
            (b"cdatetime\ntimedelta\nK\x01K\0K\0\x87R", "a date or time"),
            (b"cpathlib\nPosixPath\n(X\x01\0\0\0/X\x03\0\0\0tmptR", "pathlib.Path"),
            (b"cpathlib._local\nPosixPath\nX\x01\0\0\0a\x85R", "pathlib.Path"),
            (b"\x8a\x09\0\0\0\0\0\0\0\0\x01", "int of more than 64 bits"),
        ];
        for (pickled, expected) in cases {
            // Protocol 2 with what comes after it, and the value remembered and recalled.
            let whole = [b"\x80\x02(", pickled, b"q\x01h\x01K\x07t."].concat();
            let pickle = parse(&whole).unwrap_or_else(|error| panic!("{expected}: {error}"));
            let Value::Tuple(ids) = pickle.root() else { panic!("{:?}", pickle.root()) };
            let values: Vec<_> = ids.iter().map(|id| pickle.value(*id)).collect();
            assert_eq!(values, [&Value::Opaque(expected), &Value::Opaque(expected), &Value::Int(7)]);
        }
        // A dict is a dict, and bytes are bytes.
        let whole = b"\x80\x02ccollections\ndefaultdict\nc__builtin__\nlong\n\x85R(X\x01\0\0\0aK\x02u.";
        assert_eq!(parse(whole).unwrap().get(parse(whole).unwrap().root(), "a"), Some(&Value::Int(2)));
        let whole = [b"\x80\x02", &b"c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R"[..], b"."].concat();
        assert_eq!(parse(&whole).unwrap().root(), &Value::Latin1("a"));
    }

    #[test]
    fn any_other_name_is_refused() {
        for (bytes, name) in [
            (&b"\x80\x02cposix\nsystem\nU\x02ls\x85R."[..], "posix.system:"),
            (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval:"),
            (b"\x80\x02ctorch\nload\n.", "torch.load:"),
            (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes:"),
            (b"\x80\x02ctorch\nComplexFloatStorage\n.", "torch.ComplexFloatStorage:"),
            (b"\x80\x02c__main__\nNet\n.", "__main__.Net:"),
            (b"\x80\x02cnumpy\nload\n.", "numpy.load:"),
            (b"\x80\x02cargparse\nArgumentParser\n.", "argparse.ArgumentParser:"),
            (b"\x80\x02ctorch\nint7\n.", "torch.int7:"),
            (b"\x80\x02ctorch.cuda\ndevice\n.", "torch.cuda.device:"),
            (b"\x80\x02c__builtin__\ngetattr\n.", "__builtin__.getattr:"),
            (b"\x80\x02cdatetime\nsys\n.", "datetime.sys:"),
            (b"\x80\x02ccopy_reg\n_reconstructor\n.", "copy_reg._reconstructor:"),
            (b"\x80\x02cpathlib\nos\n.", "pathlib.os:"),
            (b"\x80\x02cos\x1b[31m\nx\n.", "os\\x1b[31m.x:"),
        ] {
            assert!(message(bytes).contains(&format!("refuses to load {name}")), "{}", message(bytes));
        }
    }

    #[test]
    fn known_functions_take_only_the_known_arguments() {
        assert!(message(&tensor("_rebuild_tensor", b"K\x01")).contains("refuses to call"));
        assert!(message(&tensor("_rebuild_parameter", b"\x89N")).contains("refuses to call"));
        assert!(message(&tensor("_rebuild_tensor_v2", b"K\x01))\x89N}X\x03\0\0\0neg\x88s")).contains("negated"));
        assert!(message(b"\x80\x02ctorch._utils\n_rebuild_tensor\n(NNNNtR.").contains("without a storage"));
        assert!(message(b"\x80\x02ctorch\nSize\nN\x85R.").contains("refuses to call"));
        assert!(message(b"\x80\x02N)R.").contains("calls what is no function"));
        assert!(message(b"\x80\x02ctorch\nSize\nNR.").contains("calls without a tuple"));
        assert!(message(b"\x80\x02]}b.").contains("refuses to set the state"));
        assert!(message(b"\x80\x02ctorch\nSize\n)\x81.").contains("refuses to call"));
        assert!(message(b"\x80\x02N)}\x92.").contains("calls what is no function"));
        assert!(message(b"\x80\x04](N\x90.").contains("adds items to what is no set"));
        assert!(message(b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x04\0\0\0zlib\x86R.").contains("as latin1"));
        assert!(message(b"\x80\x02ccollections\nCounter\n}\x85R(K\x01K\x02u.").contains("what is no dict"));
        assert!(message(b"\x80\x02NQ.").contains("refers to something other than a storage"));
        assert!(message(b"\x80\x02)Q.").contains("in 0 parts; expected 5 or 6"));
        assert!(message(b"\x80\x02(U\x06moduleNNNNtQ.").contains("refers to something other than a storage"));
        for opcode in [b'i', b'o', 0x82, b'P', 0x97] {
            assert!(message(&[0x80, 2, opcode]).contains("makes no plain value"), "{opcode:#x}");
        }
    }

    #[test]
    fn the_first_of_several_pickles_tells_its_length() {
        let (pickle, n_bytes) = Pickle::parse_first(Path::new("p"), b"\x80\x02K\x05.more", Names::Torch).unwrap();
        assert_eq!((pickle.root(), n_bytes), (&Value::Int(5), 5));
        assert!(message(b"\x80\x02K\x05.more").contains("byte 5: goes on after its value"));
    }
}
