//! What a container may send (B11, A12, A15), and what about a gateway may cross the tunnel (A10).

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use weft_overlay::{id::Mac, kernel::Table};

use crate::{
    packets::{
        ARP, BROADCAST, Ethernet, ICMPV6, IPV4, IPV6, UDP, about, arp, icmpv6, ipv4, ipv6, ipv6_with_options, udp, v4,
        v6,
    },
    traffic::{Capture, IMPATIENCE, answers_ping, mac_of, send_frames},
    world::{A, Container, World, ip, overlay4, overlay6, run},
};

const TCP: u8 = 6;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Frames by what they are, each ending with that name so that a capture can tell them apart.
type Frames = Vec<(&'static str, Vec<u8>)>;

#[test]
fn what_a_container_must_not_send_is_dropped() {
    let mut world = World::new(1);
    let attacker = world.container(1, &[A], 11);
    let victim = world.container(1, &[A], 12);
    let attacks = attacks(&attacker);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let node = &mut world.nodes[0];
    node.delete_rules(Table::DataPlane, "source", "goto container");
    send(&attacker, &attacks);
    for (name, _) in &attacks {
        assert!(capture.waits_for(&mark(name)), "{name} does not pass without the filter");
    }
    node.restore(Table::DataPlane);
    let mut capture = Capture::start(&victim.namespace, "eth0");

    send(&attacker, &attacks);

    send(&attacker, &[("fence", own_ipv4(&attacker))]);
    assert!(capture.waits_for(b"fence"));
    let passed: Vec<_> = attacks.iter().map(|(name, _)| *name).filter(|name| capture.seen(&mark(name))).collect();
    assert!(passed.is_empty(), "{passed:?}");
}

#[test]
fn what_a_container_sends_in_its_own_name_passes() {
    let mut world = World::new(1);
    let sender = world.container(1, &[A], 11);
    let receiver = world.container(1, &[A], 12);
    let frames = honest(&sender);
    let mut capture = Capture::start(&receiver.namespace, "eth0");

    send(&sender, &frames);

    let lost: Vec<_> = frames.iter().map(|(name, _)| *name).filter(|name| !capture.waits_for(&mark(name))).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_container_that_bridges_its_interfaces_storms_nobody() {
    let mut world = World::new(1);
    let knot = world.container(1, &[A], 11);
    let sender = world.container(1, &[A], 12);
    let victim = world.container(1, &[A], 13);
    let second = world.container(1, &[A], 14);
    // Both ends of the knot are ports of one network; in life the second attachment is refused. The knot itself is
    // silent: what it sent with its own MAC address would go around all the same, in at the port that it belongs to.
    run(&knot.namespace, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    ip(&second.namespace, &format!("link set eth0 netns {}  name eth9", knot.namespace));
    ip(
        &knot.namespace,
        "link add loop address 02:66:66:66:66:66 type bridge mcast_snooping 0\nlink set loop up\nlink set eth0 master loop\nlink set eth9 master loop up",
    );
    let round = |text: &[u8]| {
        let packet = ipv4(v4(sender.addresses[0]), Ipv4Addr::BROADCAST, UDP, &udp4(&sender, text));
        send_frames(&sender.namespace, "eth0", &[Ethernet::broadcast(sender.mac).frame(IPV4, &packet)]);
    };
    let node = &mut world.nodes[0];
    node.delete_rules(Table::DataPlane, "source", "goto container");
    let mut capture = Capture::start(&victim.namespace, "eth0");
    round(b"around and around");
    let storm = capture.counts(b"around and around", 1000, Duration::from_secs(20));
    drop(capture);
    node.restore(Table::DataPlane);
    assert!(storm >= 1000, "only {storm} copies without the filter");
    let mut capture = Capture::start(&victim.namespace, "eth0");

    round(b"once");

    // The first one is waited for; whatever a loop makes of it comes within microseconds.
    let arrives = capture.waits_for(b"once");
    let copies = capture.counts(b"once", 10, IMPATIENCE);
    // Whatever came of it, nothing goes around any longer than this test.
    ip(&knot.namespace, "link set loop down");
    assert!(arrives);
    assert_eq!(copies, 1);
}

#[test]
fn nothing_about_the_gateway_crosses_the_tunnel() {
    let mut world = World::new(2);
    let near = world.container(1, &[A], 11);
    let far = world.container(2, &[A], 12);
    assert!(answers_ping(&near.namespace, far.addresses[0]));
    let gateway = (v4(overlay4(A, 1)), v6(overlay6(A, 1)));
    let leg: Mac = mac_of(&world.nodes[0].host, world.nodes[0].leg(A).as_str()).try_into().unwrap();
    let (host, leg_name) = (world.nodes[0].host.clone(), world.nodes[0].leg(A).to_string());
    let (to_far4, to_far6) = (v4(far.addresses[0]), v6(far.addresses[1]));
    let frames = |ethernet: Ethernet| -> Frames {
        let icmp = |kind, from, target| ipv6(from, ALL_NODES, ICMPV6, &icmpv6(kind, from, ALL_NODES, &about(target)));
        let other = v6(overlay6(A, 77));
        [
            ("arp in its name", ARP, arp(1, (leg, gateway.0), to_far4)),
            ("arp for it", ARP, arp(1, (leg, v4(overlay4(A, 77))), gateway.0)),
            ("solicitation in its name", IPV6, icmp(NEIGHBOUR_SOLICITATION, gateway.1, to_far6)),
            ("solicitation for it", IPV6, icmp(NEIGHBOUR_SOLICITATION, other, gateway.1)),
            ("advertisement of it", IPV6, icmp(NEIGHBOUR_ADVERTISEMENT, other, gateway.1)),
        ]
        .map(|(name, kind, packet)| (name, named(&ethernet, kind, &packet, name)))
        .to_vec()
    };
    let fence = |text| named(&Ethernet::broadcast(leg), ARP, &arp(1, (leg, v4(overlay4(A, 77))), to_far4), text);
    let mut capture = Capture::start(&far.namespace, "eth0");
    for node in &mut world.nodes {
        node.delete_rules(Table::DataPlane, "tunnel", "drop");
    }
    let attacks = frames(Ethernet { to: BROADCAST, from: leg.octets() });
    let all: Vec<Vec<u8>> = attacks.iter().map(|(_, frame)| frame.clone()).collect();
    send_frames(&host, &leg_name, &all);
    for (name, _) in &attacks {
        assert!(capture.waits_for(&mark(name)), "{name} does not cross without the guard");
    }

    // Either side alone keeps it.
    for guarded in [0, 1] {
        for node in &mut world.nodes {
            node.restore(Table::DataPlane);
        }
        world.nodes[1 - guarded].delete_rules(Table::DataPlane, "tunnel", "drop");
        let mut capture = Capture::start(&far.namespace, "eth0");
        let mut local = Capture::start(&near.namespace, "eth0");
        send_frames(&host, &leg_name, &all);
        send_frames(&host, &leg_name, &[fence("fence")]);
        assert!(capture.waits_for(b"fence"));
        for (name, _) in &attacks {
            assert!(!capture.seen(&mark(name)), "{name} crosses with a guard on node {}", guarded + 1);
            assert!(local.waits_for(&mark(name)), "{name} is not heard on its own node");
        }
    }
}

fn attacks(attacker: &Container) -> Frames {
    let own = Ethernet::broadcast(attacker.mac);
    let (own4, own6) = (v4(attacker.addresses[0]), v6(attacker.addresses[1]));
    let (other4, other6) = (v4(overlay4(A, 12)), v6(overlay6(A, 12)));
    let gateway6 = v6(overlay6(A, 1));
    let foreign_mac: Mac = "02:66:66:66:66:66".parse().expect("an address");
    let nd =
        |kind, from: Ipv6Addr, target| ipv6(from, ALL_NODES, ICMPV6, &icmpv6(kind, from, ALL_NODES, &about(target)));
    let hidden = icmpv6(NEIGHBOUR_ADVERTISEMENT, own6, ALL_NODES, &about(gateway6));
    let router =
        |from| ipv6(from, ALL_NODES, ICMPV6, &icmpv6(134, from, ALL_NODES, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]));
    let redirect = icmpv6(137, LINK_LOCAL, ALL_NODES, &[&[0; 4][..], &own6.octets(), &other6.octets()].concat());
    let dhcp4 = udp((own4.into(), 67), (Ipv4Addr::BROADCAST.into(), 68), b"offer");
    let dhcp6 = udp((LINK_LOCAL.into(), 547), (ALL_NODES.into(), 546), b"advertise");
    let stp = Ethernet { to: [1, 0x80, 0xc2, 0, 0, 0], from: attacker.mac.octets() };
    let tagged = [&[0, 5][..], &IPV4.to_be_bytes(), &ipv4(own4, Ipv4Addr::BROADCAST, UDP, &udp4(attacker, b"tagged"))];
    let frames: [(&'static str, &Ethernet, u16, Vec<u8>); 21] = [
        ("foreign ethernet source", &Ethernet::broadcast(foreign_mac), IPV4, ipv4(own4, other4, 253, &[])),
        ("foreign ipv4 source", &own, IPV4, ipv4(other4, own4, 253, &[])),
        ("no ipv4 source", &own, IPV4, ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 253, &[])),
        ("foreign arp sender", &own, ARP, arp(1, (attacker.mac, other4), own4)),
        ("foreign arp reply", &own, ARP, arp(2, (attacker.mac, v4(overlay4(A, 1))), other4)),
        ("foreign arp ethernet sender", &own, ARP, arp(2, (foreign_mac, own4), other4)),
        ("arp probe for another", &own, ARP, arp(1, (attacker.mac, Ipv4Addr::UNSPECIFIED), other4)),
        ("foreign ipv6 source", &own, IPV6, ipv6(other6, own6, 253, &[])),
        ("foreign solicitation", &own, IPV6, nd(NEIGHBOUR_SOLICITATION, other6, own6)),
        ("advertisement for another", &own, IPV6, nd(NEIGHBOUR_ADVERTISEMENT, own6, other6)),
        ("advertisement for the gateway", &own, IPV6, nd(NEIGHBOUR_ADVERTISEMENT, LINK_LOCAL, gateway6)),
        ("hidden advertisement", &own, IPV6, ipv6_with_options(own6, ALL_NODES, ICMPV6, &hidden)),
        ("probe for the address of another", &own, IPV6, nd(NEIGHBOUR_SOLICITATION, Ipv6Addr::UNSPECIFIED, other6)),
        ("router advertisement", &own, IPV6, router(LINK_LOCAL)),
        ("hidden router advertisement", &own, IPV6, {
            let message = icmpv6(134, LINK_LOCAL, ALL_NODES, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
            ipv6_with_options(LINK_LOCAL, ALL_NODES, ICMPV6, &message)
        }),
        ("redirect", &own, IPV6, ipv6(LINK_LOCAL, ALL_NODES, ICMPV6, &redirect)),
        ("dhcp server", &own, IPV4, ipv4(own4, Ipv4Addr::BROADCAST, UDP, &dhcp4)),
        ("dhcpv6 server", &own, IPV6, ipv6(LINK_LOCAL, ALL_NODES, UDP, &dhcp6)),
        ("spanning tree", &stp, IPV4, ipv4(own4, other4, 253, &[])),
        ("vlan tag", &own, 0x8100, tagged.concat()),
        ("another ethertype", &own, 0x88b5, vec![0; 8]),
    ];
    frames.into_iter().map(|(name, ethernet, kind, packet)| (name, named(ethernet, kind, &packet, name))).collect()
}

fn honest(sender: &Container) -> Frames {
    let own = Ethernet::broadcast(sender.mac);
    let (own4, own6) = (v4(sender.addresses[0]), v6(sender.addresses[1]));
    let (other4, other6) = (v4(overlay4(A, 12)), v6(overlay6(A, 12)));
    let nobody = Ipv6Addr::UNSPECIFIED;
    let nd =
        |kind, from: Ipv6Addr, target| ipv6(from, ALL_NODES, ICMPV6, &icmpv6(kind, from, ALL_NODES, &about(target)));
    let report = icmpv6(143, nobody, ALL_NODES, &[0; 4]);
    // A header of TCP as far as ports go: the port is that of a DHCP server, the protocol is not.
    let tcp = [&67_u16.to_be_bytes()[..], &[0; 18]].concat();
    let frames = [
        ("ipv4", IPV4, ipv4(own4, other4, 253, &[])),
        ("tcp67", IPV4, ipv4(own4, other4, TCP, &tcp)),
        ("request", ARP, arp(1, (sender.mac, own4), other4)),
        ("reply", ARP, arp(2, (sender.mac, own4), other4)),
        ("probe", ARP, arp(1, (sender.mac, Ipv4Addr::UNSPECIFIED), own4)),
        ("announcement", ARP, arp(1, (sender.mac, own4), own4)),
        ("plain6", IPV6, ipv6(own6, other6, 253, &[])),
        ("options", IPV6, ipv6_with_options(own6, other6, 253, &[])),
        ("linklocal", IPV6, ipv6(LINK_LOCAL, other6, 253, &[])),
        ("solicitation", IPV6, nd(NEIGHBOUR_SOLICITATION, own6, other6)),
        ("advertisement", IPV6, nd(NEIGHBOUR_ADVERTISEMENT, own6, own6)),
        ("local advertisement", IPV6, nd(NEIGHBOUR_ADVERTISEMENT, LINK_LOCAL, LINK_LOCAL)),
        ("detection", IPV6, nd(NEIGHBOUR_SOLICITATION, nobody, own6)),
        ("local detection", IPV6, nd(NEIGHBOUR_SOLICITATION, nobody, LINK_LOCAL)),
        ("membership", IPV6, ipv6(nobody, ALL_NODES, ICMPV6, &report)),
    ];
    frames.into_iter().map(|(name, kind, packet)| (name, named(&own, kind, &packet, name))).collect()
}

fn own_ipv4(container: &Container) -> Vec<u8> {
    let packet = ipv4(v4(container.addresses[0]), Ipv4Addr::BROADCAST, UDP, &udp4(container, b"fence"));
    Ethernet::broadcast(container.mac).frame(IPV4, &packet)
}

fn udp4(from: &Container, payload: &[u8]) -> Vec<u8> {
    udp((from.addresses[0], 9), (Ipv4Addr::BROADCAST.into(), 9), payload)
}

/// The name follows the packet, where a receiver does not look.
fn named(ethernet: &Ethernet, kind: u16, packet: &[u8], name: &str) -> Vec<u8> {
    ethernet.frame(kind, &[packet, &mark(name)].concat())
}

fn mark(name: &str) -> Vec<u8> {
    format!("<{name}>").into_bytes()
}

fn send(container: &Container, frames: &[(&'static str, Vec<u8>)]) {
    let frames: Vec<Vec<u8>> = frames.iter().map(|(_, frame)| frame.clone()).collect();
    send_frames(&container.namespace, "eth0", &frames);
}
