//! The controller: nodes that are given up and come back, failover, the ends of networks and of nodes.
//!
//! Nodes are given up 3 s after their sign of life ended, instead of an hour.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::fs::File;
use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_e2e::netns::NetnsName;
use weft_e2e::topology::CONTROL;
use weft_e2e::traffic::Stream;
use weft_e2e::{LabOptions, dump, eventually, traffic};

#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "fault_support/entry.rs"]
mod fault_support;

use fault_support::etcd::{revoke, sign_of_life};
use fault_support::flow::Flow;
use fault_support::rig::{Attached, Network, Rig, SOON, assert_connected, assert_refused, ensure};
use fault_support::shared::with_lab;

/// After the end of its lease of 10 s a dead leader is followed within a second, and a node given up 3 s later.
const TAKE_OVER: Duration = Duration::from_secs(30);

#[test]
fn lost_node_is_given_up_and_may_come_back() {
    with_lab(options(), |rig| {
        let (network, [a, b, _]) = one_on_each_host(rig);
        let flow = Flow::between(&a, &b);
        let node = rig.node(3);
        let epoch = fence(rig, &node).1;

        lose_agent(rig, 3);
        wait_given_up(rig, &network, &node);
        eventually(SOON, "h1 and h2 without h3", || rig.check_forwarding_of(&[1, 2]));
        let rules = rig.host(1).exec(&["nft", "list", "ruleset"]).unwrap();
        assert!(!rules.contains("192.168.56.13"), "h1 still accepts packets of h3:\n{rules}");
        let stray = Stream::udp("c", "a", a.v4.into(), 1000).unwrap();
        flow.carry(500);
        assert_eq!(stray.stop().unwrap().received, 0, "packets of a node that was given up arrived");
        rig.lab.start("h3").unwrap();
        rig.wait_ready(3);

        rig.settle();
        assert!(fence(rig, &node).1 > epoch);
        let late = rig.attach(3, "late", "blue", &[]);
        assert_connected(&late, &a);
        assert_connected(&late, &b);
        flow.stop_without_loss();
    });
}

#[test]
fn containers_of_a_node_that_was_given_up_regain_their_addresses() {
    with_lab(options(), |rig| {
        let (network, [a, b, c]) = one_on_each_host(rig);
        let node = rig.node(3);

        lose_agent(rig, 3);
        wait_given_up(rig, &network, &node);
        rig.lab.start("h3").unwrap();
        rig.wait_ready(3);

        rig.settle();
        let regained = only_endpoint(rig, "c");
        assert_eq!(rig.addresses_inside("c"), [regained.v4.to_string()]);
        assert_eq!(regained.v4, c.v4, "nobody had taken its address meanwhile");
        assert_connected(&regained, &a);
        assert_connected(&regained, &b);
    });
}

#[test]
fn address_that_was_given_away_meanwhile_is_not_used_twice() {
    with_lab(options(), |rig| {
        let (network, [a, b, c]) = one_on_each_host(rig);

        lose_agent(rig, 3);
        wait_given_up(rig, &network, &rig_node(rig, "h3"));
        let heir = rig.attach(1, "heir", "blue", &["--ip", &c.v4.to_string()]);
        rig.lab.start("h3").unwrap();
        rig.wait_ready(3);

        rig.settle();
        assert_connected(&heir, &b);
        let inside = rig.addresses_inside("c");
        assert!(!inside.contains(&heir.v4.to_string()), "two containers have {}: {inside:?}", heir.v4);
        assert_connected(&heir, &a);
    });
}

