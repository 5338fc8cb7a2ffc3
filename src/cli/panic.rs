//! What becomes of panics. Ours are mistakes. Those on a GPU's threads, which CubeCL runs, are the device's: of kernels that are only
//! tried they go back to whoever tries and mean nothing; of work that is waited for they go on where it is; of work that nobody
//! waits for they are logged, and what should have been written is not, so that the program must end, at once.

use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use ncsn::{Error, Result};

/// What ends a program whose panic was printed, as Rust does it.
const PANICKED: u8 = 101;

/// Where a thread panics that waits for a device which could not even begin: without saying why.
const WAITING: &str = "device/handle/channel.rs";

/// The last panic that was printed.
static PRINTED: Mutex<Option<String>> = Mutex::new(None);
/// The last panic on a device's thread.
static OF_DEVICE: Mutex<Option<String>> = Mutex::new(None);
/// Whether it was said that a device failed.
static FAILED: AtomicBool = AtomicBool::new(false);

/// From now on panics are handled as this module says.
pub fn listen() {
    set_hook(Box::new(|panic| {
        // A decoder's, of which the caller makes an error that names the file.
        if ncsn::guard::is_guarded() {
            return;
        }
        let message = panic.payload_as_str().unwrap_or("no message");
        if thread::current().name().is_some_and(is_device_thread) {
            *locked(&OF_DEVICE) = Some(message.into());
            return;
        }
        if panic.location().is_some_and(|l| l.file().contains("cubecl-common") && l.file().ends_with(WAITING)) {
            fail_of_device(message);
        }
        let place = panic.location().map_or_else(String::new, |l| format!(" ({}:{})", l.file(), l.line()));
        let _ = writeln!(std::io::stderr(), "error: this is a mistake in ncsn{place}: {message}");
        *locked(&PRINTED) = Some(message.into());
    }));
    if ::log::set_logger(&LostWork).is_ok() {
        ::log::set_max_level(::log::LevelFilter::Warn);
    }
}

/// The result of `f`, unless a panic was printed; a panic that was not is a device's.
pub fn caught(f: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    let result = catch_unwind(AssertUnwindSafe(f));
    let printed = locked(&PRINTED);
    match result {
        Ok(result) if printed.is_none() => result,
        Err(payload) if printed.as_deref() != Some(message(payload.as_ref())) => {
            fail(message(payload.as_ref()));
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::from(PANICKED)),
    }
}

/// Says once that a device failed: several threads may notice.
fn fail(message: &str) {
    if !FAILED.swap(true, Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr(), "error: {}", Error::Device(message.into()));
    }
}

/// Ends the program with the last panic of a device's thread, or else with `message`.
fn fail_of_device(message: &str) -> ! {
    fail(locked(&OF_DEVICE).as_deref().unwrap_or(message));
    exit(1)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    payload.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no message")
}

/// CubeCL's names: device service, upstream or downstream.
fn is_device_thread(name: &str) -> bool {
    name.starts_with("DSU-") || name.starts_with("DSD-")
}

/// Reads in the log of dependencies that work was lost which nobody waited for, and ends the program.
struct LostWork;

impl ::log::Log for LostWork {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.target() == "cubecl_common::device::handle::channel::task"
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.enabled(record.metadata()) {
            fail_of_device(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;

    use cubecl_common::device::{DeviceId, DeviceService, ServerUtilitiesHandle};
    use cubecl_common::device_handle::{CallResultExt, DeviceHandle};

    use super::*;

    struct Service;

    impl DeviceService for Service {
        fn init(_: DeviceId) -> Self {
            Self
        }

        fn utilities(&self) -> ServerUtilitiesHandle {
            Arc::new(())
        }
    }

    /// What cannot begin.
    struct Unable;

    impl DeviceService for Unable {
        fn init(_: DeviceId) -> Self {
            panic!("{}", "out of memory")
        }

        fn utilities(&self) -> ServerUtilitiesHandle {
            Arc::new(())
        }
    }

    const CASE: &str = "NCSN_TEST_PANIC";

    /// What a program says that meets a panic, and its exit code.
    fn program(case: &str) -> (String, Option<i32>) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.env(CASE, case).args(["--exact", "--nocapture", "cli::panic::tests::as_a_program"]);
        let output = output.output().unwrap();
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    }

    /// Does nothing unless [`program`] runs it.
    #[test]
    fn as_a_program() {
        let Ok(case) = std::env::var(CASE) else { return };
        listen();
        let device = DeviceHandle::<Service>::new(DeviceId::new(0, 0));
        let result = caught(|| {
            match case.as_str() {
                "tried" => assert!(device.submit_blocking(|_| panic!("{}", "no such kernel")).is_err()),
                "awaited" => device.submit_blocking(|_| panic!("{}", "out of memory")).unwrap_or_resume(),
                "lost" => {
                    device.submit(|_| panic!("{}", "out of memory"));
                    device.flush_queue();
                    thread::sleep(std::time::Duration::from_secs(60));
                }
                "unable" => drop(DeviceHandle::<Unable>::new(DeviceId::new(0, 1))),
                "ours" => panic!("{}", "seven"),
                "ours, elsewhere" => drop(thread::spawn(|| panic!("{}", "seven")).join()),
                _ => unreachable!(),
            }
            Ok(ExitCode::SUCCESS)
        });
        let code = match result {
            Ok(code) if code == ExitCode::SUCCESS => 0,
            Ok(code) if code == ExitCode::FAILURE => 1,
            Ok(_) => i32::from(PANICKED),
            Err(error) => panic!("{error}"),
        };
        exit(code);
    }

    #[test]
    fn kernels_that_are_only_tried_may_panic_silently() {
        assert_eq!(program("tried"), (String::new(), Some(0)));
    }

    #[test]
    fn work_of_a_device_that_panics_is_the_device_failing_whether_it_is_waited_for_or_not() {
        for case in ["awaited", "lost", "unable"] {
            let (said, code) = program(case);
            assert_eq!(code, Some(1), "{case}: {said}");
            assert_eq!(said, "error: the device failed: out of memory\n", "{case}");
        }
    }

    #[test]
    fn other_panics_are_our_mistakes() {
        for case in ["ours", "ours, elsewhere"] {
            let (said, code) = program(case);
            assert_eq!(code, Some(101), "{said}");
            assert!(said.starts_with("error: this is a mistake in ncsn (src/cli/panic.rs:"), "{said}");
            assert!(said.ends_with(": seven\n") && said.lines().count() == 1, "{said}");
        }
    }
}
