//! Ctrl-C and SIGTERM: asked once, the work in hand is finished and saved; asked again, the program ends at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

static N_ASKED: AtomicU32 = AtomicU32::new(0);
static HANDLER: OnceLock<()> = OnceLock::new();

/// The exit code of an interrupted program, by convention 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Starts to listen.
pub fn listen() {
    HANDLER.get_or_init(|| {
        let _ = ctrlc::set_handler(|| {
            if N_ASKED.fetch_add(1, Ordering::SeqCst) > 0 {
                std::process::exit(i32::from(INTERRUPTED));
            }
        });
    });
}

/// Whether the user wants the program to stop.
pub fn asked() -> bool {
    N_ASKED.load(Ordering::SeqCst) > 0
}
