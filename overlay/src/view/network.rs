//! What is known of one network that the node follows: records, and the ways in which they are looked up.
//!
//! Every index holds all claimants and answers in the order of addresses, so that what is found depends on the records
//! alone and not on the order in which they came. Must not judge the records; that is the view's and the desired state's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    claims::Stored,
    id::{EndpointId, Mac, NetworkId, NodeId},
    keys::{Key, Keyspace},
    model::{EndpointKind, EndpointRecord, MemberRecord, NetworkSpec},
    txn::Revision,
};

/// How many deletions are remembered at least. A late event is seconds old at most; what a restored member of the store
/// repeats beyond that ends with its own repetition of the deletion.
const DELETIONS_KEPT: usize = 4096;

/// The revision of what was known of a store before it was replaced and has not been seen since: older than any other.
pub const UNCONFIRMED: Revision = 0;

/// The lowest address in the order of [`IpAddr`].
const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// One network that the node follows.
#[derive(Debug, Clone, Default)]
pub struct NetworkView {
    /// Up to which revision it is known.
    pub revision: Revision,
    /// Its specification.
    pub spec: Option<Stored<NetworkSpec>>,
    /// Its members.
    pub members: BTreeMap<NodeId, Stored<MemberRecord>>,
    /// As of which revision it was last listed completely.
    listed: Option<Revision>,
    /// Keys that were deleted after that revision.
    deleted: BTreeMap<Key, Revision>,
    /// Boxed, because the nodes of a large map are half empty.
    endpoints: BTreeMap<IpAddr, Box<Stored<EndpointRecord>>>,
    by_id: BTreeSet<(EndpointId, IpAddr)>,
    by_mac: BTreeSet<(Mac, IpAddr)>,
    by_ipv6: BTreeSet<(Ipv6Addr, IpAddr)>,
    by_node: BTreeSet<(NodeId, IpAddr)>,
    legs: BTreeSet<(NodeId, IpAddr)>,
}

impl NetworkView {
    /// The endpoint whose record is kept under this address.
    pub fn endpoint(&self, ip: IpAddr) -> Option<&Stored<EndpointRecord>> {
        self.endpoints.get(&ip).map(Box::as_ref)
    }

    /// The endpoint that has this address as either of its two.
    pub fn endpoint_with(&self, ip: IpAddr) -> Option<&Stored<EndpointRecord>> {
        self.endpoints_with(ip).next()
    }

