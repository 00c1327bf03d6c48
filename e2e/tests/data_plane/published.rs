//! Published ports, from every direction from which somebody may come.

use std::net::{IpAddr, SocketAddr};

use weft_e2e::topology::{CONTROL, CONTROLLER_ADDRESS, NAT_ADDRESS_V6};
use weft_e2e::traffic::{Greeting, TcpServer, UdpServer, ask_tcp, ask_udp};
use weft_e2e::{Endpoint, Lab};

use super::{NEVER, SOON, any, settles, shared, underlay};

/// A server on h1 at port 80, published at `port`; clients of the same network on both hosts, and of another.
fn published(lab: &Lab, prefix: &str, port: u16) -> Endpoint {
    let name = |suffix: &str| format!("{prefix}{suffix}");
    lab.create_network(&name("net"), &[]).unwrap();
    lab.create_network(&name("other"), &[]).unwrap();
    let ports = [format!("{port}:80"), format!("{port}:80/udp")];
    let options = ports.each_ref().map(|port| ["--publish", port]).concat();
    let server = lab.attach(1, &name("server"), &name("net"), &options).unwrap();
    for (host, client) in [(1, "near"), (2, "far")] {
        lab.attach(host, &name(client), &name("net"), &[]).unwrap();
        lab.attach(host, &name(&format!("foreign{host}")), &name("other"), &[]).unwrap();
    }
    settles(lab);
    server
}

#[test]
fn published_port_is_reached_from_every_direction() {
    let lab = shared();
    let server = published(&lab, "pub", 18080);
    let _tcp = TcpServer::start("pubserver", any(80)).unwrap();
    let _udp = UdpServer::start("pubserver", any(80)).unwrap();
    let at = |address: IpAddr| SocketAddr::new(address, 18080);
    let host = at(underlay(&lab.host(1)));

    let clients = [CONTROL, "h2", "h3", "h1", "pubserver", "pubnear", "pubfar", "pubforeign1", "pubforeign2"];
    for client in clients {
        for ask in [ask_tcp, ask_udp] {
            let greeting = ask(client, host, SOON).unwrap();
            assert_eq!(greeting.server, "pubserver", "asked by {client}");
        }
    }
    for ask in [ask_tcp, ask_udp] {
        ask("h1", at("127.0.0.1".parse().unwrap()), SOON).unwrap();
    }
    for client in ["h1", "pubnear", "pubforeign1"] {
        for ask in [ask_tcp, ask_udp] {
            let greeting = ask(client, at(NAT_ADDRESS_V6.into()), SOON).unwrap();
            assert_eq!(greeting.server, "pubserver", "asked by {client} over IPv6");
        }
    }
    // The port itself is the network's matter, as before.
    ask_tcp("pubfar", SocketAddr::new(server.v4(), 80), SOON).unwrap();
    assert!(ask_tcp("pubforeign1", SocketAddr::new(server.v4(), 80), NEVER).is_err());
}

#[test]
fn clients_address_is_kept_where_the_endpoint_is_local() {
    let lab = shared();
    published(&lab, "kept", 18081);
    let _tcp = TcpServer::start("keptserver", any(80)).unwrap();
    let _udp = UdpServer::start("keptserver", any(80)).unwrap();
    let host = SocketAddr::new(underlay(&lab.host(1)), 18081);

    for ask in [ask_tcp, ask_udp] {
        let wanted = Greeting { server: "keptserver".to_owned(), client: CONTROLLER_ADDRESS.into() };
        assert_eq!(ask(CONTROL, host, SOON).unwrap(), wanted);
        assert_eq!(ask("h2", host, SOON).unwrap().client, underlay(&lab.host(2)));
    }
}

#[test]
fn port_published_at_one_address_is_not_at_others() {
    let lab = shared();
    lab.create_network("single", &[]).unwrap();
    let publish = format!("{}:18082:80", underlay(&lab.host(1)));
    lab.attach(1, "single1", "single", &["--publish", &publish]).unwrap();
    let _server = TcpServer::start("single1", any(80)).unwrap();

    ask_tcp(CONTROL, SocketAddr::new(underlay(&lab.host(1)), 18082), SOON).unwrap();
    assert!(ask_tcp("h1", "127.0.0.1:18082".parse().unwrap(), NEVER).is_err());
    assert!(ask_tcp(CONTROL, SocketAddr::new(underlay(&lab.host(2)), 18082), NEVER).is_err());
    settles(&lab);
}

#[test]
fn port_that_is_published_already_is_refused_and_free_again_afterwards() {
    let lab = shared();
    lab.create_network("busy", &[]).unwrap();
    lab.attach(1, "busy1", "busy", &["--publish", "18083:80"]).unwrap();
    lab.run_container(1, "busy2", &[]).unwrap();

    let refusal = lab.host(1).refusal(&["connect", "busy", "busy2", "--publish", "18083:81"]).unwrap();
    assert_eq!(refusal.class, "conflict", "{refusal:?}");
    assert!(refusal.says(&["18083", "busy1"]), "{refusal:?}");
    lab.host(1).weft(&["disconnect", "busy", "busy1"]).unwrap();
    lab.attach(1, "busy2", "busy", &["--publish", "18083:81"]).unwrap();

    let _server = TcpServer::start("busy2", any(81)).unwrap();
    ask_tcp(CONTROL, SocketAddr::new(underlay(&lab.host(1)), 18083), SOON).unwrap();
    settles(&lab);
}

#[test]
fn port_of_a_disconnected_container_is_closed() {
    let lab = shared();
    lab.create_network("ended", &[]).unwrap();
    lab.attach(1, "ended1", "ended", &["--publish", "18084:80"]).unwrap();
    let _server = TcpServer::start("ended1", any(80)).unwrap();
    let target = SocketAddr::new(underlay(&lab.host(1)), 18084);
    ask_tcp(CONTROL, target, SOON).unwrap();

    lab.host(1).weft(&["disconnect", "ended", "ended1"]).unwrap();

    assert!(ask_tcp(CONTROL, target, NEVER).is_err());
    settles(&lab);
}
