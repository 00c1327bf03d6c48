//! How our devices must be, apart from what a network chooses: every fault of one, in words.
//!
//! Pure. A device without faults is `tuned` or `attached` in the terms of the objects. Each fault says in a word what
//! breaks; which namespaces and traffic stand behind it is told in ARCHITECTURE.md.

use weft_overlay::{
    id::{EndpointId, NetworkId},
    kernel::Vxlan,
};

use super::{
    decode::link::{Kind, Link},
    mark::{GROUP, endpoint_alias, network_alias},
};

/// IN6_ADDR_GEN_MODE_EUI64.
const LINK_LOCAL_OF_MAC: u8 = 0;
/// IN6_ADDR_GEN_MODE_NONE.
const NO_LINK_LOCAL: u8 = 1;

/// Settings of the leg's host end under /proc/sys/net/ipv4/conf/LEG, set before it is up.
///
/// `arp_announce`: a request that names the gateway would reach other nodes' containers and poison them. `arp_ignore`:
/// every node would answer for its underlay address. `route_localnet`: published ports on 127.0.0.1.
pub(crate) const LEG_IPV4: [(&str, i32); 5] =
    [("arp_announce", 2), ("arp_ignore", 1), ("accept_redirects", 0), ("send_redirects", 0), ("route_localnet", 1)];

/// The same under /proc/sys/net/ipv6/conf/LEG: a container's router advertisement must not reach the host's routes.
///
/// `addr_gen_mode`: what the host forwards has a source that is not the leg's, and then only a link-local address may
/// ask for the receiver's MAC (ndisc_send_ns). `accept_dad`: it is used at once; MACs of legs are unique.
pub(crate) const LEG_IPV6: [(&str, i32); 7] = [
    ("disable_ipv6", 0),
    ("accept_ra", 0),
    ("accept_redirects", 0),
    ("autoconf", 0),
    ("keep_addr_on_down", 1),
    ("accept_dad", 0),
    ("addr_gen_mode", LINK_LOCAL_OF_MAC as i32),
];

pub(crate) fn bridge_faults(link: &Link, network: NetworkId) -> Vec<&'static str> {
    let mut faults = mark_faults(link, &network_alias(network));
    faults.extend(silence_faults(link));
    match &link.kind {
        Kind::Bridge(options) => {
            faults.extend(options.stp.then_some("spanning tree on"));
            faults.extend(options.vlan_filtering.then_some("VLAN filtering on"));
            faults.extend(options.multicast_snooping.then_some("multicast snooping on"));
            faults.extend((options.group_forward_mask != 0).then_some("forwards link-local groups"));
            faults.extend(options.calls_netfilter.then_some("calls netfilter"));
        }
        Kind::Vxlan(_) | Kind::Veth | Kind::Other(_) => faults.push("not a bridge"),
    }
    // A bridge that does not speak ARP has an empty neighbour table, and one without IPv6 refuses IPv6 rows.
    faults.extend(link.no_arp.then_some("ARP off"));
    faults.extend(link.inet6.as_ref().filter(|v6| v6.disabled != 0).map(|_| "IPv6 disabled"));
    faults
}

/// Faults of a VXLAN device that can be mended while it is in use.
pub(crate) fn vxlan_faults(link: &Link, network: NetworkId) -> Vec<&'static str> {
    let mut faults = mark_faults(link, &network_alias(network));
    faults.extend(silence_faults(link));
    if let Kind::Vxlan(options) = &link.kind {
        faults.extend(options.learning.then_some("learning on"));
    }
    faults
}

/// Why a VXLAN device must be made anew: the kernel cannot change these.
pub(crate) fn vxlan_misfits(link: &Link) -> Vec<&'static str> {
    let Kind::Vxlan(options) = &link.kind else { return vec!["not a VXLAN device"] };
    let v6 = options.local.is_some_and(|local| local.is_ipv6());
    let mut misfits = Vec::new();
    misfits.extend(options.device.is_some().then_some("bound to an underlay device"));
    misfits.extend((!v6 && !options.udp_checksum).then_some("no outer UDP checksum"));
    misfits.extend(options.zero_checksum6.then_some("outer UDP checksum of zero over IPv6"));
    misfits.extend(options.extras.then_some("options of another use"));
    misfits
}

/// Why a VXLAN device must be made anew for what is wanted of it.
pub(crate) fn vxlan_reasons_to_recreate(link: &Link, desired: &Vxlan) -> Vec<&'static str> {
    let mut reasons = vxlan_misfits(link);
    if let Kind::Vxlan(options) = &link.kind {
        reasons.extend((options.vni != desired.vni.get()).then_some("another VNI"));
        reasons.extend((options.local != Some(desired.local)).then_some("another source address"));
        reasons.extend((options.port != desired.port).then_some("another UDP port"));
    }
    reasons
}

/// Faults of the host's end of a leg.
pub(crate) fn leg_faults(link: &Link, network: NetworkId) -> Vec<&'static str> {
    let mut faults = mark_faults(link, &network_alias(network));
    faults.extend((link.inet.arp_announce != 2).then_some("arp_announce"));
    faults.extend((link.inet.arp_ignore != 1).then_some("arp_ignore"));
    faults.extend((link.inet.accept_redirects != 0).then_some("accept_redirects"));
    faults.extend((link.inet.send_redirects != 0).then_some("send_redirects"));
    faults.extend((link.inet.route_localnet != 1).then_some("route_localnet"));
    if let Some(v6) = &link.inet6 {
        faults.extend((v6.disabled != 0).then_some("IPv6 disabled"));
        faults.extend((v6.addr_gen_mode != LINK_LOCAL_OF_MAC).then_some("no IPv6 link-local address"));
        faults.extend((v6.accept_ra != 0).then_some("accept_ra"));
        faults.extend((v6.accept_redirects != 0).then_some("accept_redirects of IPv6"));
        faults.extend((v6.autoconf != 0).then_some("autoconf"));
        faults.extend((v6.keep_addr_on_down != 1).then_some("keep_addr_on_down"));
    }
    faults
}

/// Faults of the bridge end of a veth, as a device.
pub(crate) fn port_faults(link: &Link, network: NetworkId, endpoint: Option<EndpointId>) -> Vec<&'static str> {
    let alias = endpoint.map_or_else(|| network_alias(network), |endpoint| endpoint_alias(network, endpoint));
    mark_faults(link, &alias)
}

/// Whether it is a port of this bridge with the flags that ours have.
pub(crate) fn is_attached(link: &Link, bridge: Option<u32>, suppress_neighbours: bool) -> bool {
    let Some(port) = &link.port else { return false };
    let flags = !port.learning && !port.isolated && port.floods && port.suppresses_neighbours == suppress_neighbours;
    flags && bridge.is_some() && link.master == bridge
}

fn mark_faults(link: &Link, alias: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    faults.extend((link.alias.as_deref() != Some(alias)).then_some("alias"));
    faults.extend((link.group != GROUP).then_some("group"));
    faults
}

/// What would make a device speak IPv6 by itself.
fn silence_faults(link: &Link) -> Vec<&'static str> {
    let Some(v6) = &link.inet6 else { return Vec::new() };
    let mut faults = Vec::new();
    faults.extend((v6.addr_gen_mode != NO_LINK_LOCAL).then_some("IPv6 link-local address"));
    faults.extend((v6.accept_ra != 0).then_some("accept_ra"));
    faults
}
