//! North and south: the gateway, the outside, and the host itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;
use weft_e2e::topology::{OUTSIDE, OUTSIDE_SERVER, OUTSIDE_SERVER_V6};
use weft_e2e::traffic::packet::{self, ArpParty};
use weft_e2e::traffic::{self, FramePort, Stream, TcpServer, UdpServer, ask_tcp, ask_udp};
use weft_e2e::{Lab, eventually};

use super::{NEVER, SOON, any, settles, shared, underlay};

fn gateway_mac(lab: &Lab, container: &str, gateway: IpAddr) -> Option<String> {
    let text = lab.in_netns(container, &["ip", "-json", "neigh", "show", &gateway.to_string()]).unwrap();
    let rows: Value = serde_json::from_str(&text).unwrap();
    rows[0]["lladdr"].as_str().map(str::to_owned)
}

#[test]
fn gateway_has_one_address_on_every_node_and_each_nodes_own_mac() {
    let lab = shared();
    let network = lab.create_network("anycast", &[]).unwrap();
    let names = ["anycast1", "anycast2", "anycast3"];
    for (host, name) in (1..).zip(names) {
        lab.attach(host, name, "anycast", &[]).unwrap();
    }

    for gateway in &network.gateways {
        for (host, name) in (1..).zip(names) {
            traffic::ping(name, *gateway, SOON).unwrap();
            let leg = lab.host(host).leg("anycast").unwrap();
            assert_eq!(gateway_mac(&lab, name, *gateway), Some(leg.mac), "{gateway} seen by {name}");
        }
    }
    let legs = [1, 2, 3].map(|host| lab.host(host).leg("anycast").unwrap().mac);
    assert!(legs[0] != legs[1] && legs[1] != legs[2] && legs[0] != legs[2], "{legs:?}");
    settles(&lab);
}

#[test]
fn host_that_looks_for_an_address_does_not_move_the_gateway_of_other_nodes_containers() {
    let lab = shared();
    let network = lab.create_network("poison", &[]).unwrap();
    let near = lab.attach(1, "poison1", "poison", &[]).unwrap();
    lab.attach(2, "poison2", "poison", &[]).unwrap();
    settles(&lab);
    let own = lab.host(2).leg("poison").unwrap().mac;
    for gateway in &network.gateways {
        traffic::ping("poison2", *gateway, SOON).unwrap();
    }
    let ear = FramePort::open("poison2", "eth0").unwrap();
    let devices = lab.host(1).devices("poison").unwrap();

    // Nobody has this address, so the host asks everybody for it, also in the gateway's name.
    let nobody = nth_address(network.subnets[0].ip(), 200);
    let gateway = network.gateways[0].to_string();
    for source in [&[][..], &["-I", &gateway]] {
        let ping = [&["ping", "-c1", "-W1"], source, &[&nobody]].concat();
        assert!(!lab.host(1).try_exec(&ping).unwrap().is_success());
    }
    // The node's own leg claims the gateway to everybody, as a careless host would.
    let leg = FramePort::open("h1", &devices.leg).unwrap();
    let Some(IpAddr::V4(gateway4)) = network.gateways.first().copied() else { panic!("a network has IPv4 by default") };
    let claim = ArpParty { mac: leg.mac(), ip: gateway4 };
    let arp = packet::arp(packet::ARP_REQUEST, claim, ArpParty { mac: [0; 6], ip: gateway4 });
    leg.send(&packet::ethernet(packet::BROADCAST, leg.mac(), packet::ETHERTYPE_ARP, &arp)).unwrap();

    traffic::ping("poison1", lab.host(2).leg("poison").unwrap().v4(), SOON).unwrap();
    let heard = traffic::broadcast(
        &traffic::Interface::new("poison1", "eth0").unwrap(),
        &[traffic::Interface::new("poison2", "eth0").unwrap()],
        SOON,
    );
    assert_eq!(heard.unwrap().len(), 1);
    let mut claims = 0;
    let last = ear.watch(SOON, |seen| {
        let is_arp = packet::ethertype(&seen.bytes) == Some(packet::ETHERTYPE_ARP);
        claims += usize::from(is_arp && seen.bytes[28..32] == gateway4.octets() && seen.bytes[6..12] == leg.mac());
        seen.bytes[..6] == packet::BROADCAST && seen.bytes[6..12] == near.mac_bytes() && !is_arp
    });
    assert!(last.unwrap().is_some());
    assert_eq!(claims, 0);
    for gateway in &network.gateways {
        assert_eq!(gateway_mac(&lab, "poison2", *gateway), Some(own.clone()));
    }
}

