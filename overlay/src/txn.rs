//! Transactions as values: what must hold, what is then written, what is read otherwise.
//!
//! The store's adapters carry them out; [`crate::claims`] builds the ones that Weft makes. The vocabulary is the
//! subset of etcd's that those need, so that an adapter has no freedom of interpretation.

use crate::keys::KeyRange;

/// A revision of the store: its one order of events. 0 stands for "before everything".
pub type Revision = i64;

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Vec<u8>),
    /// The key was last changed at exactly this revision.
    At(Vec<u8>, Revision),
    /// The key was created at exactly this revision.
    CreatedAt(Vec<u8>, Revision),
    /// No key of the range exists.
    Empty(KeyRange),
}

/// A write, or a read in the other branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, under a lease if one is given.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The lease that ends the key.
        lease: Option<i64>,
    },
    /// Deletes a key, if it exists.
    Delete(Vec<u8>),
    /// Deletes all keys of a range.
    DeleteRange(KeyRange),
    /// Reads a key.
    Read(Vec<u8>),
    /// Reads the keys of a range, at most so many.
    ReadRange(KeyRange, usize),
}

impl Op {
    /// A write without a lease.
    pub fn put(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self::Put { key, value, lease: None }
    }
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All of these must hold ...
    pub compares: Vec<Compare>,
    /// ... for these to be done,
    pub then: Vec<Op>,
    /// and otherwise these.
    pub or_else: Vec<Op>,
}

/// A key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// When the key was created.
    pub create_revision: Revision,
    /// When it was last changed.
    pub mod_revision: Revision,
    /// The lease that it hangs on, or 0.
    pub lease: i64,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnReply {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// The store's revision afterwards; that of the writes if there were any.
    pub revision: Revision,
    /// For every operation of the branch that was taken, what it read; empty for writes.
    pub reads: Vec<Vec<KeyValue>>,
}

impl TxnReply {
    /// The value that a branch's read of this key found.
    pub fn found(&self, key: &[u8]) -> Option<&KeyValue> {
        self.reads.iter().flatten().find(|kv| kv.key == key)
    }
}
