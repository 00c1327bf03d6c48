//! Loading, comparing, repairing: the tables themselves.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::IpAddr,
    time::{Duration, Instant},
};

use weft_node_agent::firewall::{Firewall, NftFirewall};
use weft_overlay::{
    id::Mac,
    kernel::{Element, NodeObject, Object, ObjectId, Step, Table},
    model::Protocol,
};

use crate::{
    packets::{Ethernet, IPV4, ipv4, v4},
    traffic::{Capture, Flood, answers_ping, marked, send_frames},
    world::{A, VXLAN_PORT, World, endpoint, open, overlay4, overlay6, run, underlay4},
};

#[test]
fn what_was_loaded_is_observed_and_nothing_else() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    node.insert(published(8080), Object::Published(overlay4(A, 5), 80));
    node.insert(Element::Published(Protocol::Tcp, IpAddr::from([0; 16]), 8080), Object::Published(overlay6(A, 5), 80));
    node.insert(Element::Published(Protocol::Udp, underlay4(1), 5353), Object::Published(overlay4(A, 5), 53));
    node.permit(&endpoint(1, A, 5).port_name(), Mac::derived_from(overlay4(A, 5)), &[overlay4(A, 5), overlay6(A, 5)]);
    node.insert(Element::InternalLeg(node.leg(A)), Object::Present);

    let observed = node.observed();

    assert_eq!(observed, node.expected());
}

#[test]
fn elements_by_netlink_are_the_same_as_elements_by_nft() {
    let mut one = World::new(1);
    let node = &mut one.nodes[0];
    node.insert(published(8080), Object::Published(overlay4(A, 5), 80));
    node.insert(Element::Published(Protocol::Tcp, IpAddr::from([0; 16]), 8080), Object::Published(overlay6(A, 5), 80));
    node.permit(&endpoint(1, A, 5).port_name(), Mac::derived_from(overlay4(A, 5)), &[overlay4(A, 5), overlay6(A, 5)]);
    node.restore(Table::Host);
    node.restore(Table::DataPlane);
    let by_nft = listing(node);
    for element in node.elements.clone().into_keys() {
        let object = node.elements[&element].clone();
        node.remove(element.clone());
        node.insert(element, object);
    }

    let by_netlink = listing(node);

    assert_eq!(by_netlink, by_nft);
    assert!(by_nft.contains("10.77.1.0/24") && by_nft.contains("8080"), "{by_nft}");
}

#[test]
fn steps_may_be_repeated() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let id = |element: &Element| ObjectId::Node(NodeObject::Element(element.clone()));
    let elements = node.elements.clone();

    let again: Vec<Step> = elements.iter().map(|(element, object)| Step::Create(id(element), object.clone())).collect();
    node.apply(&again);
    let removals: Vec<Step> =
        elements.iter().map(|(element, object)| Step::Delete(id(element), object.clone())).collect();
    node.apply(&removals);
    node.apply(&removals);
    node.elements.clear();

    assert_eq!(node.observed(), node.expected());
    let tables =
        [Table::Host, Table::DataPlane].map(|t| Step::Delete(ObjectId::Node(NodeObject::Table(t)), Object::Present));
    node.apply(&tables);
    node.apply(&tables);
    assert_eq!(node.observed().into_keys().collect::<Vec<_>>(), [NodeObject::ForeignAccepts]);
}

#[test]
fn a_bad_element_fails_alone() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let id = |element: Element| ObjectId::Node(NodeObject::Element(element));
    let overlapping = Element::OverlaySubnet("10.77.0.0/16".parse().unwrap());
    let good = Element::Vtep("192.168.56.77".parse().unwrap());
    let mixed = Element::Published(Protocol::Tcp, underlay4(1), 80);
    let steps = [
        Step::Create(id(overlapping), Object::Present),
        Step::Create(id(good.clone()), Object::Present),
        Step::Create(id(mixed), Object::Published(overlay6(A, 5), 80)),
    ];

    let results = node.firewall.apply(&steps);

    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false], "{results:?}");
    node.elements.insert(good, Object::Present);
    node.restore(Table::Host);
    assert_eq!(node.observed(), node.expected());
}

#[test]
fn a_published_port_is_moved_to_another_endpoint_in_place() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let (old, new) = (Object::Published(overlay4(A, 5), 80), Object::Published(overlay4(A, 6), 81));
    node.insert(published(8080), old.clone());
    let id = ObjectId::Node(NodeObject::Element(published(8080)));

    node.apply(&[Step::Replace { id, observed: old, desired: new.clone() }]);

    node.elements.insert(published(8080), new);
    assert_eq!(node.observed(), node.expected());
}

