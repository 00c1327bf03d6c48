//! Networks apart from each other, from the outside and from the host's services: A16, and the host's side of A12.

use std::net::IpAddr;

use weft_overlay::kernel::{Element, Object, Table};

use crate::{
    packets::{self, Ethernet, IPV4, UDP, v4},
    traffic::{
        Capture, IMPATIENCE, PATIENCE, Server, UdpServer, answers_ping, fetch, fetch_udp, ignores_ping, is_cut, mac_of,
        send_frames, send_udp,
    },
    world::{A, B, World, ip, overlay4, overlay6, run, underlay4, underlay6},
};

const PORT: u16 = 80;

#[test]
fn no_path_leads_from_network_to_network_through_a_host() {
    let mut world = World::new(2);
    let from = world.container(1, &[A], 11);
    let near = world.container(1, &[B], 21);
    let far = world.container(2, &[B], 22);
    let targets: Vec<IpAddr> = [near.addresses, far.addresses].concat();
    // For the far ones the first host has to speak for the client, or the answer takes the other one.
    world.nodes[0].delete_rules(Table::Host, "forward_between_legs", "drop");
    assert!(answers_ping(&from.namespace, targets[0]) && answers_ping(&from.namespace, targets[1]));
    world.nodes[0].restore(Table::Host);

    for target in targets {
        assert!(ignores_ping(&from.namespace, target), "{target}");
    }
}

#[test]
fn a_container_reaches_its_own_network_through_the_gateway() {
    let mut world = World::new(1);
    let one = world.container(1, &[A], 11);
    let two = world.container(1, &[A], 12);
    ip(&one.namespace, &format!("route add {} via {}", two.addresses[0], overlay4(A, 1)));

    assert!(answers_ping(&one.namespace, two.addresses[0]));
}

#[test]
fn packets_for_a_network_that_the_node_does_not_have_stay_inside() {
    let mut world = World::new(1);
    let from = world.container(1, &[A], 11);
    let node = &mut world.nodes[0];
    run(&node.host, &format!("ip link set {} down", node.leg(B)));
    ip(&node.host, &format!("route add default via {}\nroute add default via {}", underlay4(9), underlay6(9)));
    node.remove(Element::Leg(node.leg(B)));
    let (out, node) = (world.out(), &mut world.nodes[0]);
    let mut capture = Capture::start(&out, "eth0");
    let send = |text: &str| {
        for to in [overlay4(B, 22), overlay6(B, 22)] {
            send_udp(&from.namespace, 0, (to, 7), format!("{text} to {to}").as_bytes());
        }
    };
    node.delete_rules(Table::Host, "forward_from_leg", "@overlay");
    send("without the rule");
    assert!(capture.waits_for(format!("without the rule to {}", overlay4(B, 22)).as_bytes()));
    assert!(capture.waits_for(format!("without the rule to {}", overlay6(B, 22)).as_bytes()));
    node.restore(Table::Host);

    send("with the rule");

    send_udp(&from.namespace, 0, (underlay4(9), 7), b"to the outside");
    assert!(capture.waits_for(b"to the outside"));
    assert!(!capture.seen(b"with the rule"));
}

#[test]
fn a_route_through_a_node_leads_to_no_container() {
    let mut world = World::new(1);
    let container = world.container(1, &[A], 11);
    let _server = Server::start(&container.namespace, PORT);
    let out = world.out();
    ip(&out, &format!("route add 10.77.1.0/24 via {}\nroute add fd77:1::/64 via {}", underlay4(1), underlay6(1)));
    let targets = [(container.addresses[0], PORT), (container.addresses[1], PORT)];
    world.nodes[0].delete_rules(Table::Host, "forward_to_leg", "ct state");
    assert!(targets.iter().all(|target| fetch(&out, *target).is_some()));
    world.nodes[0].restore(Table::Host);

    for target in targets {
        assert!(is_cut(&out, target), "{target:?}");
    }
    assert!(fetch(&world.nodes[0].host, targets[0]).is_some(), "the host reaches its container");
}