    /// The endpoints that have this address as either of their two. The store allows one; between two events there may
    /// be more.
    pub fn endpoints_with(&self, ip: IpAddr) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        let (v4, v6) = match ip {
            IpAddr::V4(_) => (self.endpoint(ip), None),
            IpAddr::V6(v6) => (None, Some(self.under(&self.by_ipv6, v6))),
        };
        v4.into_iter().chain(v6.into_iter().flatten())
    }

    /// An endpoint by id.
    pub fn endpoint_by_id(&self, endpoint: EndpointId) -> Option<&Stored<EndpointRecord>> {
        self.endpoints_by_id(endpoint).next()
    }

    /// The records of an endpoint: more than one only while it changes its address.
    pub(super) fn endpoints_by_id(&self, endpoint: EndpointId) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        self.under(&self.by_id, endpoint)
    }

    /// The endpoints that have this MAC, in the order of their addresses.
    pub fn endpoints_with_mac(&self, mac: Mac) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        self.under(&self.by_mac, mac)
    }

    /// The gateway leg of a node.
    pub fn leg_of(&self, node: NodeId) -> Option<&Stored<EndpointRecord>> {
        self.legs_of(node).next()
    }

    /// The gateway legs of a node: more than one only while one is being replaced.
    pub(super) fn legs_of(&self, node: NodeId) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        self.under(&self.legs, node)
    }

    /// The smallest underlay MTU in bytes of the members other than this one.
    pub fn smallest_underlay_mtu(&self, except: NodeId) -> Option<u32> {
        let others = self.members.iter().filter(|(node, _)| **node != except);
        others.map(|(_, member)| member.record.underlay_mtu).min()
    }

    /// All endpoints, by address.
    pub fn endpoints(&self) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        self.endpoints.values().map(Box::as_ref)
    }

    /// The endpoints of one node.
    pub fn endpoints_of(&self, node: NodeId) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        self.under(&self.by_node, node)
    }

    /// Whether it has been listed completely.
    pub(super) fn is_complete(&self) -> bool {
        self.listed.is_some()
    }

    /// As of which revision it was last listed completely.
    pub(super) fn listed(&self) -> Option<Revision> {
        self.listed
    }

    /// Forgets when anything was last changed, but not what it is: another history begins. What the store does not name
    /// again keeps [`UNCONFIRMED`].
    pub(super) fn forget_revisions(&mut self) {
        self.revision = UNCONFIRMED;
        self.listed = self.listed.map(|_| UNCONFIRMED);
        self.deleted.clear();
        let records = self.spec.iter_mut().map(|spec| &mut spec.revision);
        let records = records.chain(self.members.values_mut().map(|member| &mut member.revision));
        let records = records.chain(self.endpoints.values_mut().map(|endpoint| &mut endpoint.revision));
        records.for_each(|revision| *revision = UNCONFIRMED);
    }

    /// Notes that everything up to a revision is known: what was deleted before needs no remembering.
    pub(super) fn set_listed(&mut self, revision: Revision) {
        self.listed = self.listed.max(Some(revision));
        self.revision = self.revision.max(revision);
        self.deleted.retain(|_, deleted| *deleted > revision);
    }

    /// Whether a version of a key is older than what is known, be it another version or that the key was deleted.
    pub(super) fn is_outdated(&self, key: &Key, revision: Revision) -> bool {
        match self.revision_of(key) {
            Some(known) => known >= revision,
            None => self.deleted.get(key).is_some_and(|deleted| *deleted >= revision),
        }
    }

    /// Remembers a deletion, so that a late event does not bring the key back.
    pub(super) fn note_deleted(&mut self, key: Key, revision: Revision) {
        let noted = self.deleted.entry(key).or_insert(revision);
        *noted = revision.max(*noted);
        if self.deleted.len() > 2 * DELETIONS_KEPT {
            let mut revisions: Vec<Revision> = self.deleted.values().copied().collect();
            revisions.sort_unstable();
            let oldest = revisions[revisions.len() - DELETIONS_KEPT - 1];
            self.deleted.retain(|_, deleted| *deleted > oldest);
        }
    }

    /// The revision of the version that is known.
    pub(super) fn revision_of(&self, key: &Key) -> Option<Revision> {
        match key {
            Key::Spec(_) => self.spec.as_ref().map(|s| s.revision),
            Key::Member(_, node) => self.members.get(node).map(|m| m.revision),
            Key::Endpoint(_, ip) => self.endpoints.get(ip).map(|e| e.revision),
            _ => None,
        }
    }

    /// The keys of everything that is known.
    pub(super) fn keys<'a>(&'a self, keys: &'a Keyspace, network: NetworkId) -> impl Iterator<Item = Vec<u8>> + 'a {
        let spec = self.spec.iter().map(move |_| keys.encode(&Key::Spec(network)));
        let members = self.members.keys().map(move |node| keys.encode(&Key::Member(network, *node)));
        let endpoints = self.endpoints.keys().map(move |ip| keys.encode(&Key::Endpoint(network, *ip)));
        spec.chain(members).chain(endpoints)
    }

    pub(super) fn insert(&mut self, ip: IpAddr, stored: Stored<EndpointRecord>) {
        let record = &stored.record;
        self.by_id.insert((record.id, ip));
        self.by_mac.insert((record.mac, ip));
        self.by_node.insert((record.node, ip));
        self.by_ipv6.extend(record.ipv6.map(|v6| (v6, ip)));
        if record.kind == EndpointKind::Leg {
            self.legs.insert((record.node, ip));
        }
        self.endpoints.insert(ip, Box::new(stored));
    }

    pub(super) fn remove(&mut self, ip: IpAddr) -> Option<Stored<EndpointRecord>> {
        let stored = self.endpoints.remove(&ip)?;
        let record = &stored.record;
        self.by_id.remove(&(record.id, ip));
        self.by_mac.remove(&(record.mac, ip));
        self.by_node.remove(&(record.node, ip));
        if let Some(v6) = record.ipv6 {
            self.by_ipv6.remove(&(v6, ip));
        }
        self.legs.remove(&(record.node, ip));
        Some(*stored)
    }

    fn under<'a, K: Ord + Copy + 'a>(
        &'a self,
        index: &'a BTreeSet<(K, IpAddr)>,
        key: K,
    ) -> impl Iterator<Item = &'a Stored<EndpointRecord>> {
        let entries = index.range((key, LOWEST)..).take_while(move |(k, _)| *k == key);
        entries.filter_map(|(_, ip)| self.endpoint(*ip))
    }
}
