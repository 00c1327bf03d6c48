//! A container may send as itself and as nobody else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_e2e::traffic::packet::{self, ArpParty, MacBytes, ipv6};
use weft_e2e::traffic::{self, FramePort};
use weft_e2e::{Endpoint, Lab, Network, dump};

use super::{SOON, settles, shared};

const FOREIGN_MAC: MacBytes = [0x02, 0x42, 0xba, 0xad, 0xba, 0xad];
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);

/// What is put on the wire: its end says what it is, as padding that no protocol looks at.
fn labelled(destination: MacBytes, source: MacBytes, ethertype: u16, content: &[u8], label: &str) -> Vec<u8> {
    let frame = packet::ethernet(destination, source, ethertype, content);
    let padding = [0; 64];
    let missing = 64_usize.saturating_sub(frame.len());
    [&frame[..], &padding[..missing], b"spoof:", label.as_bytes()].concat()
}

fn label(frame: &[u8]) -> Option<String> {
    let start = frame.windows(6).rposition(|window| window == b"spoof:")?;
    Some(String::from_utf8_lossy(&frame[start + 6..]).into_owned())
}

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else { panic!("the test asks for IPv4") };
    address
}

fn v6(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(address) = address else { panic!("the test asks for IPv6") };
    address
}

fn forged_ip(attacker: &Endpoint, victim: &Endpoint) -> Vec<Vec<u8>> {
    let own = attacker.mac_bytes();
    let everybody = packet::BROADCAST;
    let from = |address: Ipv4Addr, port| packet::udp4((address, port), ([255; 4].into(), 9), b"");
    let v6_datagram = |source: Ipv6Addr| {
        let header = [0x60, 0, 0, 0, 0, 8, 17, 64];
        let udp = [0, 9, 0, 9, 0, 8, 0, 0];
        [&header[..], &source.octets(), &ipv6::ALL_NODES.octets(), &udp].concat()
    };
    let group = ipv6::group_mac(ipv6::ALL_NODES);
    vec![
        labelled(everybody, FOREIGN_MAC, packet::ETHERTYPE_IPV4, &from(attacker.ipv4.unwrap(), 9), "mac"),
        labelled(everybody, victim.mac_bytes(), packet::ETHERTYPE_IPV4, &from(victim.ipv4.unwrap(), 9), "victim"),
        labelled(everybody, own, packet::ETHERTYPE_IPV4, &from(victim.ipv4.unwrap(), 9), "ip"),
        labelled(everybody, own, packet::ETHERTYPE_IPV4, &from([192, 0, 2, 1].into(), 9), "ip of nobody"),
        labelled(everybody, own, packet::ETHERTYPE_IPV4, &from(attacker.ipv4.unwrap(), 67), "dhcp"),
        labelled(group, own, ipv6::ETHERTYPE_IPV6, &v6_datagram(victim.ipv6.unwrap()), "ipv6"),
    ]
}

fn forged_neighbours(attacker: &Endpoint, victim: &Endpoint, network: &Network) -> Vec<Vec<u8>> {
    let own = attacker.mac_bytes();
    let arp = |operation, mac, ip: Ipv4Addr, label: &str| {
        let content = packet::arp(operation, ArpParty { mac, ip }, ArpParty { mac: [0; 6], ip });
        labelled(packet::BROADCAST, own, packet::ETHERTYPE_ARP, &content, label)
    };
    let group = ipv6::group_mac(ipv6::ALL_NODES);
    let nd = |content: Vec<u8>, label: &str| labelled(group, own, ipv6::ETHERTYPE_IPV6, &content, label);
    let gateways = (v4(network.gateways[0]), v6(network.gateways[1]));
    let (address, own_address) = (victim.ipv6.unwrap(), attacker.ipv6.unwrap());
    vec![
        arp(packet::ARP_REQUEST, own, victim.ipv4.unwrap(), "arp request"),
        arp(packet::ARP_REPLY, own, victim.ipv4.unwrap(), "arp reply"),
        arp(packet::ARP_REPLY, own, gateways.0, "arp of the gateway"),
        arp(packet::ARP_REQUEST, FOREIGN_MAC, attacker.ipv4.unwrap(), "arp of another mac"),
        nd(ipv6::neighbour_solicitation(address, own_address, own), "solicitation"),
        nd(ipv6::neighbour_advertisement(own_address, address, own), "advertisement"),
        nd(ipv6::neighbour_advertisement(own_address, gateways.1, own), "advertisement of the gateway"),
        nd(ipv6::neighbour_advertisement(gateways.1, gateways.1, own), "gateway"),
        nd(ipv6::router_advertisement(LINK_LOCAL), "router"),
    ]
}

