//! Published ports from every direction (A9), with the client's address kept where the endpoint is local.

use std::net::{IpAddr, Ipv6Addr};

use weft_overlay::{
    kernel::{Element, Object, Table},
    model::Protocol,
};

use crate::{
    traffic::{IMPATIENCE, PATIENCE, Server, UdpServer, fetch, fetch_udp, is_cut},
    world::{A, B, Container, World, overlay4, overlay6, underlay4, underlay6},
};

const HOST_PORT: u16 = 8080;
const HOST_PORT6: u16 = 8086;
const PORT: u16 = 80;

/// Two nodes that publish an endpoint on node 1, and containers of both networks on both nodes.
struct Town {
    world: World,
    endpoint: Container,
    neighbours: Vec<Container>,
    strangers: Vec<Container>,
    _server: Server,
}

impl Town {
    fn new() -> Self {
        let mut world = World::new(2);
        let endpoint = world.container(1, &[A], 5);
        let neighbours = vec![world.container(1, &[A], 11), world.container(2, &[A], 12)];
        let strangers = vec![world.container(1, &[B], 21), world.container(2, &[B], 22)];
        for node in &mut world.nodes {
            node.insert(published(ANY4, HOST_PORT), Object::Published(overlay4(A, 5), PORT));
            node.insert(published(ANY6, HOST_PORT6), Object::Published(overlay6(A, 5), PORT));
        }
        let server = Server::start(&endpoint.namespace, PORT);
        Self { world, endpoint, neighbours, strangers, _server: server }
    }

    /// Every place that a client can be in.
    fn clients(&self) -> Vec<String> {
        let hosts = self.world.nodes.iter().map(|node| node.host.clone());
        let containers = self.neighbours.iter().chain(&self.strangers).chain([&self.endpoint]);
        let containers = containers.map(|container| container.namespace.clone());
        std::iter::once(self.world.out()).chain(hosts).chain(containers).collect()
    }
}

const ANY4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn published(host: IpAddr, port: u16) -> Element {
    Element::Published(Protocol::Tcp, host, port)
}

#[test]
fn a_published_port_answers_from_every_direction() {
    let town = Town::new();
    let targets =
        [(underlay4(1), HOST_PORT), (underlay4(2), HOST_PORT), (underlay6(1), HOST_PORT6), (underlay6(2), HOST_PORT6)];

    let silent: Vec<_> = town
        .clients()
        .into_iter()
        .flat_map(|client| targets.map(|target| (client.clone(), target)))
        .filter(|(client, target)| fetch(client, *target).is_none())
        .collect();

    assert!(silent.is_empty(), "no answer: {silent:?}");
    for node in &town.world.nodes {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(fetch(&node.host, (loopback, HOST_PORT)).is_some(), "no answer at 127.0.0.1 of {}", node.host);
    }
}

#[test]
fn without_source_translation_the_hard_directions_are_silent() {
    let town = Town::new();
    for node in &town.world.nodes {
        node.delete_rules(Table::Host, "masquerade_to_leg", "masquerade");
    }
    let (near, far) = ((underlay4(1), HOST_PORT), (underlay4(2), HOST_PORT));
    let loopback = (IpAddr::from([127, 0, 0, 1]), HOST_PORT);
    let hard = [
        (town.endpoint.namespace.clone(), near),
        (town.neighbours[0].namespace.clone(), near),
        (town.world.out(), far),
        (town.world.nodes[1].host.clone(), far),
        (town.world.nodes[0].host.clone(), loopback),
    ];

    let answered: Vec<_> = hard.iter().filter(|(client, target)| !is_cut(client, *target)).collect();

    assert!(answered.is_empty(), "{answered:?}");
}

#[test]
fn an_endpoint_sees_the_address_of_a_client_from_outside() {
    let town = Town::new();
    let out = town.world.out();

    assert_eq!(fetch(&out, (underlay4(1), HOST_PORT)), Some(underlay4(9)));
    assert_eq!(fetch(&out, (underlay6(1), HOST_PORT6)), Some(underlay6(9)));
    // Elsewhere the answer would not come back through the node that was asked.
    assert_eq!(fetch(&out, (underlay4(2), HOST_PORT)), Some(town.world.nodes[1].leg_address(A)));
}

#[test]
fn what_is_published_at_one_address_is_published_there_only() {
    let mut town = Town::new();
    let node = &mut town.world.nodes[0];
    node.insert(published(underlay4(1), 8081), Object::Published(overlay4(A, 5), PORT));
    node.insert(published(underlay6(1), 8081), Object::Published(overlay6(A, 5), PORT));
    let (out, host) = (town.world.out(), town.world.nodes[0].host.clone());

    assert!(fetch(&out, (underlay4(1), 8081)).is_some());
    assert!(fetch(&out, (underlay6(1), 8081)).is_some());
    assert!(is_cut(&host, (IpAddr::from([127, 0, 0, 1]), 8081)));
    assert!(is_cut(&host, (town.world.nodes[0].leg_address(A), 8081)));
}

#[test]
fn at_the_ipv6_loopback_the_host_answers_itself() {
    let town = Town::new();
    let host = &town.world.nodes[0].host;
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let _service = Server::start(host, HOST_PORT6);

    assert_eq!(fetch(host, (loopback, HOST_PORT6)), Some(loopback));
}

#[test]
fn what_is_no_longer_published_does_not_answer() {
    let mut town = Town::new();
    let out = town.world.out();
    assert!(fetch(&out, (underlay4(1), HOST_PORT)).is_some());

    town.world.nodes[0].remove(published(ANY4, HOST_PORT));

    assert!(is_cut(&out, (underlay4(1), HOST_PORT)));
}

#[test]
fn an_endpoint_in_two_networks_answers_clients_of_both() {
    let mut world = World::new(1);
    let endpoint = world.container(1, &[A, B], 5);
    let clients = [world.container(1, &[A], 11), world.container(1, &[B], 12)];
    let _server = Server::start(&endpoint.namespace, PORT);
    world.nodes[0].insert(published(ANY4, HOST_PORT), Object::Published(overlay4(A, 5), PORT));

    for client in clients {
        assert!(fetch(&client.namespace, (underlay4(1), HOST_PORT)).is_some(), "{}", client.namespace);
    }
}

#[test]
fn udp_is_published_too() {
    let mut town = Town::new();
    let _server = UdpServer::start(&town.endpoint.namespace, ("::", 5000));
    for node in &mut town.world.nodes {
        let element = Element::Published(Protocol::Udp, ANY4, 5001);
        node.insert(element, Object::Published(overlay4(A, 5), 5000));
    }

    for client in town.clients() {
        for node in [1, 2] {
            let seen = fetch_udp(&client, 0, (underlay4(node), 5001), PATIENCE);
            assert!(seen.is_some(), "no answer of node {node} for {client}");
        }
    }
    assert!(fetch_udp(&town.world.out(), 0, (underlay4(1), 5002), IMPATIENCE).is_none());
}

#[test]
fn a_published_port_53_does_not_take_the_gateways_dns_away() {
    let mut town = Town::new();
    let host = town.world.nodes[0].host.clone();
    town.world.nodes[0].insert(published(ANY4, 53), Object::Published(overlay4(A, 5), PORT));
    let asked = (overlay4(A, 1), 53);
    let client = &town.neighbours[0];
    let _dns = Server::start(&host, 53);

    let seen = fetch(&client.namespace, asked);

    // The endpoint would have seen a translated address.
    assert_eq!(seen, Some(client.addresses[0]));
    assert_eq!(fetch(&town.world.out(), (underlay4(1), 53)), Some(underlay4(9)), "not published to the outside");
}
