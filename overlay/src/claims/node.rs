//! What a node claims for itself: its identity, its name, its VTEP and its sign of life.
//!
//! The sign of life hangs on a lease and must be absent whenever one is put, so that a cloned machine cannot join
//! beside the one that it was cloned from. Must not change another node's keys.

use super::{Claim, Draft, FenceNow, ReplyError, Stored, Token, reply::Found};
use crate::{
    id::NodeId,
    keys::{Key, Keyspace},
    model::{FenceRecord, FenceState, LiveRecord, NodeRecord, NodeReference, RECORD_VERSION},
    txn::{Compare, Revision, Txn, TxnReply},
};

/// A node's first start: takes its id, name and VTEP, and epoch 1.
#[derive(Debug, Clone)]
pub struct Register {
    /// The node.
    pub node: NodeId,
    /// What it says of itself.
    pub record: NodeRecord,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The lease of its sign of life.
    pub lease: i64,
}

/// What became of [`Register`].
#[derive(Debug, Clone, PartialEq)]
pub enum NodeRegistered {
    /// The node is registered and alive; also when an earlier attempt of this very claim succeeded.
    Registered(Token),
    /// The id is registered already: [`Rejoin`] or [`Return`].
    Known {
        /// What it says of itself.
        record: Stored<NodeRecord>,
        /// Its fence.
        fence: FenceNow,
        /// Whether an agent is running under the id now.
        live: Option<Stored<LiveRecord>>,
    },
    /// Another node has the name.
    NameTaken {
        /// That node.
        by: NodeId,
    },
    /// Another node has the VTEP.
    VtepTaken {
        /// That node.
        by: NodeId,
    },
    /// Somebody lives under the id without being registered.
    LiveElsewhere(Stored<LiveRecord>),
}

impl Claim for Register {
    type Outcome = NodeRegistered;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let reference = NodeReference { v: RECORD_VERSION, node: self.node };
        let fence = FenceRecord { v: RECORD_VERSION, epoch: 1, state: FenceState::Active, extra: Default::default() };
        let mut draft = Draft::default();
        for key in self.unique() {
            draft.require(Compare::Absent(keys.encode(&key))).else_read(keys.encode(&key));
        }
        draft
            .put(keys.encode(&Key::Node(self.node)), &self.record)
            .put(keys.encode(&Key::NodeName(self.record.name.clone())), &reference)
            .put(keys.encode(&Key::Vtep(self.record.vtep)), &reference)
            .put(keys.encode(&Key::Fence(self.node)), &fence)
            .put_leased(keys.encode(&Key::Live(self.node)), &live(&self.boot_id, &self.record.version, 1), self.lease)
            .else_read(keys.encode(&Key::Fence(self.node)));
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<NodeRegistered, ReplyError> {
        if reply.succeeded {
            let token = Token { node: self.node, epoch: 1, fence_revision: reply.revision };
            return Ok(NodeRegistered::Registered(token));
        }
        let found = Found::new(keys, reply);
        let live = found.record::<LiveRecord>(&Key::Live(self.node))?;
        if let Some(record) = found.record(&Key::Node(self.node))? {
            let fence: FenceNow = found.record(&Key::Fence(self.node))?;
            if let Some(token) = own(self.node, &fence, live.as_ref(), self.lease) {
                return Ok(NodeRegistered::Registered(token));
            }
            return Ok(NodeRegistered::Known { record, fence, live });
        }
        if let Some(taken) = found.record::<NodeReference>(&Key::NodeName(self.record.name.clone()))? {
            return Ok(NodeRegistered::NameTaken { by: taken.record.node });
        }
        if let Some(taken) = found.record::<NodeReference>(&Key::Vtep(self.record.vtep))? {
            return Ok(NodeRegistered::VtepTaken { by: taken.record.node });
        }
        live.map(NodeRegistered::LiveElsewhere).ok_or(ReplyError::Unexplained { claim: "registering a node" })
    }
}

impl Register {
    fn unique(&self) -> [Key; 4] {
        [
            Key::Node(self.node),
            Key::NodeName(self.record.name.clone()),
            Key::Vtep(self.record.vtep),
            Key::Live(self.node),
        ]
    }
}

