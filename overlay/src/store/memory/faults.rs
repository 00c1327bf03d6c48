//! What may go wrong between a client and the store, decided by a seed.
//!
//! Every client has dice of its own, seeded by its name as well: what happens to one does not depend on how often
//! another one asks.

use std::{ops::RangeInclusive, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// What goes wrong, and how often. Chances are from 0 (never) to 1 (always), per request or delivery.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Decides everything that chance decides.
    pub seed: u64,
    /// How long a request takes, and a reply.
    pub latency: RangeInclusive<Duration>,
    /// A request does not arrive.
    pub lost_request: f64,
    /// A request is carried out, but its reply does not arrive.
    pub lost_reply: f64,
    /// A watch closes instead of delivering.
    pub watch_closed: f64,
    /// A watch delivers late.
    pub watch_delayed: f64,
    /// How late at most.
    pub watch_delay: Duration,
    /// All history is compacted before a request is carried out.
    pub compaction: f64,
    /// A lease ends when it is about to be kept alive.
    pub lease_expiry: f64,
    /// After how long a client gives up waiting for a reply.
    pub deadline: Duration,
    /// How often a watch without events reports progress; `None`: never.
    pub progress: Option<Duration>,
}

impl Faults {
    /// Nothing goes wrong, and nothing takes time.
    pub fn none() -> Self {
        Self {
            seed: 0,
            latency: Duration::ZERO..=Duration::ZERO,
            lost_request: 0.0,
            lost_reply: 0.0,
            watch_closed: 0.0,
            watch_delayed: 0.0,
            watch_delay: Duration::ZERO,
            compaction: 0.0,
            lease_expiry: 0.0,
            deadline: Duration::from_secs(3),
            progress: None,
        }
    }

    /// A bad day: everything goes wrong now and then.
    pub fn harsh(seed: u64) -> Self {
        Self {
            seed,
            latency: Duration::from_micros(200)..=Duration::from_millis(50),
            lost_request: 0.02,
            lost_reply: 0.03,
            watch_closed: 0.02,
            watch_delayed: 0.1,
            watch_delay: Duration::from_secs(2),
            compaction: 0.01,
            lease_expiry: 0.01,
            ..Self::none()
        }
    }

    pub(super) fn dice(&self, client: &str) -> Dice {
        // FNV-1a: only spread is needed.
        let name = client
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Dice { rng: StdRng::seed_from_u64(self.seed ^ name), faults: self.clone() }
    }
}

/// Which way a client is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// It is not.
    None,
    /// Neither requests nor replies arrive.
    Both,
    /// Requests do not arrive; watches go on.
    Requests,
    /// Requests arrive and are carried out; neither replies nor events of watches come back.
    Replies,
}

impl Partition {
    pub(super) fn loses_requests(self) -> bool {
        matches!(self, Self::Both | Self::Requests)
    }

    pub(super) fn loses_replies(self) -> bool {
        matches!(self, Self::Both | Self::Replies)
    }
}

/// One client's chance.
#[derive(Debug)]
pub(super) struct Dice {
    rng: StdRng,
    faults: Faults,
}

/// What happens to one request.
#[derive(Debug, Default)]
pub(super) struct Misfortune {
    pub(super) there: Duration,
    pub(super) back: Duration,
    pub(super) lost_request: bool,
    pub(super) lost_reply: bool,
    pub(super) compaction: bool,
}

/// What happens to one delivery of a watch.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    pub(super) delay: Duration,
    pub(super) closed: bool,
}

impl Dice {
    pub(super) fn misfortune(&mut self) -> Misfortune {
        Misfortune {
            there: self.within(self.faults.latency.clone()),
            back: self.within(self.faults.latency.clone()),
            lost_request: self.rng.random_bool(self.faults.lost_request),
            lost_reply: self.rng.random_bool(self.faults.lost_reply),
            compaction: self.rng.random_bool(self.faults.compaction),
        }
    }

    pub(super) fn delivery(&mut self) -> Delivery {
        let travel = self.within(self.faults.latency.clone());
        let late = self.rng.random_bool(self.faults.watch_delayed);
        let delay = self.within(Duration::ZERO..=self.faults.watch_delay);
        let closed = self.rng.random_bool(self.faults.watch_closed);
        Delivery { delay: if late { travel + delay } else { travel }, closed }
    }

    pub(super) fn loses_lease(&mut self) -> bool {
        self.rng.random_bool(self.faults.lease_expiry)
    }

    fn within(&mut self, range: RangeInclusive<Duration>) -> Duration {
        self.rng.random_range(range)
    }
}
