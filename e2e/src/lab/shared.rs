//! One lab for many tests: bringing one up costs seconds, most tests need nothing of their own.
//!
//! The tests of one program share it in turn. A test that fails takes it down with it, dump included, so
//! the next one starts on a sound one.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::{Lab, LabOptions};

static SHARED: Mutex<Option<Lab>> = Mutex::new(None);

/// The shared lab, for one test at a time.
#[derive(Debug)]
pub struct SharedLab(MutexGuard<'static, Option<Lab>>);

impl Lab {
    /// The lab of three hosts that this program's tests share, brought up when there is none. It is never taken
    /// down in the end: tests run isolated, and nothing survives them.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn shared() -> Result<SharedLab> {
        let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(Self::up(LabOptions::default())?);
        }
        Ok(SharedLab(guard))
    }

    /// Like [`Self::shared`], with two hosts that have a Docker engine each. A program's tests use either.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn shared_docker() -> Result<SharedLab> {
        let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(Self::up(LabOptions::with_hosts(2).with_docker())?);
        }
        Ok(SharedLab(guard))
    }

    /// A lab of one's own, after the shared one has been taken down.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn fresh(options: LabOptions) -> Result<Self> {
        drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
        Self::up(options)
    }
}

impl Deref for SharedLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.0.as_ref().expect("it is filled before the guard is handed out")
    }
}

impl Drop for SharedLab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(self.0.take());
        }
    }
}