#[test]
fn tampering_is_seen_and_repaired() {
    let tamperings = [
        (Table::Host, "nft flush chain inet weft forward"),
        (Table::Host, "nft flush chain inet weft from_container"),
        (Table::Host, "nft 'chain inet weft input { policy drop; }'"),
        (Table::Host, "nft add rule inet weft forward accept"),
        (Table::Host, "nft insert rule inet weft input accept"),
        (Table::Host, "nft 'add chain inet weft extra'"),
        (Table::Host, "nft 'add set inet weft extra { type ipv4_addr; }'"),
        (Table::Host, "nft 'add table inet weft { flags dormant; }'"),
        (Table::Host, "nft delete table inet weft"),
        (Table::Host, "nft flush ruleset"),
        (Table::Host, "nft 'add element inet weft leg_pairs { \"weft-f000000001\" . \"weft-f000000002\" }'"),
        (Table::DataPlane, "nft flush chain bridge weft source"),
        (Table::DataPlane, "nft delete table bridge weft"),
    ];
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    for (table, tampering) in tamperings {
        let namespace = node.place(table).0.to_owned();
        run(&namespace, tampering);

        let observed = node.observed().remove(&NodeObject::Table(table));

        assert!(!matches!(observed, Some(Object::Present)), "{tampering}: {observed:?}");
        assert_eq!(observed.is_none(), tampering.contains("delete table") || tampering.contains("flush ruleset"));
        node.restore(table);
        assert_eq!(node.observed(), node.expected(), "after {tampering}");
    }
}

#[test]
fn a_deleted_rule_is_seen_and_repaired() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    node.delete_rules(Table::Host, "forward_between_legs", "drop");

    let observed = node.observed().remove(&NodeObject::Table(Table::Host));

    assert_eq!(observed, Some(Object::Deviant("rules of chain forward_between_legs is changed".to_owned())));
    node.restore(Table::Host);
    assert_eq!(node.observed(), node.expected());
}

#[test]
fn a_changed_element_is_seen() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    node.insert(published(8080), Object::Published(overlay4(A, 5), 80));
    let host = node.host.clone();
    run(&host, "nft delete element inet weft vteps4 '{ 192.168.56.12 }'");
    run(&host, "nft add element inet weft vteps4 '{ 192.168.56.99 }'");
    run(&host, "nft delete element inet weft leg_pairs '{ \"weft-f000000001\" . \"weft-f000000001\" }'");
    run(&host, "nft delete element inet weft published4 '{ tcp . 8080 }'");
    run(&host, "nft add element inet weft published4 '{ tcp . 8080 : 10.9.9.9 . 1 }'");
    run(&host, "nft add element inet weft overlay4 '{ 10.99.0.0-10.99.0.9 }'");

    let observed = node.observed();

    let element = |element| observed.get(&NodeObject::Element(element));
    assert_eq!(element(Element::Vtep(underlay4(2))), None);
    assert_eq!(element(Element::Vtep("192.168.56.99".parse().unwrap())), Some(&Object::Present));
    assert_eq!(element(Element::Leg(node.leg(A))), Some(&Object::Deviant("missing in set leg_pairs".to_owned())));
    assert_eq!(element(published(8080)), Some(&Object::Published("10.9.9.9".parse().unwrap(), 1)));
    let table = &observed[&NodeObject::Table(Table::Host)];
    assert_eq!(*table, Object::Deviant("set overlay4 has members of others".to_owned()));
}

#[test]
fn only_what_was_asked_for_is_answered() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let ids: BTreeSet<NodeObject> =
        [Element::Vtep(underlay4(2)), Element::Vtep(underlay4(7))].into_iter().map(NodeObject::Element).collect();

    let observed = node.firewall.observe(Some(&ids)).unwrap();

    assert_eq!(observed.into_keys().collect::<Vec<_>>(), [NodeObject::Element(Element::Vtep(underlay4(2)))]);
}

#[test]
fn a_restarted_agent_adopts_what_it_finds_and_keeps_it_when_it_repairs() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    node.insert(published(8080), Object::Published(overlay4(A, 5), 80));
    node.firewall = NftFirewall::new(open(&node.host), open(&node.data_plane), VXLAN_PORT).unwrap();
    assert_eq!(node.observed(), node.expected());
    run(&node.host.clone(), "nft flush chain inet weft forward");
    node.observed();

    node.restore(Table::Host);

    assert_eq!(node.observed(), node.expected());
}

#[test]
fn replacing_the_tables_under_load_loses_no_packet() {
    let mut world = World::new(2);
    let from = world.container(1, &[A], 11);
    let to = world.container(2, &[A], 12);
    assert!(answers_ping(&from.namespace, to.addresses[0]));
    assert!(answers_ping(&from.namespace, underlay4(9)), "no answer through the masquerade");
    let flood = |target| {
        let (namespace, command) = (from.namespace.clone(), format!("ping -n -q -c2000 -i0.001 -W2 {target}"));
        std::thread::spawn(move || run(&namespace, &command))
    };
    let (inside, outside) = (flood(to.addresses[0]), flood(underlay4(9)));

    let mut reloads = 0;
    while reloads < 20 || !inside.is_finished() || !outside.is_finished() {
        for node in &mut world.nodes {
            node.restore(Table::Host);
            node.restore(Table::DataPlane);
        }
        reloads += 1;
    }

    for report in [inside.join().unwrap(), outside.join().unwrap()] {
        assert!(report.contains("2000 packets transmitted, 2000 received"), "{reloads} reloads: {report}");
    }
}

