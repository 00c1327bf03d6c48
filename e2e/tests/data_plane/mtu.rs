//! The MTU follows the underlay, on every node and in every container, while traffic runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;
use weft_e2e::traffic::{self, TcpConnection};
use weft_e2e::{Endpoint, Lab, dump, eventually};

use super::{SOON, settles, shared};

/// What VXLAN over IPv4 adds: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14.
const OVERHEAD: u32 = 50;
const UNDERLAY: u32 = 1500;
/// Bytes of ICMP and IP before the content of an echo request.
const V4_HEADERS: u32 = 28;
const V6_HEADERS: u32 = 48;

/// MTU of every device of a network, by namespace and name.
fn device_mtus(lab: &Lab, network: &str, endpoints: &[Endpoint]) -> BTreeMap<String, u32> {
    let mut mtus = BTreeMap::new();
    for host in lab.hosts().unwrap() {
        let devices = host.devices(network).unwrap();
        let kernel = dump::kernel(&host).unwrap();
        let parts = kernel
            .links
            .iter()
            .filter(|link| link.name == devices.bridge || link.master.as_deref() == Some(&devices.bridge));
        mtus.extend(parts.map(|link| (format!("{} {}", host.data_plane_netns(), link.name), link.mtu)));
        mtus.insert(format!("{} {}", host.name(), devices.leg), link_mtu(lab, &host.name(), &devices.leg));
    }
    for endpoint in endpoints {
        let ifname = endpoint.ifname.as_deref().unwrap();
        mtus.insert(format!("{} {ifname}", endpoint.name), link_mtu(lab, &endpoint.name, ifname));
    }
    mtus
}

fn link_mtu(lab: &Lab, netns: &str, name: &str) -> u32 {
    let text = lab.in_netns(netns, &["ip", "-json", "link", "show", name]).unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    u32::try_from(links[0]["mtu"].as_u64().unwrap()).unwrap()
}

#[track_caller]
fn all_become(lab: &Lab, network: &str, endpoints: &[Endpoint], wanted: u32) {
    let devices = eventually(SOON, &format!("MTU {wanted} everywhere"), || {
        let mtus = device_mtus(lab, network, endpoints);
        if mtus.values().all(|mtu| *mtu == wanted) { Ok(mtus.len()) } else { Err(format!("{mtus:?}")) }
    });
    // On three nodes a bridge, a VXLAN device, both ends of the leg and of one veth.
    assert_eq!(devices, 18);
}

/// Whether an echo request of `bytes` bytes with its IP header arrives unfragmented, and what ping said.
fn whole_ping(lab: &Lab, from: &str, to: IpAddr, bytes: u32) -> (bool, String) {
    let headers = if to.is_ipv4() { V4_HEADERS } else { V6_HEADERS };
    let (size, to) = ((bytes - headers).to_string(), to.to_string());
    let ping = ["ping", "-c1", "-W2", "-M", "do", "-s", &size, &to];
    let output = lab.try_in_netns(from, &ping).unwrap();
    (output.is_success(), format!("{}{}", output.stdout, output.stderr))
}

fn on_three_hosts(lab: &Lab, network: &str) -> [Endpoint; 3] {
    lab.create_network(network, &[]).unwrap();
    [1, 2, 3].map(|host| lab.attach(host, &format!("{network}{host}"), network, &[]).unwrap())
}

#[test]
fn mtu_leaves_room_for_the_encapsulation_on_every_device() {
    let lab = shared();
    let endpoints = on_three_hosts(&lab, "room");

    all_become(&lab, "room", &endpoints, UNDERLAY - OVERHEAD);

    let network = lab.host(2).weft_json(&["network", "inspect", "room"]).unwrap();
    assert_eq!(network["mtu"], UNDERLAY - OVERHEAD);
}

#[test]
fn full_size_packet_passes_whole_and_one_byte_more_is_refused_by_the_sender() {
    let lab = shared();
    let endpoints = on_three_hosts(&lab, "whole");
    settles(&lab);

    for address in endpoints[1].addresses() {
        let (passed, said) = whole_ping(&lab, "whole1", address, UNDERLAY - OVERHEAD);
        assert!(passed, "{said}");
        let (passed, said) = whole_ping(&lab, "whole1", address, UNDERLAY - OVERHEAD + 1);
        assert!(!passed && said.to_lowercase().contains("message too long"), "{said}");
    }
}

#[test]
fn lowered_underlay_is_followed_by_every_node_and_leaves_no_black_hole() {
    let lab = shared();
    let endpoints = on_three_hosts(&lab, "lower");
    all_become(&lab, "lower", &endpoints, UNDERLAY - OVERHEAD);
    let open =
        |family: fn(&Endpoint) -> IpAddr| TcpConnection::open("lower1", "lower2", family(&endpoints[1])).unwrap();
    let mut connections = [open(Endpoint::v4), open(Endpoint::v6)];
    // What a careless firewall does: nobody is ever told that a packet was too large.
    let filter = "table inet careless { chain input { type filter hook input priority -200; \
                  icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; \
                  chain output { type filter hook output priority -200; \
                  icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }";
    let places = ["h1", "h2", "h3", "lower1", "lower2", "lower3"];
    for netns in places {
        lab.in_netns(netns, &["nft", filter]).unwrap();
    }
    for connection in &mut connections {
        connection.transfer(1 << 20).unwrap();
    }

    lab.set_underlay_mtu("h2", 1400).unwrap();

    all_become(&lab, "lower", &endpoints, 1400 - OVERHEAD);
    for connection in &mut connections {
        connection.transfer(10 << 20).unwrap();
    }
    for address in endpoints[1].addresses() {
        traffic::tcp_transfer("lower3", "lower2", address, 10 << 20).unwrap();
        assert!(whole_ping(&lab, "lower1", address, 1400 - OVERHEAD).0);
    }
    lab.set_underlay_mtu("h2", UNDERLAY).unwrap();
    all_become(&lab, "lower", &endpoints, UNDERLAY - OVERHEAD);
    for netns in places {
        lab.in_netns(netns, &["nft", "delete table inet careless"]).unwrap();
    }
    settles(&lab);
}

#[test]
fn chosen_mtu_is_kept_whatever_the_underlay_could_carry() {
    let lab = shared();
    lab.create_network("chosen", &["--mtu", "1300"]).unwrap();
    let endpoints = [1, 2, 3].map(|host| lab.attach(host, &format!("chosen{host}"), "chosen", &[]).unwrap());

    all_become(&lab, "chosen", &endpoints, 1300);
}
