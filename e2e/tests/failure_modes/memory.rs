//! What is remembered too long or not long enough: resurrection (B6), names and rows of a host that blinks (B8).

use weft_e2e::{LabOptions, dump, eventually, traffic};

use crate::fault_support::dice::Dice;
use crate::fault_support::etcd::{revoke, sign_of_life};
use crate::fault_support::flow::Flow;
use crate::fault_support::rig::{Attached, Network, Rig, SOON, ensure};
use crate::fault_support::shared::with_lab;

#[test]
fn b06_what_was_removed_does_not_come_back() {
    with_lab(LabOptions::default(), |rig| {
        let mut dice = Dice::new();
        let mut ids = Vec::new();
        for round in 0..6 {
            let network = network_in_the_end(rig, "green");
            assert!(!ids.contains(&network.id), "an id was used twice");
            ids.push(network.id.clone());
            let witness = rig.attach(3, "witness", "green", &["--ip", "10.44.0.5"]);
            let fault = dice.pick(&["pause", "kill", "cut"]);
            begin(rig, fault);
            // Deleted and made again, or only deleted, out of sight of h3.
            let ghost = rig.attach(1, "ghost", "green", &["--ip", "10.44.0.66"]);
            rig.disconnect(&ghost);
            let kept = (round % 2 == 0).then(|| rig.connect(1, "ghost", "green", &["--ip", "10.44.0.66"]));
            end(rig, fault);

            rig.settle();
            let mut wanted = vec![witness.id.clone()];
            wanted.extend(kept.iter().map(|endpoint| endpoint.id.clone()));
            assert_eq!(endpoint_ids(rig, &network), sorted(wanted), "after {fault}");
            for endpoint in kept.iter().chain([&witness]) {
                rig.disconnect(endpoint);
            }
            rig.host(2).weft(&["network", "rm", "green"]).unwrap();
        }
        let network = network_in_the_end(rig, "green");
        rig.settle();
        assert_eq!(endpoint_ids(rig, &network), Vec::<String>::new());
    });
}

#[test]
fn b08_host_out_of_the_stores_sight_for_five_seconds_keeps_names_and_traffic() {
    with_lab(LabOptions::default(), |rig| blink(rig, 5));
}

#[test]
fn b08_host_out_of_the_stores_sight_for_thirty_seconds_keeps_names_and_traffic() {
    with_lab(LabOptions::default(), |rig| blink(rig, 30));
}

/// h2 does not reach the store for some seconds, and its sign of life goes.
fn blink(rig: &Rig, seconds: u64) {
    rig.network("blue", &[]);
    let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
    rig.settle();
    let life = sign_of_life(&rig.lab, &rig.node(2)).unwrap().unwrap();
    let flow = Flow::between(&a, &b);

    rig.lab.cut_store("h2").unwrap();
    revoke(&rig.lab, life.lease).unwrap();
    for _ in 0..seconds {
        flow.carry(1000);
        names_work(rig, &a, &b);
    }
    rig.lab.heal_store("h2").unwrap();
    rig.settle();

    names_work(rig, &a, &b);
    flow.stop_without_loss();
}

#[track_caller]
fn names_work(rig: &Rig, a: &Attached, b: &Attached) {
    for (asking, asked) in [(a, b), (b, a)] {
        let answer = rig.resolve(asking, &asked.netns).unwrap();
        assert!(answer.contains(&asked.v4.to_string()), "{} asked for {}: {answer}", asking.netns, asked.netns);
        traffic::ping(&asking.netns, asked.v4.into(), SOON).unwrap();
    }
}

fn begin(rig: &Rig, fault: &str) {
    match fault {
        "pause" => rig.lab.pause("h3").unwrap(),
        "kill" => rig.lab.kill("h3").unwrap(),
        _ => rig.lab.cut_store("h3").unwrap(),
    }
}

fn end(rig: &Rig, fault: &str) {
    match fault {
        "pause" => rig.lab.resume("h3").unwrap(),
        "kill" => rig.lab.start("h3").unwrap(),
        _ => rig.lab.heal_store("h3").unwrap(),
    }
}

/// The network of that name before must have ended first.
fn network_in_the_end(rig: &Rig, name: &str) -> Network {
    eventually(SOON, "the former network gone", || {
        let store = dump::store(&rig.lab).map_err(|error| format!("{error:#}"))?;
        ensure(store.entry(&format!("netname/{name}")).is_none(), || "its name is taken".to_owned())
    });
    rig.network(name, &["--subnet", "10.44.0.0/24", "--subnet", "fd44::/64"])
}

/// The containers in the store, by endpoint id.
fn endpoint_ids(rig: &Rig, network: &Network) -> Vec<String> {
    let store = dump::store(&rig.lab).unwrap();
    let section = format!("net/{}/ep/", network.id);
    let records = store.section(&section).map(|entry| entry.json().unwrap());
    sorted(
        records.filter(|record| record["kind"] == "container").map(|r| r["id"].as_str().unwrap().to_owned()).collect(),
    )
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}
