//! The lab owns what it made and nothing else: it takes all of its own down, touches nothing
//! foreign, and its program passes on what its commands return.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weft_e2e::process::ProcessState;
use weft_e2e::{ContainerSpec, Lab, LabError, LabOptions, eventually};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);
const STATE: &str = "/run/weft-lab/state.json";

/// What is compared here belongs to the machine, so these tests run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plain_lab(hosts: u8) -> Lab {
    Lab::up(LabOptions::with_hosts(hosts).without_agents()).unwrap()
}

fn change_state(change: impl FnOnce(&mut serde_json::Value)) {
    let mut state = serde_json::from_slice(&fs::read(STATE).unwrap()).unwrap();
    change(&mut state);
    fs::write(STATE, state.to_string()).unwrap();
}

fn becomes(before: &Machine) {
    eventually(SOON, "the machine as before", || {
        let after = Machine::observe();
        if after == *before { Ok(()) } else { Err(format!("{before:#?}\nbecame {after:#?}")) }
    });
}

#[test]
fn recycled_process_id_is_never_signalled() {
    let _alone = alone();
    let lab = plain_lab(1);
    lab.kill("etcd1").unwrap();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    change_state(|state| state["daemons"][0]["process"]["pid"] = bystander.id().into());

    let rows = lab.status().unwrap().rows;
    let etcd = rows.iter().find(|row| row.name == "etcd1").unwrap();
    assert_eq!(etcd.state, Some(ProcessState::Stopped));
    assert!(lab.kill("etcd1").is_err());
    drop(lab);

    assert_eq!(bystander.try_wait().unwrap(), None, "it still runs");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn down_leaves_nothing() {
    let _alone = alone();
    let before = Machine::observe();
    let lab = plain_lab(3);
    let container = lab.run_container(1, "ct1", &[]).unwrap();
    fs::create_dir_all("/etc/netns/ct1").unwrap();
    fs::write("/etc/netns/ct1/resolv.conf", "# made by weft\n").unwrap();
    let mut shell = lab.host(2).command(&["sleep", "60"]).unwrap();
    let mut left_behind = lab.host(2).netns().spawn(&mut shell).unwrap();
    let mut inside = container.command(&["sleep".to_owned(), "60".to_owned()]);
    let mut left_inside = inside.spawn().unwrap();
    eventually(SOON, "the command in the container", || {
        let names = lab.in_netns("ct1", &["ip", "netns", "pids", "ct1"]).unwrap();
        if names.contains(&left_inside.id().to_string()) { Ok(()) } else { Err(names) }
    });
    assert_ne!(Machine::observe(), before);

    drop(lab);

    assert!(!left_behind.wait().is_ok_and(|status| status.success()));
    assert!(!left_inside.wait().is_ok_and(|status| status.success()));
    becomes(&before);
}

#[test]
fn down_works_at_any_point_of_an_interrupted_up() {
    let _alone = alone();
    let before = Machine::observe();
    let _lab = plain_lab(2);
    // As on record before anything is made: no process, no identity of any namespace.
    change_state(|state| {
        state["ready"] = false.into();
        state["daemons"][0]["process"] = serde_json::Value::Null;
        for namespace in state["namespaces"].as_array_mut().unwrap() {
            namespace["id"] = serde_json::Value::Null;
        }
    });
    assert!(ip(&["netns", "del", "h2"]));

    assert!(Lab::down().unwrap());

    becomes(&before);
    assert!(!Lab::down().unwrap());
}

#[test]
fn up_refuses_a_second_lab_and_a_foreign_namespace() {
    let _alone = alone();
    let lab = plain_lab(1);
    let arguments = ["up", "--no-agents"];
    let second = weft_lab(&arguments);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("weft-lab down"));
    drop(lab);

    let foreign = "weft-nat-h2";
    assert!(ip(&["netns", "add", foreign]));
    let error = Lab::up(LabOptions::with_hosts(2).without_agents()).unwrap_err();

    assert!(matches!(
        error.downcast_ref(),
        Some(LabError::NamespaceInTheWay { netns }) if netns.as_str() == foreign
    ));
    assert!(ip(&["netns", "del", foreign]), "it is still there");
    assert!(!fs::exists("/run/weft-lab").unwrap());
}

