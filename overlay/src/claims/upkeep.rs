//! What a node does with its own endpoints and memberships: rewriting and ending them.
//!
//! Each names the revision that it replaces or removes, so that a decision made on an old record has no effect. The
//! addresses of an endpoint never change. Must not touch what is another node's.

use std::net::IpAddr;

use super::{Claim, ClaimError, Draft, FenceNow, ReplyError, Stored, Token, reply::Found};
use crate::{
    id::NetworkId,
    keys::{Key, Keyspace},
    model::{EndpointRecord, MemberRecord, NetworkSpec},
    txn::{Compare, Revision, Txn, TxnReply},
};

/// Removes an endpoint of the node's own (E2).
#[derive(Debug, Clone)]
pub struct DeleteEndpoint {
    /// Whose it is.
    pub token: Token,
    /// Its network.
    pub network: NetworkId,
    /// Its record.
    pub endpoint: Stored<EndpointRecord>,
    /// Whether the node leaves the network: with its last endpoint there, the gateway leg.
    pub leave: bool,
}

/// What became of [`DeleteEndpoint`].
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointDeleted {
    /// It is gone, since this revision.
    Deleted(Revision),
    /// It was gone before, or its address is another endpoint's by now.
    AlreadyGone,
    /// Its record has changed since it was read.
    Changed(Box<Stored<EndpointRecord>>),
    /// The token is void.
    Fenced(FenceNow),
}

impl Claim for DeleteEndpoint {
    type Outcome = EndpointDeleted;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let mut draft = Draft::default();
        draft.require(self.token.holds(keys));
        for (n, address) in self.endpoint.record.addresses().enumerate() {
            let key = keys.encode(&Key::Endpoint(self.network, address));
            if n == 0 {
                draft.require(Compare::At(key.clone(), self.endpoint.revision)).else_read(key.clone());
            }
            draft.delete(key);
        }
        draft.delete(keys.encode(&Key::EndpointIndex(self.token.node, self.endpoint.record.id)));
        if self.leave {
            draft.delete(keys.encode(&Key::Member(self.network, self.token.node)));
        }
        draft.else_read(self.token.fence_key(keys));
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<EndpointDeleted, ReplyError> {
        if reply.succeeded {
            return Ok(EndpointDeleted::Deleted(reply.revision));
        }
        let found = Found::new(keys, reply);
        let now = match self.endpoint.record.primary_address() {
            Some(address) => found.record::<EndpointRecord>(&Key::Endpoint(self.network, address))?,
            None => None,
        };
        let Some(now) = now.filter(|now| now.record.id == self.endpoint.record.id) else {
            return Ok(EndpointDeleted::AlreadyGone);
        };
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(EndpointDeleted::Fenced(fence));
        }
        if now.revision == self.endpoint.revision {
            return Err(ReplyError::Unexplained { claim: "the deletion of an endpoint" });
        }
        Ok(EndpointDeleted::Changed(Box::new(now)))
    }
}

/// Rewrites an endpoint of the node's own: aliases, ports, sandbox, epoch.
#[derive(Debug, Clone)]
pub struct UpdateEndpoint {
    token: Token,
    network: NetworkId,
    address: IpAddr,
    revision: Revision,
    record: EndpointRecord,
}

/// What became of [`UpdateEndpoint`].
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointUpdated {
    /// The store has the new record, since this revision.
    Updated(Revision),
    /// The endpoint is gone, or its address is another endpoint's.
    Gone,
    /// Its record has changed since it was read.
    Changed(Box<Stored<EndpointRecord>>),
    /// The token is void.
    Fenced(FenceNow),
}

impl UpdateEndpoint {
    /// Replaces `previous` by `record`.
    ///
    /// # Errors
    /// When `record` is not of the same endpoint, node and addresses, or has no address.
    pub fn new(
        token: Token,
        network: NetworkId,
        previous: &Stored<EndpointRecord>,
        record: EndpointRecord,
    ) -> Result<Self, ClaimError> {
        let old = &previous.record;
        same(old, old.id == record.id, "id")?;
        same(old, old.node == record.node && record.node == token.node, "node")?;
        same(old, (old.ipv4, old.ipv6) == (record.ipv4, record.ipv6), "addresses")?;
        let address = record.primary_address().ok_or(ClaimError::NoAddress(record.id))?;
        Ok(Self { token, network, address, revision: previous.revision, record })
    }
}

impl Claim for UpdateEndpoint {
    type Outcome = EndpointUpdated;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let key = keys.encode(&Key::Endpoint(self.network, self.address));
        let mut draft = Draft::default();
        draft
            .require(self.token.holds(keys))
            .require(Compare::At(key.clone(), self.revision))
            .put(key.clone(), &self.record)
            .else_read(key)
            .else_read(self.token.fence_key(keys));
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<EndpointUpdated, ReplyError> {
        if reply.succeeded {
            return Ok(EndpointUpdated::Updated(reply.revision));
        }
        let found = Found::new(keys, reply);
        let now = found.record::<EndpointRecord>(&Key::Endpoint(self.network, self.address))?;
        let Some(now) = now.filter(|now| now.record.id == self.record.id) else { return Ok(EndpointUpdated::Gone) };
        if now.revision != self.revision && now.record == self.record {
            return Ok(EndpointUpdated::Updated(now.revision));
        }
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(EndpointUpdated::Fenced(fence));
        }
        if now.revision == self.revision {
            return Err(ReplyError::Unexplained { claim: "an endpoint's new record" });
        }
        Ok(EndpointUpdated::Changed(Box::new(now)))
    }
}

/// Writes the node's own membership in a network: after its return, or when its underlay changed.
#[derive(Debug, Clone)]
pub struct UpdateMember {
    /// Whose it is.
    pub token: Token,
    /// The network.
    pub network: NetworkId,
    /// The revision of the network's specification that the node knows: none is joined that is gone.
    pub spec_revision: Revision,
    /// The membership.
    pub record: MemberRecord,
}

/// What became of [`UpdateMember`].
#[derive(Debug, Clone, PartialEq)]
pub enum MemberUpdated {
    /// The store has it, since this revision.
    Updated(Revision),
    /// The token is void.
    Fenced(FenceNow),
    /// The network was changed, or is gone.
    SpecChanged(Option<Stored<NetworkSpec>>),
}

impl Claim for UpdateMember {
    type Outcome = MemberUpdated;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let spec = keys.encode(&Key::Spec(self.network));
        let mut draft = Draft::default();
        draft
            .require(Compare::At(spec.clone(), self.spec_revision))
            .require(self.token.holds(keys))
            .put(keys.encode(&Key::Member(self.network, self.token.node)), &self.record)
            .else_read(self.token.fence_key(keys))
            .else_read(spec);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<MemberUpdated, ReplyError> {
        if reply.succeeded {
            return Ok(MemberUpdated::Updated(reply.revision));
        }
        let found = Found::new(keys, reply);
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(MemberUpdated::Fenced(fence));
        }
        found
            .spec_changed(self.network, self.spec_revision)?
            .map(MemberUpdated::SpecChanged)
            .ok_or(ReplyError::Unexplained { claim: "a membership" })
    }
}

pub(super) fn same(old: &EndpointRecord, fits: bool, what: &'static str) -> Result<(), ClaimError> {
    if fits { Ok(()) } else { Err(ClaimError::Identity { id: old.id, what }) }
}
