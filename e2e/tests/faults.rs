//! Faults of agents and of the network between hosts, under traffic of 1,000 packets per second in each direction.
//!
//! After each fault every host's kernel holds what the store asks for; where traffic need not suffer, no packet is lost.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::env;
use std::fs;
use std::path::Path;

use weft_e2e::netns::{self, NetnsName};
use weft_e2e::{LabOptions, dump, eventually};

#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "fault_support/entry.rs"]
mod fault_support;

use fault_support::etcd::{SignOfLife, revoke, sign_of_life};
use fault_support::flow::Flow;
use fault_support::notices::Listener;
use fault_support::rig::{Attached, Rig, SOON, assert_connected, assert_refused, ensure};
use fault_support::shared::with_lab;

/// Where the agents' binary is, so that a test can replace it.
const BINARY: &str = "/run/weft-upgrade/weft";
/// Exit status of a command that needs what cannot be reached (EX_UNAVAILABLE).
const UNAVAILABLE: u8 = 69;

#[test]
fn agent_killed_and_started_again_changes_nothing() {
    with_lab(options(), |rig| {
        restart_changes_nothing(rig, || rig.lab.kill("h1").unwrap());
    });
}

#[test]
fn agent_stopped_and_started_again_changes_nothing() {
    with_lab(options(), |rig| {
        restart_changes_nothing(rig, || rig.lab.stop("h1").unwrap());
    });
}

#[test]
fn agent_upgraded_changes_nothing() {
    with_lab(options(), |rig| {
        restart_changes_nothing(rig, || {
            install_binary();
            rig.lab.stop("h1").unwrap();
        });
    });
}

#[test]
fn agent_away_for_longer_than_its_lease_changes_nothing_but_its_sign_of_life() {
    with_lab(options(), |rig| {
        let [a, _, b] = three_containers(rig);
        let (node, before) = life(rig, 1);
        let flow = Flow::between(&a, &b);
        let listeners = listeners(rig);

        rig.lab.kill("h1").unwrap();
        revoke(&rig.lab, before.lease).unwrap();
        eventually(SOON, "h1 unreachable", || state_of_node(rig, 2, "h1", "unreachable"));
        flow.carry(1000);
        rig.lab.start("h1").unwrap();
        rig.wait_ready(1);
        flow.carry(1000);

        let after = sign_of_life(&rig.lab, &node).unwrap().unwrap();
        assert!(after.created > before.created, "{after:?} after {before:?}");
        assert_nothing_changed(rig, &listeners);
        rig.settle();
        flow.stop_without_loss();
    });
}

#[test]
fn agent_paused_past_its_lease_goes_on_as_if_nothing_had_been() {
    with_lab(options(), |rig| {
        let [a, _, b] = three_containers(rig);
        let (_, before) = life(rig, 1);
        let flow = Flow::between(&a, &b);
        let listeners = listeners(rig);

        rig.lab.pause("h1").unwrap();
        revoke(&rig.lab, before.lease).unwrap();
        eventually(SOON, "h1 unreachable", || state_of_node(rig, 2, "h1", "unreachable"));
        flow.carry(1000);
        rig.lab.resume("h1").unwrap();
        rig.wait_alive(1);
        rig.wait_ready(1);
        flow.carry(1000);

        listeners.iter().for_each(|listener| listener.assert_silent("a pause"));
        rig.settle();
        flow.stop_without_loss();
        let endpoints = rig.endpoints(1, "blue").unwrap();
        assert_eq!(endpoints.len(), 3, "{endpoints:?}");
    });
}

