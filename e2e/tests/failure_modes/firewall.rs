//! Firewalls of others: flushed, reloaded, hostile (B20).

use weft_e2e::topology::OUTSIDE_SERVER;
use weft_e2e::{LabOptions, eventually, traffic};

use crate::fault_support::rig::{Attached, REPAIR, Rig, ensure};
use crate::fault_support::shared::with_lab;
use crate::path::forged_frames_that_arrive;

/// What a strict administrator loads: everything is dropped but what answers.
const HOSTILE: &str = "table inet hostile {\n\
    chain input { type filter hook input priority 0; policy drop; iifname lo accept; ct state established,related accept; }\n\
    chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; }\n\
    }\n";

#[test]
fn b20_flushed_rulesets_come_back_and_guard_again() {
    with_lab(LabOptions::default(), |rig| {
        let network = rig.network("blue", &[]);
        let [a, b] = two_members(rig);
        let (h1, inside) = (rig.host(1), rig.host(1).data_plane_netns());
        let tables = || [rules(rig, "h1"), rules(rig, inside.as_str())];
        let before = tables();
        assert!(before.iter().all(|lines| lines.len() > 5), "{before:#?}");

        for flush in ["nft flush ruleset", "nft delete table inet weft", "iptables -F", "ip6tables -F"] {
            for netns in ["h1", inside.as_str()] {
                // One of the two namespaces has no table of that name.
                rig.lab.try_in_netns(netns, &flush.split(' ').collect::<Vec<_>>()).unwrap();
            }
            eventually(REPAIR, &format!("the rules after `{flush}`"), || {
                let now = tables();
                ensure(now == before, || format!("{now:#?}\ninstead of\n{before:#?}"))
            });
            reached(&a, &b, flush);
        }

        assert!(!forged_frames_that_arrive(3, &a, &b, network.vni), "the host's rules do not guard any more");
        h1.exec(&["nft", "list", "ruleset"]).unwrap();
        rig.settle();
    });
}

#[test]
fn b20_default_drop_loaded_afterwards_cuts_nothing() {
    with_lab(LabOptions::default(), |rig| {
        rig.network("blue", &[]);
        let [a, b] = two_members(rig);
        let h1 = rig.host(1);

        h1.netns().feed(&["nft", "-f", "-"], HOSTILE).unwrap();
        reached(&a, &b, "a table of nftables that drops");
        h1.exec(&["nft", "delete", "table", "inet", "hostile"]).unwrap();
        for line in [
            "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "iptables -A INPUT -i lo -j ACCEPT",
            "iptables -P INPUT DROP",
            "iptables -P FORWARD DROP",
        ] {
            h1.exec(&line.split(' ').collect::<Vec<_>>()).unwrap();
        }
        reached(&a, &b, "iptables that drops");
        h1.exec(&["iptables", "-F", "FORWARD"]).unwrap();
        reached(&a, &b, "a flush of FORWARD");

        for line in ["iptables -P INPUT ACCEPT", "iptables -P FORWARD ACCEPT", "iptables -F"] {
            h1.exec(&line.split(' ').collect::<Vec<_>>()).unwrap();
        }
        rig.settle();
    });
}

/// New connections between containers, from the outside-in host path and to the outside.
#[track_caller]
fn reached(a: &Attached, b: &Attached, after: &str) {
    let outside = OUTSIDE_SERVER.into();
    for (from, to) in [("a", b.v4.into()), ("b", a.v4.into()), ("h1", a.v4.into()), ("a", outside)] {
        if let Err(error) = traffic::ping(from, to, REPAIR) {
            panic!("after {after} {from} does not reach {to}: {error:#}");
        }
    }
}

/// Our tables in a namespace, without counters' values, line by line in the order of the alphabet.
fn rules(rig: &Rig, netns: &str) -> Vec<String> {
    let tables = rig.lab.in_netns(netns, &["nft", "list", "tables"]).unwrap();
    let ours = tables.lines().filter(|line| line.ends_with(" weft")).flat_map(|table| {
        let words: Vec<_> = ["nft", "--stateless", "list"].into_iter().chain(table.split(' ')).collect();
        let listing = rig.lab.in_netns(netns, &words).unwrap_or_default();
        listing.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    });
    let mut lines: Vec<_> = ours.collect();
    lines.sort();
    lines
}

/// `a` on h1 and `b` on h2.
fn two_members(rig: &Rig) -> [Attached; 2] {
    let containers = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
    rig.settle();
    containers
}
