//! What a node knows: the folded content of the store, and what it is about to do itself.
//!
//! Changed only through methods that answer which kernel objects may be affected, so that the cost of a pass follows
//! what changed. Knows what is not known yet: nothing may be concluded from the absence of what was never listed. Must
//! not decide what the kernel should hold; that is [`crate::desired`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

pub use crate::claims::Stored;
use crate::{
    codec::{DecodeError, decode_record},
    id::{EndpointId, Mac, Name, NetworkId, NodeId},
    kernel::ObjectId,
    keys::{Key, Keyspace},
    model::{EndpointKind, EndpointRecord, MemberRecord, NetworkNameRecord, NetworkSpec},
    txn::{KeyValue, Revision},
};

mod affected;

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// This node.
    pub node: NodeId,
    /// The boot of its kernel.
    pub boot_id: String,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
}

/// Everything that a node's desired kernel state is a function of.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// This node.
    pub config: NodeConfig,
    /// The smallest MTU in bytes of this node's routes to other VTEPs.
    pub underlay_mtu: u32,
    keys: Keyspace,
    index: Option<BTreeMap<Name, NetworkNameRecord>>,
    networks: BTreeMap<NetworkId, NetworkView>,
    /// Endpoints of this node that are being registered, by id.
    pending: BTreeMap<EndpointId, (NetworkId, EndpointRecord)>,
    /// Endpoints of this node that are being removed.
    detaching: BTreeSet<EndpointId>,
    quarantine: BTreeMap<Vec<u8>, String>,
    changes: BTreeSet<(NetworkId, IpAddr)>,
}

/// One network that the node follows.
#[derive(Debug, Clone, Default)]
pub struct NetworkView {
    complete: bool,
    /// Up to which revision it is known.
    pub revision: Revision,
    /// Its specification.
    pub spec: Option<Stored<NetworkSpec>>,
    /// Its members.
    pub members: BTreeMap<NodeId, Stored<MemberRecord>>,
    endpoints: BTreeMap<IpAddr, Stored<EndpointRecord>>,
    by_id: BTreeMap<EndpointId, IpAddr>,
    by_mac: BTreeSet<(Mac, IpAddr)>,
    by_ipv6: BTreeMap<Ipv6Addr, IpAddr>,
    legs: BTreeMap<NodeId, IpAddr>,
    by_node: BTreeSet<(NodeId, IpAddr)>,
}

/// An endpoint of this node, registered or about to be.
#[derive(Debug, Clone, Copy)]
pub struct LocalEndpoint<'a> {
    /// Its network.
    pub network: NetworkId,
    /// Its record.
    pub record: &'a EndpointRecord,
    /// Whether the store has it.
    pub registered: bool,
}

impl NodeView {
    /// A view of which nothing is known yet.
    pub fn new(config: NodeConfig, keys: Keyspace, underlay_mtu: u32) -> Self {
        Self {
            config,
            underlay_mtu,
            keys,
            index: None,
            networks: BTreeMap::new(),
            pending: BTreeMap::new(),
            detaching: BTreeSet::new(),
            quarantine: BTreeMap::new(),
            changes: BTreeSet::new(),
        }
    }

    /// Whether it is known which networks concern this node: before that, nothing is removed.
    pub fn is_loaded(&self) -> bool {
        self.index.is_some()
    }

    /// Every network of the cluster, by name, as far as listed.
    pub fn index(&self) -> impl Iterator<Item = (&Name, &NetworkNameRecord)> {
        self.index.iter().flatten()
    }

    /// A network that is followed and has been listed completely.
    pub fn network(&self, network: NetworkId) -> Option<&NetworkView> {
        self.networks.get(&network).filter(|n| n.complete)
    }

    /// Whether the network is followed, completely listed or not.
    pub fn follows(&self, network: NetworkId) -> bool {
        self.networks.contains_key(&network)
    }

    /// The networks that are followed and completely listed.
    pub fn networks(&self) -> impl Iterator<Item = (NetworkId, &NetworkView)> {
        self.networks.iter().filter(|(_, n)| n.complete).map(|(id, n)| (*id, n))
    }

    /// Networks that are followed but not listed yet.
    pub fn unlisted(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.networks.iter().filter(|(_, n)| !n.complete).map(|(id, _)| *id)
    }

    /// Values of the store that could not be read, with the reason; their last good version stays in force.
    pub fn quarantine(&self) -> impl Iterator<Item = (&[u8], &str)> {
        self.quarantine.iter().map(|(key, reason)| (key.as_slice(), reason.as_str()))
    }

