//! Which kernel objects may change when something of the view changes.
//!
//! Naming one too many costs a comparison, naming one too few is a missed change until the next audit: so in doubt an
//! object is named. Must not look at what the objects should be.

use std::collections::BTreeSet;

use super::{LocalEndpoint, NodeView};
use crate::{
    id::{EndpointId, NetworkId, NodeId},
    kernel::{Element, Family, NetworkObject, NodeObject, ObjectId, Table},
    model::{EndpointKind, EndpointRecord},
};

impl NodeView {
    /// Every object that should exist: all that the desired state can name.
    pub fn all(&self) -> BTreeSet<ObjectId> {
        let mut ids: BTreeSet<ObjectId> = [
            NodeObject::HostForwarding,
            NodeObject::DataPlaneSettings,
            NodeObject::SendGuard(Family::Ipv4),
            NodeObject::SendGuard(Family::Ipv6),
            NodeObject::Table(Table::Host),
            NodeObject::Table(Table::DataPlane),
            NodeObject::ForeignAccepts,
        ]
        .into_iter()
        .map(ObjectId::Node)
        .collect();
        ids.extend(self.of_index());
        for network in self.networks.keys() {
            ids.extend(self.all_of(*network));
        }
        ids
    }

    pub(super) fn of_index(&self) -> BTreeSet<ObjectId> {
        let subnets = self.index().flat_map(|(_, record)| &record.subnets);
        subnets.map(|subnet| element(Element::OverlaySubnet(*subnet))).collect()
    }

    /// Everything of one network.
    pub(super) fn all_of(&self, network: NetworkId) -> BTreeSet<ObjectId> {
        let mut ids = self.devices_of(network);
        ids.insert(element(Element::Leg(network.leg_name())));
        ids.insert(element(Element::InternalLeg(network.leg_name())));
        let Some(view) = self.networks.get(&network) else { return ids };
        for subnet in view.spec.iter().flat_map(|spec| &spec.record.subnets) {
            ids.insert(of(network, NetworkObject::LegRoute(subnet.subnet)));
            ids.insert(of(network, NetworkObject::LegAddress(subnet.gateway)));
            ids.insert(of(network, NetworkObject::Neighbour(subnet.gateway)));
            ids.insert(element(Element::Gateway(subnet.gateway)));
            ids.insert(element(Element::MasqueradedSubnet(subnet.subnet)));
        }
        for node in view.members.keys() {
            ids.extend(self.of_member(network, *node));
        }
        for stored in view.endpoints() {
            self.add_record(network, &stored.record, &mut ids);
        }
        for (_, record) in self.pending.values().filter(|(n, _)| *n == network) {
            self.add_record(network, record, &mut ids);
        }
        ids
    }

    /// The devices of a network and what hangs on their MTU.
    pub(super) fn devices_of(&self, network: NetworkId) -> BTreeSet<ObjectId> {
        let mut ids: BTreeSet<ObjectId> = [NetworkObject::Bridge, NetworkObject::Vxlan, NetworkObject::Leg]
            .into_iter()
            .map(|object| of(network, object))
            .collect();
        for LocalEndpoint { record, .. } in self.locals_in(network) {
            if record.kind == EndpointKind::Container {
                ids.insert(of(network, NetworkObject::Port(record.id)));
                ids.insert(of(network, NetworkObject::Sandbox(record.id)));
            }
        }
        ids
    }

    pub(super) fn of_member(&self, network: NetworkId, node: NodeId) -> BTreeSet<ObjectId> {
        let mut ids = BTreeSet::new();
        let Some(view) = self.networks.get(&network) else { return ids };
        let Some(member) = view.members.get(&node) else { return ids };
        let vtep = member.record.vtep;
        ids.insert(of(network, NetworkObject::Flood(vtep)));
        ids.insert(element(Element::Vtep(vtep)));
        if let Some(spec) = &view.spec {
            ids.insert(element(Element::AcceptedPair(vtep, spec.record.vni)));
        }
        ids
    }

    /// Everything of an endpoint, as far as its records are known.
    pub(super) fn of_endpoint(&self, endpoint: EndpointId) -> BTreeSet<ObjectId> {
        let stored = self
            .networks
            .iter()
            .flat_map(|(network, view)| view.endpoints_by_id(endpoint).map(|stored| (*network, &stored.record)));
        let pending = self.pending.get(&endpoint).map(|(network, record)| (*network, record));
        stored.chain(pending).flat_map(|(network, record)| self.of_record(network, record)).collect()
    }

    /// Everything that a record has a part in. On this node's leg hangs all that the network has here.
    pub(super) fn of_record(&self, network: NetworkId, record: &EndpointRecord) -> BTreeSet<ObjectId> {
        let mut ids = BTreeSet::new();
        self.add_record(network, record, &mut ids);
        if record.kind == EndpointKind::Leg && record.node == self.config.node {
            ids.extend(self.all_of(network));
        }
        ids
    }

    fn add_record(&self, network: NetworkId, record: &EndpointRecord, ids: &mut BTreeSet<ObjectId>) {
        ids.insert(of(network, NetworkObject::BridgeFdb(record.mac)));
        ids.insert(of(network, NetworkObject::TunnelFdb(record.mac)));
        ids.extend(record.addresses().map(|ip| of(network, NetworkObject::Neighbour(ip))));
        if record.node != self.config.node {
            return;
        }
        match record.kind {
            EndpointKind::Leg => {
                ids.extend(record.addresses().map(|ip| of(network, NetworkObject::LegAddress(ip))));
            }
            EndpointKind::Container => add_local(network, record, ids),
        }
    }
}

fn add_local(network: NetworkId, record: &EndpointRecord, ids: &mut BTreeSet<ObjectId>) {
    let port = record.id.port_name();
    ids.insert(of(network, NetworkObject::Port(record.id)));
    ids.insert(of(network, NetworkObject::Sandbox(record.id)));
    ids.insert(element(Element::PortMac(port.clone(), record.mac)));
    for ip in record.addresses() {
        ids.insert(element(Element::PortAddress(port.clone(), ip)));
        ids.insert(element(Element::LocalEndpoint(ip)));
    }
    for published in &record.published {
        let (protocol, port) = (published.protocol, published.host_port);
        ids.extend(published.host_addresses().map(|host| element(Element::Published(protocol, host, port))));
    }
}

fn of(network: NetworkId, object: NetworkObject) -> ObjectId {
    ObjectId::Network(network, object)
}

fn element(element: Element) -> ObjectId {
    ObjectId::Node(NodeObject::Element(element))
}
