//! The clock that leases run by: it goes on while the machine sleeps, and nobody can set it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Where the time comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock;

impl Clock {
    /// Time since the machine started.
    #[expect(clippy::unused_self, reason = "a clock of another kind has a state")]
    pub(crate) fn now(self) -> Duration {
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39").into()
    }
}
