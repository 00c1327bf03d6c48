//! Networks: their subnets, VNIs and labels, whom they would collide with, and their end.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use serde_json::json;
use weft_e2e::traffic;
use weft_e2e::{
    Lab, Refusal, SharedLab,
    dump::{self, settles},
    eventually,
};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);

fn shared() -> SharedLab {
    Lab::shared().unwrap()
}

/// What is stored, but for what nodes keep up to date by themselves: their records with their routes, and blocks, which
/// they claim ahead of need.
fn entries(lab: &Lab) -> Vec<dump::StoreEntry> {
    let mut entries = dump::store(lab).unwrap().entries;
    let is_upkeep =
        |key: &str| ["node/", "ipam/"].iter().any(|section| key.starts_with(section)) || key.contains("/blk/");
    entries.retain(|entry| !is_upkeep(&entry.key));
    entries
}

/// The refusal of a new network; whatever it is, nothing is stored.
#[track_caller]
fn refused(lab: &Lab, host: u8, arguments: &[&str]) -> Refusal {
    let before = entries(lab);
    let refusal = lab.host(host).refusal(&[&["network", "create"], arguments].concat()).unwrap();
    assert_eq!(entries(lab), before);
    refusal
}

#[test]
fn subnets_are_picked_from_the_clusters_ranges_and_never_overlap() {
    let lab = shared();
    let pool: IpNetwork = "10.32.0.0/11".parse().unwrap();

    let networks: Vec<_> = (0..5).map(|number| lab.create_network(&format!("auto{number}"), &[]).unwrap()).collect();

    for network in &networks {
        let [v4, v6] = network.subnets[..] else { panic!("{network:?}") };
        assert_eq!((v4.prefix(), v6.prefix()), (20, 64), "{network:?}");
        assert!(pool.contains(v4.network()), "{v4}");
        let IpAddr::V6(local) = v6.network() else { panic!("{v6}") };
        assert_eq!(local.octets()[0], 0xfd, "{v6} is a unique local prefix");
        for (gateway, subnet) in network.gateways.iter().zip([v4, v6]) {
            assert!(subnet.contains(*gateway) && *gateway != subnet.network(), "{network:?}");
        }
    }
    let distinct = |index: usize| networks.iter().map(|network| network.subnets[index]).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct(0), distinct(1)), (networks.len(), networks.len()));
    let vnis: BTreeSet<_> = networks.iter().map(|network| network.vni).collect();
    assert_eq!(vnis.len(), networks.len());
    assert!(vnis.iter().all(|vni| (1..1 << 24).contains(vni)), "{vnis:?}");
}

#[test]
fn picked_subnets_stay_clear_of_every_nodes_routes() {
    let lab = shared();
    // Nearly all of the range, on a node that has nothing to do with the network.
    let route = ["ip", "route", "add", "10.32.0.0/12", "dev", "eth1"];
    lab.host(3).exec(&route).unwrap();
    eventually(SOON, "the route in the node's record", || {
        let node = lab.host(1).weft_json(&["node", "inspect", "h3"]).map_err(|error| format!("{error:#}"))?;
        if node["routes"].to_string().contains("10.32.0.0/12") { Ok(()) } else { Err(node["routes"].to_string()) }
    });

    let network = lab.create_network("clear", &[]).unwrap();

    let taken: IpNetwork = "10.32.0.0/12".parse().unwrap();
    assert!(!taken.contains(network.subnets[0].network()), "{network:?}");
    lab.host(3).exec(&["ip", "route", "del", "10.32.0.0/12", "dev", "eth1"]).unwrap();
}

#[test]
fn subnet_that_overlaps_another_network_is_refused_naming_both() {
    let lab = shared();
    lab.create_network("first", &["--subnet", "10.100.0.0/16", "--subnet", "fd00:100::/48"]).unwrap();

    for (subnet, other) in
        [("10.100.7.0/24", "10.100.0.0/16"), ("10.96.0.0/11", "10.100.0.0/16"), ("fd00:100:0:5::/64", "fd00:100::/48")]
    {
        let refusal = refused(&lab, 2, &["second", "--subnet", subnet]);
        assert_eq!(refusal.class, "conflict", "{refusal:?}");
        assert!(refusal.says(&[subnet, other, "first"]), "{refusal:?}");
    }
}

