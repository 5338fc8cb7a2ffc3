//! LMDB databases: every entry.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ncsn::data::lmdb::Lmdb;
use ncsn::data::unwatched;
use ncsn::error::Result;

static PATH: OnceLock<PathBuf> = OnceLock::new();

/// The keys, in their order.
fn read(path: &PathBuf) -> Result<Vec<Vec<u8>>> {
    let (database, mut positions) = (Lmdb::open(path)?, Vec::new());
    database.walk(&mut unwatched, |_, position| positions.push(position))?;
    positions.into_iter().map(|position| database.entry(position).map(|entry| entry.key)).collect()
}

fuzz_target!(|data: &[u8]| {
    let path = PATH.get_or_init(|| std::env::temp_dir().join(format!("ncsn-lmdb-{}", std::process::id())));
    fs::write(path, data).expect("a writable folder for temporary files");
    match read(path) {
        Ok(keys) => assert!(keys.is_sorted()),
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
});
