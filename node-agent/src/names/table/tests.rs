use std::time::{Duration, Instant};

use super::*;

const V4: Family = Family::V4;
const V6: Family = Family::V6;

#[test]
fn finds_an_endpoint_by_name_alias_and_network() {
    let mut table = NameTable::new();
    table.set_network_name(net(1), &name("Net1"));
    table.upsert(net(1), ep(1), &names(&["Ct1", "web"]), &ips(&["10.32.0.2", "fd00::2"]));

    for asked in ["ct1", "web", "ct1.net1", "web.net1"] {
        assert_eq!(table.addresses(asked, &[net(1)], V4, 9), Some(ips(&["10.32.0.2"])), "{asked}");
        assert_eq!(table.addresses(asked, &[net(1)], V6, 9), Some(ips(&["fd00::2"])), "{asked}");
    }
    for unknown in ["ct2", "net1", "ct1.net2", "ct1net1", ".net1", "x.ct1.net1", ""] {
        assert_eq!(table.addresses(unknown, &[net(1)], V4, 9), None, "{unknown}");
    }
}

#[test]
fn names_with_dots_are_found_whole_and_below_their_network() {
    let mut table = NameTable::new();
    table.set_network_name(net(1), &name("prod.eu"));
    table.upsert(net(1), ep(1), &names(&["db.primary"]), &ips(&["10.32.0.2"]));

    assert_eq!(table.addresses("db.primary", &[net(1)], V4, 9), Some(ips(&["10.32.0.2"])));
    assert_eq!(table.addresses("db.primary.prod.eu", &[net(1)], V4, 9), Some(ips(&["10.32.0.2"])));
    assert_eq!(table.addresses("db.primary.eu", &[net(1)], V4, 9), None);
    assert_eq!(table.addresses("primary", &[net(1)], V4, 9), None);
}

#[test]
fn an_alias_cannot_take_over_the_qualified_name_of_another_endpoint() {
    let mut table = NameTable::new();
    table.set_network_name(net(1), &name("net1"));
    table.upsert(net(1), ep(1), &names(&["db"]), &ips(&["10.32.0.2"]));
    table.upsert(net(1), ep(2), &names(&["intruder", "db.net1"]), &ips(&["10.32.0.3"]));

    assert_eq!(table.addresses("db.net1", &[net(1)], V4, 9), Some(ips(&["10.32.0.2"])));

    table.remove(net(1), ep(1));

    assert_eq!(table.addresses("db.net1", &[net(1)], V4, 9), Some(ips(&["10.32.0.3"])));
}

#[test]
fn a_change_replaces_names_and_addresses() {
    let mut table = NameTable::new();
    table.upsert(net(1), ep(1), &names(&["old", "kept"]), &ips(&["10.32.0.2"]));
    table.upsert(net(1), ep(1), &names(&["new", "kept"]), &ips(&["10.32.0.3"]));

    assert_eq!(table.addresses("old", &[net(1)], V4, 9), None);
    assert_eq!(table.addresses("new", &[net(1)], V4, 9), Some(ips(&["10.32.0.3"])));
    assert_eq!(table.addresses("kept", &[net(1)], V4, 9), Some(ips(&["10.32.0.3"])));
    assert_eq!(table.name_of(ip("10.32.0.2"), &[net(1)]), None);
    assert_eq!(table.name_of(ip("10.32.0.3"), &[net(1)]), Some("new".to_owned()));
}

#[test]
fn removing_leaves_nothing_behind() {
    let mut table = NameTable::new();
    table.upsert(net(1), ep(1), &names(&["a", "shared"]), &ips(&["10.32.0.2"]));
    table.upsert(net(1), ep(2), &names(&["b", "shared"]), &ips(&["10.32.0.3"]));
    table.set_subnets(net(2), &[subnet("10.33.0.0/16")]);
    table.set_network_name(net(2), &name("net2"));

    table.remove(net(1), ep(9));
    table.remove(net(9), ep(1));
    table.remove(net(1), ep(1));
    assert_eq!(table.addresses("shared", &[net(1)], V4, 9), Some(ips(&["10.32.0.3"])));
    table.remove(net(1), ep(2));
    table.remove_network(net(2));

    assert!(table.networks.is_empty(), "{:?}", table.networks);
    assert!(table.subnets.is_empty(), "{:?}", table.subnets);
}

