//! Faults of etcd under traffic: what forwards does not depend on the store, and agents find back to it by themselves.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::fs;
use std::time::Duration;

use weft_e2e::{EtcdMembers, LabOptions, dump, eventually, traffic};

#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "fault_support/entry.rs"]
mod fault_support;

use fault_support::etcd::{etcdctl, is_writable, leader, revoke_everything, sign_of_life};
use fault_support::flow::Flow;
use fault_support::notices::{Listener, Notice};
use fault_support::rig::{Attached, Rig, SOON, assert_connected, ensure};
use fault_support::shared::with_lab;

/// An agent that finds its etcd member silent turns to another within 15 s.
const FAILOVER: Duration = Duration::from_secs(20);
/// What an agent may log about one outage, in bytes; a loop of retries writes megabytes.
const OUTAGE_LOG: u64 = 64 << 10;

#[test]
fn etcd_killed_and_started_again_disturbs_nothing() {
    with_lab(LabOptions::default(), |rig| {
        let [a, b, _] = one_on_each_host(rig);
        let lives = lives(rig);
        let flow = Flow::between(&a, &b);
        let listeners = listeners(rig);

        rig.lab.kill("etcd").unwrap();
        flow.carry(1000);
        rig.lab.start("etcd").unwrap();
        eventually(SOON, "etcd writable", || is_writable(&rig.lab));
        rig.settle();
        flow.carry(500);

        listeners.iter().for_each(|listener| listener.assert_silent("a restart of etcd"));
        assert_eq!(self::lives(rig), lives, "a sign of life blinked");
        let late = rig.attach(1, "late", "blue", &[]);
        assert_connected(&late, &b);
        flow.stop_without_loss();
    });
}

#[test]
fn etcd_away_for_twenty_seconds_disturbs_nothing() {
    with_lab(LabOptions::default(), |rig| {
        let [a, b, c] = one_on_each_host(rig);
        let flow = Flow::between(&a, &b);
        let listeners = listeners(rig);
        let logged = log_sizes(rig);

        rig.lab.stop("etcd").unwrap();
        flow.carry(10_000);
        assert!(rig.resolve(&c, "a").unwrap().contains(&a.v4.to_string()), "names work without the store");
        flow.carry(10_000);
        rig.lab.start("etcd").unwrap();
        rig.settle();

        listeners.iter().for_each(|listener| listener.assert_silent("an outage of etcd"));
        flow.stop_without_loss();
        for (host, before) in logged {
            let grown = log_size(rig, host) - before;
            assert!(grown < OUTAGE_LOG, "h{host} logged {grown} bytes about one outage");
        }
        let late = rig.attach(3, "late", "blue", &[]);
        assert_connected(&late, &a);
    });
}

#[test]
fn b04_agent_behind_compaction_lists_once_and_touches_only_what_changed() {
    with_lab(LabOptions::default(), |rig| {
        let [a, b, c] = one_on_each_host(rig);
        let flow = Flow::between(&a, &b);
        let listener = Listener::to_everything(&rig.host(2).data_plane_netns());
        let logged = log_size(rig, 2);

        rig.lab.pause("h2").unwrap();
        for _ in 0..20 {
            let passing = rig.attach(1, "passing", "blue", &[]);
            rig.disconnect(&passing);
        }
        let arrived = rig.attach(3, "arrived", "blue", &[]);
        // An event that is on its way already would reach the agent in spite of the compaction.
        rig.lab.kill("etcd").unwrap();
        rig.lab.start("etcd").unwrap();
        eventually(SOON, "etcd writable", || is_writable(&rig.lab));
        let revision = dump::store(&rig.lab).unwrap().revision.to_string();
        etcdctl(&rig.lab, &["compaction", &revision]).unwrap();
        rig.lab.resume("h2").unwrap();

        rig.settle();
        assert_connected(&arrived, &b);
        let foreign: Vec<_> =
            listener.heard().iter().filter(|n| !is_about(n, &arrived)).map(Notice::to_string).collect();
        assert!(foreign.is_empty(), "rows of others were touched:\n{}", foreign.join("\n"));
        flow.stop_without_loss();
        assert_connected(&b, &c);
        let grown = log_size(rig, 2) - logged;
        assert!(grown < OUTAGE_LOG, "h2 logged {grown} bytes about one compaction");
    });
}

