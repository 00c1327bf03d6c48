//! Waiting for a condition with a deadline: the only way in which this crate waits.
//!
//! A probe returns what it saw when that is not yet good enough, so that a timeout says what
//! was last seen and not only that something was missing.

use std::thread;
use std::time::{Duration, Instant};

/// Pause between two probes: short beside every deadline in use, long enough to leave the
/// processor to what is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A condition did not become true before its deadline.
#[derive(Debug, thiserror::Error)]
#[error("{what}: not within {} ms, last seen: {last_seen}", deadline.as_millis())]
pub struct NotInTime {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub deadline: Duration,
    /// What the last probe reported.
    pub last_seen: String,
}

/// Polls `probe` until it returns `Ok` and returns that value. The probe runs at least twice
/// when its first answer is `Err`, however short the deadline.
///
/// # Errors
/// [`NotInTime`] with the last `Err` of the probe.
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T, NotInTime> {
    let started = Instant::now();
    loop {
        let past_deadline = started.elapsed() >= deadline;
        match probe() {
            Ok(value) => return Ok(value),
            Err(last_seen) if past_deadline => {
                return Err(NotInTime { what: what.to_owned(), deadline, last_seen });
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Like [`wait_until`], for tests.
///
/// # Panics
/// When the deadline passes; the message carries what was last seen. A panic, unlike a returned
/// error, also makes the [`Lab`](crate::Lab) print its dump.
#[track_caller]
#[expect(clippy::panic, reason = "a test ends here, and the lab's dump hangs on the panic")]
pub fn eventually<T>(deadline: Duration, what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    match wait_until(deadline, what, probe) {
        Ok(value) => value,
        Err(timeout) => panic!("{timeout}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_first_good_answer() {
        let mut calls = 0;

        let value = eventually(Duration::from_secs(5), "third call", || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { Err("early".into()) }
        });

        assert_eq!(value, 3);
    }

    #[test]
    fn timeout_names_the_condition_and_what_was_last_seen() {
        let error = wait_until::<()>(Duration::ZERO, "agent ready", || Err("pending: 2".into()))
            .expect_err("the probe never succeeds");

        assert_eq!(error.to_string(), "agent ready: not within 0 ms, last seen: pending: 2");
    }
}
