//! What single notifications say. Pure, but for remembering the devices that they speak of by index.

use nix::libc;
use weft_overlay::{
    id::NetworkId,
    kernel::{Family, NetworkObject, NodeObject, ObjectId, Table},
};

use super::{Doubt, Report};
use crate::kernel::{
    decode::{
        Address, Route, Row, configured_device,
        link::{Kind, Link},
    },
    mark::{ROUTE_PROTOCOL, Role},
    objects::Devices,
};

/// Where a notification comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Host,
    DataPlane,
    Nft(Table),
}

impl Source {
    pub(super) const HOST_GROUPS: [u32; 9] = [
        libc::RTNLGRP_LINK,
        libc::RTNLGRP_IPV4_IFADDR,
        libc::RTNLGRP_IPV6_IFADDR,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV6_ROUTE,
        libc::RTNLGRP_IPV4_RULE,
        libc::RTNLGRP_IPV6_RULE,
        libc::RTNLGRP_IPV4_NETCONF,
        libc::RTNLGRP_IPV6_NETCONF,
    ];
    pub(super) const DATA_PLANE_GROUPS: [u32; 4] =
        [libc::RTNLGRP_LINK, libc::RTNLGRP_NEIGH, libc::RTNLGRP_IPV4_NETCONF, libc::RTNLGRP_IPV6_NETCONF];
    pub(super) const NFT_GROUPS: [u32; 1] = [7];
}

/// NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN: the end of every transaction.
const NFT_GENERATION: u16 = 10 << 8 | 15;

#[derive(Debug)]
pub(super) struct Interpreter {
    devices: Devices,
}

impl Interpreter {
    pub(super) fn new(devices: Devices) -> Self {
        Self { devices }
    }

    pub(super) fn interpret(&mut self, source: Source, kind: u16, payload: &[u8]) -> Vec<Doubt> {
        match (source, kind) {
            (Source::Nft(table), NFT_GENERATION) => vec![Doubt::Firewall(table)],
            (Source::Nft(_), _) => Vec::new(),
            (Source::DataPlane, libc::RTM_NEWLINK) => self.data_plane_link(payload),
            (Source::DataPlane, libc::RTM_DELLINK) => self.data_plane_link_gone(payload),
            (Source::DataPlane, libc::RTM_NEWNEIGH) => self.row(payload).into_iter().collect(),
            (Source::DataPlane, libc::RTM_DELNEIGH) => self.row_gone(payload).into_iter().collect(),
            (Source::DataPlane, libc::RTM_NEWNETCONF | libc::RTM_DELNETCONF) => configured_device(payload)
                .is_none()
                .then(|| changed(NodeObject::DataPlaneSettings))
                .into_iter()
                .collect(),
            (Source::DataPlane, _) => Vec::new(),
            (Source::Host, libc::RTM_NEWLINK) => self.host_link(payload),
            (Source::Host, libc::RTM_DELLINK) => self.host_link_gone(payload),
            (Source::Host, libc::RTM_NEWADDR | libc::RTM_DELADDR) => self.address(kind, payload),
            (Source::Host, libc::RTM_NEWROUTE | libc::RTM_DELROUTE) => vec![self.route(kind, payload)],
            (Source::Host, libc::RTM_NEWRULE | libc::RTM_DELRULE) => vec![rule(payload)],
            (Source::Host, libc::RTM_NEWNETCONF | libc::RTM_DELNETCONF) => match configured_device(payload) {
                None => vec![changed(NodeObject::HostForwarding)],
                Some(index) => self.devices.leg_network(index).map(leg_changed).into_iter().collect(),
            },
            (Source::Host, _) => Vec::new(),
        }
    }

    fn data_plane_link(&mut self, payload: &[u8]) -> Vec<Doubt> {
        let Some(link) = Link::decode(payload) else { return vec![Doubt::Everything] };
        if is_port_message(payload) {
            return self.port(link.index, |known| known.update_port(payload)).into_iter().collect();
        }
        let before = self.devices.remove(link.index);
        let id_before = before.as_ref().and_then(|before| self.devices.object_of(before));
        self.devices.put(link.clone());
        let id = self.devices.object_of(&link);
        let mut doubts = Vec::new();
        if let Some(gone) = id_before.filter(|before| Some(before) != id.as_ref()) {
            doubts.push(Doubt::Object(gone, Report::Absent));
        }
        if let Some(id @ ObjectId::Network(network, _)) = &id {
            doubts.extend(before.filter(|before| takes_along(before, &link)).map(|_| Doubt::Network(*network)));
            doubts.push(Doubt::Object(id.clone(), self.report(id)));
        }
        doubts
    }

    fn data_plane_link_gone(&mut self, payload: &[u8]) -> Vec<Doubt> {
        let Some(link) = Link::decode(payload) else { return vec![Doubt::Everything] };
        if is_port_message(payload) {
            // It left its bridge.
            let leave = |known: &mut Link| (known.port, known.master) = (None, None);
            return self.port(link.index, leave).into_iter().collect();
        }
        let known = self.devices.remove(link.index).unwrap_or(link);
        let Some(ObjectId::Network(network, object)) = self.devices.object_of(&known) else { return Vec::new() };
        let alone = matches!(object, NetworkObject::Port(_));
        let gone = Doubt::Object(ObjectId::Network(network, object), Report::Absent);
        if alone { vec![gone] } else { vec![gone, Doubt::Network(network)] }
    }

