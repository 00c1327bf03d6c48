//! A node's fence: draining it, declaring it lost, and removing it from the cluster.
//!
//! Every change of the fence voids the node's token. A node is declared lost only while its sign of life is absent, and
//! only by the controller that leads at that very revision. Its memberships end with it: peers then drop its frames.

use super::{BATCH_OPS, Claim, ClaimError, Draft, FenceNow, Leadership, ReplyError, Stored, reply::Found};
use crate::{
    id::{NetworkId, NodeId},
    keys::{Key, Keyspace},
    model::{FenceRecord, FenceState, LiveRecord, NodeRecord},
    txn::{Compare, Revision, Txn, TxnReply},
};

/// Begins or ends the draining of a node.
#[derive(Debug, Clone)]
pub struct SetDraining {
    node: NodeId,
    fence: Stored<FenceRecord>,
    state: FenceState,
}

/// What became of [`SetDraining`].
#[derive(Debug, Clone, PartialEq)]
pub enum FenceChanged {
    /// The fence is as wanted, since this revision.
    Done(Revision),
    /// The fence has changed since it was read, or is gone.
    Changed(FenceNow),
}

impl SetDraining {
    /// Takes nothing new onto a node whose fence was read as `fence`, or again.
    ///
    /// # Errors
    /// When the node is lost.
    pub fn new(node: NodeId, fence: Stored<FenceRecord>, draining: bool) -> Result<Self, ClaimError> {
        if fence.record.state == FenceState::Lost {
            return Err(ClaimError::Lost(node));
        }
        let state = if draining { FenceState::Draining } else { FenceState::Active };
        Ok(Self { node, fence, state })
    }

    fn record(&self) -> FenceRecord {
        FenceRecord { state: self.state, ..self.fence.record.clone() }
    }
}

impl Claim for SetDraining {
    type Outcome = FenceChanged;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let key = keys.encode(&Key::Fence(self.node));
        let mut draft = Draft::default();
        draft.require(Compare::At(key.clone(), self.fence.revision)).put(key.clone(), &self.record()).else_read(key);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<FenceChanged, ReplyError> {
        if reply.succeeded {
            return Ok(FenceChanged::Done(reply.revision));
        }
        let now: FenceNow = Found::new(keys, reply).record(&Key::Fence(self.node))?;
        Ok(match now {
            Some(fence) if fence.record == self.record() => FenceChanged::Done(fence.revision),
            now => FenceChanged::Changed(now),
        })
    }
}

/// Declares a node lost (F1), and ends as many of its memberships as fit; [`expel_members`] does the rest.
#[derive(Debug, Clone)]
pub struct DeclareLost {
    /// Who says so.
    pub leadership: Leadership,
    /// The node.
    pub node: NodeId,
    /// Its fence as it was read.
    pub fence: Stored<FenceRecord>,
    /// The networks that it was seen to be a member of. It may have joined others until this very transaction: list
    /// them again afterwards.
    pub networks: Vec<NetworkId>,
}

/// What became of [`DeclareLost`].
#[derive(Debug, Clone, PartialEq)]
pub enum LostDeclared {
    /// The node is lost; this revision of its fence is what cleaning up after it compares.
    Lost {
        /// The fence's mod revision.
        fence: Revision,
        /// Networks in which its membership has yet to end.
        remaining: Vec<NetworkId>,
    },
    /// Another controller leads.
    NotLeader,
    /// The node is alive.
    Alive(Stored<LiveRecord>),
    /// The fence has changed since it was read, or is gone.
    Changed(FenceNow),
}

impl DeclareLost {
    fn fits(&self) -> usize {
        self.networks.len().min(BATCH_OPS - 1)
    }

    fn record(&self) -> FenceRecord {
        FenceRecord { state: FenceState::Lost, ..self.fence.record.clone() }
    }

    fn lost(&self, fence: Revision) -> LostDeclared {
        LostDeclared::Lost { fence, remaining: self.networks[self.fits()..].to_vec() }
    }
}

impl Claim for DeclareLost {
    type Outcome = LostDeclared;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let fence = keys.encode(&Key::Fence(self.node));
        let live = keys.encode(&Key::Live(self.node));
        let mut draft = Draft::default();
        draft
            .require(self.leadership.holds())
            .require(Compare::Absent(live.clone()))
            .require(Compare::At(fence.clone(), self.fence.revision))
            .put(fence.clone(), &self.record());
        for network in &self.networks[..self.fits()] {
            draft.delete(keys.encode(&Key::Member(*network, self.node)));
        }
        draft.else_read(self.leadership.key.clone()).else_read(live).else_read(fence);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<LostDeclared, ReplyError> {
        if reply.succeeded {
            return Ok(self.lost(reply.revision));
        }
        let found = Found::new(keys, reply);
        if !found.leads(&self.leadership) {
            return Ok(LostDeclared::NotLeader);
        }
        if let Some(now) = found.changed::<FenceRecord>(&Key::Fence(self.node), self.fence.revision)? {
            return Ok(match now {
                Some(fence) if fence.record == self.record() => self.lost(fence.revision),
                now => LostDeclared::Changed(now),
            });
        }
        let live = found.record(&Key::Live(self.node))?;
        live.map(LostDeclared::Alive).ok_or(ReplyError::Unexplained { claim: "a lost node" })
    }
}

