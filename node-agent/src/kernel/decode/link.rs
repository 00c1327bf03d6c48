//! Devices as RTM_NEWLINK describes them.

use std::net::IpAddr;

use nix::libc;
use weft_overlay::id::{EndpointId, Mac, NetworkId};

use super::{
    attribute::{Attributes, array_at, i32_at, ip, text, u8_at, u16_at, u32_at},
    port, unicast,
};
use crate::kernel::mark::{GRAVE_GROUP, GROUP, Role, parse_alias};

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) no_arp: bool,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) group: u32,
    pub(crate) alias: Option<String>,
    /// Index of the bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// Index of the other end of a veth, in whichever namespace that is.
    pub(crate) peer: Option<u32>,
    pub(crate) kind: Kind,
    pub(crate) port: Option<BridgePort>,
    pub(crate) inet: Inet,
    /// Absent where IPv6 is switched off in the kernel.
    pub(crate) inet6: Option<Inet6>,
}

/// What sort of device it is, with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bridge(BridgeOptions),
    Vxlan(VxlanOptions),
    Veth,
    Other(String),
}

/// Options of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BridgeOptions {
    pub(crate) stp: bool,
    pub(crate) vlan_filtering: bool,
    pub(crate) multicast_snooping: bool,
    pub(crate) group_forward_mask: u16,
    /// One of the bridge's own nf_call_* switches is on.
    pub(crate) calls_netfilter: bool,
}

/// Options of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct VxlanOptions {
    pub(crate) vni: u32,
    pub(crate) local: Option<IpAddr>,
    pub(crate) port: u16,
    /// The underlay device that it is bound to.
    pub(crate) device: Option<u32>,
    pub(crate) learning: bool,
    pub(crate) udp_checksum: bool,
    pub(crate) zero_checksum6: bool,
    /// External control, ARP proxying, miss notifications, group policy or a multicast group: nothing that we use.
    pub(crate) extras: bool,
}

/// Flags of a port of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BridgePort {
    pub(crate) learning: bool,
    pub(crate) suppresses_neighbours: bool,
    pub(crate) isolated: bool,
    /// Unicast, multicast and broadcast are flooded to it.
    pub(crate) floods: bool,
}

/// IPv4 settings of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Inet {
    pub(crate) accept_redirects: i32,
    pub(crate) send_redirects: i32,
    pub(crate) rp_filter: i32,
    pub(crate) arp_announce: i32,
    pub(crate) arp_ignore: i32,
    pub(crate) route_localnet: i32,
}

/// IPv6 settings of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Inet6 {
    pub(crate) accept_ra: i32,
    pub(crate) accept_redirects: i32,
    pub(crate) autoconf: i32,
    pub(crate) disabled: i32,
    pub(crate) keep_addr_on_down: i32,
    pub(crate) addr_gen_mode: u8,
}

impl Default for Kind {
    fn default() -> Self {
        Self::Other("unknown".to_owned())
    }
}

impl Kind {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Vxlan(_) => "vxlan",
            Self::Veth => "veth",
            Self::Other(name) => name,
        }
    }
}

impl Link {
    /// Reads the payload of RTM_NEWLINK or RTM_DELLINK: `struct ifinfomsg` and attributes.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let flags = i32_at(payload, 8)?;
        let mut link = Self {
            index: u32_at(payload, 4)?,
            up: flags & libc::IFF_UP != 0,
            no_arp: flags & libc::IFF_NOARP != 0,
            ..Self::default()
        };
        for (kind, value) in Attributes(payload.get(16..)?) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_ADDRESS => link.mac = array_at(value, 0).and_then(unicast),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                libc::IFLA_GROUP => link.group = u32_at(value, 0)?,
                libc::IFLA_IFALIAS => link.alias = Some(text(value)),
                libc::IFLA_MASTER => link.master = u32_at(value, 0),
                libc::IFLA_LINK => link.peer = u32_at(value, 0),
                libc::IFLA_LINKINFO => link.decode_kind(value),
                libc::IFLA_AF_SPEC => link.decode_families(value),
                _ => {}
            }
        }
        Some(link)
    }

    /// Takes over what a notification about a port of a bridge tells: family AF_BRIDGE, with IFLA_PROTINFO.
    ///
    /// One about the bridge itself has none, and tells nothing new.
    pub(crate) fn update_port(&mut self, payload: &[u8]) {
        for (kind, value) in Attributes(payload.get(16..).unwrap_or_default()) {
            match kind {
                libc::IFLA_MASTER => self.master = u32_at(value, 0),
                libc::IFLA_PROTINFO => self.port = Some(BridgePort::decode(value)),
                _ => {}
            }
        }
    }

    /// What it is of ours, if it carries our mark.
    pub(crate) fn role(&self) -> Option<Role> {
        Role::of(&self.name).filter(|_| self.is_marked())
    }

    /// Whether it carries our mark and is in use.
    pub(crate) fn is_marked(&self) -> bool {
        let named = self.alias.as_deref().and_then(parse_alias).is_some();
        self.group != GRAVE_GROUP && (named || self.group == GROUP)
    }

    /// Whose it is, from its alias.
    pub(crate) fn owner(&self) -> Option<(NetworkId, Option<EndpointId>)> {
        self.alias.as_deref().and_then(parse_alias)
    }

    /// A short description for people.
    pub(crate) fn description(&self) -> String {
        let alias = self.alias.as_deref().map(|a| format!(" with alias {a:?}")).unwrap_or_default();
        format!("{} device {}{alias}", self.kind.name(), self.name)
    }

    fn decode_kind(&mut self, value: &[u8]) {
        let (mut name, mut options, mut port_of, mut port_options) = (String::new(), None, None, None);
        for (kind, value) in Attributes(value) {
            match kind {
                libc::IFLA_INFO_KIND => name = text(value),
                libc::IFLA_INFO_DATA => options = Some(value),
                libc::IFLA_INFO_SLAVE_KIND => port_of = Some(text(value)),
                libc::IFLA_INFO_SLAVE_DATA => port_options = Some(value),
                _ => {}
            }
        }
        let options = options.unwrap_or_default();
        self.kind = match name.as_str() {
            "bridge" => Kind::Bridge(BridgeOptions::decode(options)),
            "vxlan" => Kind::Vxlan(VxlanOptions::decode(options)),
            "veth" => Kind::Veth,
            _ => Kind::Other(name),
        };
        self.port = port_options.filter(|_| port_of.as_deref() == Some("bridge")).map(BridgePort::decode);
    }

    fn decode_families(&mut self, value: &[u8]) {
        for (family, value) in Attributes(value) {
            match i32::from(family) {
                libc::AF_INET => self.inet = Inet::decode(value),
                libc::AF_INET6 => self.inet6 = Some(Inet6::decode(value)),
                _ => {}
            }
        }
    }
}

