//! Code of others that reads files from elsewhere: its panics are errors about the file.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::{Error, Result};

thread_local! {
    /// How many calls of [`guarded`] this thread is inside.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Whether a panic of this thread would be a decoder's, which is caught and becomes an error that names the file. A program's panic
/// hook should then say nothing.
pub fn is_guarded() -> bool {
    DEPTH.get() > 0
}

/// Leaves the guarded part of the program, by return or by panic.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// What `decode` makes of the file at `path`. It may panic, but must start no threads and keep nothing that a panic could leave half
/// changed.
///
/// # Errors
/// Those of `decode`; [`Error::Format`] when it panics.
pub(crate) fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = {
        DEPTH.set(DEPTH.get() + 1);
        let _leave = Leave;
        catch_unwind(AssertUnwindSafe(decode))
    };
    result.unwrap_or_else(|panic| {
        Err(Error::format(path, format!("not a sound image: its decoder failed ({})", message(panic.as_ref()))))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no message")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_names_the_file_and_ends_the_guarded_part() {
        let inner = || guarded(Path::new("b"), || panic!("seven {}", is_guarded()));
        let error = guarded(Path::new("a"), || {
            let error: Result<()> = inner();
            assert!(is_guarded());
            error
        });
        assert_eq!(error.unwrap_err().to_string(), "b: not a sound image: its decoder failed (seven true)");
        assert!(!is_guarded());
        assert_eq!(guarded(Path::new("a"), || Ok(7)).unwrap(), 7);
    }
}
