//! The store that the controller serves: a cluster whose store was put back from a backup, and one that stood still.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::{fs, thread, time::Duration};

use weft_e2e::{EtcdMembers, Lab, LabOptions, eventually};

#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "fault_support/entry.rs"]
mod fault_support;

use fault_support::etcd::{SignOfLife, sign_of_life};
use fault_support::flow::Flow;
use fault_support::rig::{Rig, SOON, assert_connected};

const DATA: &str = "/run/weft-lab/controller";

fn rig() -> Rig {
    Rig { lab: Lab::up(LabOptions { etcd_members: EtcdMembers::None, ..LabOptions::default() }).unwrap() }
}

#[test]
fn a_store_put_back_from_a_backup_gets_back_what_it_lacks() {
    let rig = rig();
    rig.network("blue", &[]);
    let (a, b) = (rig.attach(1, "a", "blue", &[]), rig.attach(2, "b", "blue", &[]));
    rig.settle();
    let backup = "/run/weft-lab/backup";
    rig.host(1).exec(&["weft", "store", "backup", backup, "--data-dir", DATA]).unwrap();
    let c = rig.attach(3, "c", "blue", &[]);
    rig.settle();
    let flow = Flow::between(&a, &c);

    rig.lab.kill("controller").unwrap();
    fs::remove_dir_all(DATA).unwrap();
    rig.host(1).exec(&["weft", "store", "restore", backup, "--data-dir", DATA]).unwrap();
    rig.lab.start("controller").unwrap();

    eventually(SOON * 4, "the endpoint that the backup lacks", || {
        let listed = rig.endpoints(1, "blue").map_err(|error| format!("{error:#}"))?;
        let names: Vec<_> = listed.iter().map(|endpoint| endpoint["name"].to_string()).collect();
        if names.len() == 3 { Ok(()) } else { Err(format!("{names:?}")) }
    });
    assert_connected(&c, &b);
    flow.stop_without_loss();
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
