//! NumPy's `.npy`: an array with a header that says its type, order and shape.
//!
//! Source: NEP 1 and the documentation of `numpy.lib.format`, versions 1 to 3.

/// What files begin with.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// The most axes that NumPy itself had when files were first written.
const MAX_AXES: usize = 32;

/// What one item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    U8,
    F32,
    F64,
    I32,
    I64,
    /// That many characters of UTF-32.
    Text(usize),
}

/// What the beginning of a file says.
#[derive(Debug)]
pub(super) struct Header<'a> {
    /// The item's type, as NumPy calls it.
    pub descr: &'a str,
    /// The item's type.
    pub item: Item,
    n_item_bytes: usize,
    is_column_major: bool,
    /// The array's shape.
    pub shape: Vec<usize>,
    /// Where the items begin.
    pub n_bytes: usize,
}

impl<'a> Header<'a> {
    /// Parses the header with which `start` begins. Errors are sentences without the file's name.
    pub fn parse(start: &'a [u8]) -> Result<Self, String> {
        let damaged = || "is no array of numpy's: its header is damaged".to_string();
        let Some(([major, _minor], rest)) = start.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk()) else {
            return Err("is no array of numpy's: expected \\x93NUMPY at its beginning".into());
        };
        let (n_header, rest) = match major {
            1 => rest.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
            2 | 3 => rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
            _ => return Err(format!("is an array in version {major} of numpy's format, expected 1 to 3")),
        }
        .ok_or_else(damaged)?;
        let (header, rest) = rest.split_at_checked(n_header).ok_or_else(damaged)?;
        let (descr, is_column_major, shape) =
            std::str::from_utf8(header).ok().and_then(|text| Text(text).parse()).ok_or_else(damaged)?;
        let Some((item, n_item_bytes)) = parse_item(descr) else {
            let descr = crate::error::shown(descr);
            return Err(format!("is an array of {descr}, expected numbers of |u1, <f8, <f4, <i8, <i4 or text <U"));
        };
        if is_column_major && shape.len() > 2 {
            return Err(format!("is a column-major array of {} axes, expected at most 2", shape.len()));
        }
        Ok(Self { descr, item, n_item_bytes, is_column_major, shape, n_bytes: start.len() - rest.len() })
    }

    /// Refuses an array whose items do not fill `n_bytes`.
    pub fn expect_bytes(&self, n_bytes: u64) -> Result<(), String> {
        let n_expected = self.shape.iter().try_fold(self.n_item_bytes, |n, &dim| n.checked_mul(dim));
        if n_expected.is_some_and(|n| n as u64 == n_bytes) {
            return Ok(());
        }
        Err(format!("is an array of shape {:?} and {} in {n_bytes} bytes", self.shape, self.descr))
    }
}

/// An array, whose items lie in the bytes of a file.
#[derive(Debug)]
pub(super) struct Array<'a> {
    item: Item,
    is_column_major: bool,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Parses `bytes`, a whole file. Errors are sentences without the file's name.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let header = Header::parse(bytes)?;
        let bytes = &bytes[header.n_bytes..];
        header.expect_bytes(bytes.len() as u64)?;
        let Header { item, is_column_major, shape, .. } = header;
        Ok(Self { item, is_column_major, shape, bytes })
    }

    /// The array's shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its floating-point numbers, f32 widened, the last axis fastest.
    pub fn f64(&self) -> Result<Vec<f64>, String> {
        match self.item {
            Item::F64 => Ok(self.row_major(|bytes| f64::from_le_bytes(*bytes))),
            Item::F32 => Ok(self.row_major(|bytes| f64::from(f32::from_le_bytes(*bytes)))),
            _ => Err("is no array of f32 or f64".into()),
        }
    }

    /// Its floating-point numbers, f64 rounded, the last axis fastest.
    pub fn f32(&self) -> Result<Vec<f32>, String> {
        match self.item {
            Item::F64 => Ok(self.row_major(|bytes| f64::from_le_bytes(*bytes) as f32)),
            Item::F32 => Ok(self.row_major(|bytes| f32::from_le_bytes(*bytes))),
            _ => Err("is no array of f32 or f64".into()),
        }
    }

    /// The only number of an array of integers.
    pub fn integer(&self) -> Result<i64, String> {
        match self.item {
            Item::I64 if self.bytes.len() == 8 => Ok(self.row_major(|bytes| i64::from_le_bytes(*bytes))[0]),
            Item::I32 if self.bytes.len() == 4 => Ok(self.row_major(|bytes| i64::from(i32::from_le_bytes(*bytes)))[0]),
            _ => Err("is not one integer".into()),
        }
    }

    /// The only text of an array of texts.
    pub fn text(&self) -> Result<String, String> {
        if let Item::Text(n) = self.item
            && self.bytes.len() == 4 * n
        {
            let code_points = self.row_major(|bytes| char::from_u32(u32::from_le_bytes(*bytes)));
            let text: Option<String> = code_points.into_iter().collect();
            let text = text.ok_or("has a character that Unicode does not have")?;
            return Ok(text.trim_end_matches('\0').to_string());
        }
        Err("is not one text".into())
    }

    /// The items of `N` bytes, the last axis fastest.
    fn row_major<T, const N: usize>(&self, item: impl Fn(&[u8; N]) -> T) -> Vec<T> {
        let (items, _) = self.bytes.as_chunks::<N>();
        match self.shape[..] {
            // Of nothing there may be any number of rows.
            [n_rows, n_columns] if self.is_column_major && !items.is_empty() => {
                let places = (0..n_rows).flat_map(|i| (0..n_columns).map(move |j| j * n_rows + i));
                places.map(|at| item(&items[at])).collect()
            }
            _ => items.iter().map(item).collect(),
        }
    }
}

