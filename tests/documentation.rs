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
