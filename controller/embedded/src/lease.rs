//! Leases: which there are, which keys hang on them, and when they end.
//!
//! Time is an argument: the clock that goes on while the machine sleeps, since any moment. Deadlines are not stored: a
//! restart begins each lease anew, as etcd does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    fault::{self, Fault},
    limits,
    refusal::Refusal,
};

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Seconds that it lives after each renewal.
    pub(crate) ttl: i64,
    deadline: Duration,
    pub(crate) keys: BTreeSet<Arc<[u8]>>,
}

impl Lease {
    /// Whole seconds that are left.
    pub(crate) fn remaining(&self, now: Duration) -> i64 {
        i64::try_from(self.deadline.saturating_sub(now).as_secs()).unwrap_or(i64::MAX)
    }
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<i64, Lease>,
}

impl Leases {
    pub(crate) fn find(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = i64> {
        self.leases.keys().copied()
    }

    /// What a client asked for, as it will be: the time to live within the limits.
    pub(crate) fn admit(&self, id: i64, ttl: i64) -> Result<i64, Refusal> {
        if ttl > limits::MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        if self.leases.len() >= limits::LEASES {
            return Err(Refusal::TooManyRequests);
        }
        Ok(ttl.max(limits::MIN_TTL))
    }

    pub(crate) fn insert(&mut self, id: i64, ttl: i64, now: Duration) {
        self.leases.insert(id, Lease { ttl, deadline: now + seconds(ttl), keys: BTreeSet::new() });
    }

    pub(crate) fn put_back(&mut self, id: i64, lease: Lease) {
        self.leases.insert(id, lease);
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        self.leases.remove(&id)
    }

    /// Renews a lease; `None` when there is none, or when its time is over and it only waits to be ended.
    pub(crate) fn renew(&mut self, id: i64, now: Duration) -> Option<i64> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.deadline > now || fault::has(Fault::ReviveLease))?;
        lease.deadline = now + seconds(lease.ttl);
        Some(lease.ttl)
    }

    /// Gives every lease more time.
    pub(crate) fn extend(&mut self, gap: Duration) {
        for lease in self.leases.values_mut() {
            lease.deadline += gap;
        }
    }

    /// Leases whose time is over.
    pub(crate) fn expired(&self, now: Duration) -> Vec<i64> {
        let over = self.leases.iter().filter(|(_, lease)| lease.deadline <= now);
        over.map(|(id, _)| *id).take(limits::EXPIRIES).collect()
    }

    pub(crate) fn attach(&mut self, id: i64, key: &Arc<[u8]>) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(Arc::clone(key));
        }
    }

    pub(crate) fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn a_lease_whose_time_is_over_cannot_be_renewed() {
        let mut leases = Leases::default();
        leases.insert(1, 10, START);

        assert_eq!(leases.renew(1, START + Duration::from_secs(9)), Some(10));
        assert_eq!(leases.expired(START + Duration::from_secs(18)), [0; 0]);
        assert_eq!(leases.expired(START + Duration::from_secs(19)), [1]);
        assert_eq!(leases.renew(1, START + Duration::from_secs(19)), None);
    }

    #[test]
    fn times_to_live_are_kept_within_limits() {
        let leases = Leases::default();

        assert_eq!(leases.admit(1, 0), Ok(limits::MIN_TTL));
        assert_eq!(leases.admit(1, -5), Ok(limits::MIN_TTL));
        assert_eq!(leases.admit(1, limits::MAX_TTL), Ok(limits::MAX_TTL));
        assert_eq!(leases.admit(1, limits::MAX_TTL + 1), Err(Refusal::LeaseTtlTooLarge));
    }

    #[test]
    fn a_gap_in_time_is_given_to_every_lease() {
        let mut leases = Leases::default();
        leases.insert(1, 10, START);
        leases.extend(Duration::from_secs(60));

        assert_eq!(leases.expired(START + Duration::from_secs(69)), [0; 0]);
        assert_eq!(leases.expired(START + Duration::from_secs(70)), [1]);
    }
}
