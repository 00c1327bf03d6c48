//! What is not ours is in the way: it is named, and stays as it was.

use std::net::UdpSocket;

use weft_overlay::kernel::{Family, Kernel, NetworkObject, NodeObject, Object, ObjectId, Scope, Step, StepError};

use crate::lab::{Host, Network, apply, ip, mac, sh};

/// A step about one object of a network.
fn creation(network: &Network, kind: NetworkObject) -> Step {
    Step::Create(network.id(kind.clone()), network.get(kind))
}

fn refused(host: &mut Host, step: Step) -> StepError {
    host.kernel.apply(&[step]).pop().unwrap().expect_err("carried out")
}

#[test]
fn a_foreign_bridge_of_our_name_is_reported_and_left_alone() {
    let mut host = Host::new();
    let network = Network::new(1);
    let name = network.id.bridge_name();
    sh(&host.data_plane, &format!("ip link add {name} type bridge"));
    let before = sh(&host.data_plane, "ip -d link");

    let seen = host.observe(&Scope::Network(network.id)).objects;
    assert!(matches!(&seen[&network.id(NetworkObject::Bridge)], Object::Foreign(_)), "{seen:?}");
    let error = refused(&mut host, creation(&network, NetworkObject::Bridge)).to_string();
    assert!(error.contains("in the way") && error.contains("left alone"), "{error}");
    let row = NetworkObject::Neighbour(ip("10.33.0.6"));
    refused(&mut host, creation(&network, row));
    let delete = Step::Delete(network.id(NetworkObject::Bridge), network.get(NetworkObject::Bridge));
    refused(&mut host, delete);

    assert_eq!(sh(&host.data_plane, "ip -d link"), before);
}

#[test]
fn foreign_devices_in_the_place_of_the_tunnel_and_of_both_ends_of_the_leg_are_left_alone() {
    let mut host = Host::new();
    let network = Network::new(1);
    apply(&mut host.kernel, &[creation(&network, NetworkObject::Bridge)]);
    sh(&host.data_plane, &format!("ip link add {} type veth peer kt1", network.id.vxlan_name()));
    sh(&host.host, &format!("ip link add {} type veth peer kt1", network.id.leg_name()));
    let before = (sh(&host.data_plane, "ip link"), sh(&host.host, "ip link"));

    refused(&mut host, creation(&network, NetworkObject::Vxlan));
    refused(&mut host, creation(&network, NetworkObject::Leg));

    assert_eq!((sh(&host.data_plane, "ip link"), sh(&host.host, "ip link")), before);
}

#[test]
fn a_foreign_port_of_our_name_is_left_alone() {
    let mut host = Host::new();
    let network = Network::new(1);
    apply(&mut host.kernel, &[creation(&network, NetworkObject::Bridge)]);
    sh(&host.data_plane, &format!("ip link add {} type veth peer kt1", network.endpoint.port_name()));

    let ids = [network.port()].into();
    assert!(matches!(host.observe(&Scope::Objects(ids)).objects[&network.port()], Object::Foreign(_)));
    let sandbox = creation(&network, NetworkObject::Sandbox(network.endpoint));
    let outcomes = host.kernel.apply(&[creation(&network, NetworkObject::Port(network.endpoint)), sandbox]);

    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    assert!(sh(&host.data_plane, "ip link").contains(network.endpoint.port_name().as_str()));
}

#[test]
fn an_interface_that_the_container_has_already_is_named_with_the_remedy() {
    let mut host = Host::new();
    let network = Network::new(1);
    apply(&mut host.kernel, &[creation(&network, NetworkObject::Bridge)]);
    sh(&network.container, "ip link add eth0 type veth peer kt1");
    let sandbox = creation(&network, NetworkObject::Sandbox(network.endpoint));

    let outcomes = host.kernel.apply(&[creation(&network, NetworkObject::Port(network.endpoint)), sandbox]);

    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("--ifname"), "{error}");
    assert!(outcomes[1].is_err());
    let seen = host.observe(&Scope::Sandboxes(network.places())).objects;
    assert!(matches!(seen[&network.sandbox()], Object::Foreign(_)), "{seen:?}");
}