#[test]
fn standby_takes_over_from_a_killed_and_from_a_paused_leader() {
    with_lab(options(), |rig| {
        let (network, [a, b, _]) = one_on_each_host(rig);
        let flow = Flow::between(&a, &b);
        let node = rig.node(3);
        eventually(SOON, "a leader", || ensure(candidates(rig) == 1, || candidates(rig).to_string()));
        let standby = Standby::start(rig);
        eventually(SOON, "a candidate beside the leader", || {
            ensure(candidates(rig) == 2, || candidates(rig).to_string())
        });

        rig.lab.kill("controller").unwrap();
        lose_agent(rig, 3);
        wait_given_up(rig, &network, &node);
        rig.lab.start("h3").unwrap();
        rig.wait_ready(3);
        rig.settle();
        rig.lab.start("controller").unwrap();
        eventually(TAKE_OVER, "two candidates again", || ensure(candidates(rig) == 2, || candidates(rig).to_string()));
        standby.signal(Signal::SIGSTOP);
        lose_agent(rig, 3);
        wait_given_up(rig, &network, &node);
        let epoch = fence(rig, &node).1;
        rig.lab.start("h3").unwrap();
        rig.wait_ready(3);
        standby.signal(Signal::SIGCONT);
        flow.carry(2000);

        assert_eq!(fence(rig, &node), ("active".to_owned(), epoch + 1), "a former leader acted");
        rig.settle();
        flow.stop_without_loss();
    });
}

#[test]
fn b13_network_with_endpoints_of_a_dead_host_lists_them_and_ends_by_force() {
    with_lab(options(), |rig| {
        let (network, [_, b, c]) = one_on_each_host(rig);
        rig.network("keeper", &[]);
        let kept = [(2, "k2"), (3, "k3")].map(|(host, name)| rig.attach(host, name, "keeper", &[]));
        rig.settle();

        rig.lab.kill("h3").unwrap();
        let output = rig.host(1).try_weft(&["network", "rm", "blue"]).unwrap();
        assert_refused(&output, &["blue", "c", "h3", "--force"]);
        let output = rig.host(1).try_weft(&["network", "rm", "--force", "blue"]).unwrap();
        assert!(output.is_success() || output.stderr.contains("not gone yet"), "{output:?}");
        rig.wait_bare(&b.netns);
        // The removal may have waited longer than the lease lived.
        if let Some(life) = sign_of_life(&rig.lab, &rig_node(rig, "h3")).unwrap() {
            revoke(&rig.lab, life.lease).unwrap();
        }
        eventually(TAKE_OVER, "the network's end", || {
            let store = dump::store(&rig.lab).map_err(|error| format!("{error:#}"))?;
            let left: Vec<_> = store.entries.iter().filter(|e| e.key.contains(&network.id)).map(|e| &e.key).collect();
            ensure(left.iter().all(|key| key.starts_with("vni/")), || format!("{left:?}"))
        });
        rig.lab.start("h3").unwrap();
        rig.wait_ready(3);

        rig.settle();
        let store = dump::store(&rig.lab).unwrap();
        assert!(store.section(&format!("net/{}/", network.id)).next().is_none(), "the network came back");
        assert!(dump::kernel(&rig.host(3)).unwrap().vxlan(network.vni).is_none(), "its devices are left on h3");
        rig.wait_bare(&c.netns);
        assert_connected(&kept[0], &rig.attach(3, "late", "keeper", &[]));
    });
}

#[test]
fn network_that_is_removed_without_a_controller_ends_when_there_is_one() {
    with_lab(options(), |rig| {
        let (network, containers) = one_on_each_host(rig);
        let spec = format!("net/{}/spec", network.id);

        rig.lab.kill("controller").unwrap();
        containers.iter().for_each(|container| rig.disconnect(container));
        let output = rig.host(2).try_weft(&["network", "rm", "blue"]).unwrap();
        assert_refused(&output, &["blue", "not gone yet", "controller"]);
        eventually(SOON, "the network being deleted", || {
            let store = dump::store(&rig.lab).map_err(|error| format!("{error:#}"))?;
            let spec = store.entry(&spec).and_then(|entry| entry.json().ok());
            ensure(spec.as_ref().is_some_and(|spec| spec["state"] == "deleting"), || format!("{spec:?}"))
        });
        assert_refused(&rig.try_connect(1, "a", "blue", &[]), &["blue", "deleted"]);
        rig.lab.start("controller").unwrap();

        eventually(TAKE_OVER, "the network's end", || {
            let store = dump::store(&rig.lab).map_err(|error| format!("{error:#}"))?;
            ensure(store.entry(&spec).is_none(), || "its specification is there".to_owned())
        });
        rig.network("blue", &[]);
        rig.connect(1, "a", "blue", &[]);
    });
}

