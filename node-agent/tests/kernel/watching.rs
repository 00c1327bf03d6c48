//! What the watch tells: echoes that equal what was written, changes of others, and nothing else.

use std::collections::BTreeSet;

use weft_node_agent::{
    firewall::{Firewall, NftFirewall},
    kernel::{
        Places,
        watch::{Doubts, KernelWatch, Report},
    },
};
use weft_overlay::kernel::{Element, Family, NetworkObject, NodeObject, Object, ObjectId, Step, Table};

use crate::lab::{Host, LOCAL_MAC, Network, PORT, REMOTE_MAC, apply, eventually, ip, mac, sh};

fn watch(host: &Host) -> KernelWatch {
    let places = Places { host: host.host.clone(), data_plane: host.data_plane.clone(), vxlan_port: PORT };
    KernelWatch::start(&places, BTreeSet::new()).unwrap()
}

fn merge(all: &mut Doubts, more: Doubts) {
    all.everything |= more.everything;
    all.host |= more.host;
    all.obstruction |= more.obstruction;
    all.firewall.extend(more.firewall);
    all.networks.extend(more.networks);
    all.objects.extend(more.objects);
}

/// Waits until the doubts fulfil a condition, and gives all of them.
fn until(watch: &KernelWatch, what: &str, enough: impl Fn(&Doubts) -> bool) -> Doubts {
    let mut all = Doubts::default();
    eventually(what, || {
        merge(&mut all, watch.take());
        if enough(&all) { Ok(()) } else { Err(all.clone()) }
    });
    all
}

fn report(doubts: &Doubts, id: &ObjectId) -> Option<Report> {
    doubts.objects.get(id).cloned()
}

#[test]
fn the_echoes_of_our_own_writes_equal_what_was_written() {
    let mut host = Host::new();
    let network = Network::new(1);
    let watch = watch(&host);

    host.create(&network.state);

    let wanted = network.id(NetworkObject::Neighbour(ip("fd00:1::6")));
    let seen = until(&watch, "the last row", |d| d.objects.contains_key(&wanted));
    assert!(!seen.everything);
    for (id, report) in &seen.objects {
        match report {
            Report::Is(object) => assert_eq!(Some(object), network.state.objects.get(id), "{id}"),
            Report::Absent => assert!(!network.state.objects.contains_key(id), "{id}"),
            // A leg has two ends; the settings of namespaces send one notification for each device.
            Report::Changed => {
                assert!(matches!(id, ObjectId::Node(_) | ObjectId::Network(_, NetworkObject::Leg)), "{id}")
            }
        }
    }
    let told: BTreeSet<_> = seen.objects.keys().cloned().collect();
    let rows = network.state.objects.keys().filter(|id| !id.is_device() && !id.is_sandbox());
    let untold: Vec<_> = rows.filter(|id| !told.contains(id)).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

#[test]
fn an_attach_doubts_its_own_objects_only_and_not_the_network() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let mut other = Network::new(1);
    other.endpoint = weft_overlay::id::EndpointId::from_entropy(0xf00);
    let sandbox = network.get(NetworkObject::Sandbox(network.endpoint));
    let Object::Sandbox(mut sandbox) = sandbox else { unreachable!() };
    sandbox.place = crate::lab::place(&other.container, "eth0");
    let watch = watch(&host);

    let port = network.state.objects[&network.port()].clone();
    apply(
        &mut host.kernel,
        &[Step::Create(other.port(), port.clone()), Step::Create(other.sandbox(), Object::Sandbox(sandbox))],
    );

    let seen = until(&watch, "the port as wanted", |d| report(d, &other.port()) == Some(Report::Is(port.clone())));
    assert!(seen.networks.is_empty() && !seen.everything && !seen.host, "{seen:?}");
    assert!(seen.objects.keys().all(|id| *id == other.port()), "{seen:?}");
}

#[test]
fn what_others_do_is_told_with_its_content() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let watch = watch(&host);
    let vxlan = network.id.vxlan_name();

    sh(&host.data_plane, &format!("bridge fdb replace {REMOTE_MAC} dev {vxlan} self permanent dst 198.18.0.9"));
    let row = network.id(NetworkObject::TunnelFdb(mac(REMOTE_MAC)));
    let moved = Report::Is(Object::TunnelFdb(ip("198.18.0.9")));
    until(&watch, "the moved row", |d| report(d, &row) == Some(moved.clone()));

    sh(&host.data_plane, &format!("bridge fdb del {LOCAL_MAC} dev {} master", network.endpoint.port_name()));
    let row = network.id(NetworkObject::BridgeFdb(mac(LOCAL_MAC)));
    until(&watch, "the deleted row", |d| report(d, &row) == Some(Report::Absent));

    sh(&host.host, &format!("ip route del 10.33.0.0/24 dev {}", network.id.leg_name()));
    let route = network.id(NetworkObject::LegRoute("10.33.0.0/24".parse().unwrap()));
    until(&watch, "the deleted route", |d| report(d, &route) == Some(Report::Absent));
}

