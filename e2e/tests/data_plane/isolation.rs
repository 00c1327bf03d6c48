//! Networks are apart from one another and from the outside, on Layer 2 and on Layer 3.

use std::net::SocketAddr;

use weft_e2e::topology::CONTROL;
use weft_e2e::traffic::{self, TcpServer, ask_tcp, ask_udp, packet};
use weft_e2e::traffic::{FramePort, UdpServer};
use weft_e2e::{Endpoint, Lab};

use super::{NEVER, SOON, any, dropped, settles, shared, underlay};

#[track_caller]
fn cannot_reach(from: &str, to: &Endpoint, port: u16) {
    for address in to.addresses() {
        assert!(traffic::ping(from, address, NEVER).is_err(), "{from} pings {address} of {}", to.name);
        assert!(ask_tcp(from, SocketAddr::new(address, port), NEVER).is_err(), "{from} reaches {address}");
    }
}

fn pair(lab: &Lab, prefix: &str) {
    for letter in ["a", "b"] {
        lab.create_network(&format!("{prefix}{letter}"), &[]).unwrap();
    }
}

#[test]
fn networks_have_no_path_to_one_another_through_any_host() {
    let lab = shared();
    pair(&lab, "iso");
    let from = lab.attach(1, "isoa1", "isoa", &[]).unwrap();
    lab.attach(3, "isoa3", "isoa", &[]).unwrap();
    let near = lab.attach(1, "isob1", "isob", &[]).unwrap();
    let far = lab.attach(2, "isob2", "isob", &[]).unwrap();
    settles(&lab);
    let servers = [&near, &far].map(|endpoint| (endpoint, TcpServer::start(&endpoint.name, any(0)).unwrap()));

    for (endpoint, server) in &servers {
        let port = server.address().port();
        cannot_reach("isoa1", endpoint, port);
        // Where the other network has no part at all.
        cannot_reach("isoa3", endpoint, port);
        ask_tcp("isob1", SocketAddr::new(endpoint.v4(), port), SOON).unwrap();
    }
    // Not even when the frames are put on the wire by hand.
    let port = FramePort::open("isoa1", "eth0").unwrap();
    let ear = FramePort::open("isob1", "eth0").unwrap();
    let leg = lab.host(1).leg("isoa").unwrap().mac_bytes();
    let ip = packet::udp4((from.ipv4.unwrap(), 7), (near.ipv4.unwrap(), 7), b"across");
    for destination in [leg, near.mac_bytes(), packet::BROADCAST] {
        port.send(&packet::ethernet(destination, port.mac(), packet::ETHERTYPE_IPV4, &ip)).unwrap();
    }
    traffic::ping("isob2", near.v4(), SOON).unwrap();
    let mut crossed = 0;
    let last = ear.watch(SOON, |seen| {
        crossed += usize::from(seen.bytes.ends_with(b"across"));
        seen.bytes[6..12] == far.mac_bytes()
    });
    assert!(last.unwrap().is_some());
    assert_eq!(crossed, 0);
    settles(&lab);
}

#[test]
fn container_in_two_networks_does_not_route_between_them() {
    let lab = shared();
    pair(&lab, "tie");
    let in_a = lab.attach(1, "tieboth", "tiea", &[]).unwrap();
    lab.attach(1, "tieboth", "tieb", &[]).unwrap();
    lab.attach(2, "tiea2", "tiea", &[]).unwrap();
    let target = lab.attach(2, "tieb2", "tieb", &[]).unwrap();
    let server = TcpServer::start("tieb2", any(0)).unwrap();
    for switch in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        lab.in_netns("tieboth", &["sysctl", "-qw", switch]).unwrap();
    }
    let route = |family: &str, to: String, via: String| {
        lab.in_netns("tiea2", &["ip", family, "route", "replace", &to, "via", &via, "dev", "eth0"]).unwrap();
    };
    route("-4", target.v4().to_string(), in_a.v4().to_string());
    route("-6", target.v6().to_string(), in_a.v6().to_string());
    settles(&lab);

    cannot_reach("tiea2", &target, server.address().port());
    ask_tcp("tieboth", SocketAddr::new(target.v4(), server.address().port()), SOON).unwrap();
}

#[test]
fn outside_reaches_no_unpublished_port_through_a_node() {
    let lab = shared();
    let network = lab.create_network("unpublished", &[]).unwrap();
    let near = lab.attach(1, "unpublished1", "unpublished", &[]).unwrap();
    let far = lab.attach(2, "unpublished2", "unpublished", &[]).unwrap();
    settles(&lab);
    let servers = [&near, &far].map(|endpoint| TcpServer::start(&endpoint.name, any(0)).unwrap());
    let via = underlay(&lab.host(1)).to_string();
    let subnet = network.subnets[0].to_string();
    lab.in_netns(CONTROL, &["ip", "route", "add", &subnet, "via", &via]).unwrap();
    let before = dropped("h1", "inet", "forward_to_leg", &lab);

    for (endpoint, server) in [&near, &far].into_iter().zip(&servers) {
        assert!(traffic::ping(CONTROL, endpoint.v4(), NEVER).is_err());
        let target = SocketAddr::new(endpoint.v4(), server.address().port());
        assert!(ask_tcp(CONTROL, target, NEVER).is_err());
        ask_tcp("h1", target, SOON).unwrap();
    }
    // They came by this way and ended here.
    assert!(dropped("h1", "inet", "forward_to_leg", &lab) >= before + 4);
    // Neither is the host an open resolver by the addresses of its legs.
    let leg = lab.host(1).leg("unpublished").unwrap();
    for address in [network.gateways[0], leg.v4()] {
        assert!(traffic::ping(CONTROL, address, NEVER).is_err(), "{address}");
        assert!(ask_udp(CONTROL, SocketAddr::new(address, 53), NEVER).is_err(), "{address}");
        assert!(ask_tcp(CONTROL, SocketAddr::new(address, 53), NEVER).is_err(), "{address}");
    }
    lab.in_netns(CONTROL, &["ip", "route", "del", &subnet]).unwrap();
}

#[test]
fn loopback_of_the_host_stays_closed_to_containers() {
    let lab = shared();
    lab.create_network("loop", &[]).unwrap();
    let container = lab.attach(1, "loop1", "loop", &["--publish", "18099:80"]).unwrap();
    settles(&lab);
    let server = UdpServer::start("h1", "127.0.0.1:0".parse().unwrap()).unwrap();
    let before = dropped("h1", "inet", "raw_prerouting", &lab);
    let port = FramePort::open("loop1", "eth0").unwrap();
    let leg = lab.host(1).leg("loop").unwrap().mac_bytes();

    let target = ([127, 0, 0, 1].into(), server.address().port());
    let ip = packet::udp4((container.ipv4.unwrap(), 7), target, b"?");
    port.send(&packet::ethernet(leg, port.mac(), packet::ETHERTYPE_IPV4, &ip)).unwrap();

    weft_e2e::eventually(SOON, "the packet dropped", || {
        let now = dropped("h1", "inet", "raw_prerouting", &lab);
        if now > before { Ok(()) } else { Err(format!("{now} dropped")) }
    });
    ask_udp("h1", server.address(), SOON).unwrap();
}