#[test]
fn pulled_cable_cuts_a_host_off_and_changes_nothing_else() {
    with_lab(options(), |rig| {
        rig.network("blue", &[]);
        let [a, c] = [(1, "a"), (3, "c")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
        let [b1, b2, b3] = ["b1", "b2", "b3"].map(|name| rig.attach(2, name, "blue", &[]));
        rig.container(2, "b4");
        rig.settle();
        let (inside, around) = (Flow::between(&b1, &b2), Flow::between(&a, &c));
        let listeners: Vec<_> = [1, 3].map(|host| listen(&rig.host(host).data_plane_netns())).into();

        rig.lab.cut("h2").unwrap();
        assert_unavailable(rig, "b4");
        detach_locally(rig, &b3);
        inside.carry(2000);
        around.carry(2000);
        listeners.iter().for_each(|listener| listener.assert_silent("another host's pulled cable"));
        let seen = rig.endpoints(1, "blue").unwrap();
        assert!(seen.iter().any(|endpoint| endpoint["name"] == "b3"), "{seen:?}");
        rig.lab.heal("h2").unwrap();

        wait_unpublished(rig, 1, "b3");
        rig.settle();
        assert_connected(&a, &b1);
        inside.stop_without_loss();
        around.stop_without_loss();
        assert_connected(&a, &rig.connect(2, "b4", "blue", &[]));
    });
}

#[test]
fn host_cut_off_from_the_store_keeps_talking_and_detaches_by_itself() {
    with_lab(options(), |rig| {
        let [a, _, b] = three_containers(rig);
        let b3 = rig.attach(2, "b3", "blue", &[]);
        rig.container(2, "b4");
        rig.settle();
        let flow = Flow::between(&a, &b);

        rig.lab.cut_store("h2").unwrap();
        assert_unavailable(rig, "b4");
        detach_locally(rig, &b3);
        eventually(SOON, "an error in weft status", || {
            let status = rig.status(2).map_err(|error| format!("{error:#}"))?;
            ensure(status["store"]["reachable"] == false && status["errors"] != serde_json::json!([]), || {
                status.to_string()
            })
        });
        flow.carry(1000);
        rig.lab.heal_store("h2").unwrap();

        wait_unpublished(rig, 1, "b3");
        rig.settle();
        flow.stop_without_loss();
        let b4 = rig.connect(2, "b4", "blue", &[]);
        assert_connected(&a, &b4);
    });
}

#[test]
fn detach_while_the_store_is_cut_off_survives_a_kill_of_the_agent() {
    with_lab(options(), |rig| {
        let [a, _, b] = three_containers(rig);
        let b3 = rig.attach(2, "b3", "blue", &[]);
        rig.settle();
        let flow = Flow::between(&a, &b);

        rig.lab.cut_store("h2").unwrap();
        detach_locally(rig, &b3);
        rig.lab.kill("h2").unwrap();
        rig.lab.start("h2").unwrap();
        flow.carry(1000);
        rig.lab.heal_store("h2").unwrap();

        wait_unpublished(rig, 1, "b3");
        rig.settle();
        assert_eq!(rig.addresses_inside("b3"), Vec::<String>::new());
        flow.stop_without_loss();
    });
}

#[test]
fn agent_that_starts_without_the_store_leaves_the_data_plane_as_it_is() {
    with_lab(options(), |rig| {
        let [a, _, b] = three_containers(rig);
        let flow = Flow::between(&a, &b);
        let listener = listen(&rig.host(2).data_plane_netns());

        rig.lab.cut_store("h2").unwrap();
        rig.lab.kill("h2").unwrap();
        rig.lab.start("h2").unwrap();
        eventually(SOON, "an answer of the agent without its store", || {
            let status = rig.status(2).map_err(|error| format!("{error:#}"))?;
            ensure(status["store"]["reachable"] == false, || status.to_string())
        });
        flow.carry(2000);
        rig.lab.heal_store("h2").unwrap();
        rig.wait_ready(2);

        listener.assert_silent("a start without the store");
        rig.settle();
        flow.stop_without_loss();
    });
}

#[test]
fn deleted_container_is_released_and_its_address_is_free_again() {
    with_lab(options(), |rig| {
        let [a, _, b] = three_containers(rig);
        let flow = Flow::between(&a, &b);
        let gone = rig.attach(1, "gone", "blue", &[]);
        rig.settle();

        delete_container("gone");

        wait_unpublished(rig, 2, "gone");
        rig.settle();
        let heir = rig.attach(3, "heir", "blue", &["--ip", &gone.v4.to_string()]);
        assert_eq!(heir.v4, gone.v4);
        assert_connected(&a, &heir);
        flow.stop_without_loss();
    });
}

#[test]
fn container_deleted_while_its_agent_was_away_is_released_when_it_returns() {
    with_lab(options(), |rig| {
        let [a, _, b] = three_containers(rig);
        let flow = Flow::between(&a, &b);
        rig.attach(1, "gone", "blue", &[]);
        rig.settle();

        rig.lab.kill("h1").unwrap();
        delete_container("gone");
        netns::create(&[&"gone".parse().unwrap()]).unwrap();
        rig.lab.start("h1").unwrap();

        wait_unpublished(rig, 2, "gone");
        rig.settle();
        assert_eq!(rig.addresses_inside("gone"), Vec::<String>::new(), "the namesake is another container");
        flow.stop_without_loss();
        delete_container("gone");
    });
}

/// `end` ends the agent of h1; it is started again within its lease.
fn restart_changes_nothing(rig: &Rig, end: impl FnOnce()) {
    let [a, local, b] = three_containers(rig);
    let (node, before) = life(rig, 1);
    let (between_hosts, on_one_host) = (Flow::between(&a, &b), Flow::between(&a, &local));
    let listeners = listeners(rig);

    end();
    between_hosts.carry(500);
    rig.lab.start("h1").unwrap();
    rig.wait_ready(1);
    between_hosts.carry(1000);

    assert_nothing_changed(rig, &listeners);
    assert_eq!(sign_of_life(&rig.lab, &node).unwrap(), Some(before), "the sign of life blinked");
    rig.settle();
    between_hosts.stop_without_loss();
    on_one_host.stop_without_loss();
    let late = rig.attach(1, "late", "blue", &[]);
    assert_connected(&late, &b);
}

/// Two containers on h1 and one on h2, in network `blue`.
fn three_containers(rig: &Rig) -> [Attached; 3] {
    rig.network("blue", &[]);
    let containers = [(1, "a"), (1, "local"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
    rig.settle();
    containers
}

fn listen(netns: &NetnsName) -> Listener {
    Listener::to_everything(netns)
}

/// To every data plane, and to h1 itself.
fn listeners(rig: &Rig) -> Vec<Listener> {
    let hosts = rig.lab.hosts().unwrap();
    let mut listeners: Vec<_> = hosts.iter().map(|host| listen(&host.data_plane_netns())).collect();
    listeners.push(Listener::to_all_but_rows(&hosts[0].netns()));
    listeners
}

#[track_caller]
fn assert_nothing_changed(rig: &Rig, listeners: &[Listener]) {
    let status = rig.status(1).unwrap();
    assert_eq!(status["counters"]["writes"], 0, "{status}");
    listeners.iter().for_each(|listener| listener.assert_silent("a restart"));
}

fn life(rig: &Rig, host: u8) -> (String, SignOfLife) {
    let node = rig.node(host);
    let life = sign_of_life(&rig.lab, &node).unwrap().unwrap();
    (node, life)
}

fn state_of_node(rig: &Rig, asked: u8, name: &str, wanted: &str) -> Result<(), String> {
    let nodes = rig.host(asked).weft_json(&["node", "ls"]).map_err(|error| format!("{error:#}"))?;
    let found = nodes.as_array().into_iter().flatten().any(|node| node["name"] == name && node["state"] == wanted);
    ensure(found, || nodes.to_string())
}

#[track_caller]
fn assert_unavailable(rig: &Rig, container: &str) {
    let output = rig.try_connect(2, container, "blue", &[]);
    assert_refused(&output, &["store"]);
    assert_eq!(output.status, UNAVAILABLE, "{output:?}");
    assert_eq!(rig.addresses_inside(container), Vec::<String>::new());
}

#[track_caller]
fn detach_locally(rig: &Rig, container: &Attached) {
    rig.disconnect(container);
    rig.wait_bare(&container.netns);
}

/// Waits until the agent of a host does not list an endpoint any more, and the store has none.
#[track_caller]
fn wait_unpublished(rig: &Rig, asked: u8, name: &str) {
    eventually(SOON, &format!("{name} unpublished"), || {
        let endpoints = rig.endpoints(asked, "blue").map_err(|error| format!("{error:#}"))?;
        ensure(endpoints.iter().all(|endpoint| endpoint["name"] != name), || format!("{endpoints:?}"))
    });
    let store = dump::store(&rig.lab).unwrap();
    let left = store.section("net/").find(|entry| entry.json().is_ok_and(|value| value["name"] == name));
    assert_eq!(left, None);
}

/// As `ip netns del` does, behind everybody's back.
fn delete_container(name: &str) {
    name.parse::<NetnsName>().unwrap().ensure_removed().unwrap();
}

fn options() -> LabOptions {
    install_binary();
    LabOptions { weft: Some(BINARY.into()), ..LabOptions::default() }
}

/// Puts the binary under test where the agents are started from; one that runs keeps its old file.
fn install_binary() {
    let source = env::var_os("WEFT_BIN").expect("WEFT_BIN names the binary under test");
    let (target, draft) = (Path::new(BINARY), Path::new("/run/weft-upgrade/weft.new"));
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(source, draft).unwrap();
    fs::rename(draft, target).unwrap();
}