#[test]
fn a_device_that_takes_others_along_casts_doubt_on_its_network() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let watch = watch(&host);

    sh(&host.data_plane, &format!("ip link set {} address 02:00:00:00:00:77", network.id.bridge_name()));
    until(&watch, "doubt about the network", |d| d.networks.contains(&network.id));

    sh(&host.host, &format!("ip link set {} down", network.id.leg_name()));
    until(&watch, "doubt about the network", |d| d.networks.contains(&network.id));
}

#[test]
fn rules_forwarding_and_the_hosts_own_devices_are_told() {
    let mut host = Host::new();
    let guard = ObjectId::Node(NodeObject::SendGuard(Family::Ipv4));
    apply(&mut host.kernel, &[Step::Create(guard.clone(), Object::Present)]);
    let watch = watch(&host);

    sh(&host.host, "ip rule del pref 87");
    until(&watch, "the rule", |d| report(d, &guard) == Some(Report::Changed));

    sh(&host.host, "echo 1 > /proc/sys/net/ipv4/ip_forward");
    let forwarding = ObjectId::Node(NodeObject::HostForwarding);
    until(&watch, "forwarding", |d| report(d, &forwarding) == Some(Report::Changed));

    sh(&host.host, "ip link add up0 type veth peer up1 && ip link set up0 mtu 1400");
    until(&watch, "the host", |d| d.host);
}

#[test]
fn the_end_of_a_foreign_vxlan_device_is_told() {
    let host = Host::new();
    let watch = watch(&host);

    sh(&host.host, "ip link add kt0 type vxlan id 77 dstport 4790");
    sh(&host.host, "ip link add up0 type veth peer up1 && ip link del up0");
    let seen = until(&watch, "the host", |d| d.host);
    assert!(!seen.obstruction);
    sh(&host.host, "ip link del kt0");
    until(&watch, "the deleted device", |d| d.obstruction);
}

#[test]
fn a_committed_firewall_transaction_is_told_unless_it_is_our_own() {
    let host = Host::new();
    let places = Places { host: host.host.clone(), data_plane: host.data_plane.clone(), vxlan_port: PORT };
    let mut firewall = NftFirewall::new(host.host.clone(), host.data_plane.clone(), PORT).unwrap();
    let tables = [Table::Host, Table::DataPlane].map(|table| ObjectId::Node(NodeObject::Table(table)));
    let load = tables.map(|id| Step::Create(id, Object::Present));
    firewall.apply(&load).into_iter().for_each(|outcome| outcome.unwrap());
    let watch = KernelWatch::start(&places, firewall.netlink_ports()).unwrap();

    let gateway = ObjectId::Node(NodeObject::Element(Element::Gateway(ip("10.32.0.1"))));
    let vtep = ObjectId::Node(NodeObject::Element(Element::Vtep(ip("192.0.2.7"))));
    let own = [gateway, vtep].map(|id| Step::Create(id, Object::Present));
    firewall.apply(&own).into_iter().for_each(|outcome| outcome.unwrap());
    sh(&host.host, "nft add table inet kt");
    let seen = until(&watch, "the host's table", |d| !d.firewall.is_empty());
    assert_eq!(seen.firewall, BTreeSet::from([Table::Host]));

    sh(&host.data_plane, "nft add table bridge kt");
    let seen = until(&watch, "the data plane's table", |d| !d.firewall.is_empty());
    assert_eq!(seen.firewall, BTreeSet::from([Table::DataPlane]));
}

#[tokio::test]
async fn waiting_for_doubts_ends_with_the_first() {
    let host = Host::new();
    let watch = watch(&host);
    let place = host.host.clone();
    let meddler = std::thread::spawn(move || sh(&place, "ip link add up0 type veth peer up1"));

    let doubts = tokio::time::timeout(std::time::Duration::from_secs(5), watch.doubts()).await.unwrap();

    meddler.join().unwrap();
    assert!(doubts.host, "{doubts:?}");
}
