//! Frames for many: broadcast, multicast, unknown unicast.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_e2e::topology::FABRIC;
use weft_e2e::traffic::{self, FramePort, Interface, packet};
use weft_e2e::{Endpoint, Lab};

use super::{NEVER, SOON, VXLAN_PORT, settles, shared};

fn on_three_hosts(lab: &Lab, network: &str) -> [Endpoint; 3] {
    lab.create_network(network, &[]).unwrap();
    [1, 2, 3].map(|host| lab.attach(host, &format!("{network}{host}"), network, &[]).unwrap())
}

fn interface(endpoint: &Endpoint) -> Interface {
    Interface::new(&endpoint.name, endpoint.ifname.as_deref().unwrap()).unwrap()
}

#[test]
fn broadcast_and_multicast_reach_every_member_once_and_nobody_else() {
    let lab = shared();
    let members = on_three_hosts(&lab, "many");
    let strangers = on_three_hosts(&lab, "apart");
    let listeners: Vec<_> = members[1..].iter().chain(&strangers).map(interface).collect();
    let wanted: BTreeMap<_, _> = members[1..].iter().map(|member| (member.name.clone(), 1)).collect();
    settles(&lab);

    let heard = traffic::broadcast(&interface(&members[0]), &listeners, NEVER).unwrap();
    assert_eq!(heard, wanted);
    for group in ["239.9.8.7", "ff02::9:8:7"].map(|group| group.parse::<IpAddr>().unwrap()) {
        let heard = traffic::multicast(&interface(&members[0]), &listeners, group, NEVER).unwrap();
        assert_eq!(heard, wanted, "{group}");
    }
}

#[test]
fn every_container_of_a_host_hears_a_broadcast_once() {
    let lab = shared();
    lab.create_network("crowd", &[]).unwrap();
    let names = [(1, "crowd1a"), (1, "crowd1b"), (2, "crowd2a"), (2, "crowd2b"), (2, "crowd2c")];
    let endpoints = names.map(|(host, name)| lab.attach(host, name, "crowd", &[]).unwrap());
    let listeners: Vec<_> = endpoints[1..].iter().map(interface).collect();
    let wanted: BTreeMap<_, _> = endpoints[1..].iter().map(|endpoint| (endpoint.name.clone(), 1)).collect();
    settles(&lab);

    let heard = traffic::broadcast(&interface(&endpoints[0]), &listeners, SOON).unwrap();

    assert_eq!(heard, wanted);
}

#[test]
fn unknown_unicast_is_flooded_to_every_member() {
    let lab = shared();
    let members = on_three_hosts(&lab, "lost");
    settles(&lab);
    let ears = [1, 2].map(|index| FramePort::open(&members[index].name, "eth0").unwrap());
    let sender = &members[0];
    let content = packet::udp4((sender.ipv4.unwrap(), 7), ([10, 9, 8, 7].into(), 7), b"to nobody known");
    let unknown = [0x02, 0x42, 0xde, 0xad, 0xbe, 0xef];
    let frame = packet::ethernet(unknown, sender.mac_bytes(), packet::ETHERTYPE_IPV4, &content);

    FramePort::open(&sender.name, "eth0").unwrap().send(&frame).unwrap();

    for ear in ears {
        let seen = ear.watch(SOON, |seen| seen.bytes == frame).unwrap();
        assert!(seen.is_some());
    }
}

#[test]
fn node_without_a_container_in_a_network_gets_none_of_its_frames() {
    let lab = shared();
    let network = lab.create_network("pair", &[]).unwrap();
    let everywhere = lab.create_network("beacon", &[]).unwrap();
    let first = lab.attach(1, "pair1", "pair", &[]).unwrap();
    let second = lab.attach(2, "pair2", "pair", &[]).unwrap();
    let beacon = lab.attach(1, "beacon1", "beacon", &[]).unwrap();
    let listener = lab.attach(3, "beacon3", "beacon", &[]).unwrap();
    settles(&lab);
    let wire = FramePort::open(FABRIC, "h3").unwrap();

    let heard = traffic::broadcast(&interface(&first), &[interface(&second)], SOON).unwrap();
    assert_eq!(heard.len(), 1);
    traffic::broadcast(&interface(&beacon), &[interface(&listener)], SOON).unwrap();

    let mut leaked = 0;
    let last = wire.watch(SOON, |seen| {
        let vni = packet::tunnelled(&seen.bytes, VXLAN_PORT).map(|(vni, _)| vni);
        leaked += usize::from(vni == Some(network.vni));
        vni == Some(everywhere.vni)
    });
    assert!(last.unwrap().is_some());
    assert_eq!(leaked, 0);
}