/// A node whose lease ran out, or that starts again, and that was not declared lost: a new sign of life.
#[derive(Debug, Clone)]
pub struct Rejoin {
    /// Its token.
    pub token: Token,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The agent's version.
    pub version: String,
    /// The new lease.
    pub lease: i64,
}

/// What became of [`Rejoin`].
#[derive(Debug, Clone, PartialEq)]
pub enum NodeRejoined {
    /// The sign of life is there, under this claim's lease.
    Alive,
    /// The token is void: [`Return`], or [`Register`] when the node was removed.
    Fenced(FenceNow),
    /// An agent is alive under the id with another lease.
    LiveElsewhere(Stored<LiveRecord>),
}

impl Claim for Rejoin {
    type Outcome = NodeRejoined;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let key = keys.encode(&Key::Live(self.token.node));
        let mut draft = Draft::default();
        draft
            .require(self.token.holds(keys))
            .require(Compare::Absent(key.clone()))
            .put_leased(key.clone(), &live(&self.boot_id, &self.version, self.token.epoch), self.lease)
            .else_read(self.token.fence_key(keys))
            .else_read(key);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<NodeRejoined, ReplyError> {
        if reply.succeeded {
            return Ok(NodeRejoined::Alive);
        }
        let found = Found::new(keys, reply);
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(NodeRejoined::Fenced(fence));
        }
        match found.record::<LiveRecord>(&Key::Live(self.token.node))? {
            Some(live) if live.lease == self.lease => Ok(NodeRejoined::Alive),
            Some(live) => Ok(NodeRejoined::LiveElsewhere(live)),
            None => Err(ReplyError::Unexplained { claim: "a new sign of life" }),
        }
    }
}

/// A node that was declared lost and is back: the next epoch, a new token and a new sign of life.
#[derive(Debug, Clone)]
pub struct Return {
    /// The node.
    pub node: NodeId,
    /// Its fence as it was read.
    pub fence: Stored<FenceRecord>,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The agent's version.
    pub version: String,
    /// The new lease.
    pub lease: i64,
}

/// What became of [`Return`].
#[derive(Debug, Clone, PartialEq)]
pub enum NodeReturned {
    /// The node is active again; also when an earlier attempt of this very claim succeeded.
    Returned(Token),
    /// The fence has changed since it was read.
    Fenced(FenceNow),
    /// An agent is alive under the id with another lease.
    LiveElsewhere(Stored<LiveRecord>),
}

impl Claim for Return {
    type Outcome = NodeReturned;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let fence_key = keys.encode(&Key::Fence(self.node));
        let live_key = keys.encode(&Key::Live(self.node));
        let epoch = self.epoch();
        let fence = FenceRecord { epoch, state: FenceState::Active, ..self.fence.record.clone() };
        let mut draft = Draft::default();
        draft
            .require(Compare::At(fence_key.clone(), self.fence.revision))
            .require(Compare::Absent(live_key.clone()))
            .put(fence_key.clone(), &fence)
            .put_leased(live_key.clone(), &live(&self.boot_id, &self.version, epoch), self.lease)
            .else_read(fence_key)
            .else_read(live_key);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<NodeReturned, ReplyError> {
        if reply.succeeded {
            let token = Token { node: self.node, epoch: self.epoch(), fence_revision: reply.revision };
            return Ok(NodeReturned::Returned(token));
        }
        let found = Found::new(keys, reply);
        let fence: FenceNow = found.record(&Key::Fence(self.node))?;
        let live = found.record::<LiveRecord>(&Key::Live(self.node))?;
        if let Some(token) = own(self.node, &fence, live.as_ref(), self.lease)
            && token.epoch == self.epoch()
        {
            return Ok(NodeReturned::Returned(token));
        }
        if fence.as_ref().is_none_or(|f| f.revision != self.fence.revision) {
            return Ok(NodeReturned::Fenced(fence));
        }
        live.map(NodeReturned::LiveElsewhere).ok_or(ReplyError::Unexplained { claim: "the return of a node" })
    }
}

