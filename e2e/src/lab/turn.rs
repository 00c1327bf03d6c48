//! One lab at a time per process.
//!
//! The test harness runs tests in parallel threads, and a lab's names exist once per machine.
//! A turn may be dropped by another thread than the one that took it, which rules out a mutex guard.

use std::sync::{Condvar, Mutex, PoisonError};

static TAKEN: Mutex<bool> = Mutex::new(false);
static RETURNED: Condvar = Condvar::new();

/// The right to have a lab up; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turn {
    /// Waits for the turn. A test that panicked has given it back like any other.
    pub(super) fn wait() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = RETURNED.wait_while(taken, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
        *taken = true;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        RETURNED.notify_one();
    }
}
