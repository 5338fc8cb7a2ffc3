//! Image files of every format that is read.
#![no_main]

use std::fs;
use std::panic;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ncsn::data::folder::read_image;

static PATH: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(
    init: {
        // Panics of decoders are errors about the file; all others end the run.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !ncsn::guard::is_guarded() {
                hook(panic);
            }
        }));
    },
    |data: &[u8]| {
        let path = PATH.get_or_init(|| std::env::temp_dir().join(format!("ncsn-image-{}", std::process::id())));
        fs::write(path, data).expect("a writable folder for temporary files");
        match read_image(path, 3, 8) {
            Ok(pixels_u8) => assert_eq!(pixels_u8.len(), 3 * 8 * 8),
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
        }
    }
);
