//! From what the kernel listed to objects: which device, row, address and route is which object of which network.
//!
//! Pure. Rows that the kernel keeps for itself (MACs of ports, multicast groups) are no objects; everything else on a
//! device of ours is, wanted or not, so that it can be compared and removed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use nix::libc;
use weft_overlay::{
    id::{Mac, NetworkId, Vni},
    kernel::{Bridge, FdbPort, KernelState, Leg, NetworkObject, Object, ObjectId, Port, Vxlan},
};

use super::{
    decode::{
        Address, Route, Row,
        link::{Kind, Link},
        unicast,
    },
    mark::{ROUTE_PROTOCOL, Role},
    recipe::{bridge_faults, is_attached, leg_faults, port_faults, vxlan_faults, vxlan_misfits},
};

/// Stands in for a MAC that no device of ours can have, such as none at all.
const NO_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0];

/// The devices of both namespaces, found by what they are.
#[derive(Debug, Default, Clone)]
pub(crate) struct Devices {
    data_plane: BTreeMap<u32, Link>,
    by_role: BTreeMap<Role, u32>,
    legs: BTreeMap<NetworkId, Link>,
    leg_networks: BTreeMap<u32, NetworkId>,
}

impl Devices {
    /// Keeps every device of the data plane's namespace, since any may be a port, and the legs of the host's.
    pub(crate) fn new(data_plane: Vec<Link>, host: Vec<Link>) -> Self {
        let mut devices = Self::default();
        data_plane.into_iter().for_each(|link| devices.put(link));
        host.into_iter().for_each(|link| devices.put_host(link));
        devices
    }

    /// Takes note of a device in the data plane's namespace.
    pub(crate) fn put(&mut self, link: Link) {
        self.remove(link.index);
        if let Some(role) = Role::of(&link.name).filter(|role| !matches!(role, Role::Leg(_))) {
            self.by_role.insert(role, link.index);
        }
        self.data_plane.insert(link.index, link);
    }

    /// Takes note of a device in the host's namespace.
    pub(crate) fn put_host(&mut self, link: Link) {
        self.remove_host(link.index);
        if let Some(Role::Leg(network)) = Role::of(&link.name) {
            self.leg_networks.insert(link.index, network);
            self.legs.insert(network, link);
        }
    }

    /// Forgets a device of the data plane's namespace.
    pub(crate) fn remove(&mut self, index: u32) -> Option<Link> {
        let link = self.data_plane.remove(&index)?;
        if let Some(role) = Role::of(&link.name) {
            self.by_role.remove(&role);
        }
        Some(link)
    }

    /// Forgets a device of the host's namespace.
    pub(crate) fn remove_host(&mut self, index: u32) -> Option<Link> {
        self.leg_networks.remove(&index).and_then(|network| self.legs.remove(&network))
    }

    pub(crate) fn by_role(&self, role: Role) -> Option<&Link> {
        match role {
            Role::Leg(network) => self.legs.get(&network),
            Role::Bridge(_) | Role::Vxlan(_) | Role::LegPort(_) | Role::Port(_) => {
                self.by_role.get(&role).and_then(|index| self.data_plane.get(index))
            }
        }
    }

    pub(crate) fn by_index(&self, index: u32) -> Option<&Link> {
        self.data_plane.get(&index)
    }

    /// The network of a leg's host end.
    pub(crate) fn leg_network(&self, index: u32) -> Option<NetworkId> {
        self.leg_networks.get(&index).copied().filter(|n| self.legs.get(n).is_some_and(Link::is_marked))
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.data_plane.values()
    }

    fn bridge_of(&self, network: NetworkId) -> Option<u32> {
        self.by_role(Role::Bridge(network)).filter(|link| link.is_marked()).map(|link| link.index)
    }

    /// The network whose bridge this is.
    fn network_of_bridge(&self, index: u32) -> Option<NetworkId> {
        match self.by_index(index)?.role()? {
            Role::Bridge(network) => Some(network),
            Role::Vxlan(_) | Role::LegPort(_) | Role::Leg(_) | Role::Port(_) => None,
        }
    }

    /// The network of an endpoint's port: from its alias, else from the bridge that it is in.
    pub(crate) fn network_of_port(&self, link: &Link) -> Option<NetworkId> {
        link.owner().map(|(network, _)| network).or_else(|| self.network_of_bridge(link.master?))
    }

    /// The object that a device is, or is part of.
    pub(crate) fn object_of(&self, link: &Link) -> Option<ObjectId> {
        let (network, object) = match Role::of(&link.name)? {
            Role::Bridge(network) => (network, NetworkObject::Bridge),
            Role::Vxlan(network) => (network, NetworkObject::Vxlan),
            Role::LegPort(network) | Role::Leg(network) => (network, NetworkObject::Leg),
            Role::Port(endpoint) => (self.network_of_port(link)?, NetworkObject::Port(endpoint)),
        };
        let in_use = link.group != super::mark::GRAVE_GROUP;
        in_use.then_some(ObjectId::Network(network, object))
    }

