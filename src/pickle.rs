//! Python pickles of plain values, `u8` arrays and PyTorch's tensors, read without executing anything.
//!
//! A pickle is a program for a stack machine that may call any Python function. This reader knows the opcodes that
//! build plain values, and one of two families of names: the five that numpy's `u8` arrays and Python 3's bytes need,
//! or those that tensors and the plain things that lie beside them need; it refuses every other. Values lie in one list
//! and refer to each other by number, so a pickle that shares or nests values without end costs a small multiple of its
//! own length, and nothing here is recursive.
//!
//! Source: the opcodes' descriptions in Python's standard module `pickletools`.

use std::path::Path;

use crate::error::Result;

mod machine;
mod numpy;
mod torch;

use machine::Machine;

pub use torch::Item;

/// The number of a [`Value`] inside its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(usize);

/// Which functions and classes a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// What numpy's arrays of `u8` and Python 3's bytes are made of.
    NumpyU8,
    /// What PyTorch's tensors, state dicts and optimisers' states are made of.
    Torch,
}

/// A Python value; its parts are given by their [`Id`]s.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// `bytes`, `bytearray`, or a string of Python 2.
    Bytes(&'a [u8]),
    /// A string.
    Str(&'a str),
    /// Bytes that Python 3 wrote in protocol 2: each character is one byte (Latin-1).
    Latin1(&'a str),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dict's keys and values, in the order of writing.
    Dict(Vec<(Id, Id)>),
    /// A numpy array of `u8`: read it with [`Pickle::array_u8`].
    Array {
        /// A tuple of integers.
        shape: Id,
        /// Whether the first axis is the fastest.
        is_column_major: bool,
        /// Bytes.
        bytes: Id,
    },
    /// A part of an array under construction.
    Numpy(numpy::Part),
    /// PyTorch's reference to items that lie outside the pickle.
    Storage {
        /// The items' type.
        item: Item,
        /// Its name, a string.
        key: Id,
        /// How many items, an integer.
        n_items: Id,
        /// In the stream format, `None` or the part of the items that is meant: a tuple of a key, an offset and a length.
        view: Option<Id>,
    },
    /// PyTorch's tensor: a view of a storage.
    Tensor {
        /// A [`Value::Storage`].
        storage: Id,
        /// The number of its first item, an integer.
        offset: Id,
        /// A tuple of integers.
        shape: Id,
        /// The distance of neighbours along each axis in items, a tuple of integers.
        strides: Id,
    },
    /// PyTorch's reference, in the tar format, to a tensor or storage outside the pickle: a string or an integer.
    Outside(Id),
    /// A name of PyTorch's.
    Torch(torch::Part),
    /// A value beside weights that means nothing to us, of the named type: a device, a path, a set, …. It is not made.
    Opaque(&'static str),
}

/// A parsed pickle, which borrows the strings of the file's bytes.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Parses `bytes`, the whole content of `path` (which only errors use), in a pickle protocol from 2 to 5.
    ///
    /// # Errors
    /// [`crate::Error::Format`] when the pickle is broken, is too large, or names anything but `names`.
    pub fn parse(path: &Path, bytes: &'a [u8], names: Names) -> Result<Self> {
        let (values, root) = Machine::new(path, bytes, names).run_to_end()?;
        Ok(Self { values, root })
    }

    /// Parses the pickle with which `bytes` begin; gives how many bytes it has, too.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_first(path: &Path, bytes: &'a [u8], names: Names) -> Result<(Self, usize)> {
        let (values, root, n_bytes) = Machine::new(path, bytes, names).run()?;
        Ok((Self { values, root }, n_bytes))
    }

    /// The outermost value.
    pub fn root(&self) -> &Value<'a> {
        self.value(self.root)
    }

    /// The value with a number that this pickle gave out.
    pub fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id.0]
    }

    /// Every value that was made, in the order of making.
    pub fn values(&self) -> &[Value<'a>] {
        &self.values
    }

    /// The text of a string of Python 2 or 3.
    pub fn text(&self, id: Id) -> Option<&'a str> {
        self.value(id).as_text()
    }

    /// The value at a string or bytes `key` of a dict; `None` when `dict` is no dict or has no such key.
    pub fn get(&self, dict: &Value<'a>, key: &str) -> Option<&Value<'a>> {
        let Value::Dict(pairs) = dict else { return None };
        let is_key = |id: Id| match self.value(id) {
            Value::Bytes(bytes) => *bytes == key.as_bytes(),
            Value::Str(text) | Value::Latin1(text) => *text == key,
            _ => false,
        };
        // As in Python, the last of equal keys counts.
        pairs.iter().rev().find(|(id, _)| is_key(*id)).map(|(_, id)| self.value(*id))
    }
}