impl Return {
    fn epoch(&self) -> u64 {
        self.fence.record.epoch + 1
    }
}

/// A node's new description: version, routes, and also its name or VTEP.
#[derive(Debug, Clone)]
pub struct UpdateNode {
    /// Its token.
    pub token: Token,
    /// The record that is replaced.
    pub previous: Stored<NodeRecord>,
    /// The new one.
    pub record: NodeRecord,
}

/// What became of [`UpdateNode`].
#[derive(Debug, Clone, PartialEq)]
pub enum NodeUpdated {
    /// The store has the new record, since this revision.
    Updated(Revision),
    /// The token is void.
    Fenced(FenceNow),
    /// The record is another one than the one to be replaced.
    Changed(Option<Stored<NodeRecord>>),
    /// Another node has the new name.
    NameTaken {
        /// That node.
        by: NodeId,
    },
    /// Another node has the new VTEP.
    VtepTaken {
        /// That node.
        by: NodeId,
    },
}

impl Claim for UpdateNode {
    type Outcome = NodeUpdated;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let key = keys.encode(&Key::Node(self.token.node));
        let mut draft = Draft::default();
        draft
            .require(self.token.holds(keys))
            .require(Compare::At(key.clone(), self.previous.revision))
            .put(key.clone(), &self.record)
            .else_read(self.token.fence_key(keys))
            .else_read(key);
        for (old, new) in self.moved() {
            let new = keys.encode(&new);
            draft
                .require(Compare::Absent(new.clone()))
                .delete(keys.encode(&old))
                .put(new.clone(), &NodeReference { v: RECORD_VERSION, node: self.token.node })
                .else_read(new);
        }
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<NodeUpdated, ReplyError> {
        if reply.succeeded {
            return Ok(NodeUpdated::Updated(reply.revision));
        }
        let found = Found::new(keys, reply);
        let key = Key::Node(self.token.node);
        if let Some(now) = found.changed::<NodeRecord>(&key, self.previous.revision)? {
            if let Some(done) = now.as_ref().filter(|now| now.record == self.record) {
                return Ok(NodeUpdated::Updated(done.revision));
            }
            return Ok(match found.fenced(&self.token)? {
                Some(fence) => NodeUpdated::Fenced(fence),
                None => NodeUpdated::Changed(now),
            });
        }
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(NodeUpdated::Fenced(fence));
        }
        if let Some(taken) = found.record::<NodeReference>(&Key::NodeName(self.record.name.clone()))? {
            return Ok(NodeUpdated::NameTaken { by: taken.record.node });
        }
        match found.record::<NodeReference>(&Key::Vtep(self.record.vtep))? {
            Some(taken) => Ok(NodeUpdated::VtepTaken { by: taken.record.node }),
            None => Err(ReplyError::Unexplained { claim: "a node's new description" }),
        }
    }
}

impl UpdateNode {
    /// The unique keys that change hands: old, new.
    fn moved(&self) -> Vec<(Key, Key)> {
        let (old, new) = (&self.previous.record, &self.record);
        let mut moved = Vec::new();
        if old.name != new.name {
            moved.push((Key::NodeName(old.name.clone()), Key::NodeName(new.name.clone())));
        }
        if old.vtep != new.vtep {
            moved.push((Key::Vtep(old.vtep), Key::Vtep(new.vtep)));
        }
        moved
    }
}

fn live(boot_id: &str, version: &str, epoch: u64) -> LiveRecord {
    LiveRecord {
        v: RECORD_VERSION,
        boot_id: boot_id.to_owned(),
        version: version.to_owned(),
        epoch,
        extra: Default::default(),
    }
}

/// The token that an earlier attempt has won: a sign of life under our own lease proves that it was ours.
fn own(node: NodeId, fence: &FenceNow, live: Option<&Stored<LiveRecord>>, lease: i64) -> Option<Token> {
    let fence = fence.as_ref()?;
    let ours = live.is_some_and(|live| live.lease == lease && live.record.epoch == fence.record.epoch);
    (ours && fence.record.state == FenceState::Active).then_some(Token {
        node,
        epoch: fence.record.epoch,
        fence_revision: fence.revision,
    })
}
