//! Containers: addresses, attachment while they run, restarts, and that nothing is left of them.

use super::*;

#[test]
fn chosen_addresses_are_the_containers_and_are_refused_a_second_time() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "fixed", &["--subnet", "10.81.0.0/16"]);

    h1.docker_run("fixed1", &["--net", "fixed", "--ip", "10.81.3.4", "--mac-address", "02:42:de:ad:be:ef"]).unwrap();
    let second = h2.try_docker(&["run", "--rm", "--net", "fixed", "--ip", "10.81.3.4", "lab:net", "true"]).unwrap();
    h2.docker_run("fixed2", &["--net", "fixed", "--ip", "10.81.3.5"]).unwrap();

    assert!(second.stderr.contains("10.81.3.4") && second.stderr.contains("fixed1"), "{second:?}");
    let endpoints = h2.endpoints(&["--network", "fixed"]).unwrap();
    let mac = |name: &str| endpoints.iter().find(|endpoint| endpoint.name == name).unwrap().mac.clone();
    assert_eq!(mac("fixed1"), "02:42:de:ad:be:ef");
    assert_eq!(attachment(&h2, "fixed2", "fixed")["MacAddress"], mac("fixed2"));
    assert!(h2.docker_sh("fixed2", "ip link show eth0").unwrap().contains(&mac("fixed2")));
    reaches(&h2, "fixed2", "10.81.3.4");
    tidy(&lab, &[(1, "fixed1"), (2, "fixed2")], &["fixed"]);
}

#[test]
fn running_container_joins_and_leaves_a_second_network() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "first", &[]);
    create_network(&lab, "second", &[]);
    h1.docker_run("there", &["--net", "second"]).unwrap();
    h2.docker_run("mover", &["--net", "first"]).unwrap();
    is_unknown(&h2, "mover", "there");

    h2.docker(&["network", "connect", "--alias", "guest", "second", "mover"]).unwrap();
    reaches(&h2, "mover", "there");
    reaches(&h1, "there", "mover");
    resolves(&h1, "there", "guest", &address(&h2, "mover", "second"));
    h2.docker(&["restart", "-t", "0", "mover"]).unwrap();
    reaches(&h2, "mover", "there");
    h2.docker(&["network", "disconnect", "second", "mover"]).unwrap();

    is_unknown(&h2, "mover", "there");
    has_endpoints(&lab, "second", &["there"]);
    h2.docker(&["network", "disconnect", "first", "mover"]).unwrap();
    has_endpoints(&lab, "first", &[]);
    tidy(&lab, &[(1, "there"), (2, "mover")], &["first", "second"]);
}

#[test]
fn container_of_the_default_bridge_can_be_connected_later() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "later", &[]);
    h1.docker_run("later1", &["--net", "later"]).unwrap();
    h2.docker_run("later2", &[]).unwrap();

    h2.docker(&["network", "connect", "later", "later2"]).unwrap();

    reaches(&h2, "later2", "later1");
    reaches(&h1, "later1", "later2");
    tidy(&lab, &[(1, "later1"), (2, "later2")], &["later"]);
}

#[test]
fn containers_come_and_go_in_every_way_and_leave_nothing() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "ways", &[]);
    h1.docker_run("peer", &["--net", "ways"]).unwrap();
    h2.docker_run("goer", &["--net", "ways"]).unwrap();
    reaches(&h1, "peer", "goer");

    for words in [&["restart", "-t", "0", "goer"][..], &["stop", "-t", "0", "goer"], &["start", "goer"]] {
        h2.docker(words).unwrap();
    }
    reaches(&h1, "peer", "goer");
    h2.docker(&["kill", "goer"]).unwrap();
    has_endpoints(&lab, "ways", &["peer"]);
    is_unknown(&h1, "peer", "goer");
    h2.docker(&["start", "goer"]).unwrap();
    reaches(&h1, "peer", "goer");
    h2.docker(&["pause", "goer"]).unwrap();
    resolves(&h1, "peer", "goer", &address(&h2, "goer", "ways"));
    h2.docker(&["unpause", "goer"]).unwrap();
    let failed = h2.try_docker(&["run", "--name", "broken", "--net", "ways", "lab:net", "/no/such/program"]).unwrap();
    assert!(!failed.is_success());
    h2.docker(&["rm", "-f", "goer", "broken"]).unwrap();

    has_endpoints(&lab, "ways", &["peer"]);
    tidy(&lab, &[(1, "peer")], &["ways"]);
}

