//! Machines that look alike: equal NAT addresses, copied state directories, subnets that are the underlay (B23).

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use tempfile::TempDir;
use weft_e2e::netns::NetnsName;
use weft_e2e::{CommandOutput, LabOptions, dump, eventually};

use crate::fault_support::etcd::{etcdctl, revoke, sign_of_life};
use crate::fault_support::flow::Flow;
use crate::fault_support::rig::{Rig, SOON, assert_refused, ensure};
use crate::fault_support::shared::with_lab;

#[test]
fn b23_agent_does_not_guess_between_the_nat_address_and_the_underlay() {
    with_lab(LabOptions::default(), |rig| {
        for host in [1, 2] {
            let folder = TempDir::new().unwrap();
            let mut command = Stray { host, name: "stray", underlay: None }.command(rig, folder.path());

            let within = Duration::from_secs(20);
            let output = rig.host(host).netns().enter(|| CommandOutput::within(&mut command, within)).unwrap().unwrap();

            assert_refused(&output, &["10.0.2.15", &format!("192.168.56.1{host}"), "--underlay"]);
        }
        remove_netns("weft-stray");
    });
}

#[test]
fn b23_second_agent_with_the_same_nat_address_is_refused() {
    with_lab(LabOptions::default(), |rig| {
        let [first, second] = [(1, "stray1"), (2, "stray2")].map(|(host, name)| {
            let stray = Stray { host, name, underlay: Some("10.0.2.15") }.start(rig);
            let words: &[&str] = if host == 1 { &["registered"] } else { &["10.0.2.15", "stray1", "--underlay"] };
            stray.wait_logged(words);
            stray
        });
        let nodes = rig.host(3).weft(&["node", "ls"]).unwrap();

        assert!(nodes.contains("stray1") && !nodes.contains("stray2"), "{nodes}");
        drop((first, second));
        remove_node(rig, "stray1");
        ["weft-stray1", "weft-stray2"].iter().for_each(|name| remove_netns(name));
    });
}

#[test]
fn b23_agent_with_a_copied_state_directory_is_refused_and_the_original_not_disturbed() {
    with_lab(LabOptions::default(), |rig| {
        rig.network("blue", &[]);
        let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
        rig.settle();
        let (node, flow) = (rig.node(1), Flow::between(&a, &b));
        let life = sign_of_life(&rig.lab, &node).unwrap();
        rig.lab.kill("h3").unwrap();

        let stray = Stray { host: 3, name: "copy", underlay: Some("192.168.56.13") };
        let folder = TempDir::new().unwrap();
        copy_files(&rig.host(1).state_directory(), &folder.path().join("state"));
        let copy = stray.start_in(rig, folder);
        copy.wait_logged(&[&node, "alive", "state directory"]);
        flow.carry(1000);

        assert_eq!(sign_of_life(&rig.lab, &node).unwrap(), life);
        drop(copy);
        remove_netns("weft-copy");
        rig.lab.start("h3").unwrap();
        rig.settle();
        flow.stop_without_loss();
    });
}

#[test]
fn b23_second_agent_on_the_same_state_directory_is_refused() {
    with_lab(LabOptions::default(), |rig| {
        let folder = TempDir::new().unwrap();
        let state = rig.host(1).state_directory();
        symlink(&state, folder.path().join("state")).unwrap();
        let mut command = Stray { host: 1, name: "twin", underlay: Some("192.168.56.11") }.command(rig, folder.path());

        let within = Duration::from_secs(20);
        let output = rig.host(1).netns().enter(|| CommandOutput::within(&mut command, within)).unwrap().unwrap();

        assert_refused(&output, &["another agent", "state", "--state-dir"]);
        rig.wait_ready(1);
        remove_netns("weft-twin");
    });
}

#[test]
fn b23_subnet_that_is_the_underlay_or_a_nat_network_is_refused() {
    with_lab(LabOptions::default(), |rig| {
        for (subnet, device) in [("192.168.56.0/24", "eth1"), ("192.168.0.0/16", "eth1"), ("10.0.2.0/28", "eth0")] {
            let output = rig.host(2).try_weft(&["network", "create", "bad", "--subnet", subnet]).unwrap();

            assert_refused(&output, &[subnet, device, "--subnet"]);
        }
        assert_eq!(dump::store(&rig.lab).unwrap().section("net").count(), 0);
    });
}

/// An agent that the lab has not made.
struct Stray<'a> {
    host: u8,
    name: &'a str,
    underlay: Option<&'a str>,
}

/// It runs until this is dropped.
struct Running {
    child: Child,
    folder: TempDir,
}

impl Stray<'_> {
    fn command(&self, rig: &Rig, folder: &Path) -> Command {
        let path = |name: &str| folder.join(name).display().to_string();
        let (etcd, netns) = (rig.lab.topology().unwrap().etcd_urls(), format!("weft-{}", self.name));
        let mut command = rig.host(self.host).command(&["weft", "agent", "--etcd", &etcd]).unwrap();
        command.args(["--node", self.name, "--netns", &netns, "--socket", &path("weft.sock")]);
        command.args(["--state-dir", &path("state"), "--resolv-conf", &path("resolv.conf")]);
        if let Some(underlay) = self.underlay {
            command.args(["--underlay", underlay]);
        }
        command
    }

    fn start(&self, rig: &Rig) -> Running {
        self.start_in(rig, TempDir::new().unwrap())
    }

    fn start_in(&self, rig: &Rig, folder: TempDir) -> Running {
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = self.command(rig, folder.path());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = rig.host(self.host).netns().spawn(&mut command).unwrap();
        Running { child, folder }
    }
}

impl Running {
    /// Waits until one line of its log has all the words.
    #[track_caller]
    fn wait_logged(&self, words: &[&str]) {
        eventually(SOON, &format!("{words:?} in the log"), || {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let has_all = |line: &str| words.iter().all(|word| line.contains(word));
            ensure(log.lines().any(has_all), || log.clone())
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Ends a node's sign of life, then removes the node.
fn remove_node(rig: &Rig, name: &str) {
    let nodes = rig.host(1).weft_json(&["node", "inspect", name]).unwrap();
    let node = nodes["id"].as_str().unwrap();
    if let Some(life) = sign_of_life(&rig.lab, node).unwrap() {
        revoke(&rig.lab, life.lease).unwrap();
    }
    eventually(SOON, &format!("removal of node {name}"), || {
        let output = rig.host(1).try_weft(&["node", "rm", name]).map_err(|error| format!("{error:#}"))?;
        ensure(output.is_success(), || output.stderr.clone())
    });
    assert!(
        etcdctl(&rig.lab, &["get", "--prefix", "--keys-only", "/weft/v1/node"]).unwrap().matches("node/").count() == 3
    );
}

fn remove_netns(name: &str) {
    name.parse::<NetnsName>().unwrap().ensure_removed().unwrap();
}
