//! What the lab's network looks like: namespaces, devices, addresses, rules, as values.
//!
//! Pure: turns a number of hosts into the text that `ip -batch` and `nft -f` take; nothing here
//! touches the kernel. Every host is wired as a Vagrant VM under VirtualBox is: `eth0` has the
//! same NAT address as every other host's, `eth1` is on the network between the hosts.
//!
//! ```text
//!  h1  eth1 192.168.56.11 ──┐ weft-fab                        weft-ctl   192.168.56.5 eth1
//!  h2  eth1 192.168.56.12 ──┤ bridge `underlay`, port = host  weft-etcd1 192.168.56.2 eth1 (.3 .4)
//!  h1  eth0 10.0.2.15 ── weft-nat-h1 203.0.113.11 ──┐ weft-out: bridge `wan` 203.0.113.1
//!  h2  eth0 10.0.2.15 ── weft-nat-h2 203.0.113.12 ──┘           lo 198.51.100.10, 2001:db8:100::10
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::netns::NetnsName;

mod script;

pub use script::NamespaceSpec;

/// Most hosts that a lab can have: their underlay addresses end in 10 + number.
pub const MOST_HOSTS: u8 = 240;
/// The network between the hosts.
pub const UNDERLAY: &str = "192.168.56.0/24";
/// Namespace of the bridge between the hosts. Its ports are named after what is plugged in.
pub const FABRIC: &str = "weft-fab";
/// Namespace that stands for the internet.
pub const OUTSIDE: &str = "weft-out";
/// Namespace of the controller.
pub const CONTROL: &str = "weft-ctl";
/// Name of the controller's port on the fabric bridge.
pub const CONTROLLER_PORT: &str = "ctl";
/// The bridge in [`FABRIC`].
pub const UNDERLAY_BRIDGE: &str = "underlay";
/// Table and set of [`FABRIC`] that cut hosts off the store.
pub const STORE_CUT_TABLE: &str = "weft_lab";
/// Address of the controller.
pub const CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 56, 5);
/// Port of the store, etcd's or the controller's.
pub const STORE_PORT: u16 = 2379;
/// The address that every host has on `eth0`.
pub const NAT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Its IPv6 counterpart.
pub const NAT_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd17, 0x625c, 0xf037, 2, 0, 0, 0, 0x15);
/// First hop outside; also the resolver that the hosts are given. Tests may run servers on it.
pub const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// An address beyond the first hop, for servers of tests.
pub const OUTSIDE_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// Its IPv6 counterpart.
pub const OUTSIDE_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10);

/// A host by its number; written `h1` to `h240`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(u8);

/// A word that does not name a host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{word}` names no host: hosts are h1 to h{MOST_HOSTS}")]
pub struct BadHostId {
    word: String,
}

impl HostId {
    /// Host number `number`.
    ///
    /// # Errors
    /// Unless it is 1 to [`MOST_HOSTS`].
    pub fn new(number: u8) -> Result<Self, BadHostId> {
        if (1..=MOST_HOSTS).contains(&number) {
            Ok(Self(number))
        } else {
            let word = format!("h{number}");
            Err(BadHostId { word })
        }
    }

    /// Number of the host, from 1.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// The host's own namespace.
    #[must_use]
    pub fn netns(self) -> NetnsName {
        fixed_name(&self.to_string())
    }

    /// The namespace in which the host's agent keeps the data plane.
    #[must_use]
    pub fn data_plane_netns(self) -> NetnsName {
        fixed_name(&format!("weft-{self}"))
    }

    /// The namespace that translates the host's NAT address.
    #[must_use]
    pub fn nat_netns(self) -> NetnsName {
        fixed_name(&format!("weft-nat-{self}"))
    }

    /// Address on `eth1`, the host's VTEP.
    #[must_use]
    pub fn underlay_address(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 56, 10 + self.0)
    }

    /// The address that the outside sees of this host.
    #[must_use]
    pub fn wan_address(self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 10 + self.0)
    }

    /// The IPv6 address that the outside sees of this host.
    #[must_use]
    pub fn wan_address_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 10 + u16::from(self.0))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "h{}", self.0)
    }
}

impl FromStr for HostId {
    type Err = BadHostId;

    fn from_str(word: &str) -> Result<Self, BadHostId> {
        let number = word
            .strip_prefix('h')
            .filter(|digits| !digits.starts_with('0') && digits.bytes().all(|digit| digit.is_ascii_digit()));
        number
            .and_then(|digits| digits.parse().ok())
            .and_then(|number| Self::new(number).ok())
            .ok_or_else(|| BadHostId { word: word.escape_default().to_string() })
    }
}

