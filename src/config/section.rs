//! Typed values out of one mapping of a configuration, with errors that say what was found and expected, and where.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::yaml::{Entry, Place, Value};
use crate::error::{Error, Result, beginning};

/// One mapping being read: every key asked for is known, and what is left at the end is not.
pub struct Section<'a> {
    source: &'a str,
    name: &'static str,
    place: Place,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub fn new(source: &'a str, name: &'static str, place: Place, entries: Vec<Entry>) -> Self {
        Self { source, name, place, entries, known: Vec::new() }
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_string() } else { format!("{}.{key}", self.name) }
    }

    /// An error at `key`, or at the section if the key is not given.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let place = entry.map_or(&self.place, |entry| &entry.place);
        Error::Config { place: place.show(self.source), message: message.into() }
    }

    fn expected(&self, key: &str, found: &Value, expected: &str) -> Error {
        self.error(key, format!("{} is {}, expected {expected}", self.full(key), found.describe()))
    }

    /// The entry `key`, which stays so that later errors know its place.
    fn get(&mut self, key: &'static str) -> Option<&Entry> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of `key` as `read` understands its text; `None` if it is absent.
    pub fn value<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(entry) = self.get(key) else { return Ok(None) };
        let value = entry.node.value.clone();
        let read = match &value {
            Value::Scalar { text, .. } => read(text),
            _ => None,
        };
        read.map(Some).ok_or_else(|| self.expected(key, &value, expected))
    }

    /// As [`Self::value`], of a text without quotes: `'128'` is no number.
    fn plain<T>(&mut self, key: &'static str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let quoted = |entry: &Entry| matches!(entry.node.value, Value::Scalar { quoted: true, .. });
        let quoted = self.get(key).is_some_and(quoted);
        self.value(key, expected, |text| if quoted { None } else { read(text) })
    }

    /// Makes an absent value of `key: null`, for a value that may be missing.
    fn drop_null(&mut self, key: &'static str) {
        self.known.push(key);
        self.entries.retain(|entry| entry.key != key || !entry.node.value.is_null());
    }

    /// Reads past `key`, whatever it holds.
    pub fn ignore(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// The sub-mapping `key`, empty if it is absent.
    pub fn section(&mut self, key: &'static str) -> Result<Section<'a>> {
        let source = self.source;
        let Some(entry) = self.get(key) else {
            return Ok(Section::new(source, key, self.place.clone(), Vec::new()));
        };
        let Entry { place, node, .. } = entry.clone();
        match node.value {
            Value::Mapping(entries) => Ok(Section::new(source, key, place, entries)),
            value if value.is_null() => Ok(Section::new(source, key, place, Vec::new())),
            other => Err(self.expected(key, &other, "a mapping")),
        }
    }

    /// A whole number in `range`.
    pub fn count<T>(&mut self, key: &'static str, range: RangeInclusive<T>, default: T) -> Result<T>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |text: &str| {
            // PyYAML allows 200_000, and takes 010 for eight.
            let octal = text.len() > 1 && text.starts_with('0');
            text.replace('_', "").parse().ok().filter(|n| !octal && range.contains(n))
        };
        Ok(self.plain(key, &expected, read)?.unwrap_or(default))
    }

    /// A whole number in `range`, or nothing.
    pub fn count_or_none<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Result<Option<T>>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        self.drop_null(key);
        let given = self.get(key).is_some();
        let start = *range.start();
        Ok(Some(self.count(key, range, start)?).filter(|_| given))
    }

    /// A number for which `valid` holds, `what` in words.
    pub fn number(&mut self, key: &'static str, what: &str, valid: impl Fn(f64) -> bool, default: f64) -> Result<f64> {
        let read = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
            text.parse().ok().filter(|x: &f64| plain && x.is_finite() && valid(*x))
        };
        Ok(self.plain(key, what, read)?.unwrap_or(default))
    }

    /// A number for which `valid` holds, or nothing.
    pub fn number_or_none(
        &mut self,
        key: &'static str,
        what: &str,
        valid: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>> {
        self.drop_null(key);
        let given = self.get(key).is_some();
        Ok(Some(self.number(key, what, valid, 0.0)?).filter(|_| given))
    }

    /// Any text, or nothing. On the command line it is taken as it stands, whatever YAML would make of it.
    pub fn text_or_none(&mut self, key: &'static str, what: &str) -> Result<Option<String>> {
        if let Some(Entry { place: Place::Set(typed), .. }) = self.get(key) {
            return Ok(typed.split_once('=').map(|(_, text)| text.to_string()));
        }
        self.drop_null(key);
        self.value(key, what, |text| Some(text.to_string()))
    }

    /// true or false.
    pub fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        let value = self.plain(key, "true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })?;
        Ok(value.unwrap_or(default))
    }

    /// One of `words`, in any case.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        self.value(key, &expected, |text| {
            words.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, v)| *v)
        })
    }

    /// A value that must be there.
    pub fn required<T>(&self, key: &str, value: Option<T>, expected: &str) -> Result<T> {
        value.ok_or_else(|| self.error(key, format!("found no {}, expected {expected}", self.full(key))))
    }

    /// Refuses the keys that nobody asked for; `all_keys` are those of every section, as `section.key`.
    pub fn finish(self, all_keys: impl FnOnce() -> Vec<String>) -> Result<()> {
        let Some(unknown) = self.entries.iter().find(|entry| !self.known.contains(&entry.key.as_str())) else {
            return Ok(());
        };
        // A key of this section, or one that was put into the wrong section.
        let own: Vec<String> = self.known.iter().map(|key| self.full(key)).collect();
        let key_of = |full: &str| full.rsplit('.').next().unwrap_or_default().to_string();
        let distance = |full: &String| edit_distance(&key_of(full), &unknown.key);
        let others: Vec<String> = all_keys().into_iter().filter(|full| !own.contains(full)).collect();
        let nearest = own.iter().chain(&others).map(distance).min().filter(|&nearest| nearest <= 3);
        let at = |keys: &[String]| -> BTreeSet<String> {
            keys.iter().filter(|full| Some(distance(full)) == nearest).cloned().collect()
        };
        let meant = Some(at(&own)).filter(|found| !found.is_empty()).unwrap_or_else(|| at(&others));
        let hint = match meant.is_empty() {
            false => format!("did you mean {}?", meant.into_iter().collect::<Vec<_>>().join(" or ")),
            true => {
                let mut known: Vec<&str> = Vec::new();
                self.known.iter().for_each(|key| {
                    if !known.contains(key) {
                        known.push(key)
                    }
                });
                format!("known are {}", known.join(", "))
            }
        };
        Err(self.error(&unknown.key, format!("unknown key {}; {hint}", self.full(&beginning(&unknown.key, 80)))))
    }
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