#[test]
fn replacing_the_tables_under_attack_lets_no_packet_through() {
    let mut world = World::new(1);
    let attacker = world.container(1, &[A], 11);
    let victim = world.container(1, &[A], 12);
    let mut capture = Capture::start(&victim.namespace, "eth0");
    let flood = Flood::start(&attacker.namespace, "eth0", &marked("attack"));

    let mut reloads = 0;
    while reloads < 20 || flood.sent() < 20_000 {
        world.nodes[0].restore(Table::DataPlane);
        reloads += 1;
    }

    drop(flood);
    let own = Ethernet::broadcast(attacker.mac);
    let fence = ipv4(v4(attacker.addresses[0]), v4(victim.addresses[0]), 253, b"fence");
    send_frames(&attacker.namespace, "eth0", &[own.frame(IPV4, &fence)]);
    assert!(capture.waits_for(b"fence"));
    assert!(!capture.seen(b"attack"), "within {reloads} reloads");
}

#[test]
fn the_time_that_an_element_takes_is_measured() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let mut times: Vec<Duration> = (0..200_u8)
        .map(|last| {
            let port = endpoint(1, A, last).port_name();
            let ids = [
                Element::PortMac(port.clone(), Mac::derived_from(overlay4(A, last))),
                Element::PortAddress(port.clone(), overlay4(A, last)),
                Element::PortAddress(port, overlay6(A, last)),
                Element::LocalEndpoint(overlay4(A, last)),
                Element::LocalEndpoint(overlay6(A, last)),
            ];
            let steps = ids.map(|element| Step::Create(ObjectId::Node(NodeObject::Element(element)), Object::Present));
            let start = Instant::now();
            node.apply(&steps);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let start = Instant::now();
    let count = node.observed().len();
    println!(
        "five elements of one endpoint: p50 {:?} p99 {:?}; observing all {count} objects: {:?}",
        times[100],
        times[198],
        start.elapsed()
    );

    assert!(count > 1000, "{count}");
}

#[test]
fn thousands_of_elements_are_written_loaded_and_read() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let id = |element: &Element| ObjectId::Node(NodeObject::Element(element.clone()));
    let elements: Vec<Element> = (0..4000_u16)
        .flat_map(|n| {
            let [high, low] = n.to_be_bytes();
            let subnet = format!("100.{high}.{low}.0/24").parse().unwrap();
            [Element::LocalEndpoint([10, 99, high, low].into()), Element::OverlaySubnet(subnet)]
        })
        .collect();
    let steps: Vec<Step> = elements.iter().map(|element| Step::Create(id(element), Object::Present)).collect();

    let start = Instant::now();
    node.apply(&steps);
    let written = start.elapsed();
    node.elements.extend(elements.into_iter().map(|element| (element, Object::Present)));
    node.restore(Table::Host);
    let loaded = start.elapsed() - written;
    let observed = node.observed();
    println!("8000 elements: written in {written:?}, loaded with the table in {loaded:?}");

    assert!(observed == node.expected(), "{} objects of {}", observed.len(), node.expected().len());
    node.apply(&[Step::Delete(ObjectId::Node(NodeObject::Table(Table::Host)), Object::Present)]);
    let refused = node.firewall.apply(&steps);
    let missing = refused.iter().filter(|r| r.as_ref().is_err_and(|e| e.cause.kind() == ErrorKind::NotFound)).count();
    assert_eq!(missing, steps.len(), "each one fails for the table that is missing");
}

fn published(port: u16) -> Element {
    Element::Published(Protocol::Tcp, IpAddr::from([0; 4]), port)
}

/// Both tables as `nft` prints them, without counters, and the members of sets in order.
fn listing(node: &crate::world::Node) -> String {
    let mut text = String::new();
    for (table, namespace) in [("inet", &node.host), ("bridge", &node.data_plane)] {
        let listing = run(namespace, &format!("nft -s list table {table} weft"));
        let joined = listing.replace(",\n", ",").replace('\t', " ");
        for line in joined.lines() {
            let mut words: Vec<&str> = line.split(',').map(str::trim).collect();
            if line.contains("elements = ") {
                words = line.split(['{', '}', ',']).map(str::trim).collect();
                words.sort_unstable();
            }
            text.push_str(&words.join(", "));
            text.push('\n');
        }
    }
    text
}
