//! The texts that make each namespace: input of `ip -batch` and `nft -f`, kernel parameters.
//!
//! Pure. Addresses carry `nodad`, and link-local ones are not checked either: nobody else can hold
//! them, and until a check ends (a second or two) nothing can be sent from them.

use std::fmt::Write;

use super::{
    CONTROL, CONTROLLER_ADDRESS, CONTROLLER_PORT, EtcdMember, FABRIC, HostId, NAT_ADDRESS, NAT_ADDRESS_V6, OUTSIDE,
    OUTSIDE_GATEWAY, OUTSIDE_SERVER, OUTSIDE_SERVER_V6, STORE_CUT_TABLE, Topology, UNDERLAY_BRIDGE, fixed_name,
};
use crate::netns::NetnsName;

/// The NAT's address towards its host, and the IPv6 counterpart, as VirtualBox chooses them.
const NAT_GATEWAY: &str = "10.0.2.2";
const NAT_GATEWAY_V6: &str = "fd17:625c:f037:2::2";
/// The first hop's IPv6 address on the network between the NATs and the outside.
const OUTSIDE_GATEWAY_V6: &str = "2001:db8:113::1";

/// How one namespace is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Its name.
    pub name: NetnsName,
    /// Input of `ip -batch -` in it.
    pub ip_batch: String,
    /// Input of `nft -f -` in it.
    pub nft: Option<String>,
    /// Kernel parameters, as path below `/proc/sys` and value; set before any device is made.
    /// Those that start with `?` may be absent.
    pub sysctls: Vec<(&'static str, &'static str)>,
}

pub(super) fn namespaces(topology: &Topology) -> [Vec<NamespaceSpec>; 3] {
    let hosts = || topology.hosts.iter().copied();
    let machines = hosts()
        .map(host)
        .chain(topology.members.iter().copied().map(member))
        .chain([machine(fixed_name(CONTROL), CONTROLLER_ADDRESS)]);
    [vec![fabric(topology), outside(topology)], hosts().map(nat).collect(), machines.collect()]
}

/// Bridges forward here; with br_netfilter loaded they would also pass bridged packets through
/// the IP hooks and connection tracking of the namespace.
const NO_BRIDGE_NETFILTER: [(&str, &str); 3] = [
    ("?net/bridge/bridge-nf-call-iptables", "0"),
    ("?net/bridge/bridge-nf-call-ip6tables", "0"),
    ("?net/bridge/bridge-nf-call-arptables", "0"),
];

/// For the devices that are made after it is set.
const NO_DAD: (&str, &str) = ("net/ipv6/conf/default/accept_dad", "0");

fn fabric(topology: &Topology) -> NamespaceSpec {
    let mtu = topology.underlay_mtu;
    let mut batch = format!(
        "link set lo up\n\
         link add {UNDERLAY_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set {UNDERLAY_BRIDGE} up\n"
    );
    let mut plug = |port: &str, netns: &NetnsName| {
        line(
            &mut batch,
            &format!(
                "link add {port} mtu {mtu} type veth peer name eth1 mtu {mtu} netns {netns}\n\
                 link set {port} master {UNDERLAY_BRIDGE} up"
            ),
        );
    };
    for host in &topology.hosts {
        plug(&host.to_string(), &host.netns());
    }
    for member in &topology.members {
        plug(&member.to_string(), &member.netns());
    }
    plug(CONTROLLER_PORT, &fixed_name(CONTROL));

    let mut sysctls = vec![("net/ipv6/conf/default/disable_ipv6", "1")];
    sysctls.extend(NO_BRIDGE_NETFILTER);
    NamespaceSpec { name: fixed_name(FABRIC), ip_batch: batch, nft: Some(store_cut(topology)), sysctls }
}

/// Hosts whose port is in the set `hosts` exchange no IP packet with etcd and the controller.
fn store_cut(topology: &Topology) -> String {
    let store: Vec<_> = topology
        .members
        .iter()
        .map(|member| member.address())
        .chain([CONTROLLER_ADDRESS])
        .map(|address| address.to_string())
        .collect();
    format!(
        "table bridge {STORE_CUT_TABLE} {{\n\
           set hosts {{ type ifname; }}\n\
           set store {{ type ipv4_addr; elements = {{ {} }}; }}\n\
           chain forward {{\n\
             type filter hook forward priority 0; policy accept;\n\
             iifname @hosts ip daddr @store counter drop\n\
             oifname @hosts ip saddr @store counter drop\n\
           }}\n\
         }}\n",
        store.join(", ")
    )
}

