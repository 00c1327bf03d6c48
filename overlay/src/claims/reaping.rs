//! What the controller takes from a lost node: its endpoints, then its blocks.
//!
//! Everything here compares the fence as it was when the node was declared lost, so that cleaning up stops where the
//! node comes back. An endpoint is deleted only as it was read: its address may have moved to another node meanwhile.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{
    BATCH_OPS, Claim, Draft, FenceNow, Leadership, ReplyError, Stored,
    block::{cooling, first_key},
    reply::Found,
};
use crate::{
    id::{EndpointId, NetworkId, NodeId},
    keys::{Key, Keyspace},
    model::{BlockRecord, EndpointRecord},
    txn::{Compare, Revision, Txn, TxnReply},
};

/// An entry of a lost node's index of endpoints.
#[derive(Debug, Clone)]
pub struct ReapedEndpoint {
    /// The endpoint.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// Its record; `None` where the index points to nothing, or to another endpoint.
    pub record: Option<Stored<EndpointRecord>>,
}

impl ReapedEndpoint {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.record.iter().flat_map(|stored| stored.record.addresses())
    }
}

/// Deletes endpoints of a lost node (G1).
#[derive(Debug, Clone)]
pub struct Reap {
    leadership: Leadership,
    node: NodeId,
    lost: Revision,
    endpoints: Vec<ReapedEndpoint>,
}

/// What became of [`Reap`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reaping {
    /// They are gone.
    Reaped,
    /// Another controller leads.
    NotLeader,
    /// The node is back, or was removed.
    NodeBack(FenceNow),
    /// One of them has changed since it was read, or is gone: list again.
    Stale,
}

/// The transactions that delete these endpoints of a node whose fence says `lost` since that revision.
pub fn reap(leadership: &Leadership, node: NodeId, lost: Revision, endpoints: &[ReapedEndpoint]) -> Vec<Reap> {
    // Up to two addresses and the index.
    const PER_BATCH: usize = BATCH_OPS / 3;
    let batch = |endpoints: &[ReapedEndpoint]| Reap {
        leadership: leadership.clone(),
        node,
        lost,
        endpoints: endpoints.to_vec(),
    };
    endpoints.chunks(PER_BATCH).map(batch).collect()
}

impl Claim for Reap {
    type Outcome = Reaping;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let fence = keys.encode(&Key::Fence(self.node));
        let mut draft = Draft::default();
        draft.require(self.leadership.holds()).require(Compare::At(fence.clone(), self.lost));
        for endpoint in &self.endpoints {
            if let Some(stored) = &endpoint.record
                && let Some(address) = stored.record.primary_address()
            {
                let key = keys.encode(&Key::Endpoint(endpoint.network, address));
                draft.require(Compare::At(key, stored.revision));
            }
            for address in endpoint.addresses() {
                draft.delete(keys.encode(&Key::Endpoint(endpoint.network, address)));
            }
            draft.delete(keys.encode(&Key::EndpointIndex(self.node, endpoint.id)));
        }
        draft.else_read(self.leadership.key.clone()).else_read(fence);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<Reaping, ReplyError> {
        if reply.succeeded {
            return Ok(Reaping::Reaped);
        }
        let found = Found::new(keys, reply);
        if !found.leads(&self.leadership) {
            return Ok(Reaping::NotLeader);
        }
        Ok(found.changed(&Key::Fence(self.node), self.lost)?.map_or(Reaping::Stale, Reaping::NodeBack))
    }
}

/// Takes an empty block from a lost node (G2), to cool down.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// Who takes it.
    pub leadership: Leadership,
    /// The lost node.
    pub node: NodeId,
    /// Since when its fence says `lost`.
    pub lost: Revision,
    /// The network.
    pub network: NetworkId,
    /// The block and its record.
    pub block: (IpNetwork, Stored<BlockRecord>),
    /// The lease that it cools down on, never to be renewed.
    pub cooling_lease: i64,
}

/// What became of [`Quarantine`].
#[derive(Debug, Clone, PartialEq)]
pub enum Quarantined {
    /// It is cooling down, or has done so already.
    Cooling,
    /// Another controller leads.
    NotLeader,
    /// The node is back, or was removed.
    NodeBack(FenceNow),
    /// An endpoint is in it.
    InUse(Key),
    /// Its record has changed since it was read.
    Changed(Stored<BlockRecord>),
}

impl Claim for Quarantine {
    type Outcome = Quarantined;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let (block, record) = &self.block;
        let fence = keys.encode(&Key::Fence(self.node));
        let key = keys.encode(&Key::Block(self.network, block.network()));
        let endpoints = keys.endpoints_in(self.network, *block);
        let mut draft = Draft::default();
        draft
            .require(self.leadership.holds())
            .require(Compare::At(fence.clone(), self.lost))
            .require(Compare::At(key.clone(), record.revision))
            .require(Compare::Empty(endpoints.clone()))
            .put_leased(key.clone(), &cooling(record), self.cooling_lease)
            .delete(keys.encode(&Key::BlockIndex(self.node, self.network, block.network())))
            .else_read(self.leadership.key.clone())
            .else_read(fence)
            .else_read(key)
            .else_read_some(endpoints, 1);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<Quarantined, ReplyError> {
        if reply.succeeded {
            return Ok(Quarantined::Cooling);
        }
        let found = Found::new(keys, reply);
        if !found.leads(&self.leadership) {
            return Ok(Quarantined::NotLeader);
        }
        let (block, record) = &self.block;
        let key = Key::Block(self.network, block.network());
        if let Some(now) = found.changed::<BlockRecord>(&key, record.revision)? {
            let now = now.filter(|b| b.lease != self.cooling_lease);
            return Ok(now.map_or(Quarantined::Cooling, Quarantined::Changed));
        }
        if let Some(fence) = found.changed(&Key::Fence(self.node), self.lost)? {
            return Ok(Quarantined::NodeBack(fence));
        }
        first_key(&found, keys, keys.endpoints_in(self.network, *block))
            .map(Quarantined::InUse)
            .ok_or(ReplyError::Unexplained { claim: "the quarantine of a block" })
    }
}
