//! Moving a fixed address from a lost node to another one, at once.
//!
//! Allowed by the two fences: the old node's says `lost`, so it can write nothing any more and its peers drop its
//! frames; the new node's is its token. A static address has no quarantine, because the user chose it.

use std::net::IpAddr;

use super::{
    Claim, ClaimError, Draft, FenceNow, ReplyError, Stored, Token, endpoint::put_endpoint, reply::Found, upkeep::same,
};
use crate::{
    id::NetworkId,
    keys::{Key, Keyspace},
    model::{EndpointIndexRecord, EndpointRecord, FenceRecord, MemberRecord, RECORD_VERSION},
    txn::{Compare, Revision, Txn, TxnReply},
};

/// Takes over the addresses of a lost node's endpoint (M1).
#[derive(Debug, Clone)]
pub struct MoveEndpoint {
    token: Token,
    network: NetworkId,
    address: IpAddr,
    old: Stored<EndpointRecord>,
    old_fence: Revision,
    record: EndpointRecord,
    member: Option<MemberRecord>,
}

/// What became of [`MoveEndpoint`].
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointMoved {
    /// The addresses are ours, since this revision; also when an earlier attempt succeeded.
    Moved(Revision),
    /// Our own token is void.
    Fenced(FenceNow),
    /// The old node is not lost any more, or was removed.
    HolderBack(Option<Stored<FenceRecord>>),
    /// The address's record has changed since it was read, or is gone: an ordinary creation may succeed.
    Changed(Option<Box<Stored<EndpointRecord>>>),
}

impl MoveEndpoint {
    /// Replaces the lost node's endpoint `old`, whose node's fence says `lost` since `old_fence`, by `record`.
    ///
    /// # Errors
    /// When the addresses differ, there is none, or the node is the same.
    pub fn new(
        token: Token,
        network: NetworkId,
        old: Stored<EndpointRecord>,
        old_fence: Revision,
        record: EndpointRecord,
    ) -> Result<Self, ClaimError> {
        same(&old.record, (old.record.ipv4, old.record.ipv6) == (record.ipv4, record.ipv6), "addresses")?;
        same(&old.record, old.record.node != token.node && record.node == token.node, "node to its own")?;
        let address = record.primary_address().ok_or(ClaimError::NoAddress(record.id))?;
        Ok(Self { token, network, address, old, old_fence, record, member: None })
    }

    /// Also makes the node a member of the network.
    #[must_use]
    pub fn joining(mut self, member: MemberRecord) -> Self {
        self.member = Some(member);
        self
    }
}

impl Claim for MoveEndpoint {
    type Outcome = EndpointMoved;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let key = keys.encode(&Key::Endpoint(self.network, self.address));
        let old_fence = keys.encode(&Key::Fence(self.old.record.node));
        let index = EndpointIndexRecord { v: RECORD_VERSION, network: self.network, ip: self.address };
        let mut draft = Draft::default();
        draft
            .require(Compare::At(key.clone(), self.old.revision))
            .require(Compare::At(old_fence.clone(), self.old_fence))
            .require(self.token.holds(keys));
        put_endpoint(keys, self.network, &self.record, &mut draft);
        draft
            .delete(keys.encode(&Key::EndpointIndex(self.old.record.node, self.old.record.id)))
            .put(keys.encode(&Key::EndpointIndex(self.token.node, self.record.id)), &index);
        if let Some(member) = &self.member {
            draft.put(keys.encode(&Key::Member(self.network, self.token.node)), member);
        }
        draft.else_read(key).else_read(old_fence).else_read(self.token.fence_key(keys));
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<EndpointMoved, ReplyError> {
        if reply.succeeded {
            return Ok(EndpointMoved::Moved(reply.revision));
        }
        let found = Found::new(keys, reply);
        let now = found.changed::<EndpointRecord>(&Key::Endpoint(self.network, self.address), self.old.revision)?;
        if let Some(Some(ours)) = &now
            && (ours.record.id, ours.record.node) == (self.record.id, self.token.node)
        {
            return Ok(EndpointMoved::Moved(ours.revision));
        }
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(EndpointMoved::Fenced(fence));
        }
        if let Some(fence) = found.changed(&Key::Fence(self.old.record.node), self.old_fence)? {
            return Ok(EndpointMoved::HolderBack(fence));
        }
        now.map(|now| EndpointMoved::Changed(now.map(Box::new)))
            .ok_or(ReplyError::Unexplained { claim: "a move of an address" })
    }
}
