//! How much is looked at: as much as changed, not as much as there is. Times are for `examples/one_change.rs`.

use std::net::{IpAddr, Ipv4Addr};

use weft_overlay::{
    keys::{Key, Keyspace},
    txn::KeyValue,
    view::NodeView,
};

use crate::builder::{container, empty_view, endpoint, ip, leg, member, network, node, spec, stored};

const REMOTE: u32 = 20_000;
/// An endpoint has two rows and two neighbours; one on this node also a port, its inside and its filters.
const FEW: usize = 20;

#[test]
fn a_change_of_a_remote_endpoint_affects_its_own_objects_only() {
    let mut view = large_view();
    let changed = address(77);
    let key = Key::Endpoint(network(1), changed);

    let moved = view.put(network(1), &stored(&key, &container(77, 3, &[changed]), 100));
    let mut other = container(77, 3, &[changed, ip("fd00::77")]);
    other.mac = "02:00:00:00:00:77".parse().unwrap();
    let renamed = view.put(network(1), &stored(&key, &other, 101));
    let left = view.delete(network(1), &Keyspace::default().encode(&key), 102);

    for (what, affected) in [("moving", &moved), ("another MAC", &renamed), ("leaving", &left)] {
        assert!(!affected.is_empty() && affected.len() < FEW, "{what} affects {} objects", affected.len());
    }
}

#[test]
fn an_attachment_on_this_node_affects_its_own_objects_only() {
    let mut view = large_view();
    let record = container(500_000, 1, &[ip("10.63.0.1")]);

    let prepared = view.set_pending(network(1), record.clone());
    let registered = view.set_registered(network(1), record, 100);
    let detached = view.set_detaching(endpoint(500_000));
    let released = view.clear_detaching(endpoint(500_000));

    for affected in [&prepared, &registered, &detached, &released] {
        assert!(!affected.is_empty() && affected.len() < FEW, "{} objects", affected.len());
    }
}

#[test]
fn a_member_affects_the_devices_only_when_it_lowers_the_mtu() {
    let mut view = large_view();
    let join = |view: &mut NodeView, mtu, revision| {
        view.put(network(1), &stored(&Key::Member(network(1), node(9)), &member(9, mtu), revision)).len()
    };

    let joined = join(&mut view, 9000, 100);
    let same = join(&mut view, 8000, 101);
    let lowered = join(&mut view, 1300, 102);

    assert_eq!((joined, same), (3, 3));
    assert!((4..FEW).contains(&lowered), "{lowered}");
}

#[test]
fn a_repeated_listing_of_everything_affects_nothing() {
    let mut view = large_view();

    let affected = view.set_network(network(1), content(), 60);

    assert!(affected.is_empty(), "{} objects", affected.len());
}

fn large_view() -> NodeView {
    let mut view = empty_view();
    view.follow(network(1));
    view.set_index(&[]);
    view.set_network(network(1), content(), 50);
    view
}

fn content() -> Vec<KeyValue> {
    let own_leg = leg(900_000, 1, &[ip("10.48.0.2")]);
    let mut kvs = vec![
        stored(&Key::Spec(network(1)), &spec(1, &["10.32.0.0/11", "fd00::/64"]), 1),
        stored(&Key::Member(network(1), node(2)), &member(2, 1500), 1),
        stored(&Key::Endpoint(network(1), ip("10.48.0.2")), &own_leg, 2),
    ];
    kvs.extend((1..=REMOTE).map(|number| {
        let record = container(u64::from(number), 2, &[address(number)]);
        stored(&Key::Endpoint(network(1), address(number)), &record, 3)
    }));
    kvs
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a20_0100 + number))
}
