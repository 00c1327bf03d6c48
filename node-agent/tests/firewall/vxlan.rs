//! Who may send VXLAN: failure mode B22, and A4, A6, A7 of the hand-made attacks.

use std::net::IpAddr;

use weft_overlay::kernel::{Element, Object, Table};

use crate::{
    packets::{self, Ethernet, IPV4, IPV6, UDP, v4, v6},
    traffic::{Capture, answers_ping, fetch_udp, ignores_ping, mac_of, marked, send_frames, send_udp, vxlan},
    traffic::{PATIENCE, UdpServer},
    world::{A, B, VXLAN_PORT, World, ip, network_id, run, underlay4, underlay6, vni},
};

const OTHER_VNI: u32 = 71_000;

#[test]
fn members_reach_each_other_and_their_vxlan_is_not_tracked() {
    let mut world = World::new(2);
    let one = world.container(1, &[A], 11);
    let two = world.container(2, &[A], 12);
    let count = "nft 'table inet count { chain in { type filter hook input priority -20; udp dport 4789 counter;
                 udp dport 4789 ct state != untracked counter drop; }; chain out { type filter hook output priority -20;
                 udp dport 4789 ct state != untracked counter drop; }; }'";
    for node in &world.nodes {
        run(&node.host, count);
    }

    let answered = one.addresses.iter().all(|_| answers_ping(&one.namespace, two.addresses[0]));

    assert!(answered && answers_ping(&one.namespace, two.addresses[1]));
    let counted = run(&world.nodes[0].host, "nft list chain inet count in");
    assert!(!counted.contains("udp dport 4789 counter packets 0"), "{counted}");
}

#[test]
fn a_strangers_vxlan_is_dropped() {
    let mut world = World::new(2);
    let victim = world.container(1, &[A], 11);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let out = world.out();
    let send = |from: &str, text| {
        send_udp(from, 0, (underlay4(1), VXLAN_PORT), &vxlan(vni(A).get(), &marked(text)));
    };
    world.nodes[0].delete_rules(Table::Host, "vxlan", "\tcounter");
    send(&out, "without the rule");
    assert!(capture.waits_for(b"without the rule"));
    world.nodes[0].restore(Table::Host);

    send(&out, "with the rule");

    send(&world.nodes[1].host, "from a member");
    assert!(capture.waits_for(b"from a member"));
    assert!(!capture.seen(b"with the rule"));
    let counted = run(&world.nodes[0].host, "nft list chain inet weft vxlan");
    assert!(counted.contains("\tcounter packets 1 "), "the drop was not counted: {counted}");
}

#[test]
fn a_strangers_fragments_are_dropped() {
    let mut world = World::new(2);
    let victim = world.container(1, &[A], 11);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let out = world.out();
    let mac = mac_of(&world.nodes[0].host, "eth0");
    let send = |text| {
        let (from, to) = (underlay4(9), underlay4(1));
        let datagram = packets::udp((from, 5555), (to, VXLAN_PORT), &vxlan(vni(A).get(), &marked(text)));
        let ethernet = Ethernet { to: mac, from: mac_of(&out, "eth0") };
        // The first one holds the UDP header and nothing of VXLAN's.
        let parts = packets::ipv4_fragments(v4(from), v4(to), UDP, 8, &datagram);
        send_frames(&out, "eth0", &parts.map(|part| ethernet.frame_exact(IPV4, &part)));
    };
    world.nodes[0].delete_rules(Table::Host, "vxlan", "\tcounter");
    send("without the rule");
    assert!(capture.waits_for(b"without the rule"));
    world.nodes[0].restore(Table::Host);

    send("with the rule");

    let member = vxlan(vni(A).get(), &marked("from a member"));
    send_udp(&world.nodes[1].host, 0, (underlay4(1), VXLAN_PORT), &member);
    assert!(capture.waits_for(b"from a member"));
    assert!(!capture.seen(b"with the rule"));
}

#[test]
fn over_ipv6_a_strangers_vxlan_is_dropped_whole_in_fragments_and_behind_options() {
    let mut world = World::new(2);
    let victim = world.container(1, &[A], 11);
    let (out, host, data_plane) = (world.out(), world.nodes[0].host.clone(), world.nodes[0].data_plane.clone());
    let (from, to) = (underlay6(9), underlay6(1));
    ip(
        &host,
        &format!(
            "link add six netns {data_plane} type vxlan id {OTHER_VNI} local {to} dstport {VXLAN_PORT} udp6zerocsumrx"
        ),
    );
    ip(&data_plane, &format!("link set six master {} up", network_id(A).bridge_name()));
    let vni = OTHER_VNI.to_string().parse().unwrap();
    world.nodes[0].insert(Element::AcceptedPair(underlay6(2), vni), Object::Present);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let ethernet = Ethernet { to: mac_of(&host, "eth0"), from: mac_of(&out, "eth0") };
    let send = |name: &str| {
        let datagram = |text: String| packets::udp((from, 5555), (to, VXLAN_PORT), &vxlan(OTHER_VNI, &marked(&text)));
        let (from, to) = (v6(from), v6(to));
        let mut frames = vec![
            packets::ipv6(from, to, UDP, &datagram(format!("whole {name}"))),
            packets::ipv6_with_options(from, to, UDP, &datagram(format!("options {name}"))),
        ];
        frames.extend(packets::ipv6_fragments(from, to, UDP, 8, &datagram(format!("parts {name}"))));
        let frames: Vec<_> = frames.iter().map(|packet| ethernet.frame_exact(IPV6, packet)).collect();
        send_frames(&out, "eth0", &frames);
    };
    world.nodes[0].delete_rules(Table::Host, "vxlan", "\tcounter");
    send("without");
    for kind in ["whole", "options", "parts"] {
        assert!(capture.waits_for(format!("{kind} without").as_bytes()), "{kind}");
    }
    world.nodes[0].restore(Table::Host);

    send("beside the rule");

    let member = vxlan(OTHER_VNI, &marked("from a member"));
    send_udp(&world.nodes[1].host, 0, (to, VXLAN_PORT), &member);
    assert!(capture.waits_for(b"from a member"));
    for kind in ["whole", "options", "parts"] {
        assert!(!capture.seen(format!("{kind} beside").as_bytes()), "{kind}");
    }
}