    /// Whether an endpoint is being removed.
    pub fn is_detaching(&self, endpoint: EndpointId) -> bool {
        self.detaching.contains(&endpoint)
    }

    /// An endpoint of this node by id, unless it is being removed.
    pub fn local(&self, endpoint: EndpointId) -> Option<LocalEndpoint<'_>> {
        if self.detaching.contains(&endpoint) {
            return None;
        }
        let registered = self.networks().find_map(|(network, view)| {
            let stored = view.endpoint_by_id(endpoint)?;
            (stored.record.node == self.config.node).then_some(LocalEndpoint {
                network,
                record: &stored.record,
                registered: true,
            })
        });
        registered.or_else(|| {
            let (network, record) = self.pending.get(&endpoint)?;
            Some(LocalEndpoint { network: *network, record, registered: false })
        })
    }

    /// The endpoints of this node in a network, registered and pending, without those being removed.
    pub fn locals_in(&self, network: NetworkId) -> impl Iterator<Item = LocalEndpoint<'_>> {
        let registered = self
            .network(network)
            .into_iter()
            .flat_map(move |view| view.endpoints_of(self.config.node))
            .map(move |stored| LocalEndpoint { network, record: &stored.record, registered: true });
        let pending = self
            .pending
            .values()
            .filter(move |(n, _)| *n == network)
            .map(move |(_, record)| LocalEndpoint { network, record, registered: false })
            .filter(move |local| {
                self.network(network).is_none_or(|view| view.endpoint_by_id(local.record.id).is_none())
            });
        registered.chain(pending).filter(|local| !self.detaching.contains(&local.record.id))
    }

    /// The gateway leg of this node in a network, registered or pending.
    pub fn own_leg(&self, network: NetworkId) -> Option<LocalEndpoint<'_>> {
        let registered = self
            .network(network)
            .and_then(|view| view.leg_of(self.config.node))
            .map(|stored| LocalEndpoint { network, record: &stored.record, registered: true });
        let pending = || {
            self.pending
                .values()
                .find(|(n, record)| *n == network && record.kind == EndpointKind::Leg)
                .map(|(_, record)| LocalEndpoint { network, record, registered: false })
        };
        registered.or_else(pending).filter(|leg| !self.detaching.contains(&leg.record.id))
    }

    /// Which endpoint records changed since this was last asked, for those who keep something derived from them. They
    /// look up what the record is now.
    pub fn take_changes(&mut self) -> BTreeSet<(NetworkId, IpAddr)> {
        std::mem::take(&mut self.changes)
    }

    /// Begins to follow a network: nothing about it is concluded until it has been listed.
    pub fn follow(&mut self, network: NetworkId) {
        self.networks.entry(network).or_default();
    }

    /// Stops following a network. Everything of it on this node is then unwanted.
    pub fn unfollow(&mut self, network: NetworkId) -> BTreeSet<ObjectId> {
        let affected = self.all_of(network);
        if let Some(view) = self.networks.remove(&network) {
            self.changes.extend(view.endpoints.keys().map(|ip| (network, *ip)));
        }
        let keyspace = self.keys.network(network);
        self.quarantine.retain(|key, _| !keyspace.contains(key));
        affected
    }

    /// Takes in the complete index of network names.
    pub fn set_index(&mut self, kvs: &[KeyValue]) -> BTreeSet<ObjectId> {
        let mut index = BTreeMap::new();
        for kv in kvs {
            let Ok(Key::NetworkName(name)) = self.keys.decode(&kv.key) else { continue };
            match self.read::<NetworkNameRecord>(kv) {
                Some(record) => {
                    index.insert(name, record);
                }
                None => {
                    if let Some(good) = self.index.as_ref().and_then(|i| i.get(&name)) {
                        index.insert(name, good.clone());
                    }
                }
            }
        }
        let mut affected = self.of_index();
        self.index = Some(index);
        affected.append(&mut self.of_index());
        affected
    }

    /// Takes in the complete content of a followed network; what is not in it is gone.
    pub fn set_network(&mut self, network: NetworkId, kvs: &[KeyValue], revision: Revision) -> BTreeSet<ObjectId> {
        if !self.follows(network) {
            return BTreeSet::new();
        }
        let mut affected = BTreeSet::new();
        let first = self.network(network).is_none();
        let mut gone: BTreeSet<Vec<u8>> = self.networks[&network].keys(&self.keys, network).collect();
        if let Some(view) = self.networks.get_mut(&network) {
            view.complete = true;
        }
        for kv in kvs {
            gone.remove(&kv.key);
            affected.append(&mut self.put(network, kv));
        }
        for key in gone {
            affected.append(&mut self.delete(network, &key, revision));
        }
        if let Some(view) = self.networks.get_mut(&network) {
            view.revision = view.revision.max(revision);
        }
        if first {
            affected.append(&mut self.all_of(network));
        }
        affected
    }

    /// Takes in one changed key of a followed network. An older version than the known one changes nothing.
    pub fn put(&mut self, network: NetworkId, kv: &KeyValue) -> BTreeSet<ObjectId> {
        let Ok(key) = self.keys.decode(&kv.key) else { return BTreeSet::new() };
        if !self.follows(network) {
            return BTreeSet::new();
        }
        match key {
            Key::Spec(n) if n == network => self.put_spec(network, kv),
            Key::Member(n, node) if n == network => self.put_member(network, node, kv),
            Key::Endpoint(n, ip) if n == network => self.put_endpoint(network, ip, kv),
            _ => BTreeSet::new(),
        }
    }

    /// Takes in the deletion of a key of a followed network, at a revision.
    pub fn delete(&mut self, network: NetworkId, key: &[u8], revision: Revision) -> BTreeSet<ObjectId> {
        self.quarantine.remove(key);
        let Ok(decoded) = self.keys.decode(key) else { return BTreeSet::new() };
        let Some(known) = self.networks.get(&network).and_then(|view| view.revision_of(&decoded)) else {
            return BTreeSet::new();
        };
        if known >= revision {
            return BTreeSet::new();
        }
        match decoded {
            Key::Spec(_) => self.change_spec(network, None),
            Key::Member(_, node) => self.change_member(network, node, None),
            Key::Endpoint(_, ip) => self.change_endpoint(network, ip, None),
            _ => BTreeSet::new(),
        }
    }

    /// Notes up to which revision a network is known.
    pub fn advance(&mut self, network: NetworkId, revision: Revision) {
        if let Some(view) = self.networks.get_mut(&network) {
            view.revision = view.revision.max(revision);
        }
    }

    /// Notes an endpoint of this node that is being registered: it is prepared, but not yet put to use.
    pub fn set_pending(&mut self, network: NetworkId, record: EndpointRecord) -> BTreeSet<ObjectId> {
        let affected = self.of_record(network, &record);
        self.detaching.remove(&record.id);
        self.pending.insert(record.id, (network, record));
        affected
    }

    /// Forgets a pending endpoint: it is either registered now or given up.
    pub fn clear_pending(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        let Some((network, record)) = self.pending.remove(&endpoint) else { return BTreeSet::new() };
        self.of_record(network, &record)
    }

    /// Takes in an endpoint that this node has just registered, without waiting for the watch to say so.
    pub fn set_registered(
        &mut self,
        network: NetworkId,
        record: EndpointRecord,
        revision: Revision,
    ) -> BTreeSet<ObjectId> {
        let mut affected = self.clear_pending(record.id);
        let Some(ip) = record.primary_address() else { return affected };
        let known = self.networks.get(&network).and_then(|view| view.endpoints.get(&ip)).map(|s| s.revision);
        if self.network(network).is_some() && known.is_none_or(|known| known < revision) {
            affected.append(&mut self.change_endpoint(network, ip, Some(Stored { record, revision, lease: 0 })));
        }
        affected
    }

    /// Takes an endpoint of this node out of use while its removal is under way.
    pub fn set_detaching(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        let affected = self
            .local(endpoint)
            .map(|local| (local.network, local.record.clone()))
            .map(|(network, record)| self.of_record(network, &record))
            .unwrap_or_default();
        self.detaching.insert(endpoint);
        affected
    }

    /// Ends the removal of an endpoint: it is gone from the store, or its removal was given up.
    pub fn clear_detaching(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        self.detaching.remove(&endpoint);
        self.local(endpoint)
            .map(|local| (local.network, local.record.clone()))
            .map(|(network, record)| self.of_record(network, &record))
            .unwrap_or_default()
    }

    /// Takes in another MTU of the underlay.
    pub fn set_underlay_mtu(&mut self, mtu: u32) -> BTreeSet<ObjectId> {
        if self.underlay_mtu == mtu {
            return BTreeSet::new();
        }
        self.underlay_mtu = mtu;
        let networks: Vec<NetworkId> = self.networks.keys().copied().collect();
        networks.into_iter().flat_map(|network| self.devices_of(network)).collect()
    }

    fn put_spec(&mut self, network: NetworkId, kv: &KeyValue) -> BTreeSet<ObjectId> {
        if self.is_stale(network, &Key::Spec(network), kv) {
            return BTreeSet::new();
        }
        let Some(record) = self.read::<NetworkSpec>(kv) else { return BTreeSet::new() };
        self.change_spec(network, Some(Stored { record, revision: kv.mod_revision, lease: kv.lease }))
    }

    fn put_member(&mut self, network: NetworkId, node: NodeId, kv: &KeyValue) -> BTreeSet<ObjectId> {
        if self.is_stale(network, &Key::Member(network, node), kv) {
            return BTreeSet::new();
        }
        let Some(record) = self.read::<MemberRecord>(kv) else { return BTreeSet::new() };
        self.change_member(network, node, Some(Stored { record, revision: kv.mod_revision, lease: kv.lease }))
    }

    fn put_endpoint(&mut self, network: NetworkId, ip: IpAddr, kv: &KeyValue) -> BTreeSet<ObjectId> {
        if self.is_stale(network, &Key::Endpoint(network, ip), kv) || is_reference(kv) {
            return BTreeSet::new();
        }
        let Some(record) = self.read::<EndpointRecord>(kv) else { return BTreeSet::new() };
        if record.primary_address() != Some(ip) {
            let reason = format!("the record is for {:?}, not for {ip}", record.primary_address());
            self.quarantine.insert(kv.key.clone(), reason);
            return BTreeSet::new();
        }
        self.change_endpoint(network, ip, Some(Stored { record, revision: kv.mod_revision, lease: kv.lease }))
    }

    fn change_spec(&mut self, network: NetworkId, spec: Option<Stored<NetworkSpec>>) -> BTreeSet<ObjectId> {
        let mut affected = self.all_of(network);
        if let Some(view) = self.networks.get_mut(&network) {
            view.spec = spec;
        }
        affected.append(&mut self.all_of(network));
        affected
    }

    fn change_member(
        &mut self,
        network: NetworkId,
        node: NodeId,
        member: Option<Stored<MemberRecord>>,
    ) -> BTreeSet<ObjectId> {
        let mut affected = self.of_member(network, node);
        let Some(view) = self.networks.get_mut(&network) else { return affected };
        let before = view.members.get(&node).map(|m| m.record.underlay_mtu);
        let after = member.as_ref().map(|m| m.record.underlay_mtu);
        match member {
            Some(member) => view.members.insert(node, member),
            None => view.members.remove(&node),
        };
        affected.append(&mut self.of_member(network, node));
        if before != after {
            affected.append(&mut self.devices_of(network));
        }
        affected
    }

    fn change_endpoint(
        &mut self,
        network: NetworkId,
        ip: IpAddr,
        endpoint: Option<Stored<EndpointRecord>>,
    ) -> BTreeSet<ObjectId> {
        let mut affected = BTreeSet::new();
        let Some(view) = self.networks.get_mut(&network) else { return affected };
        self.changes.insert((network, ip));
        let before = view.unindex(ip);
        if let Some(stored) = &endpoint {
            view.index(ip, stored.clone());
        }
        if let Some(before) = &before
            && endpoint.as_ref().is_none_or(|after| after.record.id != before.record.id)
        {
            // Its removal is complete.
            self.detaching.remove(&before.record.id);
        }
        let own = self.config.node;
        let is_own_leg = |record: &EndpointRecord| record.kind == EndpointKind::Leg && record.node == own;
        let records = [before, endpoint].into_iter().flatten().map(|stored| stored.record);
        for record in records {
            affected.append(&mut self.of_record(network, &record));
            if is_own_leg(&record) {
                affected.append(&mut self.all_of(network));
            }
            if record.node == own {
                // The store's word on an endpoint of ours ends what was only intended for it.
                if let Some((_, pending)) = self.pending.remove(&record.id) {
                    affected.append(&mut self.of_record(network, &pending));
                }
            }
        }
        affected
    }

    fn is_stale(&self, network: NetworkId, key: &Key, kv: &KeyValue) -> bool {
        let known = self.networks.get(&network).and_then(|view| view.revision_of(key));
        known.is_some_and(|known| known >= kv.mod_revision)
    }

    /// Reads a value, or puts it into quarantine.
    fn read<T: serde::de::DeserializeOwned>(&mut self, kv: &KeyValue) -> Option<T> {
        match decode_record(&kv.value) {
            Ok(record) => {
                self.quarantine.remove(&kv.key);
                Some(record)
            }
            Err(error) => {
                self.quarantine.insert(kv.key.clone(), chain(&error));
                None
            }
        }
    }
}