/// NATs are isolated ports: each reaches the outside, none reaches another.
fn outside(topology: &Topology) -> NamespaceSpec {
    let mut batch = format!(
        "link set lo up\n\
         address add {OUTSIDE_SERVER}/32 dev lo\n\
         address add {OUTSIDE_SERVER_V6}/128 dev lo nodad\n\
         link add wan type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set wan up\n\
         address add {OUTSIDE_GATEWAY}/24 brd + dev wan\n\
         address add {OUTSIDE_GATEWAY_V6}/64 dev wan nodad\n"
    );
    for host in &topology.hosts {
        line(
            &mut batch,
            &format!(
                "link add {host} type veth peer name outside netns {}\n\
                 link set {host} master wan up\n\
                 link set {host} type bridge_slave isolated on",
                host.nat_netns()
            ),
        );
    }
    NamespaceSpec {
        name: fixed_name(OUTSIDE),
        ip_batch: batch,
        nft: None,
        sysctls: [&[NO_DAD], &NO_BRIDGE_NETFILTER[..]].concat(),
    }
}

fn nat(host: HostId) -> NamespaceSpec {
    let batch = format!(
        "link set lo up\n\
         link add inside type veth peer name eth0 netns {netns}\n\
         link set inside up\n\
         link set outside up\n\
         address add {NAT_GATEWAY}/24 brd + dev inside\n\
         address add {NAT_GATEWAY_V6}/64 dev inside nodad\n\
         address add {wan}/24 brd + dev outside\n\
         address add {wan_v6}/64 dev outside nodad\n\
         route add default via {OUTSIDE_GATEWAY} dev outside\n\
         route add ::/0 via {OUTSIDE_GATEWAY_V6} dev outside\n",
        netns = host.netns(),
        wan = host.wan_address(),
        wan_v6 = host.wan_address_v6(),
    );
    NamespaceSpec {
        name: host.nat_netns(),
        ip_batch: batch,
        nft: Some(nat_rules()),
        sysctls: vec![NO_DAD, ("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")],
    }
}

/// Like VirtualBox's NAT: only the one address that it leases out gets through, and nobody
/// outside can open a connection.
fn nat_rules() -> String {
    format!(
        "table inet nat {{\n\
           chain prerouting {{\n\
             type filter hook prerouting priority raw; policy accept;\n\
             iifname inside icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n\
             iifname inside ip saddr != {NAT_ADDRESS} counter drop\n\
             iifname inside ip6 saddr != {NAT_ADDRESS_V6} counter drop\n\
           }}\n\
           chain input {{\n\
             type filter hook input priority filter; policy drop;\n\
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n\
             ct state established,related accept\n\
             iifname inside accept\n\
           }}\n\
           chain forward {{\n\
             type filter hook forward priority filter; policy drop;\n\
             ct state established,related accept\n\
             iifname inside oifname outside accept\n\
           }}\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             oifname outside masquerade\n\
           }}\n\
         }}\n"
    )
}

fn host(host: HostId) -> NamespaceSpec {
    let mut spec = machine(host.netns(), host.underlay_address());
    line(
        &mut spec.ip_batch,
        &format!(
            "link set eth0 up\n\
             address add {NAT_ADDRESS}/24 brd + dev eth0\n\
             address add {NAT_ADDRESS_V6}/64 dev eth0 nodad\n\
             route add default via {NAT_GATEWAY} dev eth0\n\
             route add ::/0 via {NAT_GATEWAY_V6} dev eth0"
        ),
    );
    spec
}

fn member(member: EtcdMember) -> NamespaceSpec {
    machine(member.netns(), member.address())
}

fn machine(name: NetnsName, underlay: std::net::Ipv4Addr) -> NamespaceSpec {
    NamespaceSpec {
        name,
        ip_batch: format!("link set lo up\nlink set eth1 up\naddress add {underlay}/24 brd + dev eth1\n"),
        nft: None,
        // A new namespace copies IPv4 forwarding from the machine, where another program may
        // have turned it on; a fresh host does not forward.
        sysctls: vec![NO_DAD, ("net/ipv4/ip_forward", "0")],
    }
}

fn line(batch: &mut String, text: &str) {
    writeln!(batch, "{text}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_made_before_the_group_that_uses_it() {
        let groups = Topology::new(2, 3, 9000).namespaces();

        let makes = |group: usize, text: &str| groups[group].iter().any(|namespace| namespace.ip_batch.contains(text));

        assert!(makes(0, "link add h2 mtu 9000 type veth peer name eth1 mtu 9000 netns h2\n"));
        assert!(makes(0, "peer name eth1 mtu 9000 netns weft-etcd3\n"));
        assert!(makes(0, "peer name outside netns weft-nat-h2\n"));
        assert!(makes(1, "peer name eth0 netns h1\n"));
        assert!(makes(2, "address add 192.168.56.12/24"));
        assert!(makes(2, "address add 192.168.56.4/24"));
        assert!(makes(2, "address add 192.168.56.5/24"));
    }

    #[test]
    fn store_cut_covers_every_member_and_the_controller() {
        let rules = store_cut(&Topology::new(1, 3, 1500));

        assert!(rules.contains("192.168.56.2, 192.168.56.3, 192.168.56.4, 192.168.56.5"), "{rules}");
    }
}