#[test]
fn b05_nothing_is_removed_while_the_store_is_out_of_sight_and_everything_is_caught_up_afterwards() {
    with_lab(LabOptions::default(), |rig| {
        let [a, b, c] = one_on_each_host(rig);
        let leaves = rig.attach(3, "leaves", "blue", &[]);
        rig.settle();
        let flow = Flow::between(&a, &b);
        let listener = Listener::to_everything(&rig.host(2).data_plane_netns());

        rig.lab.cut_store("h2").unwrap();
        rig.disconnect(&leaves);
        let arrived = rig.attach(1, "arrived", "blue", &[]);
        rig.network("red", &[]);
        eventually(SOON, "the store out of reach", || {
            let status = rig.status(2).map_err(|error| format!("{error:#}"))?;
            ensure(status["store"]["reachable"] == false, || status.to_string())
        });
        listener.assert_silent("a store out of sight");
        assert_connected(&b, &c);
        rig.lab.heal_store("h2").unwrap();

        rig.settle();
        assert_connected(&arrived, &b);
        rig.container(2, "painted");
        rig.connect(2, "painted", "red", &[]);
        flow.stop_without_loss();
    });
}

#[test]
fn b05_changes_between_list_and_watch_are_not_missed() {
    with_lab(LabOptions::default(), |rig| {
        let [_, b, _] = one_on_each_host(rig);
        let arrivals = std::thread::scope(|scope| {
            let attaching = scope.spawn(|| {
                let names = (0..24).map(|number| format!("late{number}"));
                names.map(|name| rig.attach(1, &name, "blue", &[])).collect::<Vec<_>>()
            });
            // Each start lists and then watches while the other host registers endpoints.
            while !attaching.is_finished() {
                rig.lab.kill("h2").unwrap();
                rig.lab.start("h2").unwrap();
                rig.wait_ready(2);
            }
            attaching.join().unwrap()
        });

        rig.settle();
        for arrived in [&arrivals[0], &arrivals[12], &arrivals[23]] {
            assert_connected(arrived, &b);
        }
    });
}

#[test]
fn b09_loss_of_every_lease_tears_nothing_down() {
    with_lab(LabOptions::default(), |rig| {
        let [a, b, _] = one_on_each_host(rig);
        let nodes = [1, 2, 3].map(|host| rig.node(host));
        let flow = Flow::between(&a, &b);
        let listeners = listeners(rig);

        let revoked = revoke_everything(&rig.lab).unwrap();
        assert!(revoked >= 4, "only {revoked} leases: three nodes and a controller have one each");
        eventually(SOON, "every node registered again", || {
            let is_alive = |node: &String| sign_of_life(&rig.lab, node).is_ok_and(|life| life.is_some());
            ensure(nodes.iter().all(is_alive), || format!("{:?}", lives(rig)))
        });
        flow.carry(1000);

        rig.settle();
        listeners.iter().for_each(|listener| listener.assert_silent("the loss of every lease"));
        flow.stop_without_loss();
        let late = rig.attach(2, "late", "blue", &[]);
        assert_connected(&late, &a);
    });
}

#[test]
fn three_members_kill_of_the_follower_disturbs_nothing() {
    with_lab(three_members(), |rig| {
        let leader = leader(&rig.lab).unwrap();
        let members = rig.lab.topology().unwrap().members;
        let follower = members.into_iter().find(|member| *member != leader).unwrap().to_string();
        loss_of_a_member_disturbs_nothing(rig, &follower, Loss::Kill);
    });
}