fn on(value: &[u8]) -> bool {
    value.first().is_some_and(|v| *v != 0)
}

impl BridgeOptions {
    /// IFLA_BR_* attributes; those of a kernel built without a feature are absent, which is as good as off.
    fn decode(value: &[u8]) -> Self {
        let mut options = Self::default();
        for (kind, value) in Attributes(value) {
            match kind {
                5 => options.stp = u32_at(value, 0) != Some(0),
                7 => options.vlan_filtering = on(value),
                9 => options.group_forward_mask = u16_at(value, 0).unwrap_or(0),
                23 => options.multicast_snooping = on(value),
                36..=38 => options.calls_netfilter |= on(value),
                _ => {}
            }
        }
        options
    }
}

impl VxlanOptions {
    /// IFLA_VXLAN_* attributes.
    fn decode(value: &[u8]) -> Self {
        let mut options = Self::default();
        for (kind, value) in Attributes(value) {
            match kind {
                1 => options.vni = u32_at(value, 0).unwrap_or(0),
                3 => options.device = u32_at(value, 0).filter(|index| *index != 0),
                4 | 17 => options.local = ip(value),
                7 => options.learning = on(value),
                15 => options.port = port(value).unwrap_or(0),
                18 => options.udp_checksum = on(value),
                19 | 20 => options.zero_checksum6 |= on(value),
                // Proxy, route short circuit, L2 and L3 misses, external control.
                11..=14 | 25 => options.extras |= on(value),
                // A multicast group, group policy and the generic protocol extension have no value that is off.
                2 | 16 | 23 | 27 => options.extras = true,
                _ => {}
            }
        }
        options
    }
}

impl BridgePort {
    /// IFLA_BRPORT_* attributes.
    fn decode(value: &[u8]) -> Self {
        let mut port = Self { floods: true, ..Self::default() };
        for (kind, value) in Attributes(value) {
            match kind {
                8 => port.learning = on(value),
                9 | 27 | 30 => port.floods &= on(value),
                32 => port.suppresses_neighbours = on(value),
                33 => port.isolated = on(value),
                _ => {}
            }
        }
        port
    }
}

impl Inet {
    /// IFLA_INET_CONF: an array of IPV4_DEVCONF_* settings, the first of which is number 1.
    fn decode(value: &[u8]) -> Self {
        let settings = Attributes(value).find(|(kind, _)| *kind == 1).map(|(_, v)| v).unwrap_or_default();
        let setting = |number: usize| i32_at(settings, (number - 1) * 4).unwrap_or(0);
        Self {
            accept_redirects: setting(4),
            send_redirects: setting(6),
            rp_filter: setting(8),
            arp_announce: setting(18),
            arp_ignore: setting(19),
            route_localnet: setting(26),
        }
    }
}

impl Inet6 {
    /// IFLA_INET6_CONF: an array of DEVCONF_* settings, the first of which is number 0; and IFLA_INET6_ADDR_GEN_MODE.
    fn decode(value: &[u8]) -> Self {
        let find = |wanted: u16| Attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
        let settings = find(2).unwrap_or_default();
        let setting = |number: usize| i32_at(settings, number * 4).unwrap_or(0);
        Self {
            accept_ra: setting(3),
            accept_redirects: setting(4),
            autoconf: setting(5),
            disabled: setting(26),
            keep_addr_on_down: setting(42),
            addr_gen_mode: find(8).and_then(|v| u8_at(v, 0)).unwrap_or(0),
        }
    }
}
