//! Names, addresses and how they are resolved: everything about a remote container is known on one's own node.

use weft_e2e::dump;
use weft_e2e::topology::FABRIC;
use weft_e2e::traffic::packet::{self, ipv6};
use weft_e2e::traffic::{self, FramePort};

use super::{SOON, VXLAN_PORT, settles, shared};

const ICMP: u8 = 1;

#[test]
fn containers_on_three_hosts_reach_one_another_by_address_and_by_name() {
    let lab = shared();
    lab.create_network("reach", &[]).unwrap();
    let names = ["reach1", "reach2", "reach3"];
    let endpoints = [1, 2, 3].map(|host| lab.attach(host, names[usize::from(host) - 1], "reach", &[]).unwrap());

    for from in &endpoints {
        for to in endpoints.iter().filter(|to| to.name != from.name) {
            for address in to.addresses() {
                traffic::ping(&from.name, address, SOON).unwrap();
            }
            for family in ["-4", "-6"] {
                lab.in_netns(&from.name, &["ping", family, "-c1", "-W5", &to.name]).unwrap();
            }
        }
    }
    settles(&lab);
}

#[test]
fn endpoint_has_the_mac_address_that_derives_from_its_ipv4_address() {
    let lab = shared();
    lab.create_network("derived", &[]).unwrap();

    for (host, name) in [(1, "derived1"), (2, "derived2")] {
        let endpoint = lab.attach(host, name, "derived", &[]).unwrap();
        let [a, b, c, d] = endpoint.ipv4.unwrap().octets();
        assert_eq!(endpoint.mac, format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
        let interface = FramePort::open(name, "eth0").unwrap();
        assert_eq!(interface.mac(), endpoint.mac_bytes());
    }
    settles(&lab);
}

#[test]
fn arp_and_neighbour_discovery_never_cross_the_underlay() {
    let lab = shared();
    let network = lab.create_network("silent", &[]).unwrap();
    let from = lab.attach(1, "silent1", "silent", &[]).unwrap();
    let to = lab.attach(2, "silent2", "silent", &[]).unwrap();
    settles(&lab);
    let wires = ["h1", "h2"].map(|port| FramePort::open(FABRIC, port).unwrap());

    for name in [&from.name, &to.name] {
        lab.in_netns(name, &["ip", "neigh", "flush", "all"]).unwrap();
    }
    for address in network.gateways.iter().copied().chain(to.addresses()) {
        traffic::ping(&from.name, address, SOON).unwrap();
    }

    for wire in wires {
        let mut questions = Vec::new();
        let last = wire.watch(SOON, |seen| {
            let inner = packet::tunnelled(&seen.bytes, VXLAN_PORT).filter(|(vni, _)| *vni == network.vni);
            let Some((_, inner)) = inner else { return false };
            if packet::asks_for_neighbours(inner) {
                questions.push(inner.to_vec());
            }
            is_icmpv6_echo(inner)
        });
        assert!(last.unwrap().is_some(), "the last ping crossed this wire");
        assert!(questions.is_empty(), "{questions:02x?}");
    }
    let known = lab.in_netns(&from.name, &["ip", "neigh", "show", &to.v4().to_string()]).unwrap();
    assert!(known.contains(&to.mac), "{known}");
}

#[test]
fn container_that_stayed_silent_for_longer_than_ageing_is_not_flooded_to() {
    let lab = shared();
    let network = lab.create_network("aged", &[]).unwrap();
    let from = lab.attach(1, "aged1", "aged", &[]).unwrap();
    let silent = lab.attach(2, "aged2", "aged", &[]).unwrap();
    lab.attach(2, "aged3", "aged", &[]).unwrap();
    settles(&lab);
    // What ageing would leave: nothing that was learned.
    let devices = lab.host(2).devices("aged").unwrap();
    lab.in_netns("weft-h2", &["ip", "link", "set", &devices.bridge, "type", "bridge", "fdb_flush"]).unwrap();
    let third = FramePort::open("aged3", "eth0").unwrap();

    for address in silent.addresses() {
        traffic::ping(&from.name, address, SOON).unwrap();
    }
    traffic::ping(&from.name, lab.host(2).leg("aged").unwrap().v4(), SOON).unwrap();

    let beacon = [&packet::BROADCAST[..], &from.mac_bytes()].concat();
    let honest = packet::udp4((from.ipv4.unwrap(), 7), ([255; 4].into(), 7), b"to everyone");
    let frame = packet::ethernet(packet::BROADCAST, from.mac_bytes(), packet::ETHERTYPE_IPV4, &honest);
    FramePort::open(&from.name, "eth0").unwrap().send(&frame).unwrap();
    let mut overheard = 0;
    let last = third.watch(SOON, |seen| {
        overheard += usize::from(seen.bytes.get(23) == Some(&ICMP) && seen.bytes[..6] == silent.mac_bytes());
        seen.bytes.starts_with(&beacon) && seen.bytes.ends_with(b"to everyone")
    });
    assert!(last.unwrap().is_some());
    assert_eq!(overheard, 0);
    let rows = dump::kernel(&lab.host(2)).unwrap().fdb;
    let own = rows.iter().find(|row| row.mac == silent.mac && row.master.as_deref() == Some(&devices.bridge));
    assert_eq!(own.map(|row| row.state.as_str()), Some("static"), "of VNI {}", network.vni);
}

#[test]
fn address_that_comes_back_with_another_mac_is_announced_to_containers_that_knew_the_old_one() {
    let lab = shared();
    lab.create_network("moved", &[]).unwrap();
    let watcher = lab.attach(1, "moved1", "moved", &[]).unwrap();
    let first = lab.attach(2, "moved2", "moved", &["--mac", "02:42:aa:00:00:01"]).unwrap();
    let (v4, v6) = (first.v4(), first.v6());
    for address in first.addresses() {
        traffic::ping(&watcher.name, address, SOON).unwrap();
    }

    lab.host(2).weft(&["disconnect", "moved", "moved2"]).unwrap();
    let address = ["--ip", &v4.to_string(), "--ip6", &v6.to_string(), "--mac", "02:42:aa:00:00:02"];
    lab.attach(3, "moved3", "moved", &address).unwrap();

    for address in [v4, v6] {
        traffic::ping(&watcher.name, address, SOON / 5).unwrap();
    }
    settles(&lab);
}

fn is_icmpv6_echo(frame: &[u8]) -> bool {
    packet::ethertype(frame) == Some(ipv6::ETHERTYPE_IPV6) && frame.get(20) == Some(&58) && frame.get(54) == Some(&128)
}
