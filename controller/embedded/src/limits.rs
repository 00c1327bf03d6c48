//! What a client may ask at most. Where etcd has a limit, it is etcd's.

use std::time::Duration;

/// Operations of a transaction, counted as the longest of its three lists and of what is nested in them.
pub(crate) const TXN_OPERATIONS: usize = 128;

/// Bytes of a request that writes.
pub(crate) const REQUEST_BYTES: usize = 3 << 19;

/// Bytes of a message that are read at all: a request, and what gRPC may add.
pub(crate) const MESSAGE_BYTES: usize = REQUEST_BYTES + (512 << 10);

/// Events of one message to a watcher, unless one revision has more.
pub(crate) const EVENTS_PER_MESSAGE: usize = 1000;

/// Bytes of one message to a watcher that asked for fragments.
pub(crate) const FRAGMENT_BYTES: usize = REQUEST_BYTES;

/// Bytes of keys and values after which a message to a watcher is sent, whatever else is due.
pub(crate) const WATCH_MESSAGE_BYTES: usize = 1 << 20;

/// Watches of one stream.
pub(crate) const WATCHES_PER_STREAM: usize = 10_000;

/// Connections at a time.
pub(crate) const CONNECTIONS: usize = 4096;

/// Requests of one connection at a time.
pub(crate) const STREAMS_PER_CONNECTION: u32 = 1024;

/// Requests that wait for the writer; more are refused.
pub(crate) const QUEUE: usize = 8192;

/// Requests that are made durable together.
pub(crate) const BATCH: usize = 512;

/// Seconds that a lease lives at least. etcd's is one and a half of its election timeouts.
pub(crate) const MIN_TTL: i64 = 2;

/// Seconds that a lease lives at most, as in etcd.
pub(crate) const MAX_TTL: i64 = 9_000_000_000;

/// Leases that may exist.
pub(crate) const LEASES: usize = 1_000_000;

/// Leases that are ended in one step, as in etcd.
pub(crate) const EXPIRIES: usize = 500;

/// Between two looks at leases.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// How late a look at leases may be before the delay is added to every lease: then this server was stopped, and its
/// clients could not keep anything alive.
pub(crate) const STALL: Duration = Duration::from_secs(5);

/// Rows of compacted revisions that are deleted in one step.
pub(crate) const GARBAGE_ROWS: usize = 2000;

/// For how long history is kept, if nobody compacts.
pub(crate) const HISTORY: Duration = Duration::from_secs(30 * 60);

/// How many revisions are kept, however old.
pub(crate) const HISTORY_REVISIONS: i64 = 10_000;