#[test]
fn containers_that_share_a_namespace_share_names_and_address() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "pods", &[]);
    h1.docker_run("pod", &["--net", "pods"]).unwrap();
    h1.docker_run("helper", &["--net", "container:pod"]).unwrap();
    h2.docker_run("other", &["--net", "pods"]).unwrap();

    reaches(&h1, "helper", "other");
    assert_eq!(h1.docker_sh("helper", "ip -4 -o a").unwrap(), h1.docker_sh("pod", "ip -4 -o a").unwrap());
    for plain in ["host", "none"] {
        h1.docker(&["run", "--rm", "--net", plain, "lab:net", "true"]).unwrap();
    }
    tidy(&lab, &[(1, "helper"), (1, "pod"), (2, "other")], &["pods"]);
}

#[test]
fn internal_network_has_peers_and_names_but_no_way_out() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "inner", &["--internal"]);
    h1.docker_run("inner1", &["--net", "inner"]).unwrap();
    h2.docker_run("inner2", &["--net", "inner"]).unwrap();

    reaches(&h2, "inner2", "inner1");
    let routes = h2.docker_sh("inner2", "ip route").unwrap();
    assert!(!routes.contains("default"), "{routes}");
    tidy(&lab, &[(1, "inner1"), (2, "inner2")], &["inner"]);
}

#[test]
fn largest_packet_passes_and_forwarding_rules_of_the_host_do_not_matter() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "wide", &[]);
    h1.docker_run("wide1", &["--net", "wide"]).unwrap();
    h1.docker_run("wide3", &["--net", "wide"]).unwrap();
    h2.docker_run("wide2", &["--net", "wide"]).unwrap();
    reaches(&h2, "wide2", "wide1");

    for host in [&h1, &h2] {
        host.exec(&["iptables", "-P", "FORWARD", "DROP"]).unwrap();
        let on = host.exec(&["cat", "/proc/sys/net/bridge/bridge-nf-call-iptables"]).unwrap();
        assert_eq!(on.trim(), "1", "br_netfilter is on where Docker runs");
    }
    let link = h2.docker_sh("wide2", "ip link show eth0").unwrap();
    assert!(link.contains("mtu 1450"), "{link}");
    // 1450 less the headers of IPv4 and ICMP.
    h2.docker_sh("wide2", "ping -c1 -w5 -s 1422 wide1").unwrap();
    reaches(&h1, "wide3", "wide1");
    tidy(&lab, &[(1, "wide1"), (1, "wide3"), (2, "wide2")], &["wide"]);
}

#[test]
fn twenty_containers_at_once_get_addresses_of_their_own() {
    let lab = shared();
    create_network(&lab, "crowd", &[]);

    std::thread::scope(|scope| {
        for number in 0..20_u8 {
            let host = lab.host(1 + number % 2);
            scope.spawn(move || host.docker_run(&format!("crowd{number}"), &["--net", "crowd"]).unwrap());
        }
    });
    let names: Vec<String> = (0..20).map(|number| format!("crowd{number}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    has_endpoints(&lab, "crowd", &texts);
    let endpoints = lab.host(1).endpoints(&["--network", "crowd"]).unwrap();
    let addresses: std::collections::BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.ipv4).collect();
    assert_eq!(addresses.len(), 20);
    reaches(&lab.host(1), "crowd0", "crowd19");
    for host in 0..2_u8 {
        let own: Vec<&str> = texts.iter().skip(usize::from(host)).step_by(2).copied().collect();
        lab.host(1 + host).docker(&[&["rm", "-f"][..], &own].concat()).unwrap();
    }

    has_endpoints(&lab, "crowd", &[]);
    tidy(&lab, &[], &["crowd"]);
}