impl<'a> Value<'a> {
    /// The text of a string of Python 2 or 3.
    pub fn as_text(&self) -> Option<&'a str> {
        match self {
            Value::Str(text) => Some(text),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items' type of a class of PyTorch's storages or tensors.
    pub fn as_item(&self) -> Option<Item> {
        if let Value::Torch(torch::Part::Class(item)) = self { Some(*item) } else { None }
    }

    /// The number of an integer that is not negative.
    pub fn as_size(&self) -> Option<u64> {
        if let Value::Int(n) = self { u64::try_from(*n).ok() } else { None }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::machine::MAX_VALUES;
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
        Pickle::parse(Path::new("p"), bytes, Names::NumpyU8)
    }

    fn message(bytes: &[u8]) -> String {
        parse(bytes).unwrap_err().to_string()
    }

    // The arrays are `numpy.arange(6, dtype="u1").reshape(2, 3)`, as Python wrote them.
    const PYTHON_2: &[u8] = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\
        \x87Rq\x03(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\
        \xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\x03\x04\x05tb.";
    const PYTHON_3_PROTOCOL_2_COLUMN_MAJOR: &[u8] = b"\x80\x02cnumpy._core.multiarray\n_reconstruct\nq\x00cnumpy\n\
        ndarray\nq\x01K\x00\x85q\x02c_codecs\nencode\nq\x03X\x01\x00\x00\x00bq\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06R\
        q\x07\x87q\x08Rq\t(K\x01K\x02K\x03\x86q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00u1q\x0c\x89\x88\x87q\rRq\x0e(K\
        \x03X\x01\x00\x00\x00|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x88h\x03X\x06\x00\x00\x00\x00\x03\
        \x01\x04\x02\x05q\x11h\x05\x86q\x12Rq\x13tq\x14b.";
    const PYTHON_3_PROTOCOL_5: &[u8] = b"\x80\x05\x95y\x00\x00\x00\x00\x00\x00\x00\x8c\x13numpy._core.numeric\x94\x8c\x0b\
        _frombuffer\x94\x93\x94(\x96\x06\x00\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04\x05\x94\x8c\x05numpy\x94\x8c\x05\
        dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff\
        K\x00t\x94bK\x02K\x03\x86\x94\x8c\x01C\x94t\x94R\x94.";

    #[test]
    fn an_array_is_the_same_from_every_protocol() {
        for bytes in [PYTHON_2, PYTHON_3_PROTOCOL_2_COLUMN_MAJOR, PYTHON_3_PROTOCOL_5] {
            let pickle = parse(bytes).unwrap();
            let (shape, items) = pickle.array_u8(pickle.root()).unwrap();
            assert_eq!((&shape[..], &items[..]), (&[2, 3][..], &[0, 1, 2, 3, 4, 5][..]));
        }
    }

    #[test]
    fn plain_values_have_pythons_meaning() {
        // (None, True, 255, 65535, -2, -129, 0, 0.5, "é", [1, 2], {"a": 1, b"b": 2, "a": 3})
        let pickle = parse(
            b"\x80\x04(N\x88K\xffM\xff\xffJ\xfe\xff\xff\xff\x8a\x02\x7f\xff\x8a\x00G?\xe0\0\0\0\0\0\0\x8c\x02\xc3\xa9\
              ](K\x01K\x02e}\x8c\x01aK\x01s(C\x01bK\x02\x8c\x01aK\x03ut.",
        )
        .unwrap();
        let Value::Tuple(ids) = pickle.root() else { panic!("{:?}", pickle.root()) };
        let values: Vec<_> = ids.iter().map(|&id| pickle.value(id).clone()).collect();
        let expected = [
            Value::None,
            Value::Bool(true),
            Value::Int(255),
            Value::Int(65535),
            Value::Int(-2),
            Value::Int(-129),
            Value::Int(0),
            Value::Float(0.5),
            Value::Str("é"),
        ];
        assert_eq!(values[..9], expected);
        let Value::List(items) = &values[9] else { panic!("{:?}", values[9]) };
        assert_eq!(items.iter().map(|&id| pickle.value(id)).collect::<Vec<_>>(), [&Value::Int(1), &Value::Int(2)]);
        assert_eq!(pickle.get(&values[10], "a"), Some(&Value::Int(3)));
        assert_eq!(pickle.get(&values[10], "b"), Some(&Value::Int(2)));
        assert_eq!(pickle.get(&values[10], "c"), None);
    }

    #[test]
    fn any_other_function_is_refused_by_name() {
        assert!(message(b"\x80\x02cos\nsystem\nU\x02ls\x85R.").contains("refuses to load os.system:"));
        assert!(message(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.").contains("refuses to load builtins.eval:"));
        assert!(message(b"\x80\x02cnumpy\nload\n.").contains("refuses to load numpy.load:"));
        assert!(message(b"\x80\x02cnumpy.core.multiarray\nencode\n.").contains("refuses to load"));
        // A name with a terminal's escape codes is shown harmlessly.
        assert!(message(b"\x80\x02c\x1b[31m\nx\n.").contains("refuses to load \\x1b[31m.x:"));
    }

    #[test]
    fn known_functions_take_only_the_known_arguments() {
        assert!(message(b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x04\0\0\0zlib\x86R.").contains("latin1"));
        assert!(message(b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.").contains("items are not u8"));
        assert!(message(b"\x80\x02cnumpy\nndarray\nK\x05\x85\x85R.").contains("refuses to call"));
        assert!(message(b"\x80\x02]}b.").contains("a state that is no tuple"));
        assert!(message(b"\x80\x02])b.").contains("refuses to set the state"));
        for opcode in [b'i', b'o', 0x81, 0x82, b'P', b'Q', 0x97] {
            assert!(message(&[0x80, 2, opcode]).contains("makes no plain value"), "{opcode:#x}");
        }
    }

    #[test]
    fn foreign_empty_and_broken_files_are_told() {
        for bytes in [&b""[..], b"(dp0\n.", b"\x89PNG\r\n", b"\x80"] {
            assert_eq!(message(bytes), "p: is no Python pickle of protocol 2 to 5");
        }
        assert!(message(b"\x80\x06N.").contains("protocol 6; expected 2 to 5"));
        assert!(message(b"\x80\x02N").contains("byte 3: ends where 1 more bytes are announced"));
        assert!(message(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.").contains("18446744073709551615 more bytes"));
        assert!(message(b"\x80\x02.").contains("takes a value where there is none"));
        assert!(message(b"\x80\x02N(0.").contains("takes a value where there is none"));
        assert!(message(b"\x80\x02t.").contains("closes a container that is not open"));
        assert!(message(b"\x80\x02h\x07.").contains("recalls value 7"));
        assert!(message(b"\x80\x02NN.").contains("goes on after its value"));
        assert!(message(b"\x80\x02N.N").contains("goes on after its value"));
        assert!(message(b"\x80\x02}(Nu.").contains("key without a value"));
    }

    #[test]
    fn every_truncation_is_an_error() {
        for bytes in [PYTHON_2, PYTHON_3_PROTOCOL_2_COLUMN_MAJOR, PYTHON_3_PROTOCOL_5] {
            for n_bytes in 0..bytes.len() {
                assert!(parse(&bytes[..n_bytes]).is_err(), "{n_bytes}");
            }
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        assert!(message(&[&b"\x80\x02"[..], &[b'('; 1001]].concat()).contains("more than 1000 open containers"));
        assert!(
            message(&[&b"\x80\x02"[..], &vec![b'N'; MAX_VALUES + 1]].concat()).contains("more than 1048576 values")
        );
        // A list inside itself, and 2^100 references to it: each costs its few bytes.
        let nested = [&b"\x80\x02]q\x00h\x00a"[..], &b"q\x01h\x01\x86".repeat(100), b"."].concat();
        assert!(parse(&nested).is_ok());
    }

    #[test]
    fn an_array_that_does_not_fit_its_bytes_is_refused() {
        let array = |shape: &[u8], text: &[u8]| {
            let parts: [&[u8]; 5] = [
                b"\x80\x04\x8c\x12numpy.core.numeric\x8c\x0b_frombuffer\x93(",
                text,
                b"cnumpy\ndtype\nU\x02u1\x85R",
                shape,
                b"U\x01CtR.",
            ];
            let bytes = parts.concat();
            let pickle = parse(&bytes).unwrap();
            pickle.array_u8(pickle.root()).unwrap_err()
        };
        assert_eq!(array(b"K\x02K\x03\x86", b"C\x01a"), "is an array of shape [2, 3] with 1 items");
        assert!(array(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x03\x86", b"C\x01a").contains("with 1 items"));
        assert!(array(b"J\xff\xff\xff\xff\x85", b"C\x01a").contains("not made of sizes"));
        assert!(array(b"N", b"C\x01a").contains("without a shape"));
        assert!(array(b"K\x01\x85", b"N").contains("items are not bytes"));
        let beyond = b"c_codecs\nencode\nX\x03\0\0\0\xe2\x82\xacX\x06\0\0\0latin1\x86R";
        assert!(array(b"K\x01\x85", beyond).contains("beyond Latin-1"));
    }
}
