//! Requests to the kernel as values: forwarding and neighbour rows, addresses, routes, rules. Devices are in [`link`].
//!
//! Pure. Which request a step needs, and in which namespace it is sent, is decided elsewhere.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::libc;
use rtnetlink::{
    packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, IpProtocol, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
        },
        rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange, RuleUidRange},
    },
};
use weft_overlay::{id::Mac, kernel::Family};

use super::{
    mark::{HELD_PROTOCOL, ROUTE_PROTOCOL, RULE_PREFERENCE},
    netlink::Request,
};

pub(crate) mod link;

/// What to do with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Make it, or make it so.
    Put,
    Delete,
}

/// A static row of a bridge: frames for a MAC go to this port.
pub(crate) fn bridge_row(verb: Verb, port: u32, mac: Mac) -> Request {
    row(verb, bridge_neighbour(port, mac.octets(), NeighbourFlags::Controller, NeighbourState::Noarp))
}

/// Deletes a row by which a bridge takes a MAC for its own.
pub(crate) fn delete_own_row(bridge: u32, mac: Mac) -> Request {
    row(Verb::Delete, bridge_neighbour(bridge, mac.octets(), NeighbourFlags::Own, NeighbourState::Noarp))
}

/// A row of a VXLAN device: a MAC is behind this VTEP.
pub(crate) fn tunnel_row(verb: Verb, vxlan: u32, mac: Mac, vtep: IpAddr) -> Request {
    let mut message = bridge_neighbour(vxlan, mac.octets(), NeighbourFlags::Own, NeighbourState::Permanent);
    if verb == Verb::Put {
        message.attributes.push(NeighbourAttribute::Destination(destination(vtep)));
    }
    row(verb, message)
}

/// An all-zero row of a VXLAN device: broadcast, unknown unicast and multicast go to this VTEP too.
///
/// Appended, since such rows share one MAC; appending one that is there already changes nothing.
pub(crate) fn flood_row(verb: Verb, vxlan: u32, vtep: IpAddr) -> Request {
    let mut message = bridge_neighbour(vxlan, [0; 6], NeighbourFlags::Own, NeighbourState::Permanent);
    message.attributes.push(NeighbourAttribute::Destination(destination(vtep)));
    match verb {
        Verb::Put => {
            Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_APPEND }
        }
        Verb::Delete => row(verb, message),
    }
}

/// A permanent, externally learned neighbour on a bridge; such rows are exempt from the table's limits.
pub(crate) fn neighbour_row(verb: Verb, bridge: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = bridge;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::ExtLearned;
    message.attributes.push(NeighbourAttribute::Destination(destination(address)));
    if verb == Verb::Put {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    }
    row(verb, message)
}

/// Asks for one row of a bridge.
pub(crate) fn find_bridge_row(bridge: u32, mac: Mac) -> Request {
    let mut message = bridge_neighbour(0, mac.octets(), NeighbourFlags::Controller, NeighbourState::None);
    message.attributes.push(NeighbourAttribute::Controller(bridge));
    Request { message: RouteNetlinkMessage::GetNeighbour(message), flags: 0 }
}

/// Asks for one row of a VXLAN device.
pub(crate) fn find_tunnel_row(vxlan: u32, mac: Mac) -> Request {
    let message = bridge_neighbour(vxlan, mac.octets(), NeighbourFlags::Own, NeighbourState::None);
    Request { message: RouteNetlinkMessage::GetNeighbour(message), flags: 0 }
}

/// Asks for one neighbour.
pub(crate) fn find_neighbour(bridge: u32, address: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = bridge;
    message.attributes.push(NeighbourAttribute::Destination(destination(address)));
    Request { message: RouteNetlinkMessage::GetNeighbour(message), flags: 0 }
}

/// Which forwarding rows to list. The kernel goes through the ports and lists the bridge's rows of each, then its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Forwarding {
    All,
    /// Of every port of this bridge.
    Bridge(u32),
    /// Of this port.
    Port(u32),
}

/// Asks for forwarding rows.
pub(crate) fn list_forwarding(which: Forwarding) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    match which {
        Forwarding::All => {}
        Forwarding::Bridge(index) => message.attributes.push(NeighbourAttribute::Controller(index)),
        Forwarding::Port(index) => message.header.ifindex = index,
    }
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Asks for the neighbours of one family, of one device if given.
pub(crate) fn list_neighbours(family: Family, device: Option<u32>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(family);
    message.attributes.extend(device.map(NeighbourAttribute::IfIndex));
    RouteNetlinkMessage::GetNeighbour(message)
}

/// An address without a route for its subnet. `deprecated`: usable, but never chosen as a source.
pub(crate) fn leg_address(device: u32, address: IpNetwork, deprecated: bool) -> Request {
    let mut message = address_message(device, address);
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute | AddressFlags::Nodad));
    if deprecated {
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// An address inside a container, with the route for its subnet.
///
/// Without duplicate address detection: that sees this node only, and uniqueness is the store's.
pub(crate) fn container_address(device: u32, address: IpNetwork) -> Request {
    let mut message = address_message(device, address);
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    if let IpNetwork::V4(v4) = address
        && v4.prefix() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
    }
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

pub(crate) fn delete_address(device: u32, address: IpNetwork) -> Request {
    Request { message: RouteNetlinkMessage::DelAddress(address_message(device, address)), flags: 0 }
}

/// Asks for the addresses of one device, or of all.
pub(crate) fn list_addresses(device: Option<u32>) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = device.unwrap_or(0);
    RouteNetlinkMessage::GetAddress(message)
}

