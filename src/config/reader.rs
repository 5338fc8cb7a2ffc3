//! Reads the values of a file, with errors that say what was found and expected, and where.

use std::collections::BTreeSet;

use super::fields::{Fields, Given, Section, Values};
use super::yaml::{self, Entry, Node, Place, Value};
use crate::error::{Error, Result, beginning};

/// A file being read: every key asked for is known, and what is left at the end of a section is not.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The name of the file, for errors.
    source: &'a str,
    /// Where the file begins.
    place: Place,
    entries: Vec<Entry>,
    /// The section being read; empty outside of all sections.
    section: &'static str,
    /// Its keys so far.
    known: Vec<&'static str>,
    /// Keys that the file calls otherwise: their names here, and there.
    renamed: Vec<[&'static str; 2]>,
}

impl<'a> Reader<'a> {
    /// The file `text`, of which `overrides`, each `section.key=value`, replace values.
    ///
    /// # Errors
    /// When `text` is no mapping, or an override cannot be put into it.
    pub fn new(text: &str, source: &'a str, overrides: &[String]) -> Result<Self> {
        let root = yaml::parse(text, source)?;
        let Value::Mapping(mut entries) = root.value else {
            let message = format!("found {}, expected a mapping", root.value.describe());
            return Err(Error::Config { place: root.place.show(source), message });
        };
        for text in overrides {
            apply(&mut entries, text)?;
        }
        Ok(Self { source, place: root.place, entries, section: "", known: Vec::new(), renamed: Vec::new() })
    }

    /// The entry `name`: a key of the current section, or `section.key`.
    fn entry(&self, name: &str) -> Option<&Entry> {
        let (section, key) = name.split_once('.').unwrap_or((self.section, name));
        self.entries_of(section).iter().find(|entry| entry.key == key)
    }

    fn entries_of(&self, section: &str) -> &[Entry] {
        if section.is_empty() {
            return &self.entries;
        }
        match self.entries.iter().find(|entry| entry.key == section).map(|entry| &entry.node.value) {
            Some(Value::Mapping(entries)) => entries,
            _ => &[],
        }
    }

    /// Reads the key that the file calls `from` as `to`; both are `section.key`, or a key outside of all sections.
    ///
    /// # Errors
    /// When the file has both; an override comes before what the file says.
    pub fn rename(&mut self, from: &'static str, to: &'static str) -> Result<()> {
        let Some(found) = self.take(from) else { return Ok(()) };
        let is_set = |entry: &Entry| matches!(entry.place, Place::Set(_));
        if let Some(other) = self.take(to) {
            if is_set(&found) == is_set(&other) {
                let message = format!("found {from} and {to}, which mean the same; expected one of them");
                return Err(self.error_at(&found.place, message));
            }
            if is_set(&other) {
                self.put(to, other);
                return Ok(());
            }
        }
        self.put(to, found);
        self.renamed.push([to, from]);
        Ok(())
    }

