//! Facts of a host that Weft depends on but does not own: addresses, routes, MTUs, who has a UDP port, kernel features.
//!
//! Only reads; what is tried out is tried in a namespace that is thrown away.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use nix::{errno::Errno, libc};
use weft_overlay::{
    id::IfName,
    kernel::{Family, ObserveError},
    model::NodeRoute,
};

pub use self::features::{Features, check_features};
use super::{
    decode::{Address, Route, link::Link},
    encode::{find_route, link::LinkRequest, list_addresses, list_all_routes},
    mark::{HELD_PROTOCOL, ROUTE_PROTOCOL, Role},
    netlink::Channel,
    observe::{found_or_missing, list_links},
    observe_error, settings,
};
use crate::netns::Namespace;

mod features;

/// An address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// The interface's name.
    pub ifname: String,
    /// The address with its prefix length.
    pub address: IpNetwork,
    /// How far it is valid.
    pub scope: AddressScope,
    /// The interface's MTU, in bytes.
    pub mtu: u32,
    /// The interface is administratively up.
    pub up: bool,
}

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressScope {
    /// Everywhere, or within a site.
    Global,
    /// On its link only.
    Link,
    /// On this host only.
    Host,
}

/// The switches of br_netfilter in a namespace; absent where the module is not loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeNetfilter {
    /// `bridge-nf-call-iptables`: bridged IPv4 passes the host's filters.
    pub iptables: Option<bool>,
    /// `bridge-nf-call-ip6tables`.
    pub ip6tables: Option<bool>,
}

/// Every address of a namespace but those of legs.
///
/// # Errors
/// When the kernel cannot be read.
pub fn addresses(namespace: &Namespace) -> Result<Vec<HostAddress>, ObserveError> {
    let mut channel = Channel::new(namespace.clone());
    let links = links_by_index(&mut channel)?;
    let read = channel.dump(&list_addresses(None), |_, payload| Address::decode(payload));
    let read = read.map_err(observe_error("addresses", namespace))?;
    let described = |address: &Address| {
        let link = links.get(&address.index).filter(|link| !is_leg(link))?;
        Some(HostAddress {
            ifname: link.name.clone(),
            address: address.network()?,
            scope: scope(address.scope),
            mtu: link.mtu,
            up: link.up,
        })
    };
    Ok(read.iter().filter_map(described).collect())
}

/// Where a namespace's own routes lead, in every table but the local one: no default routes, no link-local ones, no
/// multicast, none of ours.
///
/// # Errors
/// When the kernel cannot be read.
pub fn routes(namespace: &Namespace) -> Result<Vec<NodeRoute>, ObserveError> {
    let mut channel = Channel::new(namespace.clone());
    let links = links_by_index(&mut channel)?;
    let mut found = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let read = channel.dump(&list_all_routes(family), |_, payload| Route::decode(payload));
        for route in read.map_err(observe_error("routes", namespace))?.iter().filter(|route| is_of_interest(route)) {
            let link = route.device.and_then(|index| links.get(&index));
            if link.is_some_and(is_leg) {
                continue;
            }
            let dev = link.map_or_else(|| "none".to_owned(), |link| link.name.clone());
            found.push(NodeRoute { destination: route.destination, dev });
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The largest packet, in bytes, that takes the route to an address: the smaller of the route's and its device's MTU.
///
/// What path MTU discovery has learnt does not count: it expires, and the overlay's MTU must not follow it up and down.
///
/// # Errors
/// When there is no route (ENETUNREACH), or the kernel cannot be read.
pub fn route_mtu(namespace: &Namespace, to: IpAddr) -> Result<u32, ObserveError> {
    let mut channel = Channel::new(namespace.clone());
    let answer = channel.ask(find_route(to));
    let payload = answer.map_err(|refusal| observe_error("the route to an address", namespace)(refusal.cause))?;
    let unreachable = || observe_error("the route to an address", namespace)(Errno::ENETUNREACH.into());
    let route = Route::decode(&payload).ok_or_else(unreachable)?;
    let index = route.device.ok_or_else(unreachable)?;
    let link = find_link(&mut channel, LinkRequest::indexed(index))?.ok_or_else(unreachable)?;
    Ok(route.mtu.filter(|mtu| *mtu > 0).map_or(link.mtu, |mtu| mtu.min(link.mtu)))
}

/// Whether a namespace has an interface of this name.
///
/// # Errors
/// When the namespace cannot be entered or read.
pub fn interface_exists(namespace: &Namespace, name: &IfName) -> Result<bool, ObserveError> {
    let mut channel = Channel::new(namespace.clone());
    Ok(find_link(&mut channel, LinkRequest::named(name.as_str()))?.is_some())
}

/// The switches of br_netfilter.
///
/// # Errors
/// When the namespace cannot be entered or its settings cannot be read.
pub fn bridge_netfilter(namespace: &Namespace) -> Result<BridgeNetfilter, ObserveError> {
    let read = || {
        let switch = |name: &str| settings::read(&format!("bridge/{name}")).map(|value| value.map(|v| v != 0));
        Ok(BridgeNetfilter {
            iptables: switch("bridge-nf-call-iptables")?,
            ip6tables: switch("bridge-nf-call-ip6tables")?,
        })
    };
    let outcome = namespace.run(read).map_err(io::Error::other).and_then(|read| read);
    outcome.map_err(observe_error("settings of br_netfilter", namespace))
}

/// Who has a UDP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortUser {
    /// A process. Nobody else can have the port beside it.
    Process {
        /// Its name.
        name: String,
        /// Its id.
        pid: String,
    },
    /// Nobody whom /proc shows: a tunnel device of the kernel. VXLAN devices share the port.
    Unseen,
}

impl fmt::Display for PortUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid } => write!(f, "process {name} (pid {pid})"),
            Self::Unseen => f.write_str("no visible process: a tunnel device of the kernel"),
        }
    }
}