#[test]
fn failed_up_says_why_and_leaves_nothing() {
    let _alone = alone();
    let before = Machine::observe();

    let error =
        Lab::up(LabOptions { weft: Some("/bin/false".into()), ..LabOptions::with_hosts(1).with_etcd() }).unwrap_err();

    let text = format!("{error:#}");
    assert!(text.contains("bringing up h1") && text.contains("log"), "{text}");
    becomes(&before);
}

#[test]
fn container_belongs_to_one_host_and_to_the_lab() {
    let _alone = alone();
    let lab = plain_lab(2);

    assert!(lab.run_container(1, "ct1", &[]).unwrap().is_new());
    assert!(!lab.run_container(1, "ct1", &[]).unwrap().is_new());
    assert!(lab.run_container(2, "ct1", &[]).is_err());
    assert!(lab.run_container(1, "h2", &[]).is_err());
    assert!(lab.run_container(1, "../ct", &[]).is_err());
    assert!(ip(&["netns", "add", "foreign"]));
    assert!(lab.run_container(1, "foreign", &[]).is_err());
    assert!(lab.remove_container("foreign").is_err());
    lab.remove_container("ct1").unwrap();

    assert!(lab.run_container(2, "ct1", &[]).unwrap().is_new());
    assert!(ip(&["netns", "del", "foreign"]), "it is still there");
}

#[test]
fn container_of_a_refused_connection_is_removed_again() {
    let _alone = alone();
    let lab = plain_lab(1);
    let spec = ContainerSpec { host: "h1".to_owned(), name: "ct1".to_owned(), networks: vec!["net1".to_owned()] };

    let error = lab.ensure_container(&spec).unwrap_err();

    assert!(error.to_string().contains("without agents"), "{error:#}");
    assert!(!fs::exists("/run/netns/ct1").unwrap());
}

#[test]
fn program_passes_on_the_status_of_its_command() {
    let _alone = alone();
    let lab = plain_lab(1);
    let code = |arguments: &[&str]| weft_lab(arguments).status.code();

    assert_eq!(code(&["exec", "h1", "--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["exec", "h1", "--", "no-such-program"]), Some(127));
    assert_eq!(code(&["exec", "h9", "--", "true"]), Some(125));
    assert_eq!(code(&["run", "h1", "ct1", "--", "sh", "-c", "exit 9"]), Some(9));
    assert!(lab.remove_container("ct1").is_err(), "it went with its command");
    assert_eq!(code(&["run", "h1", "ct2", "--", "sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["run", "h1", "ct3"]), Some(0));
    assert_eq!(code(&["rm", "ct3"]), Some(0));
    assert_eq!(code(&["rm", "ct3"]), Some(1));
    assert_eq!(code(&["frobnicate"]), Some(2));
    let output = weft_lab(&["exec", "h1", "--", "sh", "-c", "echo $WEFT_SOCKET; ip -br link"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();

    assert!(text.starts_with("/run/weft-lab/h1/weft.sock\n"), "{text}");
    assert!(text.contains("eth1"), "{text}");
}

fn weft_lab(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_weft-lab")).args(arguments).output().unwrap()
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).status().unwrap().success()
}

/// What a lab could leave on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    namespaces: BTreeSet<String>,
    links: String,
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    rules: String,
    files: BTreeSet<String>,
}

impl Machine {
    fn observe() -> Self {
        let output = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        Self {
            namespaces: names("/run/netns"),
            links: output("ip", &["-brief", "link"]),
            processes: processes(),
            mounts: mounts.lines().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect(),
            rules: output("nft", &["list", "ruleset"]),
            files: [names("/run"), names("/etc/netns")].into_iter().flatten().collect(),
        }
    }
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Command lines of all processes; a thread of the kernel has none.
fn processes() -> BTreeSet<String> {
    names("/proc")
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
        .collect()
}
