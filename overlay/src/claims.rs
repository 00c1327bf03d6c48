//! Every change that Weft makes in the store, as a value: what must hold, what is then written, and how the reply reads.
//!
//! Safety rests on the conditions written here and on nothing else: existence of keys makes addresses, names and VNIs
//! unique, and a node's fencing [`Token`] in each of its writes shuts it out once it was declared lost. An outcome is
//! read purely from the reply, so a transaction whose answer was lost is simply sent again. Must not talk to a store.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::{
    codec::DecodeError,
    id::{EndpointId, NodeId},
    keys::{Key, Keyspace},
    model::FenceRecord,
    txn::{Compare, KeyValue, Op, Revision, Txn, TxnReply},
};

mod block;
mod endpoint;
mod fencing;
mod network;
mod node;
mod reaping;
mod reply;
mod takeover;
mod upkeep;

pub use block::{BlockClaimed, BlockReleased, ClaimBlock, ReleaseBlock};
pub use endpoint::{CreateEndpoint, CreateEndpoints, EndpointCreated, EndpointsCreated, Holder};
pub use fencing::{
    DeclareLost, ExpelMembers, FenceChanged, LostDeclared, MembersExpelled, NodeRemoved, RemoveNode, SetDraining,
    expel_members,
};
pub use network::{
    BeginDeleteNetwork, CreateNetwork, DeletionBegun, DeletionFinished, FinishDeleteNetwork, NetworkBlock,
    NetworkCreated, finish_delete_network,
};
pub use node::{NodeRegistered, NodeRejoined, NodeReturned, NodeUpdated, Register, Rejoin, Return, UpdateNode};
pub use reaping::{Quarantine, Quarantined, Reap, ReapedEndpoint, Reaping, reap};
pub use takeover::{EndpointMoved, MoveEndpoint};
pub use upkeep::{DeleteEndpoint, EndpointDeleted, EndpointUpdated, MemberUpdated, UpdateEndpoint, UpdateMember};

/// The most operations that one transaction may hold in its compares or in either branch (etcd's `--max-txn-ops`).
pub const MAX_TXN_OPS: usize = 128;

/// The most that one batch uses of [`MAX_TXN_OPS`].
const BATCH_OPS: usize = 120;

/// A change of the store together with the meaning of its reply.
pub trait Claim {
    /// What can have happened.
    type Outcome;

    /// The transaction. The same claim always yields the same one.
    fn txn(&self, keys: &Keyspace) -> Txn;

    /// What a reply to [`Self::txn`] says.
    ///
    /// # Errors
    /// When a record that matters cannot be read, or when the reply contradicts the transaction.
    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<Self::Outcome, ReplyError>;
}

/// Why the reply to a claim has no outcome.
#[derive(Debug, Error)]
pub enum ReplyError {
    /// A record in the reply is damaged or newer than this program.
    #[error("the store's record {key} cannot be read; `etcdctl get {key}` shows it")]
    Record {
        /// The key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// The conditions failed, but everything that was read fulfils them.
    #[error("the store refused {claim}, but all that it reported fulfils the conditions")]
    Unexplained {
        /// What was to be done.
        claim: &'static str,
    },
}

/// Why a claim cannot be made from its parts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// An endpoint without an address has no key.
    #[error("endpoint {0} has no address; give it one of each family that its network has")]
    NoAddress(EndpointId),
    /// A record that is to replace another one names another endpoint, address or node.
    #[error("endpoint {id} cannot change its {what}; delete it and create another one")]
    Identity {
        /// The endpoint as stored.
        id: EndpointId,
        /// What differs.
        what: &'static str,
    },
    /// Draining is for nodes that are alive.
    #[error("node {0} was declared lost; it becomes active again when its agent reaches the store")]
    Lost(NodeId),
}

/// A node's right to write: the revision of its fence, which the store compares in each of its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The node.
    pub node: NodeId,
    /// Which of its lives it is in.
    pub epoch: u64,
    /// The mod revision of its `fence/` key.
    pub fence_revision: Revision,
}

impl Token {
    fn holds(&self, keys: &Keyspace) -> Compare {
        Compare::At(self.fence_key(keys), self.fence_revision)
    }

    fn fence_key(&self, keys: &Keyspace) -> Vec<u8> {
        keys.encode(&Key::Fence(self.node))
    }
}

/// A controller's right to clean up: its candidacy, whose key must still be the one that was created then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The `elect/` key.
    pub key: Vec<u8>,
    /// When it was created.
    pub create_revision: Revision,
}

impl Leadership {
    fn holds(&self) -> Compare {
        Compare::CreatedAt(self.key.clone(), self.create_revision)
    }
}

/// A record as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// When it was last changed.
    pub revision: Revision,
    /// The lease that it hangs on, or 0.
    pub lease: i64,
}

impl<T: serde::de::DeserializeOwned> Stored<T> {
    /// Reads a record with its history.
    ///
    /// # Errors
    /// As [`crate::codec::decode_record`].
    pub fn decode(kv: &KeyValue) -> Result<Self, DecodeError> {
        let record = crate::codec::decode_record(&kv.value)?;
        Ok(Self { record, revision: kv.mod_revision, lease: kv.lease })
    }
}

/// The fence that voided a token; `None` when the node was removed from the cluster.
pub type FenceNow = Option<Stored<FenceRecord>>;

/// Assembles a transaction; what is there already is not repeated.
#[derive(Debug, Default)]
struct Draft {
    txn: Txn,
    read: BTreeSet<Vec<u8>>,
}

impl Draft {
    fn require(&mut self, compare: Compare) -> &mut Self {
        if !self.txn.compares.contains(&compare) {
            self.txn.compares.push(compare);
        }
        self
    }

    fn put<T: serde::Serialize>(&mut self, key: Vec<u8>, record: &T) -> &mut Self {
        self.write(Op::put(key, crate::codec::encode_record(record)))
    }

    fn put_leased<T: serde::Serialize>(&mut self, key: Vec<u8>, record: &T, lease: i64) -> &mut Self {
        let value = crate::codec::encode_record(record);
        self.write(Op::Put { key, value, lease: Some(lease) })
    }

    fn delete(&mut self, key: Vec<u8>) -> &mut Self {
        self.write(Op::Delete(key))
    }

    fn write(&mut self, op: Op) -> &mut Self {
        if !self.txn.then.contains(&op) {
            self.txn.then.push(op);
        }
        self
    }

    fn else_read(&mut self, key: Vec<u8>) -> &mut Self {
        if self.read.insert(key.clone()) {
            self.txn.or_else.push(Op::Read(key));
        }
        self
    }

    fn else_read_some(&mut self, range: crate::keys::KeyRange, limit: usize) -> &mut Self {
        self.txn.or_else.push(Op::ReadRange(range, limit));
        self
    }

    fn finish(self) -> Txn {
        debug_assert!(self.txn.compares.len() <= MAX_TXN_OPS, "{} compares", self.txn.compares.len());
        debug_assert!(self.txn.then.len() <= MAX_TXN_OPS, "{} writes", self.txn.then.len());
        debug_assert!(self.txn.or_else.len() <= MAX_TXN_OPS, "{} reads", self.txn.or_else.len());
        self.txn
    }
}
