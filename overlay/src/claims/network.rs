//! Networks: creation, the beginning of deletion, and its end.
//!
//! A network is created when its name, VNI and id are all new. Beginning to delete it changes its specification, which
//! voids every claim of a block or an endpoint that was computed from the old one. The controller ends it, and its VNI
//! cools down on a lease, so that a late packet meets no new network.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    BATCH_OPS, Claim, Draft, Leadership, ReplyError, Stored,
    block::first_key,
    reply::{Found, decode},
};
use crate::{
    id::{NetworkId, NodeId},
    keys::{Key, KeyRange, Keyspace},
    model::{
        EndpointRecord, EndpointReference, NetworkNameRecord, NetworkSpec, NetworkState, RECORD_VERSION, VniRecord,
    },
    txn::{Compare, Op, Revision, Txn, TxnReply},
};

/// Creates a network (N1).
#[derive(Debug, Clone)]
pub struct CreateNetwork {
    /// Its id, new.
    pub network: NetworkId,
    /// What it is.
    pub spec: NetworkSpec,
}

/// What became of [`CreateNetwork`].
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkCreated {
    /// It exists since this revision; also when an earlier attempt succeeded.
    Created(Revision),
    /// Another network has the name.
    NameTaken(Stored<NetworkNameRecord>),
    /// Another network has the VNI, or had it until less than ten minutes ago (`None`).
    VniTaken(Option<NetworkId>),
    /// The id is another network's: choose another one.
    IdTaken(Stored<NetworkSpec>),
}

impl Claim for CreateNetwork {
    type Outcome = NetworkCreated;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let name = NetworkNameRecord {
            v: RECORD_VERSION,
            id: self.network,
            vni: self.spec.vni,
            subnets: self.spec.subnets.iter().map(|s| s.subnet).collect(),
            extra: Default::default(),
        };
        let [name_key, vni_key, spec_key] = self.unique().map(|key| keys.encode(&key));
        let mut draft = Draft::default();
        for key in [&name_key, &vni_key, &spec_key] {
            draft.require(Compare::Absent(key.clone())).else_read(key.clone());
        }
        draft
            .put(name_key, &name)
            .put(vni_key, &VniRecord { v: RECORD_VERSION, network: Some(self.network) })
            .put(spec_key, &self.spec);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<NetworkCreated, ReplyError> {
        if reply.succeeded {
            return Ok(NetworkCreated::Created(reply.revision));
        }
        let found = Found::new(keys, reply);
        let [name, vni, spec] = self.unique();
        if let Some(name) = found.record::<NetworkNameRecord>(&name)? {
            let ours = name.record.id == self.network;
            return Ok(if ours { NetworkCreated::Created(name.revision) } else { NetworkCreated::NameTaken(name) });
        }
        if let Some(vni) = found.record::<VniRecord>(&vni)? {
            return Ok(NetworkCreated::VniTaken(vni.record.network));
        }
        let spec = found.record(&spec)?;
        spec.map(NetworkCreated::IdTaken).ok_or(ReplyError::Unexplained { claim: "a network" })
    }
}

impl CreateNetwork {
    fn unique(&self) -> [Key; 3] {
        [Key::NetworkName(self.spec.name.clone()), Key::Vni(self.spec.vni), Key::Spec(self.network)]
    }
}

/// Begins to delete a network (N2).
#[derive(Debug, Clone)]
pub struct BeginDeleteNetwork {
    /// Which.
    pub network: NetworkId,
    /// Its specification.
    pub spec: Stored<NetworkSpec>,
    /// Whether its endpoints are to be removed too; else there must be none but `legs`.
    pub force: bool,
    /// Gateway legs that may be there: they go when their nodes see that the network is being deleted.
    pub legs: Vec<Stored<EndpointRecord>>,
}

/// What became of [`BeginDeleteNetwork`].
#[derive(Debug, Clone, PartialEq)]
pub enum DeletionBegun {
    /// It is being deleted, since this revision; also when somebody else has begun it in the same way.
    Deleting(Revision),
    /// These endpoints are in it: all, or the first [`BeginDeleteNetwork::SHOWN`] of them.
    InUse(Vec<Stored<EndpointRecord>>),
    /// Its specification has changed since it was read, or is gone.
    Changed(Option<Stored<NetworkSpec>>),
}

impl BeginDeleteNetwork {
    /// The most endpoints that [`DeletionBegun::InUse`] names.
    pub const SHOWN: usize = 32;

    /// The endpoints' keys without those of the legs.
    fn beside_legs(&self, keys: &Keyspace) -> Vec<KeyRange> {
        let addresses = self.legs.iter().flat_map(|leg| leg.record.addresses());
        let known: BTreeSet<Vec<u8>> =
            addresses.map(|address| keys.encode(&Key::Endpoint(self.network, address))).collect();
        let KeyRange { mut start, end } = keys.endpoints(self.network);
        let mut rest = Vec::new();
        for key in known {
            rest.push(KeyRange { start, end: key.clone() });
            start = key;
            start.push(0);
        }
        rest.push(KeyRange { start, end });
        rest
    }

    fn deleting(&self) -> NetworkSpec {
        let force_delete = self.force || self.spec.record.force_delete;
        NetworkSpec { state: NetworkState::Deleting, force_delete, ..self.spec.record.clone() }
    }
}