    /// Removes an entry.
    pub fn take(&mut self, name: &str) -> Option<Entry> {
        let (section, key) = name.rsplit_once('.').unwrap_or(("", name));
        let entries = self.entries_of_mut(section)?;
        let at = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(at))
    }

    /// Puts an entry at `name`, `section.key`.
    fn put(&mut self, name: &str, entry: Entry) {
        let (section, key) = name.rsplit_once('.').unwrap_or(("", name));
        let place = entry.place.clone();
        let entry = Entry { key: key.into(), ..entry };
        match self.entries_of_mut(section) {
            Some(entries) => entries.push(entry),
            None => {
                let node = Node { place: place.clone(), value: Value::Mapping(vec![entry]) };
                self.entries.push(Entry { key: section.into(), place, node });
            }
        }
    }

    fn entries_of_mut(&mut self, section: &str) -> Option<&mut Vec<Entry>> {
        if section.is_empty() {
            return Some(&mut self.entries);
        }
        match self.entries.iter_mut().find(|entry| entry.key == section).map(|entry| &mut entry.node.value) {
            Some(Value::Mapping(entries)) => Some(entries),
            _ => None,
        }
    }

    /// Whether the file has the key `name`.
    pub fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// The value of `name` as `values` has it, if the file gives one of these. Reading it is no error, whatever is there.
    pub fn peek<T>(&self, name: &str, values: impl Values<T>) -> Option<T> {
        match &self.entry(name)?.node.value {
            Value::Scalar { text, quoted } => values.read(Given { text, quoted: *quoted }),
            _ => None,
        }
    }

    /// Reads past `name`, whatever it holds.
    pub fn ignore(&mut self, name: &'static str) {
        self.known.push(name);
    }

    /// `section.key` as the file calls it.
    fn full(&self, name: &str) -> String {
        let full = match self.section {
            section if section.is_empty() || name.contains('.') => name.into(),
            section => format!("{section}.{name}"),
        };
        let renamed = self.renamed.iter().find(|[to, _]| *to == full);
        renamed.map_or(full, |[_, from]| (*from).to_string())
    }

    fn error_at(&self, place: &Place, message: String) -> Error {
        Error::Config { place: place.show(self.source), message }
    }

    /// An error at `name`, at its section if the file has no such key, or at the beginning of the file.
    pub fn error(&self, name: &str, message: impl Into<String>) -> Error {
        let section = name.split_once('.').map_or(self.section, |(section, _)| section);
        let of_section = || self.entries.iter().find(|entry| entry.key == section);
        let place = self.entry(name).or_else(of_section).map_or(&self.place, |entry| &entry.place);
        self.error_at(place, message.into())
    }

    fn expected(&self, name: &str, found: &Value, expected: &str) -> Error {
        self.error(name, format!("{} is {}, expected {expected}", self.full(name), found.describe()))
    }

    /// Refuses the keys of the current section that nobody asked for; `all_keys` are those of every section, as `section.key`.
    pub fn finish(&self, all_keys: impl FnOnce() -> Vec<String>) -> Result<()> {
        let is_unknown = |entry: &&Entry| !self.known.contains(&entry.key.as_str());
        let Some(unknown) = self.entries_of(self.section).iter().find(is_unknown) else { return Ok(()) };
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
            true => format!("known are {}", self.known.join(", ")),
        };
        let dot = if self.section.is_empty() { "" } else { "." };
        let name = format!("{}{dot}{}", self.section, beginning(&unknown.key, 80));
        Err(self.error_at(&unknown.place, format!("unknown key {name}; {hint}")))
    }
}

impl Fields for Reader<'_> {
    fn section<S: Section>(&mut self, section: &mut S) -> Result<()> {
        self.known.push(S::NAME);
        match self.entry(S::NAME).map(|entry| &entry.node.value) {
            Some(Value::Mapping(_)) | None => {}
            Some(value) if value.is_null() => {}
            Some(other) => return Err(self.expected(S::NAME, other, "a mapping")),
        }
        let outside = std::mem::take(&mut self.known);
        self.section = S::NAME;
        section.fields(self)?;
        self.finish(all_keys)?;
        (self.section, self.known) = ("", outside);
        Ok(())
    }

    fn key<T, V: Values<T>>(&mut self, name: &'static str, value: &mut T, values: V) -> Result<()> {
        self.known.push(name);
        let Some(Entry { place, node, .. }) = self.entry(name) else { return Ok(()) };
        let read = match (place, &node.value, values.null()) {
            (Place::Set(typed), ..) if V::AS_TYPED => {
                let text = typed.split_once('=').map_or("", |(_, text)| text);
                values.read(Given { text, quoted: true })
            }
            (_, found, Some(null)) if found.is_null() => Some(null),
            (_, Value::Scalar { text, quoted }, _) => values.read(Given { text, quoted: *quoted }),
            (_, Value::Sequence(items), _) => {
                let given = items.iter().map(|item| match &item.value {
                    Value::Scalar { text, quoted } => Some(Given { text, quoted: *quoted }),
                    _ => None,
                });
                given.collect::<Option<Vec<_>>>().and_then(|items| values.read_list(&items))
            }
            _ => None,
        };
        *value = read.ok_or_else(|| self.expected(name, &node.value, &values.expected()))?;
        Ok(())
    }

    fn require(&mut self, name: &'static str, expected: &str) -> Result<()> {
        match self.has(name) {
            true => Ok(()),
            false => Err(self.error(name, format!("found no {}, expected {expected}", self.full(name)))),
        }
    }

    fn check(&mut self, name: &str, holds: bool, message: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(self.error(name, message())) }
    }
}

/// Every key there is, as `section.key`.
pub fn all_keys() -> Vec<String> {
    super::Config::keys().iter().map(super::Key::full).collect()
}