#[test]
fn three_members_kill_of_the_leader_disturbs_nothing() {
    with_lab(three_members(), |rig| {
        let leader = leader(&rig.lab).unwrap().to_string();
        loss_of_a_member_disturbs_nothing(rig, &leader, Loss::Kill);
    });
}

#[test]
fn three_members_pause_of_the_leader_disturbs_nothing() {
    with_lab(three_members(), |rig| {
        let leader = leader(&rig.lab).unwrap().to_string();
        loss_of_a_member_disturbs_nothing(rig, &leader, Loss::Pause);
    });
}

enum Loss {
    Kill,
    Pause,
}

/// Containers go on talking, and new ones can be connected on every host before the member is back.
fn loss_of_a_member_disturbs_nothing(rig: &Rig, member: &str, loss: Loss) {
    let [a, b, _] = one_on_each_host(rig);
    let flow = Flow::between(&a, &b);
    let listeners = listeners(rig);

    match loss {
        Loss::Kill => rig.lab.kill(member).unwrap(),
        Loss::Pause => rig.lab.pause(member).unwrap(),
    }
    flow.carry(1000);
    listeners.iter().for_each(|listener| listener.assert_silent("the loss of a member"));
    let late = [1, 2, 3].map(|host| attach_in_the_end(rig, host));
    for pair in late.windows(2) {
        assert_connected(&pair[0], &pair[1]);
    }
    match loss {
        Loss::Kill => rig.lab.start(member).unwrap(),
        Loss::Pause => rig.lab.resume(member).unwrap(),
    }

    rig.settle();
    assert_eq!(rig.endpoints(1, "blue").unwrap().len(), 6);
    flow.stop_without_loss();
}

/// Repeats an attach until the agent has found a member that answers.
fn attach_in_the_end(rig: &Rig, host: u8) -> Attached {
    let name = format!("late{host}");
    rig.container(host, &name);
    eventually(FAILOVER, &format!("{name} connected"), || {
        let output = rig.try_connect(host, &name, "blue", &[]);
        ensure(output.is_success() || output.stderr.contains("already"), || output.stderr.clone())
    });
    let endpoints = rig.endpoints(host, "blue").unwrap();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["name"] == name.as_str()).unwrap();
    fault_support::rig::attached(host, &name, endpoint).unwrap()
}

/// `a` on h1, `b` on h2 and `c` on h3, in network `blue`.
fn one_on_each_host(rig: &Rig) -> [Attached; 3] {
    rig.network("blue", &[]);
    let containers = [(1, "a"), (2, "b"), (3, "c")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
    rig.settle();
    for to in &containers[1..] {
        traffic::ping("a", to.v4.into(), SOON).unwrap();
    }
    containers
}

fn listeners(rig: &Rig) -> Vec<Listener> {
    rig.lab.hosts().unwrap().iter().map(|host| Listener::to_everything(&host.data_plane_netns())).collect()
}

/// When each node's sign of life was made.
fn lives(rig: &Rig) -> Vec<(String, i64)> {
    let store = dump::store(&rig.lab).unwrap();
    store.section("live/").map(|entry| (entry.key.clone(), entry.create_revision)).collect()
}

/// Rows of the endpoint, and elements of sets, which carry no address that could be told apart here.
fn is_about(notice: &Notice, endpoint: &Attached) -> bool {
    notice.is_nftables() || notice.mac().is_some_and(|mac| mac == endpoint.mac)
}

fn log_size(rig: &Rig, host: u8) -> u64 {
    fs::metadata(rig.host(host).log()).unwrap().len()
}

fn log_sizes(rig: &Rig) -> Vec<(u8, u64)> {
    [1, 2, 3].map(|host| (host, log_size(rig, host))).into()
}

fn three_members() -> LabOptions {
    LabOptions { etcd_members: EtcdMembers::Three, ..LabOptions::default() }
}
