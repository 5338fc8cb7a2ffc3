//! The documentation says what is so.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The first listing of Rust in a text.
fn listing(text: &str) -> &str {
    let (_, code) = text.split_once("```rust\n").unwrap();
    code.split_once("```").unwrap().0
}

#[test]
fn the_listing_in_the_readme_is_the_one_that_is_compiled_with_the_library() {
    let readme = read("README.md");
    let code: String =
        listing(&readme).lines().map(|line| format!("//! {line}").trim_end().to_string() + "\n").collect();
    assert!(code.lines().count() <= 12 && read("src/lib.rs").contains(&code), "{code}");
}

#[test]
fn the_example_on_images_in_memory_is_short() {
    assert!(read("examples/train_array.rs").lines().count() <= 40);
}

/// `docs/extending.md` quotes files as ``path``: and then a block of lines, each of which stands there.
#[test]
fn the_lines_that_the_page_on_extending_quotes_stand_in_their_files() {
    let page = read("docs/extending.md");
    let quotes: Vec<_> = page.split("`:\n```text\n").collect();
    assert!(quotes.len() > 6, "found {} quotes", quotes.len() - 1);
    for [before, after] in quotes.array_windows() {
        let (file, block) = (before.rsplit('`').next().unwrap(), after.split_once("```").unwrap().0);
        let code = read(file);
        for line in block.lines() {
            assert!(code.lines().any(|l| l == line), "{file} has no line {line:?}");
        }
    }
}

#[test]
fn the_files_that_the_page_on_extending_names_exist() {
    let page = read("docs/extending.md");
    let named = page.split('`').filter(|part| part.starts_with("src/") || part.starts_with("examples/"));
    let (new, old): (Vec<_>, Vec<_>) = named.partition(|name| name.contains("NAME"));
    assert_eq!(new.len(), 5);
    for name in old {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "{name} does not exist");
    }
}
