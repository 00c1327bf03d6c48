//! What the kernel of this node should hold: a pure function of the view, one object at a time.
//!
//! Asking object by object keeps a pass as small as the change, and there is no second copy of the desired state that
//! could be wrong. Must not look at what the kernel holds.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::{
    id::{EndpointId, IfName, Mac, NetworkId},
    kernel::{
        Bridge, Element, FdbPort, Leg, NetworkObject, NodeObject, Object, ObjectId, Place, Port, SandboxState, Vxlan,
    },
    model::{EndpointKind, EndpointRecord, NetworkSpec},
    view::{LocalEndpoint, NetworkView, NodeView, Plumbing},
};

/// What one object should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Too little is known to say: it is left as it is.
    Unknown,
    /// It should not exist.
    Absent,
    /// It should be like this.
    Exactly(Object),
}

impl From<Option<Object>> for Wanted {
    fn from(object: Option<Object>) -> Self {
        object.map_or(Self::Absent, Self::Exactly)
    }
}

/// What VXLAN adds to a packet, in bytes: outer IP header, UDP (8), VXLAN (8), inner Ethernet (14).
pub const fn encapsulation_overhead(vtep: IpAddr) -> u32 {
    match vtep {
        IpAddr::V4(_) => 20 + 8 + 8 + 14,
        IpAddr::V6(_) => 40 + 8 + 8 + 14,
    }
}

/// The lowest MTU that a network is given: what IPv6 requires of a link (RFC 8200, section 5).
pub const LOWEST_MTU: u32 = 1280;

/// What one object should be.
pub fn wanted(view: &NodeView, id: &ObjectId) -> Wanted {
    match id {
        ObjectId::Node(object) => wanted_of_node(view, object),
        ObjectId::Network(network, object) => {
            if !view.is_loaded() || (view.follows(*network) && view.network(*network).is_none()) {
                return Wanted::Unknown;
            }
            let Some(active) = Active::find(view, *network) else { return Wanted::Absent };
            match object {
                NetworkObject::Sandbox(endpoint) if active.is_in_dockers_hands(*endpoint) => Wanted::Unknown,
                _ => active.object(object).into(),
            }
        }
    }
}

/// The whole desired state, for audits and for people. Costs as much as there is.
pub fn everything(view: &NodeView) -> Vec<(ObjectId, Object)> {
    let wanted_objects = view.all().into_iter().filter_map(|id| match wanted(view, &id) {
        Wanted::Exactly(object) => Some((id, object)),
        Wanted::Absent | Wanted::Unknown => None,
    });
    wanted_objects.collect()
}

/// The MTU in bytes of a network: the user's, or the smallest that all members can carry.
pub fn network_mtu(view: &NodeView, network: &NetworkView, spec: &NetworkSpec) -> u32 {
    let others = network.smallest_underlay_mtu(view.config.node);
    let smallest = others.map_or(view.underlay_mtu, |others| others.min(view.underlay_mtu));
    let carried = smallest.saturating_sub(encapsulation_overhead(view.config.vtep)).max(LOWEST_MTU);
    spec.mtu.unwrap_or(carried)
}

fn wanted_of_node(view: &NodeView, object: &NodeObject) -> Wanted {
    match object {
        NodeObject::Element(element) => {
            if view.is_loaded() && view.unlisted().next().is_none() {
                element_object(view, element).into()
            } else {
                // A network that is not listed yet may want this element.
                element_object(view, element).map_or(Wanted::Unknown, Wanted::Exactly)
            }
        }
        NodeObject::HostForwarding
        | NodeObject::DataPlaneSettings
        | NodeObject::SendGuard(_)
        | NodeObject::Table(_)
        | NodeObject::ForeignAccepts => Wanted::Exactly(Object::Present),
    }
}