#[test]
fn subnet_that_overlaps_a_route_of_any_node_is_refused_naming_node_and_route() {
    let lab = shared();
    lab.host(2).exec(&["ip", "route", "add", "10.110.0.0/16", "dev", "eth1"]).unwrap();
    eventually(SOON, "the route in the node's record", || {
        let node = lab.host(1).weft_json(&["node", "inspect", "h2"]).map_err(|error| format!("{error:#}"))?;
        if node["routes"].to_string().contains("10.110.0.0/16") { Ok(()) } else { Err(node["routes"].to_string()) }
    });

    // The underlay itself is a route of every node.
    for (subnet, words) in [
        ("10.110.4.0/24", ["10.110.0.0/16", "eth1", "h2"]),
        ("192.168.56.128/25", ["192.168.56.0/24", "eth1", "h"]),
        ("10.0.0.0/14", ["10.0.2.0/24", "eth0", "h"]),
    ] {
        let refusal = refused(&lab, 1, &["routed", "--subnet", subnet]);
        assert_eq!(refusal.class, "conflict", "{refusal:?}");
        assert!(refusal.says(&[subnet]) && refusal.says(&words), "{refusal:?}");
    }
    lab.host(2).exec(&["ip", "route", "del", "10.110.0.0/16", "dev", "eth1"]).unwrap();
}

#[test]
fn vni_in_use_is_refused_naming_the_network_that_has_it() {
    let lab = shared();
    let network = lab.create_network("numbered", &["--vni", "70707"]).unwrap();
    assert_eq!(network.vni, 70707);

    let refusal = refused(&lab, 3, &["again", "--vni", "70707"]);

    assert_eq!(refusal.class, "conflict", "{refusal:?}");
    assert!(refusal.says(&["70707", "numbered"]), "{refusal:?}");
}

#[test]
fn name_in_use_is_refused() {
    let lab = shared();
    lab.create_network("unique", &[]).unwrap();

    let refusal = refused(&lab, 2, &["unique"]);

    assert_eq!(refusal.class, "conflict", "{refusal:?}");
    assert!(refusal.says(&["unique"]), "{refusal:?}");
}

#[test]
fn settings_given_at_creation_are_kept_and_shown_on_every_node() {
    let lab = shared();
    let options = [
        "--subnet",
        "10.120.0.0/24",
        "--subnet",
        "fd00:120::/64",
        "--gateway",
        "10.120.0.254",
        "--gateway",
        "fd00:120::ff",
        "--ip-range",
        "10.120.0.128/26",
        "--label",
        "tier=db",
        "--label",
        "owner=",
        "--mtu",
        "1400",
        "--internal",
    ];
    lab.create_network("kept", &options).unwrap();

    for host in lab.hosts().unwrap() {
        let network = eventually(SOON, "the network on every node", || {
            host.weft_json(&["network", "inspect", "kept"]).map_err(|error| format!("{error:#}"))
        });
        assert_eq!(network["gateways"], json!(["10.120.0.254", "fd00:120::ff"]));
        assert_eq!(network["labels"], json!({"tier": "db", "owner": ""}));
        assert_eq!((&network["mtu"], &network["internal"]), (&json!(1400), &json!(true)));
    }
    let range: IpNetwork = "10.120.0.128/26".parse().unwrap();
    for host in [1, 2] {
        let endpoint = lab.attach(host, &format!("kept{host}"), "kept", &[]).unwrap();
        assert!(range.contains(endpoint.v4()), "{endpoint:?}");
    }
    let outside = lab.attach(3, "kept3", "kept", &["--ip", "10.120.0.7"]).unwrap();
    traffic::ping("kept1", outside.v4(), SOON).unwrap();
    traffic::ping("kept1", "10.120.0.254".parse().unwrap(), SOON).unwrap();
    settles(&lab);
}

#[test]
fn network_of_one_family_works_for_either() {
    let lab = shared();
    for (name, subnet) in [("just4", "10.121.0.0/24"), ("just6", "fd00:121::/64")] {
        let network = lab.create_network(name, &["--subnet", subnet]).unwrap();
        assert_eq!(network.subnets.len(), 1);
        let endpoints = [1, 2].map(|host| lab.attach(host, &format!("{name}{host}"), name, &[]).unwrap());
        let [from, to] = &endpoints;
        let address = to.ipv4.map(IpAddr::V4).or_else(|| to.ipv6.map(IpAddr::V6)).unwrap();
        traffic::ping(&from.name, address, SOON).unwrap();
        traffic::ping(&from.name, network.gateways[0], SOON).unwrap();
        lab.in_netns(&from.name, &["ping", "-c1", "-W5", &to.name]).unwrap();
    }
    settles(&lab);
}

