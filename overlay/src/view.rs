//! What a node knows: the folded content of the store, and what it is about to do itself.
//!
//! Changed only through methods that answer which kernel objects may be affected, so that the cost of a pass follows
//! what changed: those of [`intake`] for what the store says, those here for what the node intends. Knows what is not known yet: nothing may be concluded from the absence of what was never listed. Must
//! not decide what the kernel should hold; that is [`crate::desired`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    id::{EndpointId, Name, NetworkId, NodeId},
    kernel::{ObjectId, Place},
    keys::{Key, Keyspace},
    model::{EndpointKind, EndpointRecord, NetworkNameRecord, Sandbox},
    txn::Revision,
};

pub use network::{NetworkView, UNCONFIRMED};

pub use crate::claims::Stored;

mod affected;
mod intake;
mod network;

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
    /// Up to which revision the index is known.
    index_revision: Revision,
    networks: BTreeMap<NetworkId, NetworkView>,
    /// Endpoints of this node that are being registered, by id.
    pending: BTreeMap<EndpointId, (NetworkId, EndpointRecord)>,
    /// Those of them that were registered and in use when somebody else removed them from the store: they stay as they
    /// are until it is known whether they can be registered again.
    adrift: BTreeSet<EndpointId>,
    /// Endpoints of this node that are being removed.
    detaching: BTreeSet<EndpointId>,
    /// Endpoints of this node that were given up before it was known whether they are registered.
    unwanted: BTreeSet<EndpointId>,
    /// Where the interfaces of Docker's endpoints are, as far as that is known.
    plumbing: BTreeMap<EndpointId, Plumbing>,
    quarantine: BTreeMap<Vec<u8>, Unreadable>,
    changes: BTreeSet<(NetworkId, IpAddr)>,
}

/// A value that could not be read.
#[derive(Debug, Clone)]
struct Unreadable {
    reason: String,
    revision: Revision,
}

/// How much is known. Whatever is undecided for want of knowledge must be asked again when this changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Knowledge {
    /// Whether it is known which networks concern this node.
    pub loaded: bool,
    /// Networks that are followed but not listed yet.
    pub unlisted: BTreeSet<NetworkId>,
}