impl TryFrom<String> for HostId {
    type Error = BadHostId;

    fn try_from(word: String) -> Result<Self, BadHostId> {
        word.parse()
    }
}

impl From<HostId> for String {
    fn from(host: HostId) -> Self {
        host.to_string()
    }
}

/// A member of etcd by its number, 1 to 3; written `etcd1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtcdMember(u8);

impl EtcdMember {
    /// Member `number`, `None` unless it is 1 to 3.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (1..=3).contains(&number).then_some(Self(number))
    }

    /// The member's namespace.
    #[must_use]
    pub fn netns(self) -> NetnsName {
        fixed_name(&format!("weft-{self}"))
    }

    /// Its address on the underlay.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 56, 1 + self.0)
    }

    /// Where clients reach it.
    #[must_use]
    pub fn client_url(self) -> String {
        format!("http://{}", self.client_address())
    }

    /// The same as an address.
    #[must_use]
    pub fn client_address(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address(), STORE_PORT)
    }

    /// Where the other members reach it.
    #[must_use]
    pub fn peer_url(self) -> String {
        format!("http://{}:2380", self.address())
    }
}

impl fmt::Display for EtcdMember {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "etcd{}", self.0)
    }
}

/// The machines of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Hosts h1..hN.
    pub hosts: Vec<HostId>,
    /// Members of etcd.
    pub members: Vec<EtcdMember>,
    /// MTU of every underlay interface, in bytes.
    pub underlay_mtu: u32,
}

impl Topology {
    /// A lab of `hosts` hosts and `members` members of etcd, out-of-range numbers left out.
    #[must_use]
    pub fn new(hosts: u8, members: u8, underlay_mtu: u32) -> Self {
        Self {
            hosts: (1..=hosts).filter_map(|n| HostId::new(n).ok()).collect(),
            members: (1..=members).filter_map(EtcdMember::new).collect(),
            underlay_mtu,
        }
    }

    /// What `--etcd` of the agents gets: the members of etcd, or the controller where there are none.
    #[must_use]
    pub fn etcd_urls(&self) -> String {
        if self.members.is_empty() {
            return format!("http://{}", self.controller_store());
        }
        let urls: Vec<_> = self.members.iter().map(|m| m.client_url()).collect();
        urls.join(",")
    }

    /// Where the controller serves the store when there is no etcd.
    #[must_use]
    pub fn controller_store(&self) -> SocketAddrV4 {
        SocketAddrV4::new(CONTROLLER_ADDRESS, STORE_PORT)
    }

    /// Every namespace that the lab makes itself, in groups: a group's devices reach into the
    /// namespaces of later groups, so groups are configured one after the other and the
    /// namespaces of one group at the same time.
    #[must_use]
    pub fn namespaces(&self) -> [Vec<NamespaceSpec>; 3] {
        script::namespaces(self)
    }

    /// The namespaces that the agents make for their data planes.
    #[must_use]
    pub fn data_plane_namespaces(&self) -> Vec<NetnsName> {
        self.hosts.iter().map(|host| host.data_plane_netns()).collect()
    }
}

pub(crate) fn fixed_name(name: &str) -> NetnsName {
    name.parse().expect("names built from a fixed text and a number are well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_parse_back_to_themselves_and_nothing_else_does() {
        for number in [1, 9, 10, MOST_HOSTS] {
            let host = HostId::new(number).unwrap();
            assert_eq!(host.to_string().parse(), Ok(host));
        }
        for word in ["h0", "h01", "h241", "h+1", "h", "1", "H1", "h1 "] {
            assert!(word.parse::<HostId>().is_err(), "{word}");
        }
    }

    #[test]
    fn no_two_machines_share_an_underlay_address_or_a_namespace() {
        let topology = Topology::new(MOST_HOSTS, 3, 1500);
        let mut addresses: Vec<_> = topology
            .hosts
            .iter()
            .map(|host| host.underlay_address())
            .chain(topology.members.iter().map(|member| member.address()))
            .chain([CONTROLLER_ADDRESS])
            .collect();
        let mut names: Vec<_> = topology
            .namespaces()
            .into_iter()
            .flatten()
            .map(|namespace| namespace.name)
            .chain(topology.data_plane_namespaces())
            .collect();
        let (address_count, name_count) = (addresses.len(), names.len());

        addresses.sort();
        addresses.dedup();
        names.sort();
        names.dedup();

        assert_eq!((addresses.len(), names.len()), (address_count, name_count));
    }
}