/// Puts `section.key=value` into the tree.
fn apply(entries: &mut Vec<Entry>, text: &str) -> Result<()> {
    let place = Place::Set(text.to_string());
    let error = |message: &str| Error::Config { place: place.show(""), message: message.to_string() };
    let (path, value) = text.split_once('=').ok_or_else(|| error("expected SECTION.KEY=VALUE"))?;
    let (section, key) = path.split_once('.').ok_or_else(|| error("expected SECTION.KEY=VALUE"))?;
    // What is no plain value may be meant as a text: see `Values::AS_TYPED`.
    let plain = yaml::parse(value, "--set").map(|node| node.value).ok().filter(|v| matches!(v, Value::Scalar { .. }));
    let value = plain.unwrap_or_else(|| Value::Scalar { text: value.to_string(), quoted: false });
    let node = Node { place: place.clone(), value };
    let entry = Entry { key: key.to_string(), place: place.clone(), node };
    let found = entries.iter().position(|entry| entry.key == section);
    let at = found.unwrap_or_else(|| {
        let node = Node { place: place.clone(), value: Value::Mapping(Vec::new()) };
        entries.push(Entry { key: section.to_string(), place: place.clone(), node });
        entries.len() - 1
    });
    match &mut entries[at].node.value {
        Value::Mapping(inner) => {
            inner.retain(|other| other.key != key);
            inner.push(entry);
            Ok(())
        }
        other => Err(error(&format!("{section} is {}, expected a mapping", other.describe()))),
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

#[cfg(test)]
mod tests {
    use super::super::fields::{FilePath, OrNone};
    use super::*;

    fn reader<'a>(text: &str, overrides: &[&str]) -> Reader<'a> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_string()).collect();
        Reader::new(text, "f.yml", &overrides).expect("valid")
    }

    #[derive(Debug, PartialEq)]
    struct Settings {
        a: Option<u64>,
        b: u64,
        path: Option<std::path::PathBuf>,
    }

    impl Section for Settings {
        const NAME: &'static str = "s";

        fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
            f.key("a", &mut self.a, OrNone(0..=9))?;
            f.key("b", &mut self.b, 0..=9)?;
            f.check("b", self.a != Some(self.b), || "a is b".into())?;
            f.key("path", &mut self.path, OrNone(FilePath("a folder")))
        }
    }

    fn read(text: &str, overrides: &[&str]) -> Result<Settings> {
        let mut section = Settings { a: Some(1), b: 2, path: None };
        reader(text, overrides).section(&mut section).map(|()| section)
    }

    #[test]
    fn what_is_absent_keeps_its_default_and_null_takes_it_away() {
        let path = None;
        assert_eq!(read("t: 1", &[]).expect("valid"), Settings { a: Some(1), b: 2, path: path.clone() });
        assert_eq!(read("s:", &[]).expect("valid"), Settings { a: Some(1), b: 2, path: path.clone() });
        assert_eq!(read("s: {a: null, b: 5}", &[]).expect("valid"), Settings { a: None, b: 5, path });
    }

    #[test]
    fn an_error_has_the_place_of_its_key_or_of_what_is_around_it() {
        for (text, overrides, message) in [
            ("s:\n  b: null\n", &[][..], "f.yml:2: s.b is null, expected a whole number from 0 to 9"),
            ("x: 1\ns:\n  a: 2\n", &[], "f.yml:2: a is b"),
            ("x: 1\ns:\n  a: 2\n  b: 2\n", &[], "f.yml:4: a is b"),
            ("x: 1\n", &["s.a=2"], "--set s.a=2: a is b"),
            ("s: [1]\n", &[], "f.yml:1: s is a list, expected a mapping"),
        ] {
            assert_eq!(read(text, overrides).expect_err("refused").to_string(), message);
        }
        let mut reader = reader("s:\n  b: 3\n", &[]);
        let mut error = |name: &str| reader.check(name, false, || "no".into()).expect_err("refused").to_string();
        assert_eq!(["s.b", "s.a", "t.a"].map(&mut error), ["f.yml:2: no", "f.yml:1: no", "f.yml:1: no"]);
    }

    #[test]
    fn a_path_is_taken_as_it_is_typed_but_read_as_yaml_in_a_file() {
        let path = |text: &str, overrides: &[&str]| read(text, overrides).expect("valid").path;
        assert_eq!(path("s: {path: 'a b'}", &[]), Some("a b".into()));
        assert_eq!(path("s: {path: null}", &[]), None);
        assert_eq!(path("s: {path: x}", &["s.path='a b'"]), Some("'a b'".into()));
        assert_eq!(path("x: 1", &["s.path=null"]), Some("null".into()));
    }
}