    /// How a device of ours is.
    pub(crate) fn device(&self, network: NetworkId, object: &NetworkObject) -> Option<Object> {
        let link = |role| self.by_role(role).filter(|l| l.group != super::mark::GRAVE_GROUP);
        match object {
            NetworkObject::Bridge => Some(bridge(link(Role::Bridge(network))?, network)),
            NetworkObject::Vxlan => Some(vxlan(link(Role::Vxlan(network))?, network, self.bridge_of(network))),
            NetworkObject::Leg => {
                let ends = (link(Role::LegPort(network)), link(Role::Leg(network)));
                leg(ends, network, self.bridge_of(network))
            }
            NetworkObject::Port(endpoint) => {
                let link = link(Role::Port(*endpoint))?;
                let wrong_network = self.network_of_port(link).is_some_and(|n| n != network);
                if !link.is_marked() || wrong_network {
                    return Some(Object::Foreign(link.description()));
                }
                let faults = port_faults(link, network, Some(*endpoint));
                let attached = is_attached(link, self.bridge_of(network), false);
                Some(if faults.is_empty() && link.kind == Kind::Veth {
                    Object::Port(Box::new(Port { mtu: link.mtu, up: link.up, attached }))
                } else {
                    Object::Deviant(faults.join(", "))
                })
            }
            _ => None,
        }
    }

    /// The object that a forwarding row is.
    pub(crate) fn forwarding_row(&self, row: &Row) -> Option<(ObjectId, Object)> {
        let id = self.forwarding_id(row)?;
        if let Some(bridge) = row.bridge {
            return self.bridge_row(row, bridge).map(|object| (id, object));
        }
        let ObjectId::Network(_, object) = &id else { return None };
        let how = match (object, row.destination) {
            _ if row.special => Object::Deviant("with a port, VNI or next hop of its own".to_owned()),
            _ if row.state & libc::NUD_PERMANENT == 0 => Object::Deviant("not permanent".to_owned()),
            (NetworkObject::Flood(_), _) => Object::Present,
            (_, Some(vtep)) => Object::TunnelFdb(vtep),
            (_, None) => Object::Deviant("without a destination".to_owned()),
        };
        Some((id, how))
    }

    fn bridge_row(&self, row: &Row, bridge: u32) -> Option<Object> {
        let (mac, link) = (unicast(row.mac?), self.by_index(row.index)?);
        let network = self.network_of_bridge(bridge)?;
        if row.state & libc::NUD_PERMANENT != 0 {
            let own = link.mac == mac || self.by_index(bridge).is_some_and(|bridge| bridge.mac == mac);
            return (!own).then(|| Object::Deviant("taken for the bridge's own".to_owned()));
        }
        Some(if row.state & libc::NUD_NOARP != 0 {
            Object::BridgeFdb(port_of(link, network))
        } else {
            Object::Deviant("learnt".to_owned())
        })
    }

    /// Which object a forwarding row would be, whatever its state.
    pub(crate) fn forwarding_id(&self, row: &Row) -> Option<ObjectId> {
        if let Some(bridge) = row.bridge {
            let network = self.network_of_bridge(bridge).filter(|_| !row.special)?;
            return Some(ObjectId::Network(network, NetworkObject::BridgeFdb(unicast(row.mac?)?)));
        }
        let Role::Vxlan(network) = self.by_index(row.index)?.role()? else { return None };
        let object = match row.mac? {
            [0, 0, 0, 0, 0, 0] => NetworkObject::Flood(row.destination?),
            octets => NetworkObject::TunnelFdb(unicast(octets)?),
        };
        Some(ObjectId::Network(network, object))
    }

    /// Which object a neighbour would be, whatever its state.
    pub(crate) fn neighbour_id(&self, row: &Row) -> Option<ObjectId> {
        Some(ObjectId::Network(self.network_of_bridge(row.index)?, NetworkObject::Neighbour(row.destination?)))
    }

    /// The object that a neighbour is.
    pub(crate) fn neighbour(&self, row: &Row) -> Option<(ObjectId, Object)> {
        let id = self.neighbour_id(row)?;
        // NOARP: multicast groups. Failed and unfinished ones say nothing, and vanish by themselves.
        let nothing = libc::NUD_NOARP | libc::NUD_FAILED | libc::NUD_INCOMPLETE;
        if row.state & nothing != 0 || row.state == libc::NUD_NONE {
            return None;
        }
        let ours = row.state & libc::NUD_PERMANENT != 0 && row.flags & libc::NTF_EXT_LEARNED != 0;
        let object = match row.mac.and_then(unicast) {
            Some(mac) if ours => Object::Neighbour(mac),
            _ => Object::Deviant("not permanent and externally learned".to_owned()),
        };
        Some((id, object))
    }

