//! VXLAN has no authentication: from whom a node accepts it, and who may send it.

use std::net::{Ipv4Addr, UdpSocket};

use weft_e2e::topology::{CONTROL, CONTROLLER_ADDRESS};
use weft_e2e::traffic::{FramePort, packet};
use weft_e2e::{Endpoint, Lab, Network, eventually};

use super::{SOON, VXLAN_PORT, dropped, settles, shared};

/// The frame that an attacker wants to see in the network, recognisable by its end.
fn inner(label: &str) -> Vec<u8> {
    let source = ([10, 32, 200, 200].into(), 666);
    let content = packet::udp4(source, ([255; 4].into(), 666), label.as_bytes());
    packet::ethernet(packet::BROADCAST, [0x02, 0x42, 10, 32, 200, 200], packet::ETHERTYPE_IPV4, &content)
}

fn payload(vni: u32, label: &str) -> Vec<u8> {
    packet::vxlan(vni, &inner(label))
}

/// An interface on the underlay and the host it sends to.
struct Attacker {
    port: FramePort,
    target: FramePort,
    target_address: Ipv4Addr,
}

impl Attacker {
    fn on(netns: &str, lab: &Lab, target: u8) -> Self {
        let target = lab.host(target);
        Self {
            port: FramePort::open(netns, "eth1").unwrap(),
            target: FramePort::open(&target.name(), "eth1").unwrap(),
            target_address: target.id().underlay_address(),
        }
    }

    /// Sends the payload in one packet, then in two fragments, the first of which ends before the VNI.
    fn inject(&self, claimed: Ipv4Addr, vni: u32, labels: [&str; 2]) {
        let to = (self.target_address, VXLAN_PORT);
        self.send(&packet::udp4((claimed, 40000), to, &payload(vni, labels[0])));
        for fragment in packet::fragments(&packet::udp4((claimed, 40001), to, &payload(vni, labels[1])), 8) {
            self.send(&fragment);
        }
    }

    fn send(&self, ip: &[u8]) {
        let frame = packet::ethernet(self.target.mac(), self.port.mac(), packet::ETHERTYPE_IPV4, ip);
        self.port.send(&frame).unwrap();
    }
}

/// Every label that is seen on a container's interface until `last`.
fn labels_until(ear: &FramePort, last: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let seen = ear.watch(SOON, |seen| {
        let label = seen.bytes.get(42..).map(|label| String::from_utf8_lossy(label).into_owned());
        let label = label.filter(|label| label.starts_with("injected"));
        labels.extend(label);
        labels.last().is_some_and(|label| label == last)
    });
    assert!(seen.unwrap().is_some(), "{last} arrives; seen {labels:?}");
    labels
}

/// A network on h1 and h2, another on h3 and h2; the containers on h2.
fn two_networks(lab: &Lab, prefix: &str) -> ([Network; 2], [Endpoint; 2]) {
    let name = |letter: &str| format!("{prefix}{letter}");
    let networks = ["a", "b"].map(|letter| lab.create_network(&name(letter), &[]).unwrap());
    lab.attach(1, &format!("{prefix}a1"), &name("a"), &[]).unwrap();
    lab.attach(3, &format!("{prefix}b3"), &name("b"), &[]).unwrap();
    let on_h2 = ["a", "b"].map(|letter| lab.attach(2, &format!("{prefix}{letter}2"), &name(letter), &[]).unwrap());
    settles(lab);
    (networks, on_h2)
}

#[test]
fn tunnel_packets_are_accepted_from_members_of_that_network_only() {
    let lab = shared();
    let ([a, b], [victim, _]) = two_networks(&lab, "pairs");
    let ear = FramePort::open(&victim.name, "eth0").unwrap();
    let address = |host| lab.host(host).id().underlay_address();
    let member = Attacker::on("h1", &lab, 2);
    let before = dropped("h2", "inet", "vxlan", &lab);

    member.inject(address(1), a.vni, ["injected by a member", "injected in fragments by a member"]);
    let stranger = Attacker::on(CONTROL, &lab, 2);
    stranger.inject(CONTROLLER_ADDRESS, a.vni, ["injected by a stranger", "injected in fragments by a stranger"]);
    stranger.inject(CONTROLLER_ADDRESS, b.vni, ["injected", "injected"]);
    let other = Attacker::on("h3", &lab, 2);
    other.inject(address(3), a.vni, ["injected by another's member", "injected in fragments by another's member"]);
    eventually(SOON, "six packets dropped", || {
        let now = dropped("h2", "inet", "vxlan", &lab);
        if now >= before + 6 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
    });
    member.inject(address(1), a.vni, ["injected last", "injected last of all"]);

    let arrived = labels_until(&ear, "injected last of all");
    let honest = ["injected by a member", "injected in fragments by a member", "injected last", "injected last of all"];
    assert_eq!(arrived, honest);
}