#[test]
fn network_in_use_is_kept_and_its_users_are_listed() {
    let lab = shared();
    let network = lab.create_network("used", &[]).unwrap();
    lab.attach(1, "used1", "used", &[]).unwrap();
    lab.attach(2, "used2", "used", &[]).unwrap();
    settles(&lab);
    let before = entries(&lab);

    let refusal = lab.host(3).refusal(&["network", "rm", "used"]).unwrap();

    assert_eq!(refusal.class, "conflict", "{refusal:?}");
    assert!(refusal.says(&["used", "used1", "used2", "h1", "h2", "--force"]), "{refusal:?}");
    assert_eq!(entries(&lab), before, "of {}", network.id);
}

#[test]
fn forced_removal_disconnects_everywhere_and_leaves_nothing() {
    let lab = shared();
    let network = lab.create_network("doomed", &["--vni", "80808"]).unwrap();
    lab.create_network("spared", &[]).unwrap();
    for host in [1, 2, 3] {
        let name = format!("doomed{host}");
        lab.attach(host, &name, "spared", &[]).unwrap();
        lab.attach(host, &name, "doomed", &[]).unwrap();
    }
    let legs: Vec<_> = lab.hosts().unwrap().iter().map(|host| host.devices("doomed").unwrap()).collect();
    settles(&lab);

    lab.host(2).weft(&["network", "rm", "doomed", "--force"]).unwrap();

    eventually(SOON * 3, "no key of the network but its resting VNI", || {
        let store = dump::store(&lab).map_err(|error| format!("{error:#}"))?;
        let mentions = |entry: &&dump::StoreEntry| {
            entry.key.contains(&network.id) || String::from_utf8_lossy(&entry.value).contains(&network.id)
        };
        let left: Vec<_> = store.entries.iter().filter(mentions).map(|entry| entry.key.clone()).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
    settles(&lab);
    for (host, devices) in lab.hosts().unwrap().iter().zip(&legs) {
        eventually(SOON, "no device of the network", || {
            let kernel = dump::kernel(host).map_err(|error| format!("{error:#}"))?;
            let links = host.exec(&["ip", "-o", "link"]).map_err(|error| format!("{error:#}"))?;
            let left = kernel.vxlan(network.vni).is_some() || kernel.link(&devices.bridge).is_some();
            if left || links.contains(&devices.leg) { Err(format!("{links}{:?}", kernel.links)) } else { Ok(()) }
        });
        let container = format!("doomed{}", host.id().number());
        eventually(SOON, "the container in the other network only", || {
            let links = lab.in_netns(&container, &["ip", "-o", "link"]).map_err(|error| format!("{error:#}"))?;
            if links.contains("eth0") && !links.contains("eth1") { Ok(()) } else { Err(links) }
        });
    }
    lab.in_netns("doomed1", &["ping", "-c1", "-W5", "doomed3"]).unwrap();
    let refusal = lab.host(1).refusal(&["network", "inspect", "doomed"]).unwrap();
    assert_eq!(refusal.class, "not_found", "{refusal:?}");
    // Peers may still send with its number for a while.
    let refusal = refused(&lab, 1, &["heir", "--vni", "80808"]);
    assert!(refusal.says(&["80808"]), "{refusal:?}");
    // The name is free at once.
    let anew = lab.create_network("doomed", &[]).unwrap();
    assert_ne!((anew.id, anew.vni), (network.id, network.vni));
}

#[test]
fn empty_network_is_removed_at_once() {
    const ROUNDS: u32 = 4;
    let lab = shared();
    let mut took = Duration::ZERO;
    for _ in 0..ROUNDS {
        let network = lab.create_network("empty", &[]).unwrap();
        lab.attach(1, "empty1", "empty", &[]).unwrap();
        let refusal = lab.host(3).refusal(&["network", "rm", "empty"]).unwrap();
        assert!(refusal.says(&["empty1"]) && !refusal.says(&["gateway-"]), "{refusal:?}");
        lab.host(1).weft(&["disconnect", "empty", "empty1"]).unwrap();
        // The gateway leg is still there, and the controller is between two passes.
        let began = Instant::now();
        let removed = lab.host(3).weft_json(&["network", "rm", "empty"]).unwrap();
        took += began.elapsed();

        assert_eq!((removed["name"].as_str(), removed["id"].as_str()), (Some("empty"), Some(network.id.as_str())));
        let names = lab.host(1).weft_json(&["network", "ls"]).unwrap();
        assert!(names.as_array().unwrap().iter().all(|network| network["name"] != "empty"), "{names}");
    }
    // The first removal puts the controller's next pass two seconds ahead, so waiting for one shows in the others.
    assert!(took < Duration::from_secs(1) * ROUNDS, "{ROUNDS} removals took {took:?}");
    settles(&lab);
}
