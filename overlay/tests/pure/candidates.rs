//! Objects that may be wanted, listed without asking the code under test.

use std::net::IpAddr;

use weft_overlay::{
    id::Mac,
    kernel::{Element, NetworkObject, NodeObject, ObjectId},
    model::Protocol,
};

use crate::{
    builder::{endpoint, network, spec, vtep},
    happening::{self, ENDPOINTS, NETWORKS},
};

/// Every object that random events can make wanted, put together without asking the view.
pub(crate) fn candidates() -> Vec<ObjectId> {
    let vteps: Vec<_> = (1..=3).map(vtep).collect();
    let anywhere = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
    let elements = anywhere.map(|host| Element::Published(Protocol::Tcp, host, 8080)).into_iter();
    let elements = elements.chain(vteps.iter().map(|vtep| Element::Vtep(*vtep)));
    let elements = elements
        .chain(vteps.iter().flat_map(|vtep| [1, 2, 9].map(|net| Element::AcceptedPair(*vtep, spec(net, &[]).vni))));
    let mut ids: Vec<ObjectId> = elements.map(of_node).collect();
    for net in 1..=NETWORKS {
        ids.extend(candidates_of(net, &vteps));
    }
    ids
}

fn candidates_of(net: u64, vteps: &[IpAddr]) -> Vec<ObjectId> {
    let subnets = happening::subnets(net);
    let ips = happening::addresses(net);
    let macs = ips.iter().map(|ip| Mac::derived_from(*ip)).chain(["02:00:00:00:00:01".parse().unwrap()]);
    let mut objects = vec![NetworkObject::Bridge, NetworkObject::Vxlan, NetworkObject::Leg];
    let leg = network(net).leg_name();
    let mut elements = vec![Element::Leg(leg.clone()), Element::InternalLeg(leg)];
    objects.extend(vteps.iter().map(|vtep| NetworkObject::Flood(*vtep)));
    for subnet in subnets {
        objects.push(NetworkObject::LegRoute(subnet));
        elements.extend([Element::MasqueradedSubnet(subnet), Element::OverlaySubnet(subnet)]);
    }
    for ip in &ips {
        objects.extend([NetworkObject::LegAddress(*ip), NetworkObject::Neighbour(*ip)]);
        elements.extend([Element::LocalEndpoint(*ip), Element::Gateway(*ip)]);
    }
    for mac in macs.clone() {
        objects.extend([NetworkObject::BridgeFdb(mac), NetworkObject::TunnelFdb(mac)]);
    }
    for endpoint in (1..=ENDPOINTS).map(endpoint) {
        objects.extend([NetworkObject::Port(endpoint), NetworkObject::Sandbox(endpoint)]);
        elements.extend(ips.iter().map(|ip| Element::PortAddress(endpoint.port_name(), *ip)));
        elements.extend(macs.clone().map(|mac| Element::PortMac(endpoint.port_name(), mac)));
    }
    let objects = objects.into_iter().map(|object| ObjectId::Network(network(net), object));
    objects.chain(elements.into_iter().map(of_node)).collect()
}

fn of_node(element: Element) -> ObjectId {
    ObjectId::Node(NodeObject::Element(element))
}
