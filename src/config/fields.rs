//! A key of a configuration is one line of its section, `f.key(name, place, values)`: that line reads, writes and explains it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Result, one_of};

/// What is done with each key: [`Reader`](super::reader::Reader) sets the value, [`Writer`](super::writer::Writer) writes it,
/// [`Explainer`](super::writer::Explainer) says which values there are.
pub trait Fields: Sized {
    /// The keys of `section`, all of them.
    fn section<S: Section>(&mut self, section: &mut S) -> Result<()>;

    /// The key `name` of the current section. `value` is its place, which holds the default before a file is read.
    fn key<T, V: Values<T>>(&mut self, name: &'static str, value: &mut T, values: V) -> Result<()>;

    /// Says that the key `name` has no default; `expected` tells what is missing without it.
    fn require(&mut self, name: &'static str, expected: &str) -> Result<()>;

    /// Refuses the value of `name` (a key of this section, or `section.key`) unless `holds`: what no key knows by itself.
    fn check(&mut self, name: &str, holds: bool, message: impl FnOnce() -> String) -> Result<()>;
}

/// A named mapping of keys.
pub trait Section {
    /// The name in a file.
    const NAME: &'static str;

    /// One line a key, in the order in which a file is written.
    fn fields(&mut self, f: &mut impl Fields) -> Result<()>;
}

/// A plain value as a file has it.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The text, without its quotes.
    pub text: &'a str,
    /// Whether it had quotes.
    pub quoted: bool,
}

/// The values that a key takes.
pub trait Values<T> {
    /// Whether an override on the command line is taken as it stands, whatever YAML would make of it.
    const AS_TYPED: bool = false;

    /// In words, behind "expected".
    fn expected(&self) -> String;

    /// The value that `given` means; `None` if it is none of these.
    fn read(&self, given: Given<'_>) -> Option<T>;

    /// The value that a list of plain values means; `None` if it is none of these.
    fn read_list(&self, _given: &[Given<'_>]) -> Option<T> {
        None
    }

    /// The text that reads back as `value`; `None` for `null`.
    fn write(&self, value: &T) -> Option<String>;

    /// The value that `null` means; `None` where nothing may be missing.
    fn null(&self) -> Option<T> {
        None
    }
}

/// Unsigned whole numbers.
pub trait Whole: FromStr + PartialOrd + Display {}
impl Whole for u64 {}
impl Whole for usize {}

/// The whole numbers of a range.
impl<T: Whole> Values<T> for RangeInclusive<T> {
    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.start(), self.end())
    }

    fn read(&self, given: Given<'_>) -> Option<T> {
        // PyYAML allows 200_000, takes 010 for eight, and '128' for a text.
        let octal = given.text.len() > 1 && given.text.starts_with('0');
        let number = given.text.replace('_', "").parse().ok()?;
        (!given.quoted && !octal && self.contains(&number)).then_some(number)
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

/// Finite numbers for which `valid` holds.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// In words.
    pub expected: &'static str,
    /// Whether a number is one of them.
    pub valid: fn(f64) -> bool,
}

/// Positive in f32 too, as which most of them are used.
pub const POSITIVE: Number =
    Number { expected: "a positive number", valid: |x| x as f32 > 0.0 && (x as f32).is_finite() };
pub const NOT_NEGATIVE: Number = Number { expected: "a number from 0", valid: |x| x >= 0.0 };
/// A decay: 1 would keep everything for ever.
pub const FRACTION: Number = Number { expected: "a number from 0 to below 1", valid: |x| (0.0..1.0).contains(&x) };

impl Values<f64> for Number {
    fn expected(&self) -> String {
        self.expected.into()
    }

    fn read(&self, given: Given<'_>) -> Option<f64> {
        let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
        let number: f64 = given.text.parse().ok().filter(|_| !given.quoted && given.text.bytes().all(plain))?;
        (number.is_finite() && (self.valid)(number)).then_some(number)
    }

    fn write(&self, value: &f64) -> Option<String> {
        // `{:?}` is the shortest text that reads back as the same number; PyYAML wants a point before an e.
        let text = format!("{value:?}");
        Some(if text.contains('.') { text } else { text.replace('e', ".0e") })
    }
}

/// true or false.
#[derive(Clone, Copy, Debug)]
pub struct Flag;

impl Values<bool> for Flag {
    fn expected(&self) -> String {
        "true or false".into()
    }