fn element_object(view: &NodeView, element: &Element) -> Option<Object> {
    let mut networks = view.networks().filter_map(|(network, _)| Active::find(view, network));
    let present = |holds: bool| holds.then_some(Object::Present);
    match element {
        Element::AcceptedPair(vtep, vni) => {
            present(networks.any(|active| active.spec.vni == *vni && active.has_peer(*vtep)))
        }
        Element::Vtep(vtep) => present(networks.any(|active| active.has_peer(*vtep))),
        Element::Leg(name) => present(networks.any(|active| active.network.leg_name() == *name)),
        Element::InternalLeg(name) => {
            present(networks.any(|active| active.spec.internal && active.network.leg_name() == *name))
        }
        Element::OverlaySubnet(subnet) => present(view.index().any(|(_, record)| record.subnets.contains(subnet))),
        Element::MasqueradedSubnet(subnet) => {
            present(networks.any(|active| !active.spec.internal && active.has_subnet(*subnet)))
        }
        Element::Gateway(ip) => present(networks.any(|active| active.has_gateway(*ip))),
        Element::LocalEndpoint(ip) => present(networks.any(|active| active.is_local_address(*ip))),
        Element::Published(protocol, host, host_port) => networks.find_map(|active| {
            active.containers().find_map(|local| {
                let published = local.record.published.iter().find(|published| {
                    (published.protocol, published.host_port) == (*protocol, *host_port)
                        && published.host_addresses().any(|address| address == *host)
                })?;
                let same_family = |ip: &IpAddr| host.is_ipv4() == ip.is_ipv4();
                Some(Object::Published(local.record.addresses().find(same_family)?, published.port))
            })
        }),
        Element::PortMac(port, mac) => present(local_behind(view, port).is_some_and(|record| record.mac == *mac)),
        Element::PortAddress(port, ip) => {
            present(local_behind(view, port).is_some_and(|record| record.addresses().any(|a| a == *ip)))
        }
    }
}

/// The local container whose veth's bridge end has this name.
fn local_behind<'a>(view: &'a NodeView, port: &IfName) -> Option<&'a EndpointRecord> {
    let endpoint: EndpointId = port.as_str().strip_prefix("wp-")?.parse().ok()?;
    let local = view.local(endpoint)?;
    Active::find(view, local.network)?;
    (local.record.kind == EndpointKind::Container && is_of_this_boot(view, local.record)).then_some(local.record)
}

/// A sandbox of an earlier boot ended with it, whatever has its inode number today.
fn is_of_this_boot(view: &NodeView, record: &EndpointRecord) -> bool {
    record.boot_id() == Some(view.config.boot_id.as_str())
}

/// A network that has a gateway leg on this node: only then it has anything here.
struct Active<'a> {
    view: &'a NodeView,
    network: NetworkId,
    content: &'a NetworkView,
    spec: &'a NetworkSpec,
    leg: &'a EndpointRecord,
}

impl<'a> Active<'a> {
    fn find(view: &'a NodeView, network: NetworkId) -> Option<Self> {
        let content = view.network(network)?;
        let spec = &content.spec.as_ref()?.record;
        let leg = view.own_leg(network)?.record;
        Some(Self { view, network, content, spec, leg })
    }

    fn object(&self, object: &NetworkObject) -> Option<Object> {
        match object {
            NetworkObject::Bridge => Some(self.bridge()),
            NetworkObject::Vxlan => Some(self.vxlan()),
            NetworkObject::Leg => Some(self.leg()),
            NetworkObject::LegAddress(ip) => self.leg_address(*ip),
            NetworkObject::LegRoute(subnet) => self.leg_route(*subnet),
            NetworkObject::Port(endpoint) => self.port(*endpoint),
            NetworkObject::Sandbox(endpoint) => self.sandbox(*endpoint),
            NetworkObject::BridgeFdb(mac) => self.holder_of(*mac).map(|holder| Object::BridgeFdb(self.port_to(holder))),
            NetworkObject::TunnelFdb(mac) => {
                let holder = self.holder_of(*mac)?;
                (!self.is_own(holder)).then_some(Object::TunnelFdb(holder.vtep))
            }
            NetworkObject::Flood(vtep) => self.has_peer(*vtep).then_some(Object::Present),
            NetworkObject::Neighbour(ip) => self.mac_of(*ip).map(Object::Neighbour),
        }
    }