impl NetworkView {
    /// The endpoint whose record is kept under this address.
    pub fn endpoint(&self, ip: IpAddr) -> Option<&Stored<EndpointRecord>> {
        self.endpoints.get(&ip)
    }

    /// The endpoint that has this address as either of its two.
    pub fn endpoint_with(&self, ip: IpAddr) -> Option<&Stored<EndpointRecord>> {
        let key = match ip {
            IpAddr::V4(_) => Some(&ip),
            IpAddr::V6(v6) => self.by_ipv6.get(&v6),
        };
        key.and_then(|key| self.endpoints.get(key))
    }

    /// An endpoint by id.
    pub fn endpoint_by_id(&self, endpoint: EndpointId) -> Option<&Stored<EndpointRecord>> {
        self.endpoints.get(self.by_id.get(&endpoint)?)
    }

    /// The endpoints that have this MAC, in the order of their addresses.
    pub fn endpoints_with_mac(&self, mac: Mac) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        self.by_mac
            .range((mac, lowest)..)
            .take_while(move |(m, _)| *m == mac)
            .filter_map(|(_, ip)| self.endpoints.get(ip))
    }

    /// The gateway leg of a node.
    pub fn leg_of(&self, node: NodeId) -> Option<&Stored<EndpointRecord>> {
        self.endpoints.get(self.legs.get(&node)?)
    }

    /// All endpoints, by address.
    pub fn endpoints(&self) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        self.endpoints.values()
    }

    /// The endpoints of one node.
    pub fn endpoints_of(&self, node: NodeId) -> impl Iterator<Item = &Stored<EndpointRecord>> {
        let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        self.by_node
            .range((node, lowest)..)
            .take_while(move |(n, _)| *n == node)
            .filter_map(|(_, ip)| self.endpoints.get(ip))
    }

    fn revision_of(&self, key: &Key) -> Option<Revision> {
        match key {
            Key::Spec(_) => self.spec.as_ref().map(|s| s.revision),
            Key::Member(_, node) => self.members.get(node).map(|m| m.revision),
            Key::Endpoint(_, ip) => self.endpoints.get(ip).map(|e| e.revision),
            _ => None,
        }
    }

    fn keys<'a>(&'a self, keys: &'a Keyspace, network: NetworkId) -> impl Iterator<Item = Vec<u8>> + 'a {
        let spec = self.spec.iter().map(move |_| keys.encode(&Key::Spec(network)));
        let members = self.members.keys().map(move |node| keys.encode(&Key::Member(network, *node)));
        let endpoints = self.endpoints.keys().map(move |ip| keys.encode(&Key::Endpoint(network, *ip)));
        spec.chain(members).chain(endpoints)
    }

    fn index(&mut self, ip: IpAddr, stored: Stored<EndpointRecord>) {
        let record = &stored.record;
        self.by_id.insert(record.id, ip);
        self.by_mac.insert((record.mac, ip));
        self.by_node.insert((record.node, ip));
        if let Some(v6) = record.ipv6 {
            self.by_ipv6.insert(v6, ip);
        }
        if record.kind == EndpointKind::Leg {
            self.legs.insert(record.node, ip);
        }
        self.endpoints.insert(ip, stored);
    }

    fn unindex(&mut self, ip: IpAddr) -> Option<Stored<EndpointRecord>> {
        let stored = self.endpoints.remove(&ip)?;
        let record = &stored.record;
        if self.by_id.get(&record.id) == Some(&ip) {
            self.by_id.remove(&record.id);
        }
        self.by_mac.remove(&(record.mac, ip));
        self.by_node.remove(&(record.node, ip));
        if let Some(v6) = record.ipv6
            && self.by_ipv6.get(&v6) == Some(&ip)
        {
            self.by_ipv6.remove(&v6);
        }
        if record.kind == EndpointKind::Leg && self.legs.get(&record.node) == Some(&ip) {
            self.legs.remove(&record.node);
        }
        Some(stored)
    }
}

/// Whether a value under `ep/6/` only points to the record under `ep/4/`.
fn is_reference(kv: &KeyValue) -> bool {
    decode_record::<crate::model::EndpointReference>(&kv.value).is_ok()
}

fn chain(error: &DecodeError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