/// Who has a UDP port in a namespace, as people say it. Empty when nobody has.
///
/// Sockets of the kernel's own tunnels count; which device they belong to cannot be told.
///
/// # Errors
/// When the namespace cannot be entered or /proc is not there.
pub fn udp_port_users(namespace: &Namespace, port: u16) -> io::Result<Vec<PortUser>> {
    let read = || -> io::Result<Vec<u64>> {
        let mut inodes = Vec::new();
        for table in ["udp", "udp6"] {
            // Without IPv6 in the kernel the second is not there.
            let listed = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
            inodes.extend(listed.lines().filter_map(|line| socket_on(line, port)));
        }
        Ok(inodes)
    };
    let inodes = namespace.run(read).map_err(io::Error::other)??;
    let mut users: Vec<PortUser> = inodes.iter().map(|inode| user_of(*inode)).collect();
    users.sort();
    users.dedup();
    Ok(users)
}

fn links_by_index(channel: &mut Channel) -> Result<BTreeMap<u32, Link>, ObserveError> {
    Ok(list_links(channel)?.into_iter().map(|link| (link.index, link)).collect())
}

fn find_link(channel: &mut Channel, which: LinkRequest) -> Result<Option<Link>, ObserveError> {
    let answer = channel.ask(which.find());
    let payload = found_or_missing(answer).map_err(observe_error("a device", channel.namespace()))?;
    Ok(payload.as_deref().and_then(Link::decode))
}

fn is_leg(link: &Link) -> bool {
    matches!(link.role(), Some(Role::Leg(_)))
}

fn scope(number: u8) -> AddressScope {
    match number {
        libc::RT_SCOPE_HOST => AddressScope::Host,
        libc::RT_SCOPE_LINK => AddressScope::Link,
        _ => AddressScope::Global,
    }
}

fn is_of_interest(route: &Route) -> bool {
    let ours = [ROUTE_PROTOCOL, HELD_PROTOCOL].contains(&route.protocol);
    let real = !ours && route.table != u32::from(libc::RT_TABLE_LOCAL) && !route.cached;
    let local = match route.destination.network() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80 || v6.is_multicast(),
    };
    real && !local && route.destination.prefix() > 0 && route.kind == libc::RTN_UNICAST
}

/// The inode in a line of /proc/net/udp, if its local port is this one.
fn socket_on(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let (_, local) = fields.nth(1)?.split_once(':')?;
    let inode = fields.nth(7)?.parse().ok()?;
    (u16::from_str_radix(local, 16) == Ok(port)).then_some(inode)
}

fn user_of(inode: u64) -> PortUser {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let owner = processes.map(|entry| entry.path()).find(|path| has_socket(path, inode));
    owner.map_or(PortUser::Unseen, |process| described(&process))
}

fn has_socket(process: &Path, inode: u64) -> bool {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target == wanted)
}

fn described(process: &Path) -> PortUser {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let pid = process.file_name().unwrap_or_default().to_string_lossy();
    PortUser::Process { name: name.trim().to_owned(), pid: pid.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_socket_is_read_from_its_line() {
        let line =
            " 2126: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 7812 2 x 0";

        assert_eq!(socket_on(line, 4789), Some(7812));
        assert_eq!(socket_on(line, 4790), None);
        assert_eq!(socket_on("  sl  local_address rem_address   st tx_queue rx_queue", 4789), None);
    }
}