#[test]
fn the_gateways_dns_answers_nobody_outside() {
    let mut world = World::new(2);
    let near = world.container(1, &[A], 11);
    let far = world.container(2, &[A], 12);
    let _dns = Server::start(&world.nodes[0].host, 53);
    let out = world.out();
    ip(&out, &format!("route add 10.77.1.0/24 via {}\nroute add fd77:1::/64 via {}", underlay4(1), underlay6(1)));
    let targets = [(overlay4(A, 1), 53), (overlay6(A, 1), 53)];
    world.nodes[0].delete_rules(Table::Host, "input", "@overlay");
    assert!(targets.iter().all(|target| fetch(&out, *target).is_some()));
    world.nodes[0].restore(Table::Host);

    for target in targets {
        assert!(is_cut(&out, target), "{target:?}");
        assert!(fetch(&near.namespace, target).is_some(), "{target:?} from a container");
        assert!(fetch(&world.nodes[0].host, target).is_some(), "{target:?} from the host");
    }
    assert!(fetch(&far.namespace, (world.nodes[0].leg_address(A), 53)).is_some(), "from a container elsewhere");
}

#[test]
fn of_the_host_a_container_reaches_dns_and_icmp_only() {
    let mut world = World::new(2);
    let near = world.container(1, &[A], 11);
    let far = world.container(2, &[A], 12);
    let _service = Server::start(&world.nodes[0].host, 2222);
    let own = world.nodes[0].leg_address(A);
    let addresses = [overlay4(A, 1), own, underlay4(1), overlay6(A, 1), underlay6(1)];
    world.nodes[0].delete_rules(Table::Host, "from_container", "counter");
    for address in addresses {
        assert!(fetch(&near.namespace, (address, 2222)).is_some(), "without the rule: {address}");
    }
    world.nodes[0].restore(Table::Host);

    for address in addresses {
        assert!(is_cut(&near.namespace, (address, 2222)), "{address}");
        assert!(answers_ping(&near.namespace, address), "{address}");
    }
    assert!(is_cut(&far.namespace, (own, 2222)));
    assert!(answers_ping(&far.namespace, own));
    assert!(fetch(&world.out(), (underlay4(1), 2222)).is_some(), "the host's own business is as it was");
}

#[test]
fn a_host_reaches_containers_of_any_node() {
    let mut world = World::new(2);
    let near = world.container(1, &[A], 11);
    let far = world.container(2, &[A], 12);

    for container in [&near, &far] {
        let _tcp = Server::start(&container.namespace, PORT);
        let _udp = UdpServer::start(&container.namespace, ("::", 5000));
        let seen = fetch(&world.nodes[0].host, (container.addresses[0], PORT));
        assert_eq!(seen, Some(world.nodes[0].leg_address(A)));
        assert!(fetch(&world.nodes[0].host, (container.addresses[1], PORT)).is_some());
        assert!(fetch_udp(&world.nodes[0].host, 0, (container.addresses[0], 5000), PATIENCE).is_some());
    }
}

#[test]
fn a_container_leaves_through_its_own_host_in_the_hosts_name() {
    let mut world = World::new(2);
    let container = world.container(1, &[A], 11);
    let _server = Server::start(&world.out(), PORT);
    let _elsewhere = Server::start(&world.nodes[1].host, PORT);

    assert_eq!(fetch(&container.namespace, (underlay4(9), PORT)), Some(underlay4(1)));
    assert_eq!(fetch(&container.namespace, (underlay6(9), PORT)), Some(underlay6(1)));
    assert_eq!(fetch(&container.namespace, (underlay4(2), PORT)), Some(underlay4(1)));
}