#[test]
fn leg_answers_arp_for_its_own_addresses_only() {
    let lab = shared();
    let network = lab.create_network("ownarp", &[]).unwrap();
    let asker = lab.attach(1, "ownarp1", "ownarp", &[]).unwrap();
    lab.attach(2, "ownarp2", "ownarp", &[]).unwrap();
    settles(&lab);
    let port = FramePort::open("ownarp1", "eth0").unwrap();
    let ask = |target: Ipv4Addr| {
        let me = ArpParty { mac: asker.mac_bytes(), ip: asker.ipv4.unwrap() };
        let arp = packet::arp(packet::ARP_REQUEST, me, ArpParty { mac: [0; 6], ip: target });
        port.send(&packet::ethernet(packet::BROADCAST, me.mac, packet::ETHERTYPE_ARP, &arp)).unwrap();
    };
    let IpAddr::V4(gateway) = network.gateways[0] else { panic!("a network has IPv4 by default") };

    for host in [1, 2] {
        ask(lab.host(host).id().underlay_address());
    }
    ask(gateway);

    let mut answered = Vec::new();
    let last = port.watch(SOON, |seen| {
        if packet::ethertype(&seen.bytes) != Some(packet::ETHERTYPE_ARP) || seen.bytes[20..22] != [0, 2] {
            return false;
        }
        let answer = Ipv4Addr::from(<[u8; 4]>::try_from(&seen.bytes[28..32]).unwrap());
        answered.push(answer);
        answer == gateway
    });
    assert!(last.unwrap().is_some(), "the gateway answers");
    assert_eq!(answered, [gateway]);
}

#[test]
fn outside_sees_the_hosts_address_by_both_families() {
    let lab = shared();
    lab.create_network("out", &[]).unwrap();
    let servers = [IpAddr::V4(OUTSIDE_SERVER), OUTSIDE_SERVER_V6.into()]
        .map(|address| TcpServer::start(OUTSIDE, SocketAddr::new(address, 0)).unwrap());

    for host in [1, 2] {
        let name = format!("out{host}");
        lab.attach(host, &name, "out", &[]).unwrap();
        let id = lab.host(host).id();
        let seen = servers.each_ref().map(|server| ask_tcp(&name, server.address(), SOON).unwrap().client);
        assert_eq!(seen, [IpAddr::V4(id.wan_address()), id.wan_address_v6().into()]);
        traffic::ping(&name, OUTSIDE_SERVER.into(), SOON).unwrap();
        traffic::tcp_transfer(&name, OUTSIDE, OUTSIDE_SERVER.into(), 1 << 20).unwrap();
    }
    settles(&lab);
}

#[test]
fn host_finds_a_container_again_for_packets_that_it_forwards() {
    let lab = shared();
    lab.create_network("again", &[]).unwrap();
    lab.attach(1, "again1", "again", &[]).unwrap();
    let devices = lab.host(1).devices("again").unwrap();
    settles(&lab);

    for server in [IpAddr::V4(OUTSIDE_SERVER), OUTSIDE_SERVER_V6.into()] {
        let stream = Stream::icmp("again1", server, 100).unwrap();
        stream.wait_for(20, SOON).unwrap();
        // The container still knows its gateway, so it will not introduce itself anew.
        let family = if server.is_ipv4() { "-4" } else { "-6" };
        lab.host(1).exec(&["ip", family, "neigh", "flush", "dev", &devices.leg]).unwrap();
        stream.wait_for(50, SOON / 5).unwrap();
        let report = stream.stop().unwrap();
        assert!(report.longest_gap < SOON / 10, "{server}: {report}");
    }
}