#[test]
fn network_removal_racing_connects_leaves_nothing() {
    with_lab(options(), |rig| {
        for round in 0..4 {
            let name = format!("race{round}");
            let network = rig.network(&name, &[]);
            for host in [1, 2, 3] {
                (0..2).for_each(|n| rig.container(host, &format!("r{host}-{n}")));
            }
            rig.connect(1, "r1-0", &name, &[]);

            thread::scope(|scope| {
                for (host, n) in [(1, 1), (2, 0), (2, 1), (3, 0), (3, 1)] {
                    let name = &name;
                    scope.spawn(move || drop(rig.try_connect(host, &format!("r{host}-{n}"), name, &[])));
                }
                rig.host(1).weft(&["network", "rm", "--force", &name]).unwrap();
            });

            eventually(TAKE_OVER, "the network's end", || {
                let store = dump::store(&rig.lab).map_err(|error| format!("{error:#}"))?;
                let left: Vec<_> =
                    store.entries.iter().filter(|e| e.key.contains(&network.id)).map(|e| &e.key).collect();
                ensure(left.is_empty(), || format!("{left:?}"))
            });
            rig.settle();
            for host in [1, 2, 3] {
                for n in 0..2 {
                    let netns = format!("r{host}-{n}");
                    rig.wait_bare(&netns);
                }
            }
        }
    });
}

#[test]
fn draining_node_keeps_what_it_has_and_takes_nothing_new() {
    with_lab(options(), |rig| {
        let (_, [a, _, c]) = one_on_each_host(rig);
        let flow = Flow::between(&a, &c);
        rig.container(3, "new");

        rig.host(1).weft(&["node", "drain", "h3"]).unwrap();
        eventually(SOON, "h3 draining", || {
            let status = rig.status(3).map_err(|error| format!("{error:#}"))?;
            ensure(status["standing"] == "draining", || status.to_string())
        });
        assert_refused(
            &rig.try_connect(3, "new", "blue", &[]),
            &["node h3 is being drained", "weft node drain --undo h3"],
        );
        rig.lab.kill("h3").unwrap();
        rig.lab.start("h3").unwrap();
        eventually(SOON, "h3 draining after a restart", || {
            let status = rig.status(3).map_err(|error| format!("{error:#}"))?;
            ensure(status["standing"] == "draining", || status.to_string())
        });
        flow.carry(1000);
        rig.host(2).weft(&["node", "drain", "--undo", "h3"]).unwrap();
        rig.wait_ready(3);

        flow.stop_without_loss();
        assert_connected(&rig.connect(3, "new", "blue", &[]), &a);
    });
}

#[test]
fn node_is_removed_only_when_it_is_out_of_service_and_may_register_anew() {
    with_lab(options(), |rig| {
        let (network, [a, _, c]) = one_on_each_host(rig);
        let node = rig.node(3);
        assert_refused(&rig.host(1).try_weft(&["node", "rm", "h3"]).unwrap(), &["h3"]);

        rig.disconnect(&c);
        rig.lab.stop("h3").unwrap();
        if let Some(life) = sign_of_life(&rig.lab, &node).unwrap() {
            revoke(&rig.lab, life.lease).unwrap();
        }
        eventually(TAKE_OVER, "removal of h3", || {
            let output = rig.host(1).try_weft(&["node", "rm", "h3"]).map_err(|error| format!("{error:#}"))?;
            ensure(output.is_success(), || output.stderr.clone())
        });
        let left: Vec<_> =
            dump::store(&rig.lab).unwrap().entries.into_iter().map(|e| e.key).filter(|k| k.contains(&node)).collect();
        assert_eq!(left, Vec::<String>::new(), "the store remembers the node");
        assert!(!rig.host(1).weft(&["node", "ls"]).unwrap().contains("h3"));
        rig.lab.start("h3").unwrap();
        rig.wait_ready(3);

        let back = rig.connect(3, "c", &network.name, &[]);
        assert_connected(&back, &a);
        rig.settle();
    });
}

