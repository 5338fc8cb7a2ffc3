//! A configuration written out, and the table of all keys.

use super::fields::{Fields, Section, Values};
use crate::error::Result;

/// One key with its value, as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name of the section.
    pub section: &'static str,
    /// The name of the key.
    pub name: &'static str,
    /// The value as YAML.
    pub value: String,
}

/// Writes every key, in the order of the sections' lines.
#[derive(Debug, Default)]
pub struct Writer {
    section: &'static str,
    /// What was written.
    pub entries: Vec<Entry>,
}

impl Fields for Writer {
    fn section<S: Section>(&mut self, section: &mut S) -> Result<()> {
        self.section = S::NAME;
        section.fields(self)
    }

    fn key<T, V: Values<T>>(&mut self, name: &'static str, value: &mut T, values: V) -> Result<()> {
        let value = values.write(value).unwrap_or_else(|| "null".into());
        self.entries.push(Entry { section: self.section, name, value });
        Ok(())
    }

    fn require(&mut self, _: &'static str, _: &str) -> Result<()> {
        Ok(())
    }

    fn check(&mut self, _: &str, _: bool, _: impl FnOnce() -> String) -> Result<()> {
        Ok(())
    }
}

/// What there is to say about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name of the section.
    pub section: &'static str,
    /// The name of the key.
    pub name: &'static str,
    /// The value of a file without the key, as YAML; `None` for a key that must be given.
    pub default: Option<String>,
    /// The values that the key takes, in words.
    pub values: String,
}

impl Key {
    /// `section.key`
    pub fn full(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// Lists every key with its default and its values.
#[derive(Debug, Default)]
pub struct Explainer {
    section: &'static str,
    /// What was found.
    pub keys: Vec<Key>,
}

impl Fields for Explainer {
    fn section<S: Section>(&mut self, section: &mut S) -> Result<()> {
        self.section = S::NAME;
        section.fields(self)
    }

    fn key<T, V: Values<T>>(&mut self, name: &'static str, value: &mut T, values: V) -> Result<()> {
        // The largest number that there is needs no mention.
        let expected = values.expected().replace(&format!(" to {}", u64::MAX), "");
        let or_null = if values.null().is_some() { ", or null" } else { "" };
        let default = Some(values.write(value).unwrap_or_else(|| "null".into()));
        self.keys.push(Key { section: self.section, name, default, values: expected + or_null });
        Ok(())
    }

    fn require(&mut self, name: &'static str, _: &str) -> Result<()> {
        let found = self.keys.iter_mut().find(|key| (key.section, key.name) == (self.section, name));
        found.expect("a key is required after its line").default = None;
        Ok(())
    }

    fn check(&mut self, _: &str, _: bool, _: impl FnOnce() -> String) -> Result<()> {
        Ok(())
    }
}