impl Claim for BeginDeleteNetwork {
    type Outcome = DeletionBegun;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let key = keys.encode(&Key::Spec(self.network));
        let endpoints = keys.endpoints(self.network);
        let mut draft = Draft::default();
        draft.require(Compare::At(key.clone(), self.spec.revision));
        if !self.force {
            for leg in &self.legs {
                if let Some(address) = leg.record.primary_address() {
                    draft.require(Compare::At(keys.encode(&Key::Endpoint(self.network, address)), leg.revision));
                }
            }
            for rest in self.beside_legs(keys) {
                draft.require(Compare::Empty(rest));
            }
            draft.else_read_some(endpoints, Self::SHOWN);
        }
        draft.put(key.clone(), &self.deleting()).else_read(key);
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<DeletionBegun, ReplyError> {
        if reply.succeeded {
            return Ok(DeletionBegun::Deleting(reply.revision));
        }
        let found = Found::new(keys, reply);
        if let Some(now) = found.changed(&Key::Spec(self.network), self.spec.revision)? {
            return Ok(match now {
                Some(spec) if spec.record == self.deleting() => DeletionBegun::Deleting(spec.revision),
                now => DeletionBegun::Changed(now),
            });
        }
        let mut users = Vec::new();
        for kv in found.within(keys.endpoints(self.network)) {
            // The second address of a dual-stack endpoint says nothing that its record does not.
            if decode::<EndpointReference>(kv).is_err() {
                users.push(decode::<EndpointRecord>(kv)?);
            }
        }
        // A leg that has just gone leaves nobody.
        if users.is_empty() && self.legs.is_empty() {
            Err(ReplyError::Unexplained { claim: "the deletion of a network" })
        } else {
            Ok(DeletionBegun::InUse(users))
        }
    }
}

/// A block of a network that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkBlock {
    /// Its first address.
    pub base: IpAddr,
    /// The node in whose index it is.
    pub node: NodeId,
}

/// One step of the end of a network (N3): removes block records, the last step also the rest.
#[derive(Debug, Clone)]
pub struct FinishDeleteNetwork {
    leadership: Leadership,
    network: NetworkId,
    spec: Stored<NetworkSpec>,
    blocks: Vec<NetworkBlock>,
    /// Of the last step: what the VNI cools down on.
    vni_lease: Option<i64>,
}

/// What became of [`FinishDeleteNetwork`].
#[derive(Debug, Clone, PartialEq)]
pub enum DeletionFinished {
    /// The step is done; after the last one nothing is left of the network.
    Done,
    /// Another controller leads.
    NotLeader,
    /// A member or an endpoint is still there.
    InUse(Key),
    /// The specification has changed since it was read; never `None`, which counts as done.
    Changed(Stored<NetworkSpec>),
}

/// The steps that end a network, to be carried out in this order. `vni_lease`, of ten minutes, is never renewed.
pub fn finish_delete_network(
    leadership: &Leadership,
    network: NetworkId,
    spec: &Stored<NetworkSpec>,
    blocks: &[NetworkBlock],
    vni_lease: i64,
) -> Vec<FinishDeleteNetwork> {
    // Record and index of each block, and the four writes of the last step.
    let per_step = (BATCH_OPS - 4) / 2;
    let step = |blocks: &[NetworkBlock]| FinishDeleteNetwork {
        leadership: leadership.clone(),
        network,
        spec: spec.clone(),
        blocks: blocks.to_vec(),
        vni_lease: None,
    };
    let mut steps: Vec<_> = blocks.chunks(per_step).map(step).collect();
    if steps.is_empty() {
        steps.push(step(&[]));
    }
    if let Some(last) = steps.last_mut() {
        last.vni_lease = Some(vni_lease);
    }
    steps
}

impl Claim for FinishDeleteNetwork {
    type Outcome = DeletionFinished;

    fn txn(&self, keys: &Keyspace) -> Txn {
        let spec = keys.encode(&Key::Spec(self.network));
        let mut draft = Draft::default();
        draft
            .require(self.leadership.holds())
            .require(Compare::At(spec.clone(), self.spec.revision))
            .else_read(self.leadership.key.clone())
            .else_read(spec);
        for range in [keys.endpoints(self.network), keys.members(self.network)] {
            draft.require(Compare::Empty(range.clone())).else_read_some(range, 1);
        }
        for block in &self.blocks {
            draft.delete(keys.encode(&Key::Block(self.network, block.base))).delete(keys.encode(&Key::BlockIndex(
                block.node,
                self.network,
                block.base,
            )));
        }
        if let Some(lease) = self.vni_lease {
            self.end(keys, lease, &mut draft);
        }
        draft.finish()
    }

    fn outcome(&self, keys: &Keyspace, reply: &TxnReply) -> Result<DeletionFinished, ReplyError> {
        if reply.succeeded {
            return Ok(DeletionFinished::Done);
        }
        let found = Found::new(keys, reply);
        if !found.leads(&self.leadership) {
            return Ok(DeletionFinished::NotLeader);
        }
        if let Some(now) = found.spec_changed(self.network, self.spec.revision)? {
            return Ok(now.map_or(DeletionFinished::Done, DeletionFinished::Changed));
        }
        [keys.endpoints(self.network), keys.members(self.network)]
            .into_iter()
            .find_map(|range| first_key(&found, keys, range))
            .map(DeletionFinished::InUse)
            .ok_or(ReplyError::Unexplained { claim: "the end of a network" })
    }
}

impl FinishDeleteNetwork {
    fn end(&self, keys: &Keyspace, vni_lease: i64, draft: &mut Draft) {
        let spec = &self.spec.record;
        draft
            .delete(keys.encode(&Key::Spec(self.network)))
            .delete(keys.encode(&Key::NetworkName(spec.name.clone())))
            .write(Op::DeleteRange(keys.blocks(self.network)))
            .put_leased(keys.encode(&Key::Vni(spec.vni)), &VniRecord { v: RECORD_VERSION, network: None }, vni_lease);
    }
}