#[test]
fn a_foreign_route_to_the_subnet_is_named_and_left_alone() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let route = NetworkObject::LegRoute("10.33.0.0/24".parse().unwrap());
    apply(&mut host.kernel, &[Step::Delete(network.id(route.clone()), network.get(route.clone()))]);
    sh(&host.host, "ip link add up0 type veth peer up1 && ip link set up0 up && ip route add 10.33.0.0/24 dev up0");

    let error = refused(&mut host, creation(&network, route.clone()));
    assert!(error.to_string().contains("another route to this subnet"), "{error}");
    apply(&mut host.kernel, &[Step::Delete(network.id(route.clone()), network.get(route))]);

    assert!(sh(&host.host, "ip route").contains("10.33.0.0/24 dev up0"));
}

#[test]
fn rules_of_others_stay_and_one_of_ours_for_another_port_goes() {
    let mut host = Host::new();
    sh(&host.host, "ip rule add pref 87 from 192.0.2.0/24 table 100");
    sh(&host.host, "ip rule add pref 87 uidrange 1-4294967294 ipproto udp dport 8472 protocol 87 prohibit");
    let guard = ObjectId::Node(NodeObject::SendGuard(Family::Ipv4));
    let seen = host.observe(&Scope::Node).objects[&guard].clone();
    assert!(matches!(seen, Object::Deviant(_)), "{seen}");

    apply(&mut host.kernel, &[Step::Replace { id: guard.clone(), observed: seen, desired: Object::Present }]);
    assert_eq!(host.observe(&Scope::Node).objects[&guard], Object::Present);
    apply(&mut host.kernel, &[Step::Delete(guard, Object::Present)]);

    let rules = sh(&host.host, "ip rule");
    assert!(rules.contains("192.0.2.0/24") && !rules.contains("8472") && !rules.contains("prohibit"), "{rules}");
}

#[test]
fn a_guard_that_also_concerns_what_is_received_is_replaced() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let mut host = Host::new();
        let option = if family == Family::Ipv4 { "-4" } else { "-6" };
        let add = "rule add pref 87 uidrange 1-4294967294 ipproto udp dport 4789 protocol 87 prohibit";
        sh(&host.host, &format!("ip {option} {add}"));
        let guard = ObjectId::Node(NodeObject::SendGuard(family));
        let seen = host.observe(&Scope::Node).objects[&guard].clone();
        assert!(matches!(seen, Object::Deviant(_)), "{seen}");

        apply(&mut host.kernel, &[Step::Replace { id: guard.clone(), observed: seen, desired: Object::Present }]);

        assert_eq!(host.observe(&Scope::Node).objects[&guard], Object::Present);
        let rules = sh(&host.host, &format!("ip {option} rule"));
        let guards: Vec<&str> = rules.lines().filter(|line| line.contains("prohibit")).collect();
        assert!(matches!(guards[..], [rule] if rule.contains("iif lo")), "{rules}");
    }
}

#[test]
fn a_vni_that_another_device_has_is_named_with_the_remedy() {
    let mut host = Host::new();
    let network = Network::new(1);
    sh(&host.host, "ip link add kt0 type vxlan id 70001 dstport 4789 local 198.18.0.1");
    apply(&mut host.kernel, &[creation(&network, NetworkObject::Bridge)]);

    let error = refused(&mut host, creation(&network, NetworkObject::Vxlan)).to_string();

    assert!(error.contains("--vni") && error.contains("kt0"), "{error}");
    assert!(sh(&host.host, "ip link").contains("kt0"));
}