#[test]
fn container_cannot_send_into_another_network_through_its_nodes_address() {
    let lab = shared();
    let ([a, _], [victim, _]) = two_networks(&lab, "masked");
    // On a member of the network, so that its address would be believed.
    lab.attach(1, "maskedb1", "maskedb", &[]).unwrap();
    settles(&lab);
    let ear = FramePort::open(&victim.name, "eth0").unwrap();
    let before = dropped("h1", "inet", "forward", &lab);

    let socket = open_udp("maskedb1");
    let target = lab.host(2).id().underlay_address();
    socket.send_to(&payload(a.vni, "injected through the masquerade"), (target, VXLAN_PORT)).unwrap();

    eventually(SOON, "the packet dropped", || {
        let now = dropped("h1", "inet", "forward", &lab);
        if now > before { Ok(()) } else { Err(format!("{now} dropped")) }
    });
    let member = Attacker::on("h1", &lab, 2);
    member.inject(lab.host(1).id().underlay_address(), a.vni, ["injected", "injected last"]);
    assert_eq!(labels_until(&ear, "injected last"), ["injected", "injected last"]);
}

#[test]
fn container_cannot_forge_a_member_towards_its_own_node() {
    let lab = shared();
    let ([a, _], [victim, attacker]) = two_networks(&lab, "forged");
    let ear = FramePort::open(&victim.name, "eth0").unwrap();
    let node = lab.host(2).id().underlay_address();
    let before = dropped("weft-h2", "bridge", "container_ip", &lab);
    let host_before = dropped("h2", "inet", "vxlan", &lab);

    let port = FramePort::open(&attacker.name, "eth0").unwrap();
    let leg = lab.host(2).leg("forgedb").unwrap().mac_bytes();
    for claimed in [lab.host(1).id().underlay_address(), attacker.ipv4.unwrap()] {
        let ip = packet::udp4((claimed, 40000), (node, VXLAN_PORT), &payload(a.vni, "injected by a forger"));
        port.send(&packet::ethernet(leg, port.mac(), packet::ETHERTYPE_IPV4, &ip)).unwrap();
    }

    // The forged source ends at the container's port, the true one at the host.
    eventually(SOON, "both packets dropped", || {
        let now = (dropped("weft-h2", "bridge", "container_ip", &lab), dropped("h2", "inet", "vxlan", &lab));
        if now.0 > before && now.1 > host_before { Ok(()) } else { Err(format!("{now:?} dropped")) }
    });
    let member = Attacker::on("h1", &lab, 2);
    member.inject(lab.host(1).id().underlay_address(), a.vni, ["injected", "injected last"]);
    assert_eq!(labels_until(&ear, "injected last"), ["injected", "injected last"]);
}

#[test]
fn unprivileged_process_on_a_node_may_not_send_to_the_tunnel_port() {
    let lab = shared();
    let _networks = two_networks(&lab, "user");
    let target = lab.host(2).id().underlay_address();
    let script = format!("echo > /dev/udp/{target}/{VXLAN_PORT}");
    let send = ["bash", "-c", &script];
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

    let refused = lab.host(1).try_exec(&[&nobody[..], &send].concat()).unwrap();

    assert!(!refused.is_success() && refused.stderr.contains("Permission denied"), "{refused:?}");
    // Other ports are not concerned, and the agent's own user is not either.
    let other = script.replace(&VXLAN_PORT.to_string(), "4790");
    lab.host(1).exec(&[&nobody[..], &["bash", "-c", &other]].concat()).unwrap();
    lab.host(1).exec(&send).unwrap();
}

fn open_udp(netns: &str) -> UdpSocket {
    let netns: weft_e2e::netns::NetnsName = netns.parse().unwrap();
    netns.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap()
}