/// A second controller beside that of the lab; it ends when this is dropped.
struct Standby(Child);

impl Standby {
    fn start(rig: &Rig) -> Self {
        let etcd = rig.lab.topology().unwrap().etcd_urls();
        let words = ["weft", "controller", "--etcd", &etcd, "--lost-after", "3s", "--name", "standby"];
        let log = File::create(rig.host(1).log().with_file_name("standby.log")).unwrap();
        let mut command = rig.host(1).command(&words).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self(CONTROL.parse::<NetnsName>().unwrap().spawn(&mut command).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn options() -> LabOptions {
    let controller_arguments = ["--lost-after", "3s"].map(str::to_owned).into();
    // The controller is killed here, and must not take the store along.
    LabOptions { controller_arguments, ..LabOptions::default() }.with_etcd()
}

/// `a` on h1, `b` on h2 and `c` on h3, in network `blue`.
fn one_on_each_host(rig: &Rig) -> (Network, [Attached; 3]) {
    let network = rig.network("blue", &[]);
    let containers = [(1, "a"), (2, "b"), (3, "c")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
    rig.settle();
    for to in &containers[1..] {
        traffic::ping("a", to.v4.into(), SOON).unwrap();
    }
    (network, containers)
}

/// Kills a host's agent and ends its lease, which would take half a minute by itself.
fn lose_agent(rig: &Rig, host: u8) {
    let node = rig.node(host);
    rig.lab.kill(&format!("h{host}")).unwrap();
    let life = sign_of_life(&rig.lab, &node).unwrap().unwrap();
    revoke(&rig.lab, life.lease).unwrap();
}

/// Waits until a node is fenced and nothing in the store says that it has anything.
#[track_caller]
fn wait_given_up(rig: &Rig, network: &Network, node: &str) {
    eventually(TAKE_OVER, "the node given up", || {
        let store = dump::store(&rig.lab).map_err(|error| format!("{error:#}"))?;
        let is_of_node = |entry: &&dump::StoreEntry| entry.json().is_ok_and(|record| record["node"] == node);
        let endpoints: Vec<_> = store.section("net/").filter(is_of_node).map(|entry| entry.key.clone()).collect();
        let member = store.entry(&format!("net/{}/member/{node}", network.id)).map(|entry| entry.key.clone());
        let index: Vec<_> = store.section("idx/").map(|e| e.key.clone()).filter(|k| k.contains(node)).collect();
        let state = fence(rig, node).0;
        let given_up = state == "lost" && endpoints.is_empty() && member.is_none() && index.is_empty();
        ensure(given_up, || format!("{state}, endpoints {endpoints:?}, member {member:?}, index {index:?}"))
    });
}

/// A node's state and epoch.
fn fence(rig: &Rig, node: &str) -> (String, u64) {
    let store = dump::store(&rig.lab).unwrap();
    let record = store.entry(&format!("fence/{node}")).unwrap().json().unwrap();
    (record["state"].as_str().unwrap().to_owned(), record["epoch"].as_u64().unwrap())
}

fn candidates(rig: &Rig) -> usize {
    dump::store(&rig.lab).unwrap().section("elect/controller/").count()
}

/// The id of a node by its name, also while its agent is away.
fn rig_node(rig: &Rig, name: &str) -> String {
    let node = rig.host(1).weft_json(&["node", "inspect", name]).unwrap();
    node["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn only_endpoint(rig: &Rig, name: &str) -> Attached {
    only_endpoint_in(rig, "blue", name)
}

/// The one endpoint of a container on h3, as h3's agent lists it.
#[track_caller]
fn only_endpoint_in(rig: &Rig, network: &str, name: &str) -> Attached {
    eventually(SOON, &format!("one endpoint of {name}"), || {
        let endpoints = rig.endpoints(3, network).map_err(|error| format!("{error:#}"))?;
        let found: Vec<_> = endpoints.iter().filter(|endpoint| endpoint["name"] == name).collect();
        match found.as_slice() {
            [endpoint] => fault_support::rig::attached(3, name, endpoint).map_err(|error| format!("{error:#}")),
            _ => Err(format!("{endpoints:?}")),
        }
    })
}
