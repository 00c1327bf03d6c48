//! Messages of the kernel as plain values: devices, forwarding and neighbour rows, addresses, routes, rules.
//!
//! Pure. Only what Weft looks at is read; see [`attribute`] for why nothing here can fail. What the values mean for the
//! objects of a network is said in `objects`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::libc;
use weft_overlay::id::Mac;

use self::attribute::{Attributes, array_at, be16_at, ip, u8_at, u16_at, u32_at};

pub(crate) mod attribute;
pub(crate) mod link;

/// A row of a forwarding or neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// AF_BRIDGE, AF_INET or AF_INET6.
    pub(crate) family: u8,
    /// The device that it is a row of, or the port that it points to.
    pub(crate) index: u32,
    /// NUD_* bits.
    pub(crate) state: u16,
    /// NTF_* bits.
    pub(crate) flags: u8,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) destination: Option<IpAddr>,
    /// Index of the bridge whose row it is; rows of a device itself have none.
    pub(crate) bridge: Option<u32>,
    /// It belongs to one VLAN, sends to another port or VNI, or uses a next hop object: nothing that we write.
    pub(crate) special: bool,
}

impl Row {
    /// Reads the payload of RTM_NEWNEIGH or RTM_DELNEIGH: `struct ndmsg` and attributes.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        const NEXT_HOP: u16 = 13;
        let mut row = Self {
            family: u8_at(payload, 0)?,
            index: u32_at(payload, 4)?,
            state: u16_at(payload, 8)?,
            flags: u8_at(payload, 10)?,
            mac: None,
            destination: None,
            bridge: None,
            special: false,
        };
        for (kind, value) in Attributes(payload.get(12..)?) {
            match kind {
                libc::NDA_LLADDR => row.mac = array_at(value, 0),
                libc::NDA_DST => row.destination = ip(value),
                libc::NDA_MASTER => row.bridge = u32_at(value, 0),
                libc::NDA_VLAN => row.special |= u16_at(value, 0) != Some(0),
                libc::NDA_PORT | libc::NDA_VNI | libc::NDA_SRC_VNI | NEXT_HOP => row.special = true,
                _ => {}
            }
        }
        Some(row)
    }
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) local: IpAddr,
    pub(crate) prefix: u8,
    /// IFA_F_* bits.
    pub(crate) flags: u32,
    /// RT_SCOPE_*.
    pub(crate) scope: u8,
}

impl Address {
    /// Reads the payload of RTM_NEWADDR or RTM_DELADDR: `struct ifaddrmsg` and attributes.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (mut local, mut peer, mut flags) = (None, None, u32::from(u8_at(payload, 2)?));
        for (kind, value) in Attributes(payload.get(8..)?) {
            match kind {
                libc::IFA_LOCAL => local = ip(value),
                libc::IFA_ADDRESS => peer = ip(value),
                // IFA_FLAGS, the 32 bits that the header has no room for.
                8 => flags = u32_at(value, 0)?,
                _ => {}
            }
        }
        Some(Self {
            index: u32_at(payload, 4)?,
            local: local.or(peer)?,
            prefix: u8_at(payload, 1)?,
            flags,
            scope: u8_at(payload, 3)?,
        })
    }

    pub(crate) fn network(&self) -> Option<IpNetwork> {
        IpNetwork::new(self.local, self.prefix).ok()
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNetwork,
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    /// RTN_*.
    pub(crate) kind: u8,
    pub(crate) device: Option<u32>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
    /// The MTU metric, in bytes.
    pub(crate) mtu: Option<u32>,
    /// RTM_F_CLONED: an entry of a cache, not of a table.
    pub(crate) cached: bool,
}