    /// A device as a port of a bridge has changed.
    fn port(&mut self, index: u32, change: impl FnOnce(&mut Link)) -> Option<Doubt> {
        let mut link = self.devices.by_index(index)?.clone();
        change(&mut link);
        let id = self.devices.object_of(&link)?;
        self.devices.put(link);
        let report = self.report(&id);
        Some(Doubt::Object(id, report))
    }

    fn row(&self, payload: &[u8]) -> Option<Doubt> {
        let row = Row::decode(payload)?;
        let bridged = i32::from(row.family) == libc::AF_BRIDGE;
        let object = if bridged { self.devices.forwarding_row(&row) } else { self.devices.neighbour(&row) };
        object.map(|(id, object)| Doubt::Object(id, Report::Is(object)))
    }

    fn row_gone(&self, payload: &[u8]) -> Option<Doubt> {
        let row = Row::decode(payload)?;
        let bridged = i32::from(row.family) == libc::AF_BRIDGE;
        let id = if bridged { self.devices.forwarding_id(&row) } else { self.devices.neighbour_id(&row) };
        id.map(|id| Doubt::Object(id, Report::Absent))
    }

    fn host_link(&mut self, payload: &[u8]) -> Vec<Doubt> {
        let Some(link) = Link::decode(payload) else { return vec![Doubt::Host] };
        let before = self.devices.remove_host(link.index);
        self.devices.put_host(link.clone());
        let mut doubts = Vec::new();
        match (before.as_ref().and_then(leg_of), leg_of(&link)) {
            (None, None) => doubts.push(Doubt::Host),
            (was, is) => {
                doubts.extend([was, is].into_iter().flatten().map(leg_changed));
                let moved = before.is_none_or(|before| takes_along(&before, &link));
                doubts.extend(is.filter(|_| moved).map(Doubt::Network));
            }
        }
        doubts
    }

    fn host_link_gone(&mut self, payload: &[u8]) -> Vec<Doubt> {
        let Some(link) = Link::decode(payload) else { return vec![Doubt::Host] };
        match self.devices.remove_host(link.index).as_ref().and_then(leg_of) {
            Some(network) => vec![leg_changed(network), Doubt::Network(network)],
            None if matches!(link.kind, Kind::Vxlan(_)) => vec![Doubt::Host, Doubt::Obstruction],
            None => vec![Doubt::Host],
        }
    }

    /// With an IPv6 address, the kernel silently takes the preferred source from the routes that had it
    /// (`fib6_remove_prefsrc` in net/ipv6/route.c); of an IPv4 route that goes for the same reason it tells.
    fn address(&self, kind: u16, payload: &[u8]) -> Vec<Doubt> {
        match Address::decode(payload).and_then(|address| self.devices.leg_address(&address)) {
            Some((id, _)) if kind == libc::RTM_DELADDR => {
                let routes = id.network().filter(|_| is_ipv6(payload)).map(Doubt::Network);
                [Doubt::Object(id, Report::Absent)].into_iter().chain(routes).collect()
            }
            Some((id, object)) => vec![Doubt::Object(id, Report::Is(object))],
            None => vec![Doubt::Host],
        }
    }

    fn route(&self, kind: u16, payload: &[u8]) -> Doubt {
        let route = Route::decode(payload).filter(|route| route.protocol == ROUTE_PROTOCOL);
        match route.and_then(|route| self.devices.leg_route(&route)) {
            Some((id, _)) if kind == libc::RTM_DELROUTE => Doubt::Object(id, Report::Absent),
            Some((id, object)) => Doubt::Object(id, Report::Is(object)),
            None => Doubt::Host,
        }
    }

    /// How a device is now. A leg has two ends, of which one notification tells one.
    fn report(&self, id: &ObjectId) -> Report {
        match id {
            ObjectId::Network(_, NetworkObject::Leg) | ObjectId::Node(_) => Report::Changed,
            ObjectId::Network(network, object) => {
                self.devices.device(*network, object).map_or(Report::Changed, Report::Is)
            }
        }
    }
}

/// A change that empties tables: another MAC, or down. Up again is told apart from it by nobody, so it counts too.
fn takes_along(before: &Link, now: &Link) -> bool {
    let port = matches!(Role::of(&now.name), Some(Role::Port(_)));
    !port && (before.mac != now.mac || before.up != now.up || before.no_arp != now.no_arp)
}

fn leg_of(link: &Link) -> Option<NetworkId> {
    match Role::of(&link.name) {
        Some(Role::Leg(network)) => Some(network),
        _ => None,
    }
}

fn leg_changed(network: NetworkId) -> Doubt {
    Doubt::Object(ObjectId::Network(network, NetworkObject::Leg), Report::Changed)
}

fn rule(payload: &[u8]) -> Doubt {
    let family = match payload.first().map(|family| i32::from(*family)) {
        Some(libc::AF_INET6) => Family::Ipv6,
        _ => Family::Ipv4,
    };
    changed(NodeObject::SendGuard(family))
}

fn changed(object: NodeObject) -> Doubt {
    Doubt::Object(ObjectId::Node(object), Report::Changed)
}

fn is_ipv6(payload: &[u8]) -> bool {
    payload.first().is_some_and(|family| i32::from(*family) == libc::AF_INET6)
}

/// Notifications about ports of bridges have the family AF_BRIDGE and few attributes.
fn is_port_message(payload: &[u8]) -> bool {
    payload.first().is_some_and(|family| i32::from(*family) == libc::AF_BRIDGE)
}