#[test]
fn a_vni_is_waited_for_until_the_kernel_has_let_go_of_it() {
    let mut host = Host::new();
    let network = Network::new(1);
    let other = crate::lab::namespace();
    let place = crate::lab::place(&other, "kt0");
    let steal = format!("ip link add kt0 netns {} type vxlan id 70001 dstport 4789 local 198.18.0.1", place.path);
    sh(&host.host, &steal);
    apply(&mut host.kernel, &[creation(&network, NetworkObject::Bridge)]);

    // Its namespace ends with the last descriptor; the device goes a moment later.
    drop(other);

    apply(&mut host.kernel, &[creation(&network, NetworkObject::Vxlan)]);
}

#[test]
fn a_udp_port_in_use_is_named_with_its_user() {
    let mut host = Host::new();
    let network = Network::new(1);
    let taken = host.host.run(|| UdpSocket::bind("0.0.0.0:4789").unwrap()).unwrap();
    apply(&mut host.kernel, &[creation(&network, NetworkObject::Bridge)]);

    let error = refused(&mut host, creation(&network, NetworkObject::Vxlan)).to_string();
    assert!(error.contains("UDP port 4789") && error.contains(&std::process::id().to_string()), "{error}");
    assert!(error.contains("--vxlan-port"), "{error}");
    drop(taken);

    let seen = host.observe(&Scope::Network(network.id)).objects[&network.id(NetworkObject::Vxlan)].clone();
    let desired = network.get(NetworkObject::Vxlan);
    apply(
        &mut host.kernel,
        &[Step::Replace { id: network.id(NetworkObject::Vxlan), observed: seen, desired: desired.clone() }],
    );
    assert_eq!(host.observe(&Scope::Network(network.id)).objects[&network.id(NetworkObject::Vxlan)], desired);
}

#[test]
fn a_full_bridge_is_named_with_its_limit() {
    let mut host = Host::new();
    let network = Network::new(1);
    apply(&mut host.kernel, &[creation(&network, NetworkObject::Bridge)]);
    let bridge = network.id.bridge_name();
    let fill =
        format!("for i in $(seq 0 1022); do echo link add a$i master {bridge} type veth peer b$i; done | ip -batch -");
    sh(&host.data_plane, &fill);
    let sandbox = creation(&network, NetworkObject::Sandbox(network.endpoint));

    let outcomes = host.kernel.apply(&[creation(&network, NetworkObject::Port(network.endpoint)), sandbox]);

    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("1021 containers"), "{error}");
}

#[test]
fn learnt_rows_are_seen_and_removed() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let (bridge, vxlan) = (network.id.bridge_name(), network.id.vxlan_name());
    sh(
        &host.data_plane,
        &format!("bridge fdb add 02:00:00:00:00:31 dev {} master dynamic", network.endpoint.port_name()),
    );
    sh(&host.data_plane, &format!("bridge fdb add 02:00:00:00:00:32 dev {vxlan} self dynamic dst 198.18.0.9"));
    sh(&host.data_plane, &format!("ip neigh add 10.33.0.99 lladdr 02:00:00:00:00:33 dev {bridge} nud reachable"));
    sh(&host.data_plane, &format!("bridge fdb add 02:00:00:00:00:34 dev {bridge} self local"));
    let ids = [
        NetworkObject::BridgeFdb(mac("02:00:00:00:00:34")),
        NetworkObject::BridgeFdb(mac("02:00:00:00:00:31")),
        NetworkObject::TunnelFdb(mac("02:00:00:00:00:32")),
        NetworkObject::Neighbour(ip("10.33.0.99")),
    ]
    .map(|kind| network.id(kind));

    let seen = host.observe(&Scope::Network(network.id)).objects;
    let deletions: Vec<Step> = ids.iter().map(|id| Step::Delete(id.clone(), seen[id].clone())).collect();
    assert!(deletions.iter().all(|step| matches!(step, Step::Delete(_, Object::Deviant(_)))), "{deletions:?}");
    apply(&mut host.kernel, &deletions);

    crate::lab::same(&host.observe_all(&network), &network.state);
}
