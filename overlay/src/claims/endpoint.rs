//! Endpoints: registering an address.
//!
//! An endpoint's address is its key, so that two endpoints cannot have one address whatever else went wrong. A
//! dual-stack endpoint has a second key, under its IPv6 address, that refers to the record. The index entry under the
//! endpoint's id shows a repeated attempt that the first one succeeded.

use std::net::IpAddr;

use super::{BATCH_OPS, Claim, ClaimError, Draft, FenceNow, ReplyError, Stored, Token, reply::Found};
use crate::{
    id::NetworkId,
    keys::{Key, Keyspace},
    model::{
        BlockRecord, EndpointIndexRecord, EndpointRecord, EndpointReference, MemberRecord, NetworkSpec, RECORD_VERSION,
    },
    txn::{Compare, Revision, Txn, TxnReply},
};

/// Registers an endpoint at its addresses: in a block of the node's own, or, without one, at a static address.
#[derive(Debug, Clone)]
pub struct CreateEndpoint {
    token: Token,
    network: NetworkId,
    spec_revision: Revision,
    record: EndpointRecord,
    address: IpAddr,
    block: Option<(IpAddr, Revision)>,
    member: Option<MemberRecord>,
}

/// What became of [`CreateEndpoint`].
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointCreated {
    /// It exists, since this revision.
    Created(Revision),
    /// It existed: an earlier attempt succeeded.
    AlreadyOurs(Stored<EndpointRecord>),
    /// Somebody has one of its addresses.
    AddressTaken {
        /// Which.
        address: IpAddr,
        /// Who.
        by: Holder,
    },
    /// The endpoint's id is registered at another address, or in another network.
    RegisteredElsewhere(EndpointIndexRecord),
    /// The block is not, or no longer, the one that was claimed.
    BlockLost(Option<Stored<BlockRecord>>),
    /// The token is void.
    Fenced(FenceNow),
    /// The network was changed, or is gone.
    SpecChanged(Option<Stored<NetworkSpec>>),
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq)]
pub enum Holder {
    /// This endpoint.
    Endpoint(Box<Stored<EndpointRecord>>),
    /// The dual-stack endpoint that this refers to.
    Reference(EndpointReference),
}

impl CreateEndpoint {
    /// Registers an endpoint at a static address (S1).
    ///
    /// # Errors
    /// When the record has no address.
    pub fn new(
        token: Token,
        network: NetworkId,
        spec_revision: Revision,
        record: EndpointRecord,
    ) -> Result<Self, ClaimError> {
        let address = record.primary_address().ok_or(ClaimError::NoAddress(record.id))?;
        Ok(Self { token, network, spec_revision, record, address, block: None, member: None })
    }

    /// The same in a block of the node's own (E1), which was claimed or last changed at `revision`.
    #[must_use]
    pub fn in_block(mut self, base: IpAddr, revision: Revision) -> Self {
        self.block = Some((base, revision));
        self
    }

    /// Also makes the node a member of the network: for its first endpoint there, the gateway leg.
    #[must_use]
    pub fn joining(mut self, member: MemberRecord) -> Self {
        self.member = Some(member);
        self
    }

    fn index_key(&self) -> Key {
        Key::EndpointIndex(self.token.node, self.record.id)
    }

    fn conditions(&self, keys: &Keyspace, draft: &mut Draft) {
        draft
            .require(Compare::At(keys.encode(&Key::Spec(self.network)), self.spec_revision))
            .require(self.token.holds(keys));
        if let Some((base, revision)) = self.block {
            draft.require(Compare::At(keys.encode(&Key::Block(self.network, base)), revision));
        }
        for address in self.record.addresses() {
            draft.require(Compare::Absent(keys.encode(&Key::Endpoint(self.network, address))));
        }
        draft.require(Compare::Absent(keys.encode(&self.index_key())));
    }

    fn writes(&self, keys: &Keyspace, draft: &mut Draft) {
        put_endpoint(keys, self.network, &self.record, draft);
        let index = EndpointIndexRecord { v: RECORD_VERSION, network: self.network, ip: self.address };
        draft.put(keys.encode(&self.index_key()), &index);
        if let Some(member) = &self.member {
            draft.put(keys.encode(&Key::Member(self.network, self.token.node)), member);
        }
    }

    fn reads(&self, keys: &Keyspace, draft: &mut Draft) {
        for address in self.record.addresses() {
            draft.else_read(keys.encode(&Key::Endpoint(self.network, address)));
        }
        draft.else_read(keys.encode(&self.index_key()));
        if let Some((base, _)) = self.block {
            draft.else_read(keys.encode(&Key::Block(self.network, base)));
        }
        draft.else_read(self.token.fence_key(keys)).else_read(keys.encode(&Key::Spec(self.network)));
    }

