//! Frames on the wire: raw ones that containers should not send, and pings between containers of two hosts.

use std::os::fd::AsRawFd;

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket},
};
use weft_node_agent::netns::Namespace;
use weft_overlay::kernel::{NetworkObject, Object};

use crate::lab::{Host, Network, eventually, ip, mac, namespace, place, received, sh};

/// Sends a frame from an interface of a namespace.
pub(crate) fn send_frame(from: &Namespace, ifname: &str, frame: &[u8]) {
    let send = || {
        let packet = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let mut links = getifaddrs().unwrap().filter(|i| i.interface_name == ifname).filter_map(|i| i.address);
        let link = links.find_map(|address| address.as_link_addr().copied()).unwrap();
        sendto(packet.as_raw_fd(), frame, &link, MsgFlags::empty()).unwrap();
    };
    from.run(send).unwrap();
}

/// A broadcast frame of an experimental type (IEEE 802 local experimental) from a MAC.
pub(crate) fn broadcast_from(source: &str) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac(source).octets());
    frame.extend([0x88, 0xb5]);
    frame.extend([0; 46]);
    frame
}

/// A host with an underlay address, and its half of a network that has one container on each of two hosts.
fn half(number: u8, vtep: &str) -> (Host, Network, Namespace) {
    let mut host = Host::new();
    let container = namespace();
    let mut network = Network::new(1);
    network.state.objects.retain(|id, _| id.is_device());
    let Object::Vxlan(mut vxlan) = network.get(NetworkObject::Vxlan) else { unreachable!() };
    vxlan.local = ip(vtep);
    network.put(NetworkObject::Vxlan, Object::Vxlan(vxlan));
    let sandbox = weft_overlay::kernel::SandboxState {
        place: place(&container, "eth0"),
        mac: mac(&format!("02:42:0a:21:00:0{number}")),
        mtu: 1450,
        up: true,
        addresses: [format!("10.33.0.{number}/24"), format!("fd00:1::{number}/64")]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect(),
        default_routes: [].into(),
    };
    network.put(NetworkObject::Sandbox(network.endpoint), Object::Sandbox(Box::new(sandbox)));
    host.create(&network.state);
    (host, network, container)
}

/// The rows by which one half knows the endpoint of the other.
fn introduce(host: &mut Host, network: &mut Network, (own, other): (u8, u8), vtep: &str) {
    let address = |number: u8| mac(&format!("02:42:0a:21:00:0{number}"));
    let local = weft_overlay::kernel::FdbPort::Port(network.endpoint);
    network.put(NetworkObject::BridgeFdb(address(own)), Object::BridgeFdb(local));
    network.put(NetworkObject::BridgeFdb(address(other)), Object::BridgeFdb(weft_overlay::kernel::FdbPort::Vxlan));
    network.put(NetworkObject::TunnelFdb(address(other)), Object::TunnelFdb(ip(vtep)));
    network.put(NetworkObject::Flood(ip(vtep)), Object::Present);
    for text in [format!("10.33.0.{other}"), format!("fd00:1::{other}")] {
        network.put(NetworkObject::Neighbour(ip(&text)), Object::Neighbour(address(other)));
    }
    host.create(&network.state);
}

#[test]
fn containers_on_two_hosts_reach_each_other_by_both_families_and_by_broadcast() {
    let ((mut a, mut on_a, ct1), (mut b, mut on_b, ct2)) = (half(5, "198.18.0.1"), half(6, "198.18.0.2"));
    let wire = place(&b.host, "under0");
    sh(&a.host, "ip link add under0 type veth peer kt-wire");
    let moved = format!("nsenter --net={} true && ip link set kt-wire netns {}", wire.path, wire.path);
    sh(&a.host, &moved);
    sh(&a.host, "ip addr add 198.18.0.1/24 dev under0 && ip link set under0 up");
    sh(&b.host, "ip addr add 198.18.0.2/24 dev kt-wire && ip link set kt-wire up");
    introduce(&mut a, &mut on_a, (5, 6), "198.18.0.2");
    introduce(&mut b, &mut on_b, (6, 5), "198.18.0.1");

    sh(&ct1, "ping -c 3 -i 0.1 -W 2 10.33.0.6 && ping -c 3 -i 0.1 -W 2 fd00:1::6");
    sh(&ct2, "ping -c 1 -s 1400 -M do -W 2 10.33.0.5");

    let arrived = || received(&ct2, "eth0");
    let before = arrived();
    (0..10).for_each(|_| send_frame(&ct1, "eth0", &broadcast_from("02:42:0a:21:00:05")));
    eventually("ten broadcasts arrive", || if arrived() >= before + 10 { Ok(()) } else { Err(arrived() - before) });
}