#[test]
fn an_internal_network_has_no_way_out_and_none_in() {
    let mut world = World::new(1);
    let container = world.container(1, &[A], 11);
    let neighbour = world.container(1, &[A], 12);
    let stranger = world.container(1, &[B], 21);
    let _inside = Server::start(&container.namespace, PORT);
    let _outside = Server::start(&world.out(), PORT);
    let _dns = Server::start(&world.nodes[0].host, 53);
    let node = &mut world.nodes[0];
    let published = Element::Published(weft_overlay::model::Protocol::Tcp, IpAddr::from([0; 4]), 8080);
    node.insert(published, Object::Published(overlay4(A, 11), PORT));
    assert!(fetch(&container.namespace, (underlay4(9), PORT)).is_some());

    node.insert(Element::InternalLeg(node.leg(A)), Object::Present);

    let out = world.out();
    assert!(is_cut(&container.namespace, (underlay4(9), PORT)));
    assert!(is_cut(&container.namespace, (underlay6(9), PORT)));
    assert!(is_cut(&out, (underlay4(1), 8080)));
    assert!(is_cut(&stranger.namespace, (underlay4(1), 8080)));
    assert!(ignores_ping(&container.namespace, stranger.addresses[0]));
    assert!(fetch(&neighbour.namespace, (container.addresses[0], PORT)).is_some());
    assert!(fetch(&container.namespace, (overlay4(A, 1), 53)).is_some(), "names still resolve");
    assert!(fetch(&world.nodes[0].host, (container.addresses[0], PORT)).is_some(), "the host still reaches it");
}

#[test]
fn a_container_neither_reaches_the_hosts_loopback_nor_speaks_in_its_name() {
    let mut world = World::new(1);
    let container = world.container(1, &[A], 11);
    let node = &mut world.nodes[0];
    let loopback = IpAddr::from([127, 0, 0, 1]);
    node.insert(Element::PortAddress(container.port.clone(), IpAddr::from([127, 0, 0, 2])), Object::Present);
    let mut capture = Capture::start(&node.host, "lo");
    let ethernet = Ethernet { to: mac_of(&node.host, node.leg(A).as_str()), from: container.mac.octets() };
    // The host answers at port 53 with an ICMP error that quotes what it got, over its loopback when asked in its name.
    let send = |from: IpAddr, to: IpAddr, text: &str| {
        let datagram = packets::udp((from, 5353), (to, 53), text.as_bytes());
        send_frames(
            &container.namespace,
            "eth0",
            &[ethernet.frame(IPV4, &packets::ipv4(v4(from), v4(to), UDP, &datagram))],
        );
    };
    // The kernel refuses 127.0.0.1 by itself, as an address of its own, but not the rest of the range.
    let forged = |text: &str| send(IpAddr::from([127, 0, 0, 2]), overlay4(A, 1), text);
    node.delete_rules(Table::Host, "raw_prerouting", "127.0.0.0/8");
    forged("without the rule");
    assert!(capture.waits_for(b"without the rule"));
    let server = UdpServer::start(&node.host, ("127.0.0.1", 53));
    let mut answers = Capture::start(&container.namespace, "eth0");
    send(container.addresses[0], loopback, "reaching");
    assert!(answers.waits_for(b"10.77.1.11:5353"));
    node.restore(Table::Host);

    drop(server);
    forged("with the rule");
    let server = UdpServer::start(&node.host, ("127.0.0.1", 53));
    let mut answers = Capture::start(&container.namespace, "eth0");
    send(container.addresses[0], loopback, "reaching");

    assert!(fetch_udp(&node.host, 0, (loopback, 53), PATIENCE).is_some(), "the server is there");
    assert!(fetch_udp(&container.namespace, 0, (overlay4(A, 1), 54), IMPATIENCE).is_none());
    assert!(answers_ping(&container.namespace, overlay4(A, 1)));
    assert!(!answers.seen(b"10.77.1.11:5353"));
    assert!(!answers.waits_for_within(b"10.77.1.11:5353", IMPATIENCE));
    assert!(!capture.waits_for_within(b"with the rule", IMPATIENCE));
    drop(server);
}