/// A route of ours through a leg.
pub(crate) fn leg_route(verb: Verb, device: u32, to: IpNetwork, source: Option<IpAddr>, replace: bool) -> Request {
    let mut message = route_message(family_of(to.ip()), Some(to), device);
    if to.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message.attributes.extend(source.map(|s| RouteAttribute::PrefSource(s.into())));
    let how = if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    match verb {
        Verb::Put => Request { message: RouteNetlinkMessage::NewRoute(message), flags: NLM_F_CREATE | how },
        Verb::Delete => Request { message: RouteNetlinkMessage::DelRoute(message), flags: 0 },
    }
}

/// Two routes of last resort that only say that a subnet is in use: one that leads nowhere, and behind it, never used, one
/// through an interface, because who looks for subnets that are free sees only such.
pub(crate) fn held_routes(verb: Verb, to: IpNetwork, loopback: u32) -> [Request; 2] {
    let request = |kind, priority, device: Option<u32>| {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(to.ip());
        message.header.destination_prefix_length = to.prefix();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::from(HELD_PROTOCOL);
        message.header.kind = kind;
        message.header.scope = if device.is_some() && to.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to.network())));
        message.attributes.push(RouteAttribute::Priority(priority));
        message.attributes.extend(device.map(RouteAttribute::Oif));
        match verb {
            Verb::Put => Request { message: RouteNetlinkMessage::NewRoute(message), flags: NLM_F_CREATE | NLM_F_EXCL },
            Verb::Delete => Request { message: RouteNetlinkMessage::DelRoute(message), flags: 0 },
        }
    };
    [request(RouteType::Unreachable, u32::MAX - 1, None), request(RouteType::Unicast, u32::MAX, Some(loopback))]
}

/// A container's default route.
pub(crate) fn default_route(verb: Verb, device: u32, gateway: IpAddr) -> Request {
    let mut message = route_message(family_of(gateway), None, device);
    message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    match verb {
        Verb::Put => Request { message: RouteNetlinkMessage::NewRoute(message), flags: NLM_F_CREATE | NLM_F_EXCL },
        Verb::Delete => {
            // Whoever made it: it leads through an interface of ours.
            message.header.protocol = RouteProtocol::Unspec;
            Request { message: RouteNetlinkMessage::DelRoute(message), flags: 0 }
        }
    }
}

/// Asks for the routes of the main table: those of one protocol, those through one device.
pub(crate) fn list_routes(family: Family, protocol: Option<u8>, device: Option<u32>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
    message.attributes.extend(device.map(RouteAttribute::Oif));
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks for the routes of every table.
pub(crate) fn list_all_routes(family: Family) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks which route of a table leads to an address.
pub(crate) fn find_route(to: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(to);
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.header.flags = RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(to.into()));
    Request { message: RouteNetlinkMessage::GetRoute(message), flags: 0 }
}

/// The rule by which sockets of anyone but root get EACCES when they send to the VXLAN port.
///
/// The route look-up of a VXLAN device has neither a user nor, in rules, a protocol to match, so it passes. Look-ups for
/// what the host itself sends are from `lo`. To say so spares the others: for a rule that asks for a port and may concern
/// what is received, the kernel dissects every received packet (fib_rule_requires_fldissect). A deletion leaves it out,
/// and so also takes away a rule that does not say it.
pub(crate) fn send_guard(verb: Verb, family: Family, port: u16) -> Request {
    let mut message = RuleMessage::default();
    message.header.family = address_family(family);
    message.header.action = RuleAction::Prohibit;
    message.attributes.extend([
        RuleAttribute::Priority(RULE_PREFERENCE),
        RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
        RuleAttribute::UidRange(RuleUidRange { start: 1, end: u32::MAX - 1 }),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
        RuleAttribute::DestinationPortRange(RulePortRange { start: port, end: port }),
    ]);
    if verb == Verb::Put {
        message.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    }
    match verb {
        Verb::Put => Request { message: RouteNetlinkMessage::NewRule(message), flags: NLM_F_CREATE | NLM_F_EXCL },
        Verb::Delete => Request { message: RouteNetlinkMessage::DelRule(message), flags: 0 },
    }
}

/// Asks for the routing rules of one family.
pub(crate) fn list_rules(family: Family) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(family);
    RouteNetlinkMessage::GetRule(message)
}

fn row(verb: Verb, message: NeighbourMessage) -> Request {
    match verb {
        Verb::Put => {
            Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
        }
        Verb::Delete => Request { message: RouteNetlinkMessage::DelNeighbour(message), flags: 0 },
    }
}

fn bridge_neighbour(device: u32, mac: [u8; 6], flags: NeighbourFlags, state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = state;
    message.header.flags = flags;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
}

fn address_message(device: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.index = device;
    message.header.scope = AddressScope::Universe;
    message.attributes.extend([AddressAttribute::Local(address.ip()), AddressAttribute::Address(address.ip())]);
    message
}

/// Without a destination: a default route.
fn route_message(family: AddressFamily, to: Option<IpNetwork>, device: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = to.map_or(0, |to| to.prefix());
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.extend(to.map(|to| RouteAttribute::Destination(RouteAddress::from(to.network()))));
    message.attributes.push(RouteAttribute::Oif(device));
    message
}

fn destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

/// The family number of dumped messages.
pub(crate) fn family_number(family: Family) -> i32 {
    match family {
        Family::Ipv4 => libc::AF_INET,
        Family::Ipv6 => libc::AF_INET6,
    }
}