impl Route {
    /// Reads the payload of RTM_NEWROUTE or RTM_DELROUTE: `struct rtmsg` and attributes.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        const RTAX_MTU: u16 = 2;
        let family = i32::from(u8_at(payload, 0)?);
        let mut destination = match family {
            libc::AF_INET => IpAddr::from([0; 4]),
            libc::AF_INET6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let prefix = u8_at(payload, 1)?;
        let mut table = u32::from(u8_at(payload, 4)?);
        let (mut device, mut source, mut gateway, mut mtu) = (None, None, None, None);
        for (kind, value) in Attributes(payload.get(12..)?) {
            match kind {
                libc::RTA_DST => destination = ip(value)?,
                libc::RTA_OIF => device = u32_at(value, 0),
                libc::RTA_PREFSRC => source = ip(value),
                libc::RTA_GATEWAY => gateway = ip(value),
                libc::RTA_TABLE => table = u32_at(value, 0)?,
                libc::RTA_METRICS => {
                    mtu = Attributes(value).find(|(kind, _)| *kind == RTAX_MTU).and_then(|(_, v)| u32_at(v, 0));
                }
                // Of a route with several next hops the first one's device stands for all.
                libc::RTA_MULTIPATH if device.is_none() => device = u32_at(value, 4),
                _ => {}
            }
        }
        Some(Self {
            destination: IpNetwork::new(destination, prefix).ok()?,
            table,
            protocol: u8_at(payload, 5)?,
            kind: u8_at(payload, 7)?,
            device,
            source,
            gateway,
            mtu,
            cached: u32_at(payload, 8)? & libc::RTM_F_CLONED != 0,
        })
    }
}

/// A routing rule, as far as ours differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Rule {
    pub(crate) action: u8,
    pub(crate) preference: u32,
    pub(crate) protocol: u8,
    pub(crate) uids: Option<(u32, u32)>,
    pub(crate) ip_protocol: Option<u8>,
    pub(crate) destination_ports: Option<(u16, u16)>,
    /// It concerns only what the host itself sends.
    pub(crate) local: bool,
    /// It selects by something else too, or negates.
    pub(crate) narrower: bool,
}

impl Rule {
    /// Reads the payload of RTM_NEWRULE or RTM_DELRULE: `struct fib_rule_hdr` and attributes.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        const IIF_NAME: u16 = 3;
        const PRIORITY: u16 = 6;
        const TABLE: u16 = 15;
        const SUPPRESS_PREFIX: u16 = 14;
        const UID_RANGE: u16 = 20;
        const PROTOCOL: u16 = 21;
        const IP_PROTO: u16 = 22;
        const DPORT_RANGE: u16 = 24;
        const DPORT_MASK: u16 = 29;
        const INVERT: u32 = 2;
        let selects = u8_at(payload, 1)? != 0 || u8_at(payload, 2)? != 0 || u8_at(payload, 3)? != 0;
        let mut rule = Self {
            action: u8_at(payload, 7)?,
            narrower: selects || u32_at(payload, 8)? & INVERT != 0,
            ..Self::default()
        };
        for (kind, value) in Attributes(payload.get(12..)?) {
            match kind {
                IIF_NAME if value == b"lo\0" => rule.local = true,
                PRIORITY => rule.preference = u32_at(value, 0)?,
                UID_RANGE => rule.uids = Some((u32_at(value, 0)?, u32_at(value, 4)?)),
                PROTOCOL => rule.protocol = u8_at(value, 0)?,
                IP_PROTO => rule.ip_protocol = u8_at(value, 0),
                DPORT_RANGE => rule.destination_ports = Some((u16_at(value, 0)?, u16_at(value, 2)?)),
                TABLE | SUPPRESS_PREFIX => {}
                // Kernels from 6.15 add the mask, full where none was given.
                DPORT_MASK if u16_at(value, 0) == Some(u16::MAX) => {}
                _ => rule.narrower = true,
            }
        }
        Some(rule)
    }
}

/// What a notification about settings is about: a device by its index, or a whole namespace.
pub(crate) fn configured_device(payload: &[u8]) -> Option<u32> {
    // NETCONFA_IFINDEX, behind `struct netconfmsg`; -1 stands for all devices, -2 for those to come.
    let (_, value) = Attributes(payload.get(4..)?).find(|(kind, _)| *kind == 1)?;
    attribute::i32_at(value, 0).and_then(|index| u32::try_from(index).ok())
}

/// A MAC address that can name a row: multicast and all-zero ones cannot.
pub(crate) fn unicast(octets: [u8; 6]) -> Option<Mac> {
    Mac::try_from(octets).ok()
}

/// A port number in network byte order.
pub(crate) fn port(value: &[u8]) -> Option<u16> {
    be16_at(value, 0)
}

#[cfg(test)]
mod tests;