    fn read(&self, given: Given<'_>) -> Option<bool> {
        given.text.to_ascii_lowercase().parse().ok().filter(|_| !given.quoted)
    }

    fn write(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// Words, in any case, each with its meaning.
impl<T: Copy + PartialEq, const N: usize> Values<T> for &[(&'static str, T); N] {
    fn expected(&self) -> String {
        format!("one of {}", self.each_ref().map(|(name, _)| *name).join(", "))
    }

    fn read(&self, given: Given<'_>) -> Option<T> {
        self.iter().find(|(name, _)| name.eq_ignore_ascii_case(given.text)).map(|(_, value)| *value)
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(name_in(*self, *value).into())
    }
}

/// The word for `value`.
///
/// # Panics
/// When there is none.
pub fn name_in<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, known)| *known == value).expect("every value has a word").0
}

/// A few whole numbers.
#[derive(Clone, Copy, Debug)]
pub struct OneOf<T, const N: usize>(pub [T; N]);

impl<T: Whole + Copy, const N: usize> Values<T> for OneOf<T, N> {
    fn expected(&self) -> String {
        one_of(self.0.map(|number| number.to_string()).each_ref().map(String::as_str))
    }

    fn read(&self, given: Given<'_>) -> Option<T> {
        given.text.parse().ok().filter(|number| self.0.contains(number))
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

/// Lists of such values. On a command line, and as the published programs write them, they are also plain text: `1,2`, `(1, 2)`.
#[derive(Clone, Debug)]
pub struct List<V> {
    /// Each of them.
    pub of: V,
    /// How many there may be.
    pub n: RangeInclusive<usize>,
}

impl<T, V: Values<T>> Values<Vec<T>> for List<V> {
    fn expected(&self) -> String {
        format!("a list of {} to {} values, each {}", self.n.start(), self.n.end(), self.of.expected())
    }

    fn read(&self, Given { text, quoted }: Given<'_>) -> Option<Vec<T>> {
        let inner = [['[', ']'], ['(', ')']]
            .into_iter()
            .find_map(|[open, close]| text.trim().strip_prefix(open)?.strip_suffix(close));
        let inner = inner.unwrap_or(text).trim();
        // Python's tuple of one value ends with a comma.
        let inner = inner.strip_suffix(',').unwrap_or(inner);
        if inner.is_empty() {
            return self.read_list(&[]);
        }
        let items: Vec<Given<'_>> = inner.split(',').map(|text| Given { text: text.trim(), quoted }).collect();
        self.read_list(&items)
    }

    fn read_list(&self, given: &[Given<'_>]) -> Option<Vec<T>> {
        self.n.contains(&given.len()).then(|| given.iter().map(|&item| self.of.read(item)).collect())?
    }

    fn write(&self, value: &Vec<T>) -> Option<String> {
        let items: Option<Vec<String>> = value.iter().map(|item| self.of.write(item)).collect();
        Some(format!("[{}]", items?.join(", ")))
    }
}

/// Any text, called what it should be.
#[derive(Clone, Copy, Debug)]
pub struct Text(pub &'static str);

impl Values<String> for Text {
    fn expected(&self) -> String {
        self.0.into()
    }

    fn read(&self, given: Given<'_>) -> Option<String> {
        Some(given.text.into())
    }

    fn write(&self, value: &String) -> Option<String> {
        // A JSON string is a YAML string, whatever is in it.
        serde_json::to_string(value).ok()
    }
}

/// The path of a folder or a file, called what it should be.
#[derive(Clone, Copy, Debug)]
pub struct FilePath(pub &'static str);

impl Values<PathBuf> for FilePath {
    const AS_TYPED: bool = true;

    fn expected(&self) -> String {
        self.0.into()
    }

    fn read(&self, given: Given<'_>) -> Option<PathBuf> {
        Some(given.text.into())
    }

    fn write(&self, value: &PathBuf) -> Option<String> {
        Text(self.0).write(&value.to_string_lossy().into_owned())
    }
}

/// Such a value, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct OrNone<V>(pub V);

impl<T, V: Values<T>> Values<Option<T>> for OrNone<V> {
    const AS_TYPED: bool = V::AS_TYPED;

    fn expected(&self) -> String {
        self.0.expected()
    }

    fn read(&self, given: Given<'_>) -> Option<Option<T>> {
        self.0.read(given).map(Some)
    }

    fn read_list(&self, given: &[Given<'_>]) -> Option<Option<T>> {
        self.0.read_list(given).map(Some)
    }

    fn write(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.0.write(value))
    }

    fn null(&self) -> Option<Option<T>> {
        Some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain<T>(values: impl Values<T>, text: &str) -> Option<T> {
        values.read(Given { text, quoted: false })
    }

    fn quoted<T>(values: impl Values<T>, text: &str) -> Option<T> {
        values.read(Given { text, quoted: true })
    }

    #[test]
    fn numbers_are_read_as_pyyaml_reads_them() {
        assert_eq!(["200_001", "7", "+7", "0"].map(|text| plain(0..=300_000u64, text)), [200_001, 7, 7, 0].map(Some));
        assert_eq!(["010", "-1", "1.0", "", "300_001", "7 "].map(|text| plain(0..=300_000u64, text)), [None; 6]);
        assert_eq!(quoted(0..=9usize, "7"), None);
        let any = Number { expected: "a number", valid: |_| true };
        assert_eq!(["1", "-.5", "1e-3", "1.0E+2"].map(|text| plain(any, text)), [1.0, -0.5, 1e-3, 100.0].map(Some));
        assert_eq!(["inf", "nan", ".inf", "1e999", "", "0x1"].map(|text| plain(any, text)), [None; 6]);
        assert_eq!(quoted(any, "1.0"), None);
    }

    #[test]
    fn a_number_that_is_0_or_infinite_in_f32_is_not_positive() {
        assert_eq!(["1e-300", "1e300", "0", "-1"].map(|text| plain(POSITIVE, text)), [None; 4]);
        assert_eq!(plain(POSITIVE, "1e-30"), Some(1e-30));
    }

    #[test]
    fn words_and_flags_have_no_case_and_words_may_have_quotes() {
        const WORDS: [(&str, u8); 2] = [("Adam", 1), ("SGD", 2)];
        assert_eq!(["adam", "SGD", "sgdm"].map(|text| plain(&WORDS, text)), [Some(1), Some(2), None]);
        assert_eq!((quoted(&WORDS, "ADAM"), (&WORDS).write(&2).as_deref()), (Some(1), Some("SGD")));
        assert_eq!(["True", "false", "1", "yes"].map(|text| plain(Flag, text)), [Some(true), Some(false), None, None]);
        assert_eq!(quoted(Flag, "true"), None);
    }

    #[test]
    fn lists_are_read_in_brackets_and_without() {
        let sides = List { of: 1..=9usize, n: 1..=3 };
        for text in ["1,2", "[1, 2]", "(1, 2)", " (1,2,) "] {
            assert_eq!(plain(sides.clone(), text), Some(vec![1, 2]), "{text}");
        }
        assert_eq!(
            ["", "[]", "1,2,3,4", "1,10", "1;2", "[1, 2"].map(|text| plain(sides.clone(), text)),
            [const { None }; 6]
        );
        assert_eq!(plain(List { of: 1..=9usize, n: 0..=3 }, "[]"), Some(vec![]));
        assert_eq!(sides.write(&vec![3, 4]).as_deref(), Some("[3, 4]"));
        assert_eq!(sides.expected(), "a list of 1 to 3 values, each a whole number from 1 to 9");
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        for x in [1.0, 0.1, 1e-300, 1e300, -2.5e-7, 123456789.0, f64::MIN_POSITIVE, f64::MAX] {
            let any = Number { expected: "a number", valid: |_| true };
            let text = any.write(&x).expect("a number");
            assert_eq!(plain(any, &text), Some(x), "{text}");
            assert!(text.contains('.'), "{text} is a text to PyYAML");
        }
        assert_eq!(OrNone(0..=9u64).write(&None), None);
        assert_eq!(OrNone(0..=9u64).null(), Some(None));
        assert_eq!((OneOf([1, 3usize]).expected(), plain(OneOf([1, 3usize]), "2")), ("1 or 3".into(), None));
    }
}
