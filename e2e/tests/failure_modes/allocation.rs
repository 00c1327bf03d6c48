//! Addresses and what hangs on them: none twice (B10), none lost (B11), nothing left behind (B25).

use std::collections::BTreeSet;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use weft_e2e::{LabOptions, dump, eventually};

use crate::fault_support::census::Census;
use crate::fault_support::dice::Dice;
use crate::fault_support::rig::{Network, Rig, SOON, assert_connected, ensure};
use crate::fault_support::shared::with_lab;

/// Containers per host in B10: with three hosts more than a /26 has room for.
const CROWD: usize = 22;
/// Attaches at the same time per host in B10.
const AT_ONCE: usize = 6;
/// Addresses for containers in a /26: without network and broadcast address, gateway and three legs.
const ROOM: usize = 64 - 2 - 1 - 3;
/// Kills in B11.
const KILLS: usize = 12;

#[test]
fn b10_crowd_in_a_small_subnet_gets_every_address_once_in_spite_of_a_kill_of_etcd() {
    with_lab(LabOptions::default(), |rig| {
        let network = rig.network("tight", &["--subnet", "10.45.0.0/26", "--subnet", "fd45::/64"]);
        let hosts = [1, 2, 3];
        // A node's leg needs an address too, so every node joins before it gets tight.
        hosts.iter().for_each(|host| (0..CROWD).for_each(|n| rig.container(*host, &format!("c{host}-{n}"))));
        hosts.iter().for_each(|host| drop(rig.connect(*host, &format!("c{host}-0"), "tight", &[])));

        let outcomes: Vec<_> = thread::scope(|scope| {
            let start = |worker: usize| hosts.map(|host| scope.spawn(move || attach_all(rig, host, worker)));
            let workers: Vec<_> = (0..AT_ONCE).flat_map(start).collect();
            eventually(SOON * 2, "a third of the crowd", || {
                let held = addresses(rig, &network).len();
                ensure(held > ROOM / 3, || format!("{held} addresses are held"))
            });
            rig.lab.kill("etcd").unwrap();
            rig.lab.start("etcd").unwrap();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });

        rig.settle();
        let refusals: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert_eq!((refusals.len(), addresses(rig, &network).len()), (3 * CROWD - ROOM, ROOM), "{refusals:#?}");
        for refusal in refusals {
            assert!(["10.45.0.0/26", "h1", "h2", "h3"].iter().all(|word| refusal.contains(word)), "{refusal}");
        }
        assert_addresses_are_those_inside(rig, "tight");
    });
}

#[test]
fn b11_kills_at_random_moments_of_connects_and_disconnects_leak_nothing() {
    with_lab(LabOptions::default(), |rig| {
        let mut dice = Dice::new();
        let network = rig.network("blue", &["--subnet", "10.46.0.0/24", "--subnet", "fd46::/64"]);
        let peer = rig.attach(2, "peer", "blue", &[]);
        let anchor = rig.attach(1, "anchor", "blue", &[]);
        let names = ["x", "y", "z"];
        names.iter().for_each(|name| rig.container(1, name));
        rig.settle();
        let before = Census::take(&rig.lab, &rig.host(1)).unwrap();

        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for name in names {
                let is_over = &is_over;
                scope.spawn(move || churn(rig, name, is_over));
            }
            for _ in 0..KILLS {
                dice.let_pass(Duration::from_millis(120));
                rig.lab.kill("h1").unwrap();
                rig.lab.start("h1").unwrap();
                rig.wait_ready(1);
            }
            is_over.store(true, Ordering::Relaxed);
        });

        rig.settle();
        assert_addresses_are_those_inside(rig, "blue");
        assert_index_matches(rig, &network);
        for endpoint in rig.endpoints(1, "blue").unwrap() {
            let name = endpoint["name"].as_str().unwrap();
            if names.contains(&name) {
                rig.host(1).weft(&["disconnect", "blue", name]).unwrap();
            }
        }
        eventually(SOON, "everything as before", || as_before(rig, 1, &before));
        assert_eq!(addresses(rig, &network).len(), 2);
        assert_connected(&anchor, &peer);
    });
}

