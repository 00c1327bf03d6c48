//! The store that the controller serves: a cluster whose store was put back from a backup, and one that stood still.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::{fs, thread, time::Duration};

use weft_e2e::{EtcdMembers, Lab, LabOptions, eventually};

#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "fault_support/entry.rs"]
mod fault_support;

use fault_support::etcd::{SignOfLife, is_writable, sign_of_life};
use fault_support::flow::Flow;
use fault_support::rig::{Rig, SOON, assert_connected};

const DATA: &str = "/run/weft-lab/controller";

fn rig() -> Rig {
    Rig { lab: Lab::up(LabOptions { etcd_members: EtcdMembers::None, ..LabOptions::default() }).unwrap() }
}

#[test]
fn a_store_put_back_from_a_backup_serves_on() {
    let rig = rig();
    rig.network("blue", &[]);
    let (a, b) = (rig.attach(1, "a", "blue", &[]), rig.attach(2, "b", "blue", &[]));
    rig.settle();
    let backup = "/run/weft-lab/backup";
    rig.host(1).exec(&["weft", "store", "backup", backup, "--data-dir", DATA]).unwrap();
    let c = rig.attach(3, "c", "blue", &[]);
    rig.settle();
    let flows = [Flow::between(&a, &b), Flow::between(&a, &c)];

    rig.lab.kill("controller").unwrap();
    fs::remove_dir_all(DATA).unwrap();
    rig.host(1).exec(&["weft", "store", "restore", backup, "--data-dir", DATA]).unwrap();
    rig.lab.start("controller").unwrap();

    eventually(SOON * 2, "the store", || is_writable(&rig.lab));
    (1..=2).for_each(|host| rig.wait_ready(host));
    let late = rig.attach(2, "late", "blue", &[]);
    assert_connected(&late, &a);
    // What the backup lacks is not taken away at once.
    flows.iter().for_each(|flow| flow.carry(2000));
    flows.into_iter().for_each(Flow::stop_without_loss);
}

#[test]
fn a_controller_that_stood_still_ends_no_lease() {
    let rig = rig();
    rig.network("blue", &[]);
    let (a, b) = (rig.attach(1, "a", "blue", &[]), rig.attach(2, "b", "blue", &[]));
    rig.settle();
    let nodes: Vec<String> = (1..=3).map(|host| rig.node(host)).collect();
    let created = |rig: &Rig| -> Vec<i64> {
        let live = |node: &String| sign_of_life(&rig.lab, node).unwrap();
        nodes.iter().map(|node| live(node).map_or(0, |life: SignOfLife| life.created)).collect()
    };
    let before = created(&rig);
    let flow = Flow::between(&a, &b);

    rig.lab.pause("controller").unwrap();
    // Longer than the lease of a node, which is 30 s.
    thread::sleep(Duration::from_secs(40));
    rig.lab.resume("controller").unwrap();

    (1..=3).for_each(|host| rig.wait_ready(host));
    assert_eq!(created(&rig), before, "a sign of life blinked");
    flow.stop_without_loss();
}