/// Ends memberships of a lost node.
#[derive(Debug, Clone)]
pub struct ExpelMembers {
    leadership: Leadership,
    node: NodeId,
    lost: Revision,
    networks: Vec<NetworkId>,
}

/// What became of [`ExpelMembers`].
#[derive(Debug, Clone, PartialEq)]
pub enum MembersExpelled {
    /// They have ended.
    Done,
    /// Another controller leads.
    NotLeader,
    /// The node is back, or was removed.
    NodeBack(FenceNow),
}

/// The transactions that end these memberships of a node whose fence says `lost` since that revision.
pub fn expel_members(
    leadership: &Leadership,
    node: NodeId,
    lost: Revision,
    networks: &[NetworkId],
) -> Vec<ExpelMembers> {
    let batch = |networks: &[NetworkId]| ExpelMembers {
        leadership: leadership.clone(),
        node,
        lost,
        networks: networks.to_vec(),
    };
    networks.chunks(BATCH_OPS).map(batch).collect()
}

impl Claim for ExpelMembers {
    type Outcome = MembersExpelled;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let fence = keys.encode(&Key::Fence(self.node));
        let mut draft = Draft::default();
        draft.require(self.leadership.holds()).require(Compare::At(fence.clone(), self.lost));
        for network in &self.networks {
            draft.delete(keys.encode(&Key::Member(*network, self.node)));
        }
        draft.else_read(self.leadership.key.clone()).else_read(fence);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<MembersExpelled, ReplyError> {
        if reply.succeeded {
            return Ok(MembersExpelled::Done);
        }
        let found = Found::new(keys, reply);
        if !found.leads(&self.leadership) {
            return Ok(MembersExpelled::NotLeader);
        }
        found
            .changed(&Key::Fence(self.node), self.lost)?
            .map(MembersExpelled::NodeBack)
            .ok_or(ReplyError::Unexplained { claim: "the end of a lost node's memberships" })
    }
}

/// Removes a node that is not running and has neither endpoints nor blocks.
#[derive(Debug, Clone)]
pub struct RemoveNode {
    /// The node.
    pub node: NodeId,
    /// What it said of itself.
    pub record: Stored<NodeRecord>,
    /// Its fence.
    pub fence: Stored<FenceRecord>,
}

/// What became of [`RemoveNode`].
#[derive(Debug, Clone, PartialEq)]
pub enum NodeRemoved {
    /// Nothing is left of it; also when it was removed before.
    Removed,
    /// Its agent is running.
    Alive(Stored<LiveRecord>),
    /// It still has these endpoints or blocks: all, or the first [`RemoveNode::SHOWN`] of them.
    InUse(Vec<Key>),
    /// Its record or fence has changed since it was read.
    Changed,
}

impl RemoveNode {
    /// The most keys that [`NodeRemoved::InUse`] names.
    pub const SHOWN: usize = 32;
}

impl Claim for RemoveNode {
    type Outcome = NodeRemoved;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let [node, fence, live] =
            [Key::Node(self.node), Key::Fence(self.node), Key::Live(self.node)].map(|key| keys.encode(&key));
        let index = keys.index(self.node);
        let mut draft = Draft::default();
        draft
            .require(Compare::Absent(live.clone()))
            .require(Compare::At(node.clone(), self.record.revision))
            .require(Compare::At(fence.clone(), self.fence.revision))
            .require(Compare::Empty(index.clone()))
            .delete(node.clone())
            .delete(keys.encode(&Key::NodeName(self.record.record.name.clone())))
            .delete(keys.encode(&Key::Vtep(self.record.record.vtep)))
            .delete(fence.clone())
            .else_read(node)
            .else_read(fence)
            .else_read(live)
            .else_read_some(index, Self::SHOWN);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<NodeRemoved, ReplyError> {
        if reply.succeeded {
            return Ok(NodeRemoved::Removed);
        }
        let found = Found::new(keys, reply);
        if reply.found(&keys.encode(&Key::Node(self.node))).is_none() {
            return Ok(NodeRemoved::Removed);
        }
        if let Some(live) = found.record(&Key::Live(self.node))? {
            return Ok(NodeRemoved::Alive(live));
        }
        let left: Vec<_> = found.within(keys.index(self.node)).filter_map(|kv| keys.decode(&kv.key).ok()).collect();
        if !left.is_empty() {
            return Ok(NodeRemoved::InUse(left));
        }
        Ok(NodeRemoved::Changed)
    }
}