#[test]
fn internal_network_has_no_way_out_and_names_all_the_same() {
    let lab = shared();
    let network = lab.create_network("inside", &["--internal"]).unwrap();
    lab.attach(1, "inside1", "inside", &[]).unwrap();
    let peer = lab.attach(2, "inside2", "inside", &[]).unwrap();
    lab.create_network("open", &[]).unwrap();
    lab.attach(1, "open1", "open", &[]).unwrap();
    let server = TcpServer::start(OUTSIDE, SocketAddr::new(OUTSIDE_SERVER.into(), 0)).unwrap();
    let local = TcpServer::start("h1", any(0)).unwrap();

    lab.in_netns("inside1", &["ping", "-c1", "-W5", "inside2"]).unwrap();
    for address in peer.addresses() {
        traffic::ping("inside1", address, SOON).unwrap();
    }
    assert!(ask_tcp("inside1", server.address(), NEVER).is_err());
    // Not for want of a route alone.
    lab.in_netns("inside1", &["ip", "route", "add", "default", "via", &network.gateways[0].to_string()]).unwrap();
    assert!(ask_tcp("inside1", server.address(), NEVER).is_err());
    let neighbour = SocketAddr::new(underlay(&lab.host(2)), local.address().port());
    assert!(ask_tcp("inside1", neighbour, NEVER).is_err());
    ask_tcp("open1", server.address(), SOON).unwrap();
    lab.in_netns("inside1", &["ip", "route", "del", "default"]).unwrap();
    settles(&lab);
}

#[test]
fn host_reaches_containers_of_every_node_as_its_own_leg() {
    let lab = shared();
    lab.create_network("south", &[]).unwrap();
    let near = lab.attach(1, "south1", "south", &[]).unwrap();
    let far = lab.attach(2, "south2", "south", &[]).unwrap();
    let leg = lab.host(1).leg("south").unwrap();

    for endpoint in [&near, &far] {
        let server = TcpServer::start(&endpoint.name, any(0)).unwrap();
        let port = server.address().port();
        for (address, source) in [(endpoint.v4(), leg.v4()), (endpoint.v6(), leg.v6())] {
            let greeting = ask_tcp("h1", SocketAddr::new(address, port), SOON).unwrap();
            assert_eq!((greeting.server.as_str(), greeting.client), (endpoint.name.as_str(), source));
            traffic::tcp_transfer("h1", &endpoint.name, address, 1 << 20).unwrap();
        }
        for address in leg.addresses() {
            traffic::ping(&endpoint.name, address, SOON).unwrap();
        }
    }
    settles(&lab);
}

#[test]
fn unprivileged_process_of_the_host_reaches_remote_containers_too() {
    let lab = shared();
    lab.create_network("nobody", &[]).unwrap();
    lab.attach(1, "nobody1", "nobody", &[]).unwrap();
    let far = lab.attach(2, "nobody2", "nobody", &[]).unwrap();
    let server = TcpServer::start("nobody2", any(0)).unwrap();

    let script = format!("cat < /dev/tcp/{}/{}", far.v4(), server.address().port());
    let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", &script];
    let greeting = eventually(SOON, "an answer", || lab.host(1).exec(&words).map_err(|error| format!("{error:#}")));

    assert!(greeting.starts_with("nobody2 "), "{greeting}");
}

#[test]
fn container_reaches_no_service_of_its_host_but_ping_and_names() {
    let lab = shared();
    let network = lab.create_network("closed", &[]).unwrap();
    let container = lab.attach(1, "closed1", "closed", &[]).unwrap();
    let server = TcpServer::start("h1", any(0)).unwrap();
    let datagrams = UdpServer::start("h1", any(0)).unwrap();
    let leg = lab.host(1).leg("closed").unwrap();

    let addresses = network.gateways.iter().copied().chain(leg.addresses()).chain([underlay(&lab.host(1))]);
    for address in addresses {
        traffic::ping("closed1", address, SOON).unwrap();
        assert!(ask_tcp("closed1", SocketAddr::new(address, server.address().port()), NEVER).is_err(), "{address}");
        assert!(ask_udp("closed1", SocketAddr::new(address, datagrams.address().port()), NEVER).is_err(), "{address}");
    }
    // The services are there for others, and for connections that the host began.
    ask_tcp("h2", SocketAddr::new(underlay(&lab.host(1)), server.address().port()), SOON).unwrap();
    traffic::tcp_transfer("h1", "closed1", container.v4(), 1 << 20).unwrap();
}

/// The `number`th address of an IPv4 subnet.
fn nth_address(network: IpAddr, number: u32) -> String {
    let IpAddr::V4(network) = network else { panic!("the test asks for IPv4") };
    Ipv4Addr::from(u32::from(network) + number).to_string()
}