    fn taken(&self, found: &Found<'_>) -> Result<Option<EndpointCreated>, ReplyError> {
        if let Some(by) = found.record::<EndpointRecord>(&Key::Endpoint(self.network, self.address))? {
            let by = Holder::Endpoint(Box::new(by));
            return Ok(Some(EndpointCreated::AddressTaken { address: self.address, by }));
        }
        let Some(address) = self.record.addresses().nth(1) else { return Ok(None) };
        let by = found.record::<EndpointReference>(&Key::Endpoint(self.network, address))?;
        Ok(by.map(|by| EndpointCreated::AddressTaken { address, by: Holder::Reference(by.record) }))
    }
}

impl Claim for CreateEndpoint {
    type Outcome = EndpointCreated;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let mut draft = Draft::default();
        self.conditions(keys, &mut draft);
        self.writes(keys, &mut draft);
        self.reads(keys, &mut draft);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<EndpointCreated, ReplyError> {
        if reply.succeeded {
            return Ok(EndpointCreated::Created(reply.revision));
        }
        let found = Found::new(keys, reply);
        let index = found.record::<EndpointIndexRecord>(&self.index_key())?;
        if let Some(index) = &index
            && (index.record.network, index.record.ip) == (self.network, self.address)
            && let Some(ours) = found.record::<EndpointRecord>(&Key::Endpoint(self.network, self.address))?
            && (ours.record.id, ours.record.node) == (self.record.id, self.token.node)
        {
            return Ok(EndpointCreated::AlreadyOurs(ours));
        }
        if let Some(fence) = found.fenced(&self.token)? {
            return Ok(EndpointCreated::Fenced(fence));
        }
        if let Some(spec) = found.spec_changed(self.network, self.spec_revision)? {
            return Ok(EndpointCreated::SpecChanged(spec));
        }
        if let Some((base, revision)) = self.block
            && let Some(block) = found.changed(&Key::Block(self.network, base), revision)?
        {
            return Ok(EndpointCreated::BlockLost(block));
        }
        if let Some(taken) = self.taken(&found)? {
            return Ok(taken);
        }
        index
            .map(|index| EndpointCreated::RegisteredElsewhere(index.record))
            .ok_or(ReplyError::Unexplained { claim: "an endpoint" })
    }
}

/// A burst of new endpoints in one transaction; where one of them fails, all do, and each is claimed by itself.
#[derive(Debug, Clone)]
pub struct CreateEndpoints(Vec<CreateEndpoint>);

/// What became of [`CreateEndpoints`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointsCreated {
    /// All exist, since this revision.
    Created(Revision),
    /// None was created by this transaction: claim each by itself, which also tells why.
    Refused,
}

impl CreateEndpoints {
    /// The most claims in one transaction: each has up to four conditions of its own and as many writes.
    pub const MOST: usize = BATCH_OPS / 4;

    /// Groups claims so that each group fits into one transaction.
    pub fn grouped(claims: &[CreateEndpoint]) -> Vec<Self> {
        claims.chunks(Self::MOST).map(|group| Self(group.to_vec())).collect()
    }

    /// The single claims.
    pub fn into_singles(self) -> Vec<CreateEndpoint> {
        self.0
    }
}

impl Claim for CreateEndpoints {
    type Outcome = EndpointsCreated;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let mut draft = Draft::default();
        for claim in &self.0 {
            claim.conditions(keys, &mut draft);
            claim.writes(keys, &mut draft);
        }
        draft.finish()
    }

    fn outcome(&self, _: &Keyspace, reply: &TxnReply) -> Result<EndpointsCreated, ReplyError> {
        Ok(if reply.succeeded { EndpointsCreated::Created(reply.revision) } else { EndpointsCreated::Refused })
    }
}

/// The record under its first address, and a reference to it under the second.
pub(super) fn put_endpoint(keys: &Keyspace, network: NetworkId, record: &EndpointRecord, draft: &mut Draft) {
    let mut addresses = record.addresses();
    let Some(primary) = addresses.next() else { return };
    draft.put(keys.encode(&Key::Endpoint(network, primary)), record);
    if let Some(second) = addresses.next() {
        let reference = EndpointReference { v: RECORD_VERSION, record: primary, id: record.id };
        draft.put(keys.encode(&Key::Endpoint(network, second)), &reference);
    }
}