#[test]
fn an_address_that_moves_keeps_its_name_whichever_change_comes_first() {
    let old = (ep(7), names(&["old"]));
    let new = (ep(3), names(&["new"]));
    let address = ips(&["10.32.0.2"]);

    let mut arrives_first = NameTable::new();
    arrives_first.upsert(net(1), old.0, &old.1, &address);
    arrives_first.upsert(net(1), new.0, &new.1, &address);
    arrives_first.remove(net(1), old.0);
    let mut leaves_first = NameTable::new();
    leaves_first.upsert(net(1), old.0, &old.1, &address);
    leaves_first.remove(net(1), old.0);
    leaves_first.upsert(net(1), new.0, &new.1, &address);

    for table in [arrives_first, leaves_first] {
        assert_eq!(table.name_of(address[0], &[net(1)]), Some("new".to_owned()));
    }
}

#[test]
fn endpoints_under_one_alias_take_turns() {
    let table = crowd(3);

    let firsts: Vec<IpAddr> = (0..6).map(|_| first(&table, V4)).collect();

    assert_eq!(firsts, ips(&["10.32.0.1", "10.32.0.2", "10.32.0.3", "10.32.0.1", "10.32.0.2", "10.32.0.3"]));
    assert_eq!(
        table.addresses("web", &[net(1)], V4, 9).unwrap(),
        ips(&["10.32.0.1", "10.32.0.2", "10.32.0.3"]),
        "every answer holds all of them"
    );
}

#[test]
fn questions_in_pairs_of_families_still_show_everybody() {
    let table = crowd(2);

    let pairs: Vec<(IpAddr, IpAddr)> = (0..2).map(|_| (first(&table, V4), first(&table, V6))).collect();

    assert_eq!(pairs, [(ip("10.32.0.1"), ip("fd00::1")), (ip("10.32.0.2"), ip("fd00::2"))]);
}

#[test]
fn a_turn_survives_coming_and_going() {
    let mut table = crowd(3);
    assert_eq!(first(&table, V4), ip("10.32.0.1"));

    table.remove(net(1), ep(1));
    table.upsert(net(1), ep(4), &names(&["web"]), &ips(&["10.32.0.4"]));

    let firsts: Vec<IpAddr> = (0..3).map(|_| first(&table, V4)).collect();
    assert_eq!(firsts, ips(&["10.32.0.2", "10.32.0.3", "10.32.0.4"]));
}

#[test]
fn endpoints_without_an_address_of_the_family_take_no_turn() {
    let mut table = crowd(2);
    table.upsert(net(1), ep(1), &names(&["web"]), &ips(&["fd00::1"]));
    table.upsert(net(1), ep(3), &names(&["web"]), &ips(&["10.32.0.3"]));

    let firsts: Vec<IpAddr> = (0..3).map(|_| first(&table, V4)).collect();

    assert_eq!(firsts, ips(&["10.32.0.2", "10.32.0.3", "10.32.0.2"]));
}

#[test]
fn an_alias_in_two_networks_of_the_client_rotates_over_both() {
    let mut table = crowd(2);
    table.upsert(net(2), ep(5), &names(&["web"]), &ips(&["10.33.0.5"]));
    table.upsert(net(2), ep(6), &names(&["web"]), &ips(&["10.33.0.6"]));

    let answers: Vec<Vec<IpAddr>> = (0..4).map(|_| table.addresses("web", &[net(1), net(2)], V4, 9).unwrap()).collect();

    let firsts: Vec<IpAddr> = answers.iter().map(|a| a[0]).collect();
    assert_eq!(firsts, ips(&["10.32.0.1", "10.33.0.5", "10.32.0.2", "10.33.0.6"]));
    assert!(answers.iter().all(|a| a.len() == 4), "{answers:?}");
}

