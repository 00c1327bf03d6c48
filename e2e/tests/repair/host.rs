//! Routes, rules, tables and settings of the host.

use std::fs;

use super::{DATA_PLANE, REPAIRED_BY_POLLING, Scene, has, shown};

#[test]
fn flushed_routes_of_the_leg_come_back() {
    let scene = Scene::new("flushroute");
    let leg = &scene.devices.leg;

    for family in ["-4", "-6"] {
        let routes = || shown(&scene.lab, "h1", &["ip", family, "route", "show", "dev", leg]);
        let wanted = scene.network.subnets.iter().find(|subnet| subnet.is_ipv4() == (family == "-4")).unwrap();
        has(&routes().unwrap(), &wanted.to_string()).unwrap();

        scene.lab.in_netns("h1", &["ip", family, "route", "flush", "dev", leg]).unwrap();

        scene.repaired("routes through the leg", || has(&routes()?, &wanted.to_string()));
    }
    scene.ends_well();
}

#[test]
fn deleted_firewall_tables_come_back_as_they_were() {
    let scene = Scene::new("deltable");
    for (netns, family) in [("h1", "inet"), (DATA_PLANE, "bridge")] {
        let listing = || shown(&scene.lab, netns, &["nft", "--stateless", "list", "table", family, "weft"]);
        let before = sorted(&listing().unwrap());

        scene.lab.in_netns(netns, &["nft", "delete", "table", family, "weft"]).unwrap();

        scene.repaired(&format!("table {family} weft"), || {
            let now = sorted(&listing()?);
            if now == before { Ok(()) } else { Err(format!("{before:?} became {now:?}")) }
        });
    }
    scene.ends_well();
}

/// Elements of sets have no order of their own.
fn sorted(listing: &str) -> Vec<String> {
    let words = listing.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let mut words: Vec<_> = words.map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn flushed_ruleset_comes_back() {
    let scene = Scene::new("flushrules");

    scene.lab.in_netns("h1", &["nft", "flush", "ruleset"]).unwrap();

    scene.repaired("the table with its rules", || {
        has(&shown(&scene.lab, "h1", &["nft", "list", "table", "inet", "weft"])?, "hook input")
    });
    scene.ends_well();
}

#[test]
fn element_taken_out_of_a_set_is_put_back() {
    let scene = Scene::new("element");
    let port = scene.port();
    let mac = &scene.near.mac;
    let element = format!("{{ \"{port}\" . {mac} }}");
    let listing = || shown(&scene.lab, DATA_PLANE, &["nft", "list", "set", "bridge", "weft", "port_macs"]);
    has(&listing().unwrap(), mac).unwrap();

    scene.break_data_plane(&["nft", "delete", "element", "bridge", "weft", "port_macs", &element]);

    scene.repaired("the container's address in its set", || has(&listing()?, mac));
    scene.ends_well();
}

#[test]
fn deleted_rule_that_guards_the_tunnel_port_comes_back() {
    let scene = Scene::new("delrule");
    for family in ["-4", "-6"] {
        let rules = || shown(&scene.lab, "h1", &["ip", family, "rule", "show"]);
        let guard = |text: &str| text.lines().find(|line| line.contains("uidrange")).map(str::to_owned);
        let before = guard(&rules().unwrap()).expect("the rule is there");
        let preference = before.split(':').next().unwrap().to_owned();

        scene.lab.in_netns("h1", &["ip", family, "rule", "del", "pref", &preference]).unwrap();

        scene.repaired("the rule", || has(&rules()?, &before));
    }
    scene.ends_well();
}

#[test]
fn changed_kernel_parameters_are_changed_back() {
    let scene = Scene::new("sysctl");
    let leg = &scene.devices.leg;
    let parameters = [
        ("h1", "net/ipv4/ip_forward".to_owned(), "0"),
        ("h1", "net/ipv6/conf/all/forwarding".to_owned(), "0"),
        ("h1", format!("net/ipv4/conf/{leg}/arp_ignore"), "0"),
        ("h1", format!("net/ipv4/conf/{leg}/arp_announce"), "0"),
        ("h1", format!("net/ipv4/conf/{leg}/route_localnet"), "0"),
        ("h1", format!("net/ipv4/conf/{leg}/send_redirects"), "1"),
        ("h1", format!("net/ipv6/conf/{leg}/accept_ra"), "2"),
    ];

    for (netns, path, value) in parameters {
        let name: weft_e2e::netns::NetnsName = netns.parse().unwrap();
        let read = || name.enter(|| fs::read_to_string(format!("/proc/sys/{path}"))).unwrap().unwrap();
        let before = read();
        assert_ne!(before.trim(), value, "{path}");
        name.write_sysctl(&path, value).unwrap();
        scene.repaired_within(REPAIRED_BY_POLLING, &path, || {
            let now = read();
            if now == before { Ok(()) } else { Err(now) }
        });
    }
    scene.ends_well();
}
