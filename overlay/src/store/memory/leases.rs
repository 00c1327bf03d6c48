//! Leases on tokio's clock, and the task that ends them.
//!
//! The task runs while there are leases and holds no reference to the store, so that an abandoned store goes away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{Shared, StoreError};
use crate::store::Lease;

/// The shortest that etcd grants with its default election timeout.
const SHORTEST: u64 = 2;
/// The longest that etcd grants, in seconds.
const LONGEST: u64 = 9_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Leases {
    running: BTreeMap<i64, Running>,
    last: i64,
    tended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    ttl: Duration,
    ends: Instant,
}

impl Leases {
    /// A new lease, and whether the task that ends leases must be started.
    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> Result<(Lease, bool), StoreError> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        if seconds > LONGEST {
            return Err(StoreError::Refused { reason: "etcdserver: too large lease TTL".to_owned() });
        }
        let ttl = Duration::from_secs(seconds.max(SHORTEST));
        self.last += 1;
        self.running.insert(self.last, Running { ttl, ends: now + ttl });
        let first = !std::mem::replace(&mut self.tended, true);
        Ok((Lease { id: self.last, ttl }, first))
    }

    pub(super) fn exists(&self, lease: i64) -> bool {
        self.running.contains_key(&lease)
    }

    pub(super) fn renew(&mut self, lease: i64, now: Instant) -> Duration {
        self.running.get_mut(&lease).map_or(Duration::ZERO, |running| {
            running.ends = now + running.ttl;
            running.ttl
        })
    }

    pub(super) fn remaining(&self, lease: i64, now: Instant) -> Duration {
        self.running.get(&lease).map_or(Duration::ZERO, |running| running.ends.saturating_duration_since(now))
    }

    pub(super) fn end(&mut self, lease: i64) -> bool {
        self.running.remove(&lease).is_some()
    }

    /// The leases whose time is over.
    pub(super) fn due(&self, now: Instant) -> Vec<i64> {
        self.running.iter().filter(|(_, running)| running.ends <= now).map(|(id, _)| *id).collect()
    }

    fn next_end(&self) -> Option<Instant> {
        self.running.values().map(|running| running.ends).min()
    }
}

/// Ends leases as their time comes, until none is left.
pub(super) async fn expire(shared: Weak<Shared>, granted: Arc<Notify>) {
    loop {
        let Some(next) = next_end(&shared) else { return };
        tokio::select! {
            biased;
            () = granted.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Ends what is due; answers when to come back, or nothing when no lease is left.
fn next_end(shared: &Weak<Shared>) -> Option<Instant> {
    shared.upgrade()?.with(|state| {
        let next = state.leases.next_end();
        state.leases.tended = next.is_some();
        next
    })
}