    fn mtu(&self) -> u32 {
        network_mtu(self.view, self.content, self.spec)
    }

    fn bridge(&self) -> Object {
        let mac = Mac::for_device(self.network, self.view.config.node, 1);
        Object::Bridge(Box::new(Bridge { mac, mtu: self.mtu(), up: true, tuned: true }))
    }

    fn vxlan(&self) -> Object {
        Object::Vxlan(Box::new(Vxlan {
            vni: self.spec.vni,
            local: self.view.config.vtep,
            port: self.view.config.vxlan_port,
            mac: Mac::for_device(self.network, self.view.config.node, 2),
            mtu: self.mtu(),
            up: true,
            attached: true,
            tuned: true,
        }))
    }

    fn leg(&self) -> Object {
        Object::Leg(Box::new(Leg { mac: self.leg.mac, mtu: self.mtu(), up: true, attached: true, tuned: true }))
    }

    fn leg_address(&self, ip: IpAddr) -> Option<Object> {
        let gateway = self.has_gateway(ip);
        (gateway || self.leg.addresses().any(|a| a == ip)).then_some(Object::LegAddress {
            prefix: if ip.is_ipv4() { 32 } else { 128 },
            deprecated: gateway && ip.is_ipv6(),
        })
    }

    fn leg_route(&self, subnet: IpNetwork) -> Option<Object> {
        let source = || self.leg.addresses().find(|ip| ip.is_ipv4() == subnet.is_ipv4());
        self.has_subnet(subnet).then(|| Object::LegRoute(source()))
    }

    fn port(&self, endpoint: EndpointId) -> Option<Object> {
        let local = self.container(endpoint).filter(|local| self.is_made(local.record))?;
        Some(Object::Port(Box::new(Port { mtu: self.mtu(), up: local.registered, attached: true })))
    }

    fn sandbox(&self, endpoint: EndpointId) -> Option<Object> {
        let record = self.container(endpoint)?.record;
        if let Some(Plumbing::Lent(place)) = self.view.plumbing(endpoint) {
            return Some(self.lent(record, place));
        }
        let sandbox = self.view.sandbox_of(record)?;
        let gateways =
            self.spec.subnets.iter().filter(|subnet| record.addresses().any(|ip| subnet.subnet.contains(ip)));
        let routed = sandbox.default_route && !self.spec.internal;
        Some(Object::Sandbox(Box::new(SandboxState {
            place: Place {
                path: sandbox.path.clone(),
                dev: sandbox.dev,
                inode: sandbox.inode,
                ifname: sandbox.ifname.clone(),
            },
            mac: record.mac,
            mtu: self.mtu(),
            up: true,
            addresses: record.addresses().filter_map(|ip| self.with_prefix(ip)).collect(),
            default_routes: if routed { gateways.map(|s| s.gateway).collect() } else { BTreeSet::new() },
        })))
    }

    /// The container's end while it waits in the host's namespace: without addresses, or the host would use them.
    fn lent(&self, record: &EndpointRecord, place: &Place) -> Object {
        Object::Sandbox(Box::new(SandboxState {
            place: place.clone(),
            mac: record.mac,
            mtu: self.mtu(),
            up: false,
            addresses: BTreeSet::new(),
            default_routes: BTreeSet::new(),
        }))
    }

    /// Whether nobody but Docker can say where the container's end is at the moment.
    fn is_in_dockers_hands(&self, endpoint: EndpointId) -> bool {
        let docker = self.container(endpoint).is_some_and(|local| local.record.docker.is_some());
        docker && self.view.plumbing(endpoint).is_none()
    }

    /// Whether its interface was ever asked for: Docker registers an endpoint some time before.
    fn is_made(&self, record: &EndpointRecord) -> bool {
        self.view.plumbing(record.id) != Some(&Plumbing::Awaited)
    }

