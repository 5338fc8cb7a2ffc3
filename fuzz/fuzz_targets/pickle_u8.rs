//! Pickles of numpy's `u8` arrays.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ncsn::pickle::{Names, Pickle};

fuzz_target!(|data: &[u8]| {
    match Pickle::parse(Path::new("f"), data, Names::NumpyU8) {
        Ok(pickle) => {
            for value in [Some(pickle.root()), pickle.get(pickle.root(), "data")].into_iter().flatten() {
                if let Ok((shape, items)) = pickle.array_u8(value) {
                    assert_eq!(shape.iter().product::<usize>(), items.len());
                }
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
});
