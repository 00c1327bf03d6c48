//! The sets of our tables: their names and types, and which of their members stand for one [`Element`].
//!
//! One element may have members in several sets: a leg is also a pair with itself, an IPv6 source is also a target of
//! neighbour advertisements. [`members`] says which, once; the text that `nft` loads and the bytes that netlink carries
//! both follow from it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weft_overlay::{
    id::{IfName, Mac, Vni},
    kernel::{Element, Object, Table},
    model::Protocol,
};

use super::wire::RawElement;

/// A set or map of one of our tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    Legs,
    LegPairs,
    InternalLegs,
    Vteps4,
    Vteps6,
    Accepted4,
    Accepted6,
    Overlay4,
    Overlay6,
    Masqueraded4,
    Masqueraded6,
    LocalEndpoints4,
    LocalEndpoints6,
    Published4,
    Published6,
    PublishedAt4,
    PublishedAt6,
    PortMacs,
    PortAddresses4,
    PortAddresses6,
    PortTargets6,
    Gateways4,
    Gateways6,
    GatewayTargets6,
}

/// The sets of a table, in the order in which it declares them.
pub(super) const fn sets_of(table: Table) -> &'static [Set] {
    use Set::*;
    match table {
        Table::Host => &[
            Legs,
            LegPairs,
            InternalLegs,
            Vteps4,
            Vteps6,
            Accepted4,
            Accepted6,
            Overlay4,
            Overlay6,
            Masqueraded4,
            Masqueraded6,
            LocalEndpoints4,
            LocalEndpoints6,
            Published4,
            Published6,
            PublishedAt4,
            PublishedAt6,
        ],
        Table::DataPlane => {
            &[PortMacs, PortAddresses4, PortAddresses6, PortTargets6, Gateways4, Gateways6, GatewayTargets6]
        }
    }
}

impl Set {
    /// Its name in the table.
    pub(super) const fn name(self) -> &'static str {
        self.declaration().0
    }

    /// What `nft` calls the type of its members.
    pub(super) const fn kind(self) -> &'static str {
        self.declaration().1
    }

    /// Whether its members are ranges of addresses.
    pub(super) const fn has_intervals(self) -> bool {
        matches!(self, Self::Overlay4 | Self::Overlay6 | Self::Masqueraded4 | Self::Masqueraded6)
    }

    /// Whether it maps its members to something.
    pub(super) const fn is_map(self) -> bool {
        matches!(self, Self::Published4 | Self::Published6 | Self::PublishedAt4 | Self::PublishedAt6)
    }

    const fn declaration(self) -> (&'static str, &'static str) {
        match self {
            Self::Legs => ("legs", "type ifname"),
            Self::LegPairs => ("leg_pairs", "type ifname . ifname"),
            Self::InternalLegs => ("internal_legs", "type ifname"),
            Self::Vteps4 => ("vteps4", "type ipv4_addr"),
            Self::Vteps6 => ("vteps6", "type ipv6_addr"),
            Self::Accepted4 => ("accepted4", "typeof ip saddr . @th,96,24"),
            Self::Accepted6 => ("accepted6", "typeof ip6 saddr . @th,96,24"),
            Self::Overlay4 => ("overlay4", "type ipv4_addr"),
            Self::Overlay6 => ("overlay6", "type ipv6_addr"),
            Self::Masqueraded4 => ("masqueraded4", "type ipv4_addr"),
            Self::Masqueraded6 => ("masqueraded6", "type ipv6_addr"),
            Self::LocalEndpoints4 => ("local_endpoints4", "type ipv4_addr"),
            Self::LocalEndpoints6 => ("local_endpoints6", "type ipv6_addr"),
            Self::Published4 => ("published4", "type inet_proto . inet_service : ipv4_addr . inet_service"),
            Self::Published6 => ("published6", "type inet_proto . inet_service : ipv6_addr . inet_service"),
            Self::PublishedAt4 => {
                ("published_at4", "type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service")
            }
            Self::PublishedAt6 => {
                ("published_at6", "type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service")
            }
            Self::PortMacs => ("port_macs", "type ifname . ether_addr"),
            Self::PortAddresses4 => ("port_addresses4", "type ifname . ipv4_addr"),
            Self::PortAddresses6 => ("port_addresses6", "type ifname . ipv6_addr"),
            // nft 1.0.6 has no name for the target of a neighbour message, and a raw payload is of another type.
            Self::PortTargets6 => ("port_targets6", "typeof iifname . @th,64,128"),
            Self::Gateways4 => ("gateways4", "type ipv4_addr"),
            Self::Gateways6 => ("gateways6", "type ipv6_addr"),
            Self::GatewayTargets6 => ("gateway_targets6", "typeof @th,64,128"),
        }
    }
}

/// One part of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Name(IfName),
    Address(IpAddr),
    Subnet(IpNetwork),
    Mac(Mac),
    Vni(Vni),
    Protocol(Protocol),
    Port(u16),
    /// An address where the kernel's rule loads raw payload.
    RawAddress(Ipv6Addr),
}

/// A member of a set, or a pair of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) set: Set,
    pub(super) key: Vec<Field>,
    pub(super) value: Vec<Field>,
}

