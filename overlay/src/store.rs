//! The port to the store: what Weft asks of etcd, or of anything that speaks like it.
//!
//! Adapters: [`etcd`] (the real one) and [`memory`] (a model with seeded faults for simulations). Both are held to the
//! same scenarios. An adapter retries nothing and interprets nothing: an unknown outcome is reported as such.

use std::{fmt::Debug, future::Future, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;

use crate::{
    claims::{Claim, ReplyError},
    keys::{KeyRange, Keyspace},
    txn::{KeyValue, Revision, Txn, TxnReply},
};

pub mod etcd;
pub mod memory;

/// Why the store gave no answer that can be acted upon.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// No answer, or one that leaves open whether a write was done. Reading again, or repeating an idempotent
    /// transaction, tells.
    #[error("the store at {endpoint} did not answer: {reason}")]
    Unavailable {
        /// Whom we asked.
        endpoint: String,
        /// What the transport said.
        reason: String,
    },
    /// The store accepts no writes (etcd: NOSPACE alarm).
    #[error("the store at {endpoint} accepts no writes: {reason}; free space, then disarm its alarm")]
    ReadOnly {
        /// Whom we asked.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// The revision asked for is no longer kept.
    #[error("revision {revision} has been compacted")]
    Compacted {
        /// The revision that was asked for.
        revision: Revision,
    },
    /// The lease named in a write has ended; nothing was written.
    #[error("lease {lease:x} has ended")]
    LeaseNotFound {
        /// The lease, or 0 where the store did not say which.
        lease: i64,
    },
    /// The request itself is wrong or not allowed.
    #[error("the store refused the request: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::ReadOnly { .. })
    }
}

/// What to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The most keys in one answer; 0: all.
    pub limit: usize,
    /// As of which revision; 0: now.
    pub revision: Revision,
    /// Whether the answer must include every write acknowledged before the call; else any member may answer.
    pub linearizable: bool,
}

/// Keys in order, as of one revision.
#[derive(Debug, Clone)]
pub struct Page {
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// Whether the range holds more of them.
    pub more: bool,
    /// The store's revision when it answered.
    pub revision: Revision,
    /// Which store answered: another one has another history.
    pub cluster_id: u64,
}

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision of interest, at least 1.
    pub from: Revision,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes, in the order of their revisions.
    Events {
        /// The changes.
        events: Vec<Event>,
        /// The store's revision when they were sent. Not a point to resume from: that is the last event's revision.
        revision: Revision,
    },
    /// Nothing of interest happened up to this revision.
    Progress {
        /// That revision.
        revision: Revision,
    },
    /// The watch has ended because history up to this revision is gone: list again.
    Compacted {
        /// The oldest revision that is still kept.
        revision: Revision,
    },
    /// The watch has ended for another reason: watch again from where it was.
    Closed {
        /// Why.
        reason: String,
    },
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was set.
    Put(KeyValue),
    /// The key was deleted, at this revision.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it changed.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// A running watch. Dropping it ends the watch. After [`WatchItem::Compacted`] or [`WatchItem::Closed`] nothing follows.
#[derive(Debug)]
pub struct Watch {
    items: mpsc::Receiver<WatchItem>,
}

impl Watch {
    /// Wraps the receiving end of an adapter's channel, which must be bounded.
    pub fn new(items: mpsc::Receiver<WatchItem>) -> Self {
        Self { items }
    }

    /// The next item; cancel-safe. An adapter that goes away without a word counts as closed.
    pub async fn next(&mut self) -> WatchItem {
        self.items.recv().await.unwrap_or_else(|| WatchItem::Closed { reason: "the watch's task ended".to_owned() })
    }
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: i64,
    /// How long it lives without being kept alive; the store may grant more than was asked.
    pub ttl: Duration,
}

/// The store. Every call ends within a deadline of the adapter's own.
pub trait Store: Clone + Debug + Send + Sync + 'static {
    /// Carries out a transaction.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] leaves open whether it was done.
    fn txn(&self, txn: Txn) -> impl Future<Output = Result<TxnReply, StoreError>> + Send;

    /// Lists keys in order.
    fn list(&self, request: ListRequest) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Begins a watch.
    fn watch(&self, request: WatchRequest) -> impl Future<Output = Result<Watch, StoreError>> + Send;

    /// Takes a new lease.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Renews a lease; answers the time that it now has, zero when it has ended.
    fn keep_alive(&self, lease: i64) -> impl Future<Output = Result<Duration, StoreError>> + Send;

    /// The time that a lease has left, zero when it has ended, without renewing it.
    fn time_to_live(&self, lease: i64) -> impl Future<Output = Result<Duration, StoreError>> + Send;

    /// Ends a lease and deletes its keys. One that has ended already is no error.
    fn revoke(&self, lease: i64) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whom the store adapter talks to now, for messages.
    fn endpoint(&self) -> String;
}

/// Why a claim has no outcome.
#[derive(Debug, Error)]
pub enum ClaimFailed {
    /// The store gave no answer. Where that is transient, the same claim may be carried out again.
    #[error("the claim has no outcome")]
    Store(#[source] StoreError),
    /// It gave an answer that cannot be read.
    #[error("the claim's outcome cannot be read")]
    Reply(#[source] ReplyError),
}

/// Carries out a claim.
///
/// # Errors
/// [`ClaimFailed::Store`] with [`StoreError::Unavailable`] leaves open whether it was done.
pub async fn carry_out<S: Store, C: Claim>(store: &S, keys: &Keyspace, claim: &C) -> Result<C::Outcome, ClaimFailed> {
    let reply = store.txn(claim.txn(keys)).await.map_err(ClaimFailed::Store)?;
    claim.outcome(keys, &reply).map_err(ClaimFailed::Reply)
}

/// Everything in a range at one revision, read in pages.
///
/// # Errors
/// Those of [`Store::list`]; [`StoreError::Compacted`] when compaction overtook the reading: begin again.
pub async fn list_all<S: Store>(store: &S, range: KeyRange, linearizable: bool) -> Result<Page, StoreError> {
    const PAGE: usize = 1000;
    let first = ListRequest { range: range.clone(), limit: PAGE, revision: 0, linearizable };
    let mut whole = store.list(first).await?;
    while whole.more {
        let Some(last) = whole.kvs.last() else { break };
        let mut start = last.key.clone();
        start.push(0);
        let rest = KeyRange { start, end: range.end.clone() };
        let page = store.list(ListRequest { range: rest, limit: PAGE, revision: whole.revision, linearizable }).await?;
        whole.kvs.extend(page.kvs);
        whole.more = page.more;
    }
    Ok(whole)
}