    fn with_prefix(&self, ip: IpAddr) -> Option<IpNetwork> {
        let subnet = self.spec.subnets.iter().find(|s| s.subnet.is_ipv4() == ip.is_ipv4())?;
        IpNetwork::new(ip, subnet.subnet.prefix()).ok()
    }

    fn mac_of(&self, ip: IpAddr) -> Option<Mac> {
        if self.has_gateway(ip) {
            return Some(self.leg.mac);
        }
        if self.leg.addresses().any(|own| own == ip) {
            return Some(self.leg.mac);
        }
        let stored = self.content.endpoints_with(ip).map(|stored| &stored.record);
        let pending = self.pending().filter(|record| record.addresses().any(|a| a == ip));
        stored.chain(pending).find(|record| self.is_in_use(record)).map(|record| record.mac)
    }

    /// Who has a MAC: where several claim it, one on this node, then the one with the lowest address. Who is only being
    /// registered takes nothing from who is.
    fn holder_of(&self, mac: Mac) -> Option<&'a EndpointRecord> {
        let stored = || self.content.endpoints_with_mac(mac).map(|s| &s.record).filter(|r| self.is_in_use(r));
        let pending = || self.pending().find(|record| record.mac == mac && self.is_in_use(record));
        stored().find(|record| self.is_own(record)).or_else(|| stored().next()).or_else(pending)
    }

    fn pending(&self) -> impl Iterator<Item = &'a EndpointRecord> {
        self.view.pending_in(self.network).map(|local| local.record)
    }

    fn is_own(&self, record: &EndpointRecord) -> bool {
        record.node == self.view.config.node
    }

    fn is_in_use(&self, record: &EndpointRecord) -> bool {
        !self.view.is_detaching(record.id) && (!self.is_own(record) || self.is_here(record))
    }

    fn is_here(&self, record: &EndpointRecord) -> bool {
        record.kind == EndpointKind::Leg || (is_of_this_boot(self.view, record) && self.is_made(record))
    }

    fn port_to(&self, record: &EndpointRecord) -> FdbPort {
        match record.kind {
            _ if !self.is_own(record) => FdbPort::Vxlan,
            EndpointKind::Leg => FdbPort::Leg,
            EndpointKind::Container => FdbPort::Port(record.id),
        }
    }

    fn container(&self, endpoint: EndpointId) -> Option<LocalEndpoint<'a>> {
        let local = self.view.local(endpoint).filter(|local| local.network == self.network)?;
        (local.record.kind == EndpointKind::Container && is_of_this_boot(self.view, local.record)).then_some(local)
    }

    fn containers(&self) -> impl Iterator<Item = LocalEndpoint<'a>> {
        let view = self.view;
        view.locals_in(self.network)
            .filter(move |local| local.record.kind == EndpointKind::Container && is_of_this_boot(view, local.record))
    }

    fn is_local_address(&self, ip: IpAddr) -> bool {
        self.spec.subnets.iter().any(|s| s.subnet.contains(ip))
            && (self.content.endpoints_with(ip).any(|stored| self.is_local(&stored.record))
                || self.pending().any(|record| self.is_local(record) && record.addresses().any(|a| a == ip)))
    }

    fn is_local(&self, record: &EndpointRecord) -> bool {
        record.kind == EndpointKind::Container && self.is_own(record) && self.is_in_use(record)
    }

    /// Whether another member is behind this address. Our own is never: a node that lost its identity finds its former
    /// one among the members until the controller has given that up, and would send everything to itself.
    fn has_peer(&self, vtep: IpAddr) -> bool {
        let peers = self.content.members.iter().filter(|(node, _)| **node != self.view.config.node);
        vtep != self.view.config.vtep && peers.map(|(_, member)| member.record.vtep).any(|peer| peer == vtep)
    }

    fn has_subnet(&self, subnet: IpNetwork) -> bool {
        self.spec.subnets.iter().any(|s| s.subnet == subnet)
    }

    fn has_gateway(&self, ip: IpAddr) -> bool {
        self.spec.subnets.iter().any(|s| s.gateway == ip)
    }
}