/// The members that stand for an element, or nothing when no set can hold it: a published port whose addresses are of
/// two families, an interface name that `nft` would take for a pattern.
pub(super) fn members(element: &Element, object: &Object) -> Option<Vec<Member>> {
    use Field::{Name, Port};
    let one = |set, key| Member { set, key, value: Vec::new() };
    let address = |ip: &IpAddr| Field::Address(*ip);
    Some(match element {
        Element::AcceptedPair(vtep, vni) => {
            vec![one(of_family(*vtep, Set::Accepted4, Set::Accepted6), vec![address(vtep), Field::Vni(*vni)])]
        }
        Element::Vtep(vtep) => vec![one(of_family(*vtep, Set::Vteps4, Set::Vteps6), vec![address(vtep)])],
        Element::Leg(leg) => {
            let leg = plain(leg)?;
            vec![one(Set::Legs, vec![Name(leg.clone())]), one(Set::LegPairs, vec![Name(leg.clone()), Name(leg)])]
        }
        Element::InternalLeg(leg) => vec![one(Set::InternalLegs, vec![Name(plain(leg)?)])],
        Element::OverlaySubnet(subnet) => {
            vec![one(of_family(subnet.ip(), Set::Overlay4, Set::Overlay6), vec![Field::Subnet(*subnet)])]
        }
        Element::MasqueradedSubnet(subnet) => {
            vec![one(of_family(subnet.ip(), Set::Masqueraded4, Set::Masqueraded6), vec![Field::Subnet(*subnet)])]
        }
        Element::LocalEndpoint(ip) => {
            vec![one(of_family(*ip, Set::LocalEndpoints4, Set::LocalEndpoints6), vec![address(ip)])]
        }
        Element::Published(protocol, host, port) => {
            let Object::Published(ip, to) = object else { return None };
            if host.is_ipv4() != ip.is_ipv4() {
                return None;
            }
            let (set, key) = if host.is_unspecified() {
                (of_family(*ip, Set::Published4, Set::Published6), vec![Field::Protocol(*protocol), Port(*port)])
            } else {
                let key = vec![Field::Protocol(*protocol), address(host), Port(*port)];
                (of_family(*ip, Set::PublishedAt4, Set::PublishedAt6), key)
            };
            vec![Member { set, key, value: vec![address(ip), Port(*to)] }]
        }
        Element::PortMac(port, mac) => vec![one(Set::PortMacs, vec![Name(plain(port)?), Field::Mac(*mac)])],
        Element::PortAddress(port, IpAddr::V4(ip)) => {
            vec![one(Set::PortAddresses4, vec![Name(plain(port)?), Field::Address(IpAddr::V4(*ip))])]
        }
        Element::PortAddress(port, IpAddr::V6(ip)) => vec![
            one(Set::PortAddresses6, vec![Name(plain(port)?), Field::Address(IpAddr::V6(*ip))]),
            one(Set::PortTargets6, vec![Name(plain(port)?), Field::RawAddress(*ip)]),
        ],
        Element::Gateway(IpAddr::V4(ip)) => vec![one(Set::Gateways4, vec![Field::Address(IpAddr::V4(*ip))])],
        Element::Gateway(IpAddr::V6(ip)) => vec![
            one(Set::Gateways6, vec![Field::Address(IpAddr::V6(*ip))]),
            one(Set::GatewayTargets6, vec![Field::RawAddress(*ip)]),
        ],
    })
}

fn of_family(ip: IpAddr, v4: Set, v6: Set) -> Set {
    if ip.is_ipv4() { v4 } else { v6 }
}

fn plain(name: &IfName) -> Option<IfName> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.as_str().bytes().all(allowed).then(|| name.clone())
}

impl Member {
    /// As the kernel stores it: one element, or the two ends of an interval.
    pub(super) fn raw(&self) -> Vec<RawElement> {
        if let [Field::Subnet(subnet)] = self.key.as_slice() {
            let end = |ip: IpAddr| RawElement { key: octets(ip), ends_interval: true, value: None };
            let start = RawElement { key: octets(subnet.network()), ends_interval: false, value: None };
            return std::iter::once(start).chain(successor(subnet.broadcast()).map(end)).collect();
        }
        let value = (!self.value.is_empty()).then(|| self.value.iter().flat_map(Field::bytes).collect());
        vec![RawElement { key: self.key.iter().flat_map(Field::bytes).collect(), ends_interval: false, value }]
    }

    /// As `nft` reads it.
    pub(super) fn text(&self) -> String {
        let join = |fields: &[Field]| fields.iter().map(Field::text).collect::<Vec<_>>().join(" . ");
        if self.value.is_empty() {
            return join(&self.key);
        }
        format!("{} : {}", join(&self.key), join(&self.value))
    }
}

impl Field {
    /// Padded to a multiple of four bytes, as the parts of a concatenation are.
    fn bytes(&self) -> Vec<u8> {
        let (mut bytes, width) = match self {
            Self::Name(name) => (name.as_str().as_bytes().to_vec(), 16),
            Self::Address(ip) => (octets(*ip), 4),
            Self::Subnet(subnet) => (octets(subnet.network()), 4),
            Self::Mac(mac) => (mac.octets().to_vec(), 4),
            Self::Vni(vni) => (vni.get().to_be_bytes()[1..].to_vec(), 4),
            Self::Protocol(protocol) => (vec![number_of(*protocol)], 4),
            Self::Port(port) => (port.to_be_bytes().to_vec(), 4),
            Self::RawAddress(ip) => (ip.octets().to_vec(), 4),
        };
        bytes.resize(bytes.len().next_multiple_of(width), 0);
        bytes
    }

    fn text(&self) -> String {
        match self {
            Self::Name(name) => format!("\"{name}\""),
            Self::Address(ip) => ip.to_string(),
            Self::Subnet(subnet) => subnet.to_string(),
            Self::Mac(mac) => mac.to_string(),
            Self::Vni(vni) => format!("{:#x}", vni.get()),
            Self::Protocol(Protocol::Tcp) => "tcp".to_owned(),
            Self::Protocol(Protocol::Udp) => "udp".to_owned(),
            Self::Port(port) => port.to_string(),
            Self::RawAddress(ip) => format!("{:#034x}", ip.to_bits()),
        }
    }
}

fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn successor(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}
