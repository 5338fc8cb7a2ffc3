//! Signals that ask the program to stop: the work in hand is finished and saved. A second Ctrl-C ends the program at once.

use std::process::{ExitCode, exit};
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The exit code of the first request, 128 + the signal's number by convention; 0 before it.
static ASKED: AtomicU8 = AtomicU8::new(0);
static HANDLER: Once = Once::new();

/// The exit code after Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;
/// Signals within this time of the first are the same request: `timeout`, say, signals a program and then its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Starts to listen.
pub fn listen() {
    HANDLER.call_once(system::listen);
}

/// Lets writes beyond a limit of file sizes fail, with their message, where the program would end without one.
pub fn survive_limits() {
    system::survive_limits();
}

/// Whether the user, or the system, wants the program to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst) != 0
}

/// The exit code of a program that was asked to stop.
pub fn code() -> ExitCode {
    match ASKED.load(Ordering::SeqCst) {
        0 => ExitCode::from(INTERRUPTED),
        code => ExitCode::from(code),
    }
}

/// What a signal means, given those before it.
#[derive(Debug, PartialEq)]
enum Meaning {
    Stop,
    /// No more than what was asked for already.
    Nothing,
    EndAtOnce,
}

/// The signals so far.
#[derive(Default)]
struct Requests {
    first: Option<Instant>,
}

impl Requests {
    /// What a signal with this exit code means at `now`.
    fn meaning(&mut self, code: u8, now: Instant) -> Meaning {
        match self.first {
            None => {
                self.first = Some(now);
                Meaning::Stop
            }
            Some(first) if code == INTERRUPTED && now.duration_since(first) >= SAME_REQUEST => Meaning::EndAtOnce,
            Some(_) => Meaning::Nothing,
        }
    }

    /// Does what a signal with this exit code means.
    fn obey(&mut self, code: u8) {
        match self.meaning(code, Instant::now()) {
            Meaning::Stop => ASKED.store(code, Ordering::SeqCst),
            Meaning::Nothing => {}
            Meaning::EndAtOnce => exit(i32::from(code)),
        }
    }
}

#[cfg(unix)]
mod system {
    use std::sync::Arc;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
    use signal_hook::iterator::Signals;

    use super::{INTERRUPTED, Requests};

    /// Signals and the exit code after each. Batch systems send SIGUSR1 some time before they send SIGTERM.
    const SIGNALS: [(i32, u8); 4] = [(SIGINT, INTERRUPTED), (SIGTERM, 143), (SIGUSR1, 143), (SIGHUP, 129)];

    pub fn survive_limits() {
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    }

    pub fn listen() {
        // What is ignored when the program starts stays ignored, as with nohup.
        let wanted = SIGNALS.iter().map(|(signal, _)| *signal).filter(|signal| !is_ignored(*signal));
        let Ok(mut signals) = Signals::new(wanted) else { return };
        let mut requests = Requests::default();
        let mut obey = move |signal| {
            let known = SIGNALS.iter().find(|(known, _)| *known == signal);
            known.into_iter().for_each(|(_, code)| requests.obey(*code));
        };
        let waiting = std::thread::Builder::new().name("signals".into());
        let _ = waiting.spawn(move || signals.forever().for_each(&mut obey));
    }

    /// Whether the program was started with `signal` ignored, where the system tells.
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        is_in_mask(&status, signal)
    }

    /// Whether the line `SigIgn:` of `status`, a mask in hexadecimal digits, has `signal`.
    fn is_in_mask(status: &str, signal: i32) -> bool {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_mask_of_ignored_signals_is_read() {
            let status = "Name:\tncsn\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
            let found = [SIGHUP, SIGINT, SIGTERM, 13].map(|signal| is_in_mask(status, signal));
            assert_eq!(found, [true, false, false, true]);
            assert!(!is_in_mask("", SIGHUP));
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::sync::Mutex;

    use super::{INTERRUPTED, Requests};

    /// There are none.
    pub fn survive_limits() {}

    pub fn listen() {
        let requests = Mutex::new(Requests::default());
        let _ = ctrlc::set_handler(move || {
            requests.lock().into_iter().for_each(|mut requests| requests.obey(INTERRUPTED));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_ctrl_c_a_second_later_ends_the_program_at_once() {
        let (start, mut requests) = (Instant::now(), Requests::default());
        let at = |ms| start + Duration::from_millis(ms);
        let signals = [(143, 0), (143, 1), (INTERRUPTED, 999), (143, 2000), (INTERRUPTED, 2001)];
        let meanings = signals.map(|(code, ms)| requests.meaning(code, at(ms)));
        assert_eq!(meanings[0], Meaning::Stop);
        assert!(meanings[1..4].iter().all(|meaning| *meaning == Meaning::Nothing));
        assert_eq!(meanings[4], Meaning::EndAtOnce);
    }
}