#[test]
fn a_member_is_accepted_for_its_networks_only() {
    let mut world = World::new(2);
    let one = world.container(1, &[A, B], 11);
    let two = world.container(2, &[A, B], 12);
    assert!(answers_ping(&one.namespace, two.addresses[2]));

    world.nodes[0].remove(Element::AcceptedPair(underlay4(2), vni(B)));

    assert!(ignores_ping(&one.namespace, two.addresses[2]));
    assert!(answers_ping(&one.namespace, two.addresses[0]));
}

#[test]
fn a_container_cannot_forge_a_member_towards_its_own_host() {
    let mut world = World::new(2);
    let attacker = world.container(1, &[B], 11);
    let victim = world.container(1, &[A], 12);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let node = &mut world.nodes[0];
    // So that the source filter, the other wall, does not stop it.
    node.insert(Element::PortAddress(attacker.port.clone(), underlay4(2)), Object::Present);
    let (from, to) = (underlay4(2), underlay4(1));
    let ethernet = Ethernet { to: mac_of(&node.host, node.leg(B).as_str()), from: attacker.mac.octets() };
    let send = |text| {
        let datagram = packets::udp((from, 5555), (to, VXLAN_PORT), &vxlan(vni(A).get(), &marked(text)));
        let packet = packets::ipv4(v4(from), v4(to), UDP, &datagram);
        send_frames(&attacker.namespace, "eth0", &[ethernet.frame(IPV4, &packet)]);
    };
    node.delete_rules(Table::Host, "vxlan", "iifname @legs");
    send("without the rule");
    assert!(capture.waits_for(b"without the rule"));
    node.restore(Table::Host);

    send("with the rule");

    let member = vxlan(vni(A).get(), &marked("from a member"));
    send_udp(&world.nodes[1].host, 0, (to, VXLAN_PORT), &member);
    assert!(capture.waits_for(b"from a member"));
    assert!(!capture.seen(b"with the rule"));
}

#[test]
fn a_container_cannot_use_the_masquerade_to_be_a_member() {
    let mut world = World::new(2);
    let attacker = world.container(1, &[B], 11);
    let victim = world.container(2, &[A], 12);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let send = |from: &str, text| {
        send_udp(from, 0, (underlay4(2), VXLAN_PORT), &vxlan(vni(A).get(), &marked(text)));
    };
    world.nodes[0].delete_rules(Table::Host, "forward", "ip daddr @vteps4");
    send(&attacker.namespace, "without the rule");
    assert!(capture.waits_for(b"without the rule"));
    world.nodes[0].restore(Table::Host);

    send(&attacker.namespace, "with the rule");

    send(&world.nodes[0].host, "from a member");
    assert!(capture.waits_for(b"from a member"));
    assert!(!capture.seen(b"with the rule"));
}

#[test]
fn whatever_the_host_forwards_cannot_be_a_member_either() {
    let mut world = World::new(2);
    let victim = world.container(2, &[A], 12);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let (out, host) = (world.out(), world.nodes[0].host.clone());
    // As a container of another engine on that host: the host masquerades it.
    run(
        &host,
        "nft 'table ip other { chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }'",
    );
    ip(&out, &format!("route add {} via {}", underlay4(2), underlay4(1)));
    let send = |from: &str, text| {
        send_udp(from, 0, (underlay4(2), VXLAN_PORT), &vxlan(vni(A).get(), &marked(text)));
    };
    world.nodes[0].delete_rules(Table::Host, "forward", "ip daddr @vteps4");
    send(&out, "without the rule");
    assert!(capture.waits_for(b"without the rule"));
    world.nodes[0].restore(Table::Host);

    send(&out, "with the rule");

    send(&host, "from a member");
    assert!(capture.waits_for(b"from a member"));
    assert!(!capture.seen(b"with the rule"));
}

#[test]
fn masqueraded_udp_never_comes_from_the_vxlan_port() {
    let mut world = World::new(1);
    let container = world.container(1, &[A], 11);
    let _server = UdpServer::start(&world.out(), ("::", 9999));
    let targets: [IpAddr; 2] = [underlay4(9), underlay6(9)];
    world.nodes[0].delete_rules(Table::Host, "masquerade_out", "meta l4proto udp");
    let kept = fetch_udp(&container.namespace, VXLAN_PORT, (targets[0], 9999), PATIENCE).expect("an answer");
    assert_eq!(kept.port(), VXLAN_PORT, "without the rule the port is kept");
    world.nodes[0].restore(Table::Host);
    // Another flow than before: the kernel remembers the translation of that one.
    let _other = UdpServer::start(&world.out(), ("::", 9998));

    for target in targets {
        let seen = fetch_udp(&container.namespace, VXLAN_PORT, (target, 9998), PATIENCE).expect("an answer");

        let host = if target.is_ipv4() { underlay4(1) } else { underlay6(1) };
        assert_eq!(seen.ip().to_canonical(), host);
        assert_ne!(seen.port(), VXLAN_PORT);
    }
}