    /// The object that an address of the host is.
    pub(crate) fn leg_address(&self, address: &Address) -> Option<(ObjectId, Object)> {
        const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
        let network = self.leg_network(address.index)?;
        if let IpAddr::V6(v6) = address.local
            && v6.segments()[0] & 0xffc0 == LINK_LOCAL.segments()[0]
        {
            return None;
        }
        // IFA_F_NOPREFIXROUTE: with a route of the kernel's for the subnet there is no room for ours.
        let object = if address.flags & 0x200 == 0 {
            Object::Deviant("with a route of the kernel's own".to_owned())
        } else {
            Object::LegAddress { prefix: address.prefix, deprecated: address.flags & libc::IFA_F_DEPRECATED != 0 }
        };
        Some((ObjectId::Network(network, NetworkObject::LegAddress(address.local)), object))
    }

    /// The object that a route of the host is.
    pub(crate) fn leg_route(&self, route: &Route) -> Option<(ObjectId, Object)> {
        let ours = route.protocol == ROUTE_PROTOCOL && route.table == u32::from(libc::RT_TABLE_MAIN) && !route.cached;
        let network = self.leg_network(route.device?).filter(|_| ours)?;
        let object = match (route.gateway, route.kind) {
            (None, libc::RTN_UNICAST) => Object::LegRoute(route.source),
            _ => Object::Deviant("not a direct route".to_owned()),
        };
        Some((ObjectId::Network(network, NetworkObject::LegRoute(route.destination)), object))
    }
}

/// Every device of ours, of one network if given. What is in the way of one is there too, as foreign.
pub(crate) fn devices(devices: &Devices, network: Option<NetworkId>) -> KernelState {
    let mut state = KernelState::default();
    for link in devices.links().chain(devices.legs.values()) {
        let Some(id) = devices.object_of(link) else { continue };
        if let ObjectId::Network(of, object) = &id
            && network.is_none_or(|wanted| wanted == *of)
            && let Some(object) = devices.device(*of, object)
        {
            state.objects.insert(id, object);
        }
    }
    state
}

fn port_of(link: &Link, network: NetworkId) -> FdbPort {
    match link.role() {
        Some(Role::Vxlan(of)) if of == network => FdbPort::Vxlan,
        Some(Role::LegPort(of)) if of == network => FdbPort::Leg,
        Some(Role::Port(endpoint)) => FdbPort::Port(endpoint),
        _ => FdbPort::Other,
    }
}

fn mac_of(link: &Link) -> Mac {
    link.mac.or_else(|| unicast(NO_MAC)).expect("the stand-in is a unicast address")
}

fn bridge(link: &Link, network: NetworkId) -> Object {
    if !link.is_marked() {
        return Object::Foreign(link.description());
    }
    let tuned = bridge_faults(link, network).is_empty();
    Object::Bridge(Box::new(Bridge { mac: mac_of(link), mtu: link.mtu, up: link.up, tuned }))
}

fn vxlan(link: &Link, network: NetworkId, bridge: Option<u32>) -> Object {
    let Kind::Vxlan(options) = &link.kind else {
        let what = link.description();
        return if link.is_marked() { Object::Deviant(what) } else { Object::Foreign(what) };
    };
    if !link.is_marked() {
        return Object::Foreign(link.description());
    }
    let (Some(local), Ok(vni)) = (options.local, Vni::try_from(options.vni)) else {
        return Object::Deviant("without a source address or VNI".to_owned());
    };
    Object::Vxlan(Box::new(Vxlan {
        vni,
        local,
        port: options.port,
        mac: mac_of(link),
        mtu: link.mtu,
        up: link.up,
        attached: is_attached(link, bridge, true),
        tuned: vxlan_faults(link, network).is_empty() && vxlan_misfits(link).is_empty(),
    }))
}

/// A leg from its two ends: the bridge's and the host's.
fn leg(ends: (Option<&Link>, Option<&Link>), network: NetworkId, bridge: Option<u32>) -> Option<Object> {
    let (port, host) = match ends {
        (None, None) => return None,
        (Some(port), Some(host)) => (port, host),
        (Some(one), None) | (None, Some(one)) => {
            let what = one.description();
            return Some(if one.is_marked() {
                Object::Deviant(format!("{what} without its other end"))
            } else {
                Object::Foreign(what)
            });
        }
    };
    if let Some(foreign) = [port, host].into_iter().find(|link| !link.is_marked()) {
        return Some(Object::Foreign(foreign.description()));
    }
    if port.peer != Some(host.index) || host.peer != Some(port.index) {
        return Some(Object::Deviant(format!("{} and {} are not two ends of one veth", port.name, host.name)));
    }
    let faults = leg_faults(host, network).is_empty() && port_faults(port, network, None).is_empty();
    Some(Object::Leg(Box::new(Leg {
        mac: mac_of(host),
        mtu: port.mtu.min(host.mtu),
        up: port.up && host.up,
        attached: is_attached(port, bridge, false),
        tuned: faults && port.mtu == host.mtu,
    })))
}
