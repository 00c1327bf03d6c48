//! Names: across hosts, in every direction, and what is left to Docker.

use weft_e2e::topology::{OUTSIDE, OUTSIDE_GATEWAY, OUTSIDE_SERVER};
use weft_e2e::traffic::dns::DnsServer;

use super::*;

#[test]
fn name_alias_and_qualified_name_are_known_on_both_hosts_and_follow_a_rename() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "names", &[]);
    create_network(&lab, "others", &[]);
    h1.docker_run("server", &["--net", "names", "--network-alias", "db", "--hostname", "box"]).unwrap();
    h1.docker_run("neighbour", &["--net", "names"]).unwrap();
    h2.docker_run("client", &["--net", "names"]).unwrap();
    h2.docker_run("stranger", &["--net", "others"]).unwrap();
    let ip = address(&h1, "server", "names");

    for name in ["server", "SERVER", "db", "server.names", "box"] {
        resolves(&h2, "client", name, &ip);
        resolves(&h1, "neighbour", name, &ip);
    }
    let reverse = lookup(&h2, "client", &ip);
    assert!(reverse.contains("server.names"), "{reverse}");
    is_unknown(&h2, "client", "stranger");
    is_unknown(&h2, "stranger", "server");
    let v6 = h2.docker_sh("client", "nslookup -type=aaaa server; true").unwrap();
    assert!(!v6.contains("NXDOMAIN"), "{v6}");
    h1.docker(&["rename", "server", "primary"]).unwrap();
    resolves(&h2, "client", "primary", &ip);
    is_unknown(&h2, "client", "server");
    tidy(&lab, &[(1, "primary"), (1, "neighbour"), (2, "client"), (2, "stranger")], &["names", "others"]);
}

#[test]
fn alias_of_several_containers_tells_all_of_them_on_both_hosts() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "shares", &[]);
    h1.docker_run("share1", &["--net", "shares", "--network-alias", "web"]).unwrap();
    h2.docker_run("share2", &["--net", "shares", "--network-alias", "web"]).unwrap();
    let both = [address(&h1, "share1", "shares"), address(&h2, "share2", "shares")];

    for (host, container) in [(&h1, "share1"), (&h2, "share2")] {
        for ip in &both {
            resolves(host, container, "web", ip);
        }
    }
    tidy(&lab, &[(1, "share1"), (2, "share2")], &["shares"]);
}

#[test]
fn first_process_of_a_container_finds_a_container_of_another_host() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "early", &[]);
    h1.docker_run("target", &["--net", "early"]).unwrap();

    for attempt in 0..15 {
        let run = ["run", "--rm", "--net", "early", "lab:net", "ping", "-c1", "-w2", "target"];
        let output = h2.try_docker(&run).unwrap();
        assert!(output.is_success(), "attempt {attempt}: {output:?}");
    }

    has_endpoints(&lab, "early", &["target"]);
    tidy(&lab, &[(1, "target")], &["early"]);
}

#[test]
fn other_names_are_docker_s_with_any_resolver_of_the_host() {
    let lab = fresh();
    let h1 = lab.host(1);
    let outside = [("www.example.com", OUTSIDE_SERVER.into())];
    let _server = DnsServer::start(OUTSIDE, OUTSIDE_GATEWAY.into(), &outside).unwrap();
    let stub = [("www.example.com", OUTSIDE_SERVER.into())];
    let _stub = DnsServer::start("h1", "127.0.0.53".parse().unwrap(), &stub).unwrap();
    create_network(&lab, "asks", &[]);
    lab.host(2).docker_run("far", &["--net", "asks"]).unwrap();
    let ip = address(&lab.host(2), "far", "asks");

    let resolver = h1.state_directory().with_file_name("resolv.conf");
    for (number, nameserver) in [OUTSIDE_GATEWAY.to_string(), "127.0.0.53".to_owned()].iter().enumerate() {
        std::fs::write(&resolver, format!("nameserver {nameserver}\n")).unwrap();
        let name = format!("near{number}");
        h1.docker_run(&name, &["--net", "asks"]).unwrap();

        resolves(&h1, &name, "www.example.com", &OUTSIDE_SERVER.to_string());
        resolves(&h1, &name, "far", &ip);
        is_unknown(&h1, &name, "nobody.example.com");
    }
    h1.docker_run("own", &["--net", "asks", "--dns", &OUTSIDE_GATEWAY.to_string()]).unwrap();
    resolves(&h1, "own", "www.example.com", &OUTSIDE_SERVER.to_string());
    resolves(&h1, "own", "far", &ip);
}

#[test]
fn names_of_docker_go_on_without_the_agent_and_ours_return_with_it() {
    let lab = fresh();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "alone", &[]);
    h1.docker_run("near", &["--net", "alone"]).unwrap();
    h1.docker_run("beside", &["--net", "alone"]).unwrap();
    h2.docker_run("far", &["--net", "alone"]).unwrap();
    let (beside, far) = (address(&h1, "beside", "alone"), address(&h2, "far", "alone"));
    resolves(&h1, "near", "far", &far);

    lab.kill("h1").unwrap();
    resolves(&h1, "near", "beside", &beside);
    h1.docker_sh("near", &format!("ping -c1 -w2 {far}")).unwrap();
    lab.start("h1").unwrap();

    resolves(&h1, "near", "far", &far);
    reaches(&h1, "near", "far");
}