/// Where the container's end of a Docker endpoint's veth is. Where nothing is noted, it is left alone, and the bridge's end
/// kept as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plumbing {
    /// Docker has not asked for it: there shall be none.
    Awaited,
    /// In the host's namespace, for Docker to take.
    Lent(Place),
    /// In the container.
    Inside(Sandbox),
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
            index_revision: 0,
            networks: BTreeMap::new(),
            pending: BTreeMap::new(),
            adrift: BTreeSet::new(),
            detaching: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            plumbing: BTreeMap::new(),
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
        self.networks.get(&network).filter(|n| n.is_complete())
    }

    /// Whether the network is followed, completely listed or not.
    pub fn follows(&self, network: NetworkId) -> bool {
        self.networks.contains_key(&network)
    }

    /// The networks that are followed and completely listed.
    pub fn networks(&self) -> impl Iterator<Item = (NetworkId, &NetworkView)> {
        self.networks.iter().filter(|(_, n)| n.is_complete()).map(|(id, n)| (*id, n))
    }

    /// Networks that are followed but not listed yet.
    pub fn unlisted(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.networks.iter().filter(|(_, n)| !n.is_complete()).map(|(id, _)| *id)
    }

    /// How much is known.
    pub fn knowledge(&self) -> Knowledge {
        Knowledge { loaded: self.is_loaded(), unlisted: self.unlisted().collect() }
    }

    /// Values of the store that could not be read, with the reason; their last good version stays in force.
    pub fn quarantine(&self) -> impl Iterator<Item = (&[u8], &str)> {
        self.quarantine.iter().map(|(key, unreadable)| (key.as_slice(), unreadable.reason.as_str()))
    }

    /// Whether an endpoint is being removed, or was given up before it was there.
    pub fn is_detaching(&self, endpoint: EndpointId) -> bool {
        self.detaching.contains(&endpoint) || self.unwanted.contains(&endpoint)
    }

    /// Where the interface of one of Docker's endpoints is, if that is known.
    pub fn plumbing(&self, endpoint: EndpointId) -> Option<&Plumbing> {
        self.plumbing.get(&endpoint)
    }

    /// Where an endpoint's interface is inside its container, if that is known.
    pub fn sandbox_of<'a>(&'a self, record: &'a EndpointRecord) -> Option<&'a Sandbox> {
        match self.plumbing.get(&record.id) {
            Some(Plumbing::Inside(sandbox)) => Some(sandbox),
            Some(Plumbing::Awaited | Plumbing::Lent(_)) | None => record.sandbox.as_ref(),
        }
    }

    /// Notes where the interface of one of Docker's endpoints is; `None`: Docker has it in hand.
    pub fn set_plumbing(&mut self, endpoint: EndpointId, plumbing: Option<Plumbing>) -> BTreeSet<ObjectId> {
        match plumbing {
            Some(plumbing) => self.plumbing.insert(endpoint, plumbing),
            None => self.plumbing.remove(&endpoint),
        };
        self.of_endpoint(endpoint)
    }

    /// An endpoint of this node by id, unless it is being removed.
    pub fn local(&self, endpoint: EndpointId) -> Option<LocalEndpoint<'_>> {
        if self.is_detaching(endpoint) {
            return None;
        }
        let registered = self.networks().find_map(|(network, view)| {
            let stored = view.endpoints_by_id(endpoint).find(|stored| stored.record.node == self.config.node)?;
            Some(LocalEndpoint { network, record: &stored.record, registered: true })
        });
        registered.or_else(|| {
            let (network, record) = self.pending.get(&endpoint)?;
            Some(LocalEndpoint { network: *network, record, registered: self.adrift.contains(&endpoint) })
        })
    }

    /// The endpoints of this node that were in use when somebody else removed them from the store.
    pub fn adrift(&self) -> impl Iterator<Item = (NetworkId, &EndpointRecord)> {
        self.adrift.iter().filter_map(|endpoint| self.pending.get(endpoint)).map(|(network, record)| (*network, record))
    }

    /// The endpoints of this node in a network, registered and pending, without those being removed.
    pub fn locals_in(&self, network: NetworkId) -> impl Iterator<Item = LocalEndpoint<'_>> {
        let registered = self
            .network(network)
            .into_iter()
            .flat_map(move |view| view.endpoints_of(self.config.node))
            .map(move |stored| LocalEndpoint { network, record: &stored.record, registered: true });
        let registered = registered.filter(|local| !self.is_detaching(local.record.id));
        registered.chain(self.pending_in(network))
    }

    /// The endpoints of this node in a network that are being registered. Costs as much as there are of those.
    pub fn pending_in(&self, network: NetworkId) -> impl Iterator<Item = LocalEndpoint<'_>> {
        let own = self.config.node;
        let is_registered = move |endpoint: EndpointId| {
            let stored = self.network(network).into_iter().flat_map(|view| view.endpoints_by_id(endpoint));
            stored.map(|stored| stored.record.node).any(|node| node == own)
        };
        self.pending
            .values()
            .filter(move |(n, record)| *n == network && !self.is_detaching(record.id))
            .filter(move |(_, record)| !is_registered(record.id))
            .map(move |(_, record)| LocalEndpoint { network, record, registered: self.adrift.contains(&record.id) })
    }

    /// The gateway leg of this node in a network, registered or pending.
    pub fn own_leg(&self, network: NetworkId) -> Option<LocalEndpoint<'_>> {
        let registered = self.network(network).into_iter().flat_map(|view| view.legs_of(self.config.node));
        let registered = registered.map(|stored| LocalEndpoint { network, record: &stored.record, registered: true });
        let pending = self.pending_in(network).filter(|local| local.record.kind == EndpointKind::Leg);
        registered.filter(|leg| !self.is_detaching(leg.record.id)).chain(pending).next()
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
        let mut affected = self.all_of(network);
        let adrift: Vec<EndpointId> =
            self.adrift().filter(|(n, _)| *n == network).map(|(_, record)| record.id).collect();
        for endpoint in adrift {
            affected.extend(self.clear_pending(endpoint));
        }
        if let Some(view) = self.networks.remove(&network) {
            self.changes.extend(view.endpoints().filter_map(|s| s.record.primary_address()).map(|ip| (network, ip)));
        }
        let keyspace = self.keys.network(network);
        self.quarantine.retain(|key, _| !keyspace.contains(key));
        affected
    }

    /// Notes up to which revision a network is known, for people to see.
    pub fn advance(&mut self, network: NetworkId, revision: Revision) {
        if let Some(view) = self.networks.get_mut(&network) {
            view.revision = view.revision.max(revision);
        }
    }

    /// Notes up to which revision the index of networks is known, for people to see.
    pub fn advance_index(&mut self, revision: Revision) {
        self.index_revision = revision;
    }

    /// The newest revision of the store that anything here is known as of.
    pub fn revision(&self) -> Revision {
        let networks = self.networks().map(|(_, content)| content.revision);
        networks.chain([self.index_revision]).max().unwrap_or_default()
    }

    /// Notes an endpoint of this node that is being registered: it is prepared, but not yet put to use.
    pub fn set_pending(&mut self, network: NetworkId, record: EndpointRecord) -> BTreeSet<ObjectId> {
        let endpoint = record.id;
        let mut affected = self.of_endpoint(endpoint);
        self.detaching.remove(&endpoint);
        self.unwanted.remove(&endpoint);
        self.pending.insert(endpoint, (network, record));
        affected.extend(self.of_endpoint(endpoint));
        affected
    }

    /// Notes an endpoint of this node that was in use and that the store has lost: it stays as it is until it is known
    /// whether it can be registered again. The store's word on it ends that.
    pub fn remember(&mut self, network: NetworkId, record: EndpointRecord) -> BTreeSet<ObjectId> {
        let endpoint = record.id;
        if self.local(endpoint).is_some() || self.is_detaching(endpoint) {
            return BTreeSet::new();
        }
        self.adrift.insert(endpoint);
        self.set_pending(network, record)
    }

    /// Forgets a pending endpoint: it is either registered now or given up.
    pub fn clear_pending(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        self.adrift.remove(&endpoint);
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
        let key = Key::Endpoint(network, ip);
        let is_outdated = |view: &NetworkView| view.is_outdated(&key, revision);
        if self.network(network).is_some_and(|view| !is_outdated(view)) && !self.is_listed_since(network, revision) {
            affected.extend(self.change_endpoint(network, ip, Some(Stored { record, revision, lease: 0 })));
        }
        affected
    }

    /// Takes an endpoint of this node out of use while its removal is under way.
    pub fn set_detaching(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        self.detaching.insert(endpoint);
        self.of_endpoint(endpoint)
    }

    /// Ends the removal of an endpoint: it is gone from the store, or its removal was given up.
    pub fn clear_detaching(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        self.detaching.remove(&endpoint);
        self.of_endpoint(endpoint)
    }

    /// Gives up an endpoint of which it is not known whether its registration will arrive, perhaps more than once: whatever
    /// the store says of it is not put to use, until that is known.
    pub fn set_unwanted(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        let mut affected = self.clear_pending(endpoint);
        self.unwanted.insert(endpoint);
        affected.extend(self.of_endpoint(endpoint));
        affected
    }

    /// The endpoints that were given up without knowing their fate.
    pub fn unwanted(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.unwanted.iter().copied()
    }

    /// Ends that: nothing can arrive any more.
    pub fn clear_unwanted(&mut self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        self.unwanted.remove(&endpoint);
        self.of_endpoint(endpoint)
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
}