/// An item's type and its size in bytes.
fn parse_item(descr: &str) -> Option<(Item, usize)> {
    Some(match descr {
        "|u1" => (Item::U8, 1),
        "<f4" => (Item::F32, 4),
        "<f8" => (Item::F64, 8),
        "<i4" => (Item::I32, 4),
        "<i8" => (Item::I64, 8),
        _ => {
            let n = digits(descr.strip_prefix("<U")?)?;
            (Item::Text(n), n.checked_mul(4)?)
        }
    })
}

/// A number of decimal digits and nothing else.
fn digits(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// What is left of a header: `{'descr': '<f8', 'fortran_order': False, 'shape': (2048,), }` and blanks.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// `descr`, `fortran_order` and `shape`.
    fn parse(mut self) -> Option<(&'a str, bool, Vec<usize>)> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        self.expect("{")?;
        while self.expect("}").is_none() {
            let key = self.string()?;
            self.expect(":")?;
            let is_new = match key {
                "descr" => descr.replace(self.string()?).is_none(),
                "fortran_order" => order.replace(self.flag()?).is_none(),
                "shape" => shape.replace(self.tuple()?).is_none(),
                _ => false,
            };
            if !is_new {
                return None;
            }
            if self.expect(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.0.trim().is_empty().then_some((descr?, order?, shape?))
    }

    /// Takes `token` and the blanks before it, if they are next.
    fn expect(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        self.expect("'")?;
        let (string, rest) = self.0.split_once('\'')?;
        self.0 = rest;
        Some(string)
    }

    fn flag(&mut self) -> Option<bool> {
        let is_true = self.expect("True").is_some();
        (is_true || self.expect("False").is_some()).then_some(is_true)
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        let mut dims = Vec::new();
        self.expect("(")?;
        while self.expect(")").is_none() {
            let text = self.0.trim_start();
            let end = text.find(|c: char| !c.is_ascii_digit())?;
            dims.push(digits(&text[..end])?);
            // Python 2 wrote 50000L.
            self.0 = text[end..].strip_prefix('L').unwrap_or(&text[end..]);
            if dims.len() > MAX_AXES {
                return None;
            }
            if self.expect(",").is_none() {
                self.expect(")")?;
                break;
            }
        }
        Some(dims)
    }
}

/// The file of one text.
pub(super) fn write_text(text: &str) -> Vec<u8> {
    // NumPy has no texts of no characters.
    let n = text.chars().count().max(1);
    let characters = text.chars().chain(std::iter::repeat('\0')).take(n);
    write(&format!("<U{n}"), &[], characters.flat_map(|c| u32::from(c).to_le_bytes()))
}

/// The file of an array in C order whose items have the type `descr` and are `content`.
pub(super) fn write(descr: &str, shape: &[usize], content: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let dims: String = shape.iter().map(|dim| format!("{dim}, ")).collect();
    // As Python prints tuples: (), (8,), (8, 8).
    let dims = dims.trim_end_matches(if shape.len() == 1 { " " } else { ", " });
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    // Blanks and a line's end up to a multiple of 64.
    let n_header = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((n_header as u16).to_le_bytes());
    bytes.extend(format!("{header:<0$}\n", n_header - 1).bytes());
    bytes.extend(content);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An array of version 1 with any header.
    fn file(header: &str, content: &[u8]) -> Vec<u8> {
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), content].concat()
    }

    fn message(bytes: &[u8]) -> String {
        Array::parse(bytes).map(|_| ()).unwrap_err()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = write("<f8", &[2, 3], (1..=6).flat_map(|i| f64::from(i).to_le_bytes()));
        assert_eq!(bytes.len(), 128 + 48);
        assert!(bytes[10..].starts_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }  "));
        let array = Array::parse(&bytes).unwrap();
        assert_eq!((array.shape(), array.f64().unwrap()), (&[2, 3][..], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert!(
            write("<f8", &[2], [0; 16])[10..].starts_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }")
        );
        assert!(
            write("<i8", &[], [0; 8])[10..].starts_with(b"{'descr': '<i8', 'fortran_order': False, 'shape': (), }")
        );
        for text in ["é", "", "tf1"] {
            assert_eq!(Array::parse(&write_text(text)).unwrap().text().unwrap(), text);
        }
        assert_eq!(Array::parse(&write("<i8", &[], (-5_i64).to_le_bytes())).unwrap().integer().unwrap(), -5);
        assert_eq!(Array::parse(&write("<i4", &[1], 7_i32.to_le_bytes())).unwrap().integer().unwrap(), 7);
    }

    #[test]
    fn column_major_arrays_are_turned_and_f32_is_widened() {
        let content: Vec<u8> = [1.5_f32, 4.0, 2.0, 5.0, 3.0, 6.0].into_iter().flat_map(f32::to_le_bytes).collect();
        // Other orders of the keys, other blanks, and Python 2's long integers.
        let bytes = file("{ 'shape':(2L,3L,) ,'fortran_order' : True, 'descr':'<f4'}\n", &content);
        let array = Array::parse(&bytes).unwrap();
        assert_eq!(array.f64().unwrap(), [1.5, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(array.f32().unwrap(), [1.5, 2.0, 3.0, 4.0, 5.0, 6.0]);

        let bytes = file("{'descr': '<f4', 'fortran_order': True, 'shape': (999999999999999999, 0), }", &[]);
        assert!(Array::parse(&bytes).unwrap().f64().unwrap().is_empty());
    }

    #[test]
    fn newer_versions_are_read() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }";
        for version in [2, 3] {
            let n_header = (header.len() as u32).to_le_bytes();
            let bytes = [&b"\x93NUMPY"[..], &[version, 0], &n_header, header.as_bytes()].concat();
            assert_eq!(Array::parse(&bytes).unwrap().shape(), [0]);
        }
    }

    #[test]
    fn foreign_and_damaged_arrays_are_told() {
        assert!(message(b"PK\x03\x04").contains("expected \\x93NUMPY"));
        assert!(message(b"\x93NUMPY\x07\0").contains("version 7"));
        assert!(message(b"\x93NUMPY\x01\0\xff\xff{").contains("header is damaged"));
        let shape =
            |shape: &str| file(&format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"), &[0; 16]);
        assert!(Array::parse(&shape("(2,)")).is_ok());
        assert!(message(&shape("(3,)")).contains("shape [3] and <f8 in 16 bytes"));
        assert!(message(&shape("(9223372036854775807, 9223372036854775807)")).contains("in 16 bytes"));
        for damaged in ["(2", "2", "(-2,)", "(2,,)", "(99999999999999999999999,)", "(2,), 'shape': (2,)"] {
            assert!(message(&shape(damaged)).contains("header is damaged"), "{damaged}");
        }
        assert!(message(&shape(&format!("({})", "1,".repeat(40)))).contains("header is damaged"));
        let descr =
            |descr: &str| file(&format!("{{'descr': '{descr}', 'fortran_order': True, 'shape': (2,1,1)}}"), &[0; 16]);
        assert!(message(&descr(">f8")).contains("array of >f8, expected"));
        assert!(message(&descr("|O\u{1b}")).contains("array of |O\\u{1b}, expected"));
        assert!(message(&descr("<U")).contains("array of <U, expected"));
        assert!(message(&descr("<f8")).contains("column-major array of 3 axes"));
        assert!(message(&descr("<U99999999999999999999")).contains("array of <U"));
    }

    #[test]
    fn no_change_of_a_byte_makes_it_panic() {
        let valid = [write("<f8", &[2, 1], [0; 16]), write("<U2", &[], [65, 0, 0, 0, 0, 0, 0, 0])];
        for bytes in valid {
            for n_bytes in 0..bytes.len() {
                assert!(Array::parse(&bytes[..n_bytes]).is_err());
            }
            for i in 0..bytes.len() {
                for value in 0..=255 {
                    let mut changed = bytes.clone();
                    changed[i] = value;
                    if let Ok(array) = Array::parse(&changed) {
                        let _ = (array.f64(), array.f32(), array.integer(), array.text());
                    }
                }
            }
        }
    }
}