fn forged_link(attacker: &Endpoint) -> Vec<Vec<u8>> {
    const BRIDGES: MacBytes = [0x01, 0x80, 0xc2, 0, 0, 0];
    const ETHERTYPE_VLAN: u16 = 0x8100;
    let own = attacker.mac_bytes();
    // LLC of a configuration BPDU (IEEE 802.1D, 9.3.1) that claims to be the root.
    let bpdu = [&[0x42, 0x42, 0x03, 0, 0, 0, 0, 0][..], &[0; 30]].concat();
    let tagged = [&[0, 5][..], &packet::ETHERTYPE_IPV4.to_be_bytes(), &[0; 40]].concat();
    vec![
        labelled(BRIDGES, own, 38, &bpdu, "bpdu"),
        labelled(packet::BROADCAST, own, ETHERTYPE_VLAN, &tagged, "vlan"),
        labelled(packet::BROADCAST, own, 0x88b5, b"", "ethertype"),
    ]
}

fn honest(attacker: &Endpoint, label: &str) -> Vec<u8> {
    let content = packet::udp4((attacker.ipv4.unwrap(), 9), ([255; 4].into(), 9), b"");
    labelled(packet::BROADCAST, attacker.mac_bytes(), packet::ETHERTYPE_IPV4, &content, label)
}

/// Packets that the rules of `bridge weft` have dropped, over all chains.
fn all_dropped(lab: &Lab) -> u64 {
    let chains = ["container", "container_ip", "container_arp", "container_ip6"];
    chains.iter().map(|chain| super::dropped("weft-h1", "bridge", chain, lab)).sum()
}

fn labels_until(ear: &FramePort, last: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let seen = ear.watch(SOON, |seen| {
        labels.extend(label(&seen.bytes));
        labels.last().is_some_and(|label| label == last)
    });
    assert!(seen.unwrap().is_some(), "{last} arrives; seen {labels:?}");
    labels
}

#[test]
fn forged_frames_of_a_container_reach_neither_containers_nor_hosts() {
    let lab = shared();
    let network = lab.create_network("forge", &[]).unwrap();
    let attacker = lab.attach(1, "forge1", "forge", &[]).unwrap();
    let victim = lab.attach(1, "forge1b", "forge", &[]).unwrap();
    let far = lab.attach(2, "forge2", "forge", &[]).unwrap();
    settles(&lab);
    let leg = lab.host(1).devices("forge").unwrap().leg;
    let ears = [(victim.name.as_str(), "eth0"), (&far.name, "eth0"), ("h1", &leg)]
        .map(|(n, i)| FramePort::open(n, i).unwrap());
    let port = FramePort::open(&attacker.name, "eth0").unwrap();
    let before = all_dropped(&lab);

    let mut forged = forged_ip(&attacker, &victim);
    forged.extend(forged_neighbours(&attacker, &victim, &network));
    forged.extend(forged_neighbours(&attacker, &far, &network));
    forged.extend(forged_link(&attacker));
    port.send(&honest(&attacker, "first")).unwrap();
    for frame in &forged {
        port.send(frame).unwrap();
    }
    port.send(&honest(&attacker, "last")).unwrap();

    for ear in &ears {
        assert_eq!(labels_until(ear, "last"), ["first", "last"]);
    }
    let counted = all_dropped(&lab) - before;
    assert!(counted >= forged.len() as u64, "{counted} of {} counted", forged.len());
    for address in victim.addresses().into_iter().chain(network.gateways) {
        traffic::ping(&far.name, address, SOON).unwrap();
    }
    settles(&lab);
}

#[test]
fn two_bridged_interfaces_of_a_container_make_no_storm() {
    let lab = shared();
    for name in ["storma", "stormb"] {
        lab.create_network(name, &[]).unwrap();
        lab.attach(2, &format!("{name}2"), name, &[]).unwrap();
        lab.attach(1, "storm1", name, &[]).unwrap();
    }
    settles(&lab);
    let batch = [
        "ip link add br0 type bridge",
        "ip link set eth0 master br0",
        "ip link set eth1 master br0",
        "ip link set br0 up",
    ];
    lab.in_netns("storm1", &["sh", "-ec", &batch.join("; ")]).unwrap();
    let ear = FramePort::open("stormb2", "eth0").unwrap();
    let sender = endpoint_called(&lab, "storma2");

    let port = FramePort::open("storma2", "eth0").unwrap();
    port.send(&honest(&sender, "stormed")).unwrap();
    let other = endpoint_called(&lab, "stormb2");
    let second = lab.attach(1, "storm1b", "stormb", &[]).unwrap();
    traffic::ping("storm1b", other.v4(), SOON).unwrap();

    let mut copies = 0;
    let last = ear.watch(SOON, |seen| {
        copies += usize::from(label(&seen.bytes).is_some());
        seen.bytes[6..12] == second.mac_bytes()
    });
    assert!(last.unwrap().is_some());
    assert_eq!(copies, 0);
    assert!(dump::check_forwarding(&lab).is_ok());
}

fn endpoint_called(lab: &Lab, name: &str) -> Endpoint {
    let endpoints = lab.host(1).endpoints(&[]).unwrap();
    endpoints.into_iter().find(|endpoint| endpoint.name == name).unwrap()
}
