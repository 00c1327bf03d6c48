//! What is created is read back equal, in every scope, and what is deleted is gone.

use std::time::Instant;

use weft_overlay::kernel::{
    Family, FdbPort, Kernel, KernelState, NetworkObject, NodeObject, Object, ObjectId, Scope, Step,
};

use crate::lab::{Host, Network, REMOTE_MAC, apply, diff, ip, mac, same, sh};

#[test]
fn everything_is_read_back_as_it_was_created() {
    let mut host = Host::new();
    let network = Network::new(1);

    host.create(&network.state);

    same(&host.observe_all(&network), &network.state);
}

#[test]
fn every_scope_reads_the_same() {
    let mut host = Host::new();
    let (one, two) = (Network::new(1), Network::new(2));
    host.create(&one.state);
    host.create(&two.state);
    let outside = |state: &KernelState| -> KernelState {
        let objects = state.objects.iter().filter(|(id, _)| !id.is_sandbox());
        KernelState { objects: objects.map(|(id, o)| (id.clone(), o.clone())).collect() }
    };

    let everything = host.observe(&Scope::Everything);
    let networks =
        KernelState { objects: everything.objects.into_iter().filter(|(id, _)| id.network().is_some()).collect() };
    let mut both = outside(&one.state);
    both.objects.extend(outside(&two.state).objects);
    same(&networks, &both);
    same(&host.observe(&Scope::Network(two.id)), &outside(&two.state));
    let ids = both.objects.keys().cloned().collect();
    same(&host.observe(&Scope::Objects(ids)), &both);
}

#[test]
fn a_tunnel_over_ipv6_is_read_back_with_its_rows() {
    let mut host = Host::new();
    let mut network = Network::new(1);
    let Object::Vxlan(mut vxlan) = network.get(NetworkObject::Vxlan) else { unreachable!() };
    vxlan.local = ip("fd00:9::1");
    vxlan.mtu = 1430;
    network.put(NetworkObject::Vxlan, Object::Vxlan(vxlan));
    network.state.objects.retain(|id, _| {
        let row = |kind: &NetworkObject| matches!(kind, NetworkObject::TunnelFdb(_) | NetworkObject::Flood(_));
        !matches!(id, ObjectId::Network(_, kind) if row(kind))
    });
    network.put(NetworkObject::Flood(ip("fd00:9::2")), Object::Present);
    network.put(NetworkObject::TunnelFdb(mac(REMOTE_MAC)), Object::TunnelFdb(ip("fd00:9::2")));

    host.create(&network.state);

    same(&host.observe_all(&network), &network.state);
}

#[test]
fn creating_again_succeeds_and_changes_nothing() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);

    host.create(&network.state);

    same(&host.observe_all(&network), &network.state);
}

#[test]
fn deleting_everything_leaves_nothing_and_can_be_repeated() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let deletions: Vec<Step> =
        network.state.objects.iter().rev().map(|(id, o)| Step::Delete(id.clone(), o.clone())).collect();

    apply(&mut host.kernel, &deletions);
    same(&host.observe_all(&network), &KernelState::default());
    host.kernel.sweep().unwrap();
    apply(&mut host.kernel, &deletions);

    for namespace in [&host.host, &host.data_plane, &network.container] {
        assert_eq!(sh(namespace, "ip -o link | wc -l").trim(), "1", "{}", sh(namespace, "ip link"));
    }
}

#[test]
fn deleting_the_devices_alone_is_enough() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let devices = network.state.objects.iter().filter(|(id, _)| id.is_device() || id.is_sandbox());
    let deletions: Vec<Step> = devices.map(|(id, o)| Step::Delete(id.clone(), o.clone())).collect();

    apply(&mut host.kernel, &deletions);

    same(&host.observe_all(&network), &KernelState::default());
}

#[test]
fn the_nodes_own_objects_are_made_and_read_back() {
    let mut host = Host::new();
    let guards = [Family::Ipv4, Family::Ipv6].map(|family| ObjectId::Node(NodeObject::SendGuard(family)));
    let forwarding = ObjectId::Node(NodeObject::HostForwarding);
    let settings = ObjectId::Node(NodeObject::DataPlaneSettings);
    let before = host.observe(&Scope::Node);
    assert!(matches!(before.objects[&forwarding], Object::Deviant(_)), "{before:?}");
    assert!(guards.iter().all(|guard| !before.objects.contains_key(guard)), "{before:?}");

    let all: Vec<ObjectId> = guards.iter().cloned().chain([forwarding.clone(), settings.clone()]).collect();
    let steps: Vec<Step> = all.iter().map(|id| Step::Create(id.clone(), Object::Present)).collect();
    apply(&mut host.kernel, &steps);
    apply(&mut host.kernel, &steps);

    let wanted = KernelState { objects: all.into_iter().map(|id| (id, Object::Present)).collect() };
    same(&host.observe(&Scope::Node), &wanted);
    apply(&mut host.kernel, &guards.map(|id| Step::Delete(id, Object::Present)));
    assert!(!sh(&host.host, "ip rule; ip -6 rule").contains("prohibit"));
}

#[test]
fn five_thousand_rows_go_in_and_out_in_batches() {
    const ROWS: u32 = 5_000;
    let mut host = Host::new();
    let mut network = Network::new(1);
    host.create(&network.state);
    for number in 0..ROWS {
        let address = ip(&format!("10.40.{}.{}", number / 256, number % 256));
        let mac = weft_overlay::id::Mac::derived_from(address);
        network.put(NetworkObject::BridgeFdb(mac), Object::BridgeFdb(FdbPort::Vxlan));
        network.put(NetworkObject::TunnelFdb(mac), Object::TunnelFdb(ip("198.18.0.2")));
        network.put(NetworkObject::Neighbour(address), Object::Neighbour(mac));
    }
    let before = host.observe_all(&network);

    let started = Instant::now();
    apply(&mut host.kernel, &diff(&before, &network.state));
    let written = started.elapsed();
    let started = Instant::now();
    let seen = host.observe_all(&network);
    println!("{ROWS} endpoints written in {written:?}, read in {:?}", started.elapsed());

    same(&seen, &network.state);
    apply(&mut host.kernel, &diff(&seen, &before));
    same(&host.observe_all(&network), &before);
}

#[test]
fn one_failed_row_does_not_keep_the_others_of_its_batch_from_being_written() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let row = |last: u8, vtep: &str| {
        let mac = format!("02:42:00:00:01:{last:02x}").parse().unwrap();
        Step::Create(network.id(NetworkObject::TunnelFdb(mac)), Object::TunnelFdb(ip(vtep)))
    };
    // A VTEP of the other family than the device's is refused.
    let steps = [row(1, "198.18.0.7"), row(2, "fd00::7"), row(3, "198.18.0.7")];

    let outcomes = host.kernel.apply(&steps);

    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    let refused = outcomes[1].as_ref().unwrap_err();
    assert!(refused.cause.raw_os_error().is_some(), "{refused:?}");
    let ids = steps.iter().map(|step| step.id().clone()).collect();
    assert_eq!(host.observe(&Scope::Objects(ids)).objects.len(), 2);
}