#[test]
fn a_client_sees_the_networks_of_its_scope_only() {
    let mut table = NameTable::new();
    table.set_subnets(net(1), &[subnet("10.32.0.0/20"), subnet("fd01::/64")]);
    table.set_subnets(net(2), &[subnet("10.33.0.0/20")]);
    table.set_scope(ip("10.32.0.2"), &[net(1), net(2)]);
    table.set_scope(ip("10.32.0.3"), &[]);

    let cases: &[(&str, &[NetworkId], &str)] = &[
        ("10.32.0.2", &[net(1), net(2)], "its scope, wherever it asked"),
        ("10.32.0.3", &[], "a scope may be empty"),
        ("10.32.0.9", &[net(1)], "without a scope: the network that was asked"),
        ("::ffff:10.32.0.2", &[net(1), net(2)], "a mapped address is the IPv4 address"),
        ("fd01::9", &[net(1)], "IPv6 without a scope"),
        ("10.33.0.9", &[], "without a scope, from another network's subnet"),
        ("192.0.2.1", &[net(1)], "an address of the host"),
    ];
    for (client, expected, why) in cases {
        assert_eq!(table.visible_to(ip(client), net(1)), *expected, "{client}: {why}");
    }

    table.remove_scope(ip("10.32.0.2"));

    assert_eq!(table.visible_to(ip("10.32.0.2"), net(1)), [net(1)]);
}

#[test]
fn knows_which_prefixes_are_ours() {
    let mut table = NameTable::new();
    table.set_subnets(net(1), &[subnet("10.32.0.0/20"), subnet("fd01::/64")]);

    for ours in ["10.32.15.255/32", "10.32.7.0/24", "fd01::5/128", "fd01::/64"] {
        assert!(table.is_overlay(subnet(ours)), "{ours}");
    }
    for foreign in ["10.32.16.0/32", "10.32.0.0/16", "10.31.255.255/32", "fd01:0:0:1::/128", "fd00::/8", "8.8.8.8/32"] {
        assert!(!table.is_overlay(subnet(foreign)), "{foreign}");
    }

    table.set_subnets(net(1), &[subnet("10.48.0.0/20")]);

    assert!(!table.is_overlay(subnet("10.32.0.5/32")));
    assert!(table.is_overlay(subnet("10.48.0.5/32")));
}

#[test]
fn a_hundred_thousand_endpoints_under_one_alias_are_fine() {
    const COUNT: u32 = 100_000;
    let started = Instant::now();
    let mut table = NameTable::new();

    for i in 0..COUNT {
        let address = IpAddr::from((0x0a20_0000 + i).to_be_bytes());
        table.upsert(net(1), ep(u64::from(i)), &names(&[&format!("ct{i}"), "all"]), &[address]);
    }
    let answers: Vec<Vec<IpAddr>> = (0..1000).map(|_| table.addresses("all", &[net(1)], V4, 30).unwrap()).collect();
    for i in 0..COUNT - 1 {
        table.remove(net(1), ep(u64::from(i)));
    }

    let firsts: BTreeSet<IpAddr> = answers.iter().map(|a| a[0]).collect();
    assert_eq!(firsts.len(), 1000, "every answer began with another endpoint");
    assert_eq!(
        table.addresses("all", &[net(1)], V4, 9),
        Some(vec![IpAddr::from((0x0a20_0000 + COUNT - 1).to_be_bytes())])
    );
    // Takes about half a second; anything quadratic takes minutes.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

fn crowd(size: u64) -> NameTable {
    let mut table = NameTable::new();
    for i in 1..=size {
        table.upsert(net(1), ep(i), &names(&["web"]), &ips(&[&format!("10.32.0.{i}"), &format!("fd00::{i}")]));
    }
    table
}

fn first(table: &NameTable, family: Family) -> IpAddr {
    table.addresses("web", &[net(1)], family, 9).unwrap()[0]
}

fn net(n: u64) -> NetworkId {
    NetworkId::from_entropy(n)
}

fn ep(n: u64) -> EndpointId {
    EndpointId::from_entropy(n)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|t| name(t)).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| ip(t)).collect()
}

fn subnet(text: &str) -> IpNetwork {
    text.parse().unwrap()
}
