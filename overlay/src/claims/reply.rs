//! Reads what a failed transaction found.
//!
//! Every condition has its reader here, which answers `None` where the condition held, so that an outcome is a list of
//! questions in the order of their importance. Must not decide which of several reasons counts.

use serde::de::DeserializeOwned;

use super::{FenceNow, Leadership, ReplyError, Stored, Token};
use crate::{
    id::NetworkId,
    keys::{Key, KeyRange, Keyspace},
    model::NetworkSpec,
    txn::{KeyValue, Revision, TxnReply},
};

/// The reads of a transaction whose conditions did not hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    keys: &'a Keyspace,
    reply: &'a TxnReply,
}

impl<'a> Found<'a> {
    pub(super) fn new(keys: &'a Keyspace, reply: &'a TxnReply) -> Self {
        Self { keys, reply }
    }

    /// The record under a key, if the key exists.
    pub(super) fn record<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Stored<T>>, ReplyError> {
        self.reply.found(&self.keys.encode(key)).map(decode).transpose()
    }

    /// The keys that were found in a range.
    pub(super) fn within(&self, range: KeyRange) -> impl Iterator<Item = &'a KeyValue> {
        self.reply.reads.iter().flatten().filter(move |kv| range.contains(&kv.key))
    }

    /// The fence, if it is not the one of the token.
    pub(super) fn fenced(&self, token: &Token) -> Result<Option<FenceNow>, ReplyError> {
        self.changed(&Key::Fence(token.node), token.fence_revision)
    }

    /// The specification, if it is not the one of this revision.
    pub(super) fn spec_changed(
        &self,
        network: NetworkId,
        revision: Revision,
    ) -> Result<Option<Option<Stored<NetworkSpec>>>, ReplyError> {
        self.changed(&Key::Spec(network), revision)
    }

    /// What is under a key, if it was changed since this revision.
    pub(super) fn changed<T: DeserializeOwned>(
        &self,
        key: &Key,
        revision: Revision,
    ) -> Result<Option<Option<Stored<T>>>, ReplyError> {
        if self.at(key, revision) {
            return Ok(None);
        }
        self.record(key).map(Some)
    }

    /// Whether a key was last changed at this revision; needs no readable record.
    pub(super) fn at(&self, key: &Key, revision: Revision) -> bool {
        self.reply.found(&self.keys.encode(key)).is_some_and(|kv| kv.mod_revision == revision)
    }

    /// Whether the candidacy still exists.
    pub(super) fn leads(&self, leadership: &Leadership) -> bool {
        self.reply.found(&leadership.key).is_some_and(|kv| kv.create_revision == leadership.create_revision)
    }
}

pub(super) fn decode<T: DeserializeOwned>(kv: &KeyValue) -> Result<Stored<T>, ReplyError> {
    Stored::decode(kv)
        .map_err(|source| ReplyError::Record { key: String::from_utf8_lossy(&kv.key).into_owned(), source })
}