#[test]
fn b25_attaching_and_detaching_hundreds_of_times_leaves_nothing_behind() {
    with_lab(LabOptions::default(), |rig| {
        rig.network("blue", &[]);
        let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
        [(1, "c1"), (2, "c2")].iter().for_each(|(host, name)| rig.container(*host, name));
        // What is made once and kept is made before counting.
        [(1, "c1"), (2, "c2")].iter().for_each(|(host, name)| rig.disconnect(&rig.connect(*host, name, "blue", &[])));
        rig.settle();
        let before = [1, 2].map(|host| Census::take(&rig.lab, &rig.host(host)).unwrap());

        thread::scope(|scope| {
            for (host, name) in [(1, "c1"), (2, "c2")] {
                scope.spawn(move || {
                    for _ in 0..rounds() / 2 {
                        rig.disconnect(&rig.connect(host, name, "blue", &[]));
                    }
                });
            }
        });

        for (host, before) in [1, 2].into_iter().zip(&before) {
            eventually(SOON, &format!("everything on h{host} as before"), || as_before(rig, host, before));
        }
        assert_connected(&a, &b);
        rig.settle();
    });
}

/// Attaches of B25 in all; `WEFT_E2E_CHURN` asks for more.
fn rounds() -> usize {
    env::var_os("WEFT_E2E_CHURN").and_then(|text| text.to_str()?.parse().ok()).unwrap_or(300)
}

/// Attaches this worker's part of a host's crowd; the refusals that were final.
fn attach_all(rig: &Rig, host: u8, worker: usize) -> Vec<Result<(), String>> {
    let mine = (1..CROWD).filter(|number| number % AT_ONCE == worker);
    mine.map(|number| {
        let name = format!("c{host}-{number}");
        eventually(SOON * 2, &format!("{name} attached or refused for good"), || {
            let output = rig.try_connect(host, &name, "tight", &[]);
            match output.stderr {
                _ if output.is_success() => Ok(Ok(())),
                text if text.contains("already") => Ok(Ok(())),
                text if text.contains("no free address") => Ok(Err(text)),
                text => Err(text),
            }
        })
    })
    .collect()
}

/// Connects and disconnects a container until it is told to stop; while the agent is away both fail.
fn churn(rig: &Rig, name: &str, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for verb in ["connect", "disconnect"] {
            rig.host(1).try_weft(&[verb, "blue", name]).unwrap();
        }
    }
}

/// The IPv4 addresses of a network's containers, by the store's keys: each once, by their nature.
fn addresses(rig: &Rig, network: &Network) -> BTreeSet<String> {
    // A store that is just being restarted holds nothing new.
    let store = dump::store(&rig.lab).unwrap_or_default();
    let section = format!("net/{}/ep/4/", network.id);
    let records = store.section(&section).filter_map(|entry| entry.json().ok());
    records.filter(|r| r["kind"] == "container").filter_map(|r| Some(r["ipv4"].as_str()?.to_owned())).collect()
}

/// Every endpoint's address is the only one in its container, and containers without endpoint have none.
#[track_caller]
fn assert_addresses_are_those_inside(rig: &Rig, network: &str) {
    let endpoints = rig.endpoints(1, network).unwrap();
    let rows = rig.lab.status().unwrap().rows;
    for row in rows.iter().filter(|row| row.kind == "container") {
        let of_this = |endpoint: &&serde_json::Value| endpoint["name"] == row.name.as_str();
        let wanted: Vec<_> = endpoints.iter().filter(of_this).map(|e| e["ipv4"].as_str().unwrap().to_owned()).collect();
        assert_eq!(rig.addresses_inside(&row.name), wanted, "{}", row.name);
    }
}

/// Every endpoint is in its node's index, and nothing else is.
#[track_caller]
fn assert_index_matches(rig: &Rig, network: &Network) {
    let store = dump::store(&rig.lab).unwrap();
    let section = format!("net/{}/ep/", network.id);
    let records: Vec<_> = store.section(&section).map(|entry| entry.json().unwrap()).collect();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let registered: BTreeSet<_> = records
        .iter()
        .filter_map(|record| Some(format!("idx/{}/ep/{}", text(&record["node"])?, text(&record["id"])?)))
        .collect();
    let indexed: BTreeSet<_> =
        store.section("idx/").filter(|entry| entry.key.contains("/ep/")).map(|entry| entry.key.clone()).collect();
    assert_eq!(indexed, registered);
}

fn as_before(rig: &Rig, host: u8, before: &Census) -> Result<(), String> {
    let now = Census::take(&rig.lab, &rig.host(host)).map_err(|error| format!("{error:#}"))?;
    let differences = now.differences(before);
    ensure(differences.is_empty(), || differences.join("\n"))
}
