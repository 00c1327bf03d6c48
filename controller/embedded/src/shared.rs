//! What the writer shares with readers: the index, and up to which revision it may be shown.

use std::sync::{
    PoisonError, RwLock, RwLockReadGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::watch;

use crate::{
    header::Identity,
    mvcc::{Mvcc, Revision},
};

/// Readers' side of the store.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mvcc: RwLock<Mvcc>,
    pub(crate) identity: Identity,
    visible: watch::Sender<Revision>,
    full: AtomicBool,
    size: AtomicU64,
}

impl Shared {
    /// Everything that was loaded is durable, so it is visible.
    pub(crate) fn new(mvcc: Mvcc, identity: Identity, size: u64) -> Self {
        let visible = watch::Sender::new(mvcc.applied);
        let (full, size) = (AtomicBool::new(false), AtomicU64::new(size));
        Self { mvcc: RwLock::new(mvcc), identity, visible, full, size }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Mvcc> {
        self.mvcc.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision that may be shown.
    pub(crate) fn visible(&self) -> Revision {
        *self.visible.borrow()
    }

    /// Tells of every move of that revision.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.visible.subscribe()
    }

    pub(crate) fn publish(&self, revision: Revision) {
        self.visible.send_if_modified(|visible| std::mem::replace(visible, revision) != revision);
    }

    /// Notes whether the disk is full; answers what was noted before.
    pub(crate) fn set_full(&self, full: bool) -> bool {
        self.full.swap(full, Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    /// Bytes on disk, as last seen.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }
}
