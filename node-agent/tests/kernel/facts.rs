//! Facts of a host, read in namespaces where they are known.

use std::net::UdpSocket;

use weft_node_agent::kernel::host::{self, AddressScope};

use crate::lab::{Host, Network, ip, namespace, sh};

#[test]
fn addresses_and_routes_of_the_host_are_listed_without_ours() {
    let mut host = Host::new();
    sh(&host.host, "ip link add up0 mtu 1400 type veth peer up1 && ip addr add 198.18.0.1/24 dev up0");
    sh(&host.host, "ip link set up0 up && ip link set up1 up");
    sh(&host.host, "ip route add 203.0.113.0/24 dev up0 && ip route add default via 198.18.0.254");
    let network = Network::new(1);
    host.create(&network.state);

    let addresses = host::addresses(&host.host).unwrap();
    let routes: Vec<String> =
        host::routes(&host.host).unwrap().iter().map(|r| format!("{} {}", r.destination, r.dev)).collect();

    let own = addresses.iter().find(|a| a.address.ip() == ip("198.18.0.1")).unwrap();
    assert_eq!((own.ifname.as_str(), own.scope, own.mtu, own.up), ("up0", AddressScope::Global, 1400, true));
    assert!(addresses.iter().any(|a| a.address.ip() == ip("127.0.0.1") && a.scope == AddressScope::Host));
    assert!(addresses.iter().all(|a| !a.ifname.starts_with("weft-")), "{addresses:?}");
    assert_eq!(routes, ["198.18.0.0/24 up0", "203.0.113.0/24 up0"]);
}

#[test]
fn the_mtu_of_a_route_is_the_smaller_of_its_own_and_its_devices() {
    let place = namespace();
    sh(
        &place,
        "ip link add up0 mtu 1400 type veth peer up1 && ip addr add 198.18.0.1/24 dev up0 && ip link set up0 up",
    );
    sh(&place, "ip addr add fd00:9::1/64 dev up0 nodad && ip link set up1 up");
    sh(&place, "ip route add 203.0.113.0/24 dev up0 mtu 1300 && ip route add 192.0.2.0/24 dev up0 mtu 9000");

    assert_eq!(host::route_mtu(&place, ip("198.18.0.2")).unwrap(), 1400);
    assert_eq!(host::route_mtu(&place, ip("203.0.113.1")).unwrap(), 1300);
    assert_eq!(host::route_mtu(&place, ip("192.0.2.1")).unwrap(), 1400);
    assert_eq!(host::route_mtu(&place, ip("fd00:9::2")).unwrap(), 1400);
    assert!(host::route_mtu(&place, ip("8.8.8.8")).is_err());
}

#[test]
fn the_user_of_a_udp_port_is_named() {
    let place = namespace();
    assert!(host::udp_port_users(&place, 4789).unwrap().is_empty());
    let socket = place.run(|| UdpSocket::bind("127.0.0.1:4789").unwrap()).unwrap();

    let users = host::udp_port_users(&place, 4789).unwrap();

    assert!(users.len() == 1 && users[0].to_string().contains(&std::process::id().to_string()), "{users:?}");
    drop(socket);
}

#[test]
fn interfaces_are_found_by_name() {
    let place = namespace();
    sh(&place, "ip link add eth0 type veth peer kt1");

    assert!(host::interface_exists(&place, &"eth0".parse().unwrap()).unwrap());
    assert!(!host::interface_exists(&place, &"eth1".parse().unwrap()).unwrap());
}

#[test]
fn this_kernel_has_every_feature_and_trying_leaves_nothing() {
    let before = std::fs::read_dir("/sys/class/net").unwrap().count();

    let features = host::check_features().unwrap();

    for (name, outcome) in [
        ("bridge", &features.bridge),
        ("vxlan", &features.vxlan),
        ("veth", &features.veth),
        ("neighbour suppression", &features.neighbour_suppression),
        ("nftables", &features.nftables),
    ] {
        assert_eq!(*outcome, Ok(()), "{name}");
    }
    assert_eq!(std::fs::read_dir("/sys/class/net").unwrap().count(), before);
}
