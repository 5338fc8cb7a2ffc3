//! YAML as a small tree in which every value knows where it stands.
//!
//! Files may come from anywhere: their size, depth and number of values are bounded, references are refused (they can
//! make a small file expand without end), and tags are read past, never acted on. A `config.yml` that the published
//! program saved, full of `!!python/object:argparse.Namespace`, is therefore just a mapping of mappings.

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::error::{Error, Result, beginning};

/// The largest file.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 16;
const MAX_VALUES: usize = 10_000;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// An override on the command line, as typed.
    Set(String),
}

impl Place {
    /// `file:line` or `--set …`.
    pub fn show(&self, source: &str) -> String {
        match self {
            Place::Line(line) => format!("{source}:{line}"),
            Place::Set(text) => format!("--set {text}"),
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar { text: String, quoted: bool },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One `key: value`, with the place of the key.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Value {
    /// `null` and its other spellings.
    pub fn is_null(&self) -> bool {
        let Value::Scalar { text, quoted: false } = self else { return false };
        matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// What an error calls it.
    pub fn describe(&self) -> String {
        match self {
            Value::Scalar { text, quoted: true } => format!("\"{}\"", beginning(text, 80)),
            Value::Scalar { text, quoted: false } if text.is_empty() => "nothing".into(),
            Value::Scalar { text, .. } => beginning(text, 80),
            Value::Sequence(_) => "a list".into(),
            Value::Mapping(_) => "a mapping".into(),
        }
    }
}

/// Reads the one document of `text`; `source` names it in errors.
pub fn parse(text: &str, source: &str) -> Result<Node> {
    let fail = |line: usize, message: String| Error::Config { place: format!("{source}:{line}"), message };
    if text.len() > MAX_BYTES {
        return Err(fail(1, format!("found {} bytes, expected at most {MAX_BYTES}", text.len())));
    }
    // Some editors mark UTF-8 so.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Containers being read, innermost last; `pending_key` belongs to the mapping it stands in.
    let mut open: Vec<(Node, Option<(String, Place)>)> = Vec::new();
    let mut root: Option<Node> = None;
    let mut n_values = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| fail(error.marker().line(), format!("not YAML: {}", error.info())))?;
        let place = Place::Line(span.start.line());
        let line = span.start.line();
        let (anchor, opened) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != ScalarStyle::Plain;
                (anchor, Some(Node { place, value: Value::Scalar { text: text.into_owned(), quoted } }))
            }
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) if open.len() >= MAX_DEPTH => {
                let _ = anchor;
                return Err(fail(line, format!("found values nested more than {MAX_DEPTH} deep")));
            }
            Event::SequenceStart(anchor, _) => {
                open.push((Node { place, value: Value::Sequence(Vec::new()) }, None));
                (anchor, None)
            }
            Event::MappingStart(anchor, _) => {
                open.push((Node { place, value: Value::Mapping(Vec::new()) }, None));
                (anchor, None)
            }
            Event::SequenceEnd | Event::MappingEnd => (0, open.pop().map(|(node, _)| node)),
            Event::Alias(_) => return Err(fail(line, "found a reference (*name), expected the value itself".into())),
            Event::DocumentStart(_) if root.is_some() => {
                return Err(fail(line, "found a second document, expected one".into()));
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                continue;
            }
        };
        n_values += 1;
        if anchor != 0 {
            return Err(fail(line, "found an anchor (&name), expected a plain value".into()));
        }
        if n_values > MAX_VALUES {
            return Err(fail(line, format!("found more than {MAX_VALUES} values")));
        }
        let Some(node) = opened else { continue };
        match open.last_mut() {
            None => root = Some(node),
            Some((parent, pending_key)) => match &mut parent.value {
                Value::Sequence(items) => items.push(node),
                Value::Mapping(entries) => match (pending_key.take(), node) {
                    (Some((key, place)), node) => entries.push(Entry { key, place, node }),
                    (None, Node { place, value: Value::Scalar { text: key, .. } }) => {
                        if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                            let message =
                                format!("found {} twice, first at {}", beginning(&key, 80), first.place.show(source));
                            return Err(fail(line, message));
                        }
                        *pending_key = Some((key, place));
                    }
                    (None, node) => {
                        return Err(fail(line, format!("found {} as a key, expected a name", node.value.describe())));
                    }
                },
                Value::Scalar { .. } => unreachable!("a scalar holds nothing"),
            },
        }
    }
    root.ok_or_else(|| fail(1, "found an empty file, expected a configuration".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse(text, "f.yml").expect_err("refused").to_string()
    }

    #[test]
    fn values_know_their_lines() {
        let node = parse("# comment\na: 1\nb:\n  c: 'x'\n", "f.yml").expect("valid");
        let Value::Mapping(entries) = node.value else { panic!("a mapping") };
        assert_eq!(entries[0].place, Place::Line(2));
        let Value::Mapping(inner) = &entries[1].node.value else { panic!("a mapping") };
        assert_eq!(
            inner[0].node,
            Node { place: Place::Line(4), value: Value::Scalar { text: "x".into(), quoted: true } }
        );
    }

    #[test]
    fn a_byte_order_mark_and_line_ends_of_windows_change_nothing() {
        let text = "a: 1\nb:\n  c: 'x'\n  d: [1, 2]\n";
        let marked = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        assert_eq!(parse(&marked, "f.yml").expect("valid"), parse(text, "f.yml").expect("valid"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        assert!(message("a: 1\na: 2\n").contains("f.yml:2: found a twice, first at f.yml:1"));
        assert!(message("a: &x 1\n").contains("f.yml:1: found an anchor"));
        assert!(message("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(message("a: [1\nb: }\n").contains("not YAML"));
        assert!(message("").contains("empty file"));
        assert!(message(&"[".repeat(20)).contains("more than 16 deep"));
        assert!(message(&format!("a: [{}]", "1,".repeat(20_000))).contains("more than 10000 values"));
    }

    #[test]
    fn no_mutation_of_a_file_makes_the_parser_panic() {
        let whole = include_str!("../../configs/anneal.yml");
        let mut state = 1u64;
        for _ in 0..3000 {
            let mut bytes = whole.as_bytes().to_vec();
            for _ in 0..4 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                match state >> 60 {
                    0..8 => bytes[at] = (state >> 20) as u8,
                    8..12 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"&*!:[{-'\""[(state >> 40) as usize % 9]),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            // Whatever it says, it says it: refused or a tree, within the bounds.
            let _ = parse(&text, "f.yml").map(|node| assert!(matches!(node.place, Place::Line(_))));
        }
    }
}
