//! The lab itself, without Weft: its network is what it claims to be, faults do what they say,
//! and nothing outlives it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use weft_e2e::process::ProcessState;
use weft_e2e::topology::{
    CONTROL, CONTROLLER_ADDRESS, EtcdMember, HostId, NAT_ADDRESS, OUTSIDE, OUTSIDE_SERVER,
    OUTSIDE_SERVER_V6,
};
use weft_e2e::traffic::{self, FramePort, Interface, Stream, packet};
use weft_e2e::{
    ContainerSpec, EtcdMembers, Lab, LabError, LabOptions, StatusRow, dump, eventually,
};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);
/// How long a packet that must not arrive is waited for.
const NEVER: Duration = Duration::from_millis(300);

fn plain_lab(hosts: u8) -> Lab {
    Lab::up(LabOptions::with_hosts(hosts).without_agents()).unwrap()
}

fn underlay(host: u8) -> IpAddr {
    HostId::new(host).unwrap().underlay_address().into()
}

fn row(lab: &Lab, name: &str) -> StatusRow {
    let rows = lab.status().unwrap().rows;
    rows.into_iter().find(|row| row.name == name).unwrap()
}

#[test]
fn hosts_reach_one_another_and_the_store_over_the_underlay() {
    let _lab = plain_lab(3);

    for (from, to) in [("h1", 2), ("h2", 3), ("h3", 1)] {
        traffic::ping(from, underlay(to), SOON).unwrap();
    }
    for address in [EtcdMember::new(1).unwrap().address(), CONTROLLER_ADDRESS] {
        traffic::ping("h1", address.into(), SOON).unwrap();
    }
    let transfer = traffic::tcp_transfer("h1", "h3", underlay(3), 1 << 20).unwrap();

    assert_eq!(transfer.bytes, 1 << 20);
}

#[test]
fn every_host_has_the_same_nat_address_and_reaches_the_outside_with_it() {
    let lab = plain_lab(2);

    for host in ["h1", "h2"] {
        let addresses = row(&lab, host).addresses;
        assert!(
            addresses.contains(&format!("eth0 {NAT_ADDRESS}/24")),
            "{addresses:?}"
        );
        traffic::ping(host, OUTSIDE_SERVER.into(), SOON).unwrap();
        traffic::ping(host, OUTSIDE_SERVER_V6.into(), SOON).unwrap();
        traffic::tcp_transfer(host, OUTSIDE, OUTSIDE_SERVER.into(), 100_000).unwrap();
        traffic::tcp_transfer(host, OUTSIDE, OUTSIDE_SERVER_V6.into(), 100_000).unwrap();
    }
}

#[test]
fn nat_shows_the_outside_one_address_per_host() {
    let lab = plain_lab(2);
    let wire = FramePort::open(OUTSIDE, "wan").unwrap();

    traffic::ping("h2", OUTSIDE_SERVER.into(), SOON).unwrap();
    let request = wire.watch(SOON, |frame| is_ipv4(&frame.bytes)).unwrap();

    let bytes = request.expect("the request crossed the wire").bytes;
    let wan = lab.host(2).id().wan_address();
    assert_eq!(bytes[26..30], wan.octets());
}

#[test]
fn nat_reaches_neither_another_host_nor_the_machine() {
    let lab = plain_lab(2);
    let (h1, h2) = (lab.host(1).id(), lab.host(2).id());

    for address in [h2.wan_address().into(), IpAddr::V6(h2.wan_address_v6())] {
        assert!(traffic::ping("h1", address, NEVER).is_err(), "{address}");
    }
    assert!(traffic::ping(OUTSIDE, h1.wan_address().into(), NEVER).is_err());
    assert!(traffic::ping("h1", Ipv4Addr::new(1, 1, 1, 1).into(), NEVER).is_err());
    let links = lab.in_netns(OUTSIDE, &["ip", "-json", "link"]).unwrap();
    let links: Vec<serde_json::Value> = serde_json::from_str(&links).unwrap();
    let names: BTreeSet<_> = links
        .iter()
        .filter_map(|link| link["ifname"].as_str())
        .collect();
    assert_eq!(names, BTreeSet::from(["lo", "wan", "h1", "h2"]));
}

#[test]
fn nat_drops_every_source_but_its_own() {
    let lab = plain_lab(1);
    let foreign = "10.32.0.5/32";
    lab.host(1)
        .exec(&["ip", "address", "add", foreign, "dev", "lo"])
        .unwrap();
    let wire = FramePort::open(OUTSIDE, "wan").unwrap();

    let output = lab
        .host(1)
        .try_exec(&[
            "ping",
            "-c1",
            "-W1",
            "-I",
            "10.32.0.5",
            &OUTSIDE_SERVER.to_string(),
        ])
        .unwrap();
    let seen = wire.watch(NEVER, |frame| is_ipv4(&frame.bytes)).unwrap();

    assert!(!output.is_success(), "{output:?}");
    assert_eq!(seen, None);
}

#[test]
fn cut_stops_the_underlay_and_nothing_else_until_healed() {
    let lab = plain_lab(2);
    let stream = Stream::udp("h1", "h2", underlay(2), 500).unwrap();
    stream.wait_for(20, SOON).unwrap();

    lab.cut("h2").unwrap();
    assert_eq!(row(&lab, "h2").cuts, ["underlay"]);
    assert!(traffic::ping("h1", underlay(2), NEVER).is_err());
    traffic::ping("h2", OUTSIDE_SERVER.into(), SOON).unwrap();
    let carrier = lab
        .host(2)
        .exec(&["ip", "link", "show", "dev", "eth1"])
        .unwrap();
    assert!(carrier.contains("NO-CARRIER"), "{carrier}");
    lab.heal("h2").unwrap();

    stream.wait_for(20, SOON).unwrap();
    assert_eq!(row(&lab, "h2").cuts, Vec::<String>::new());
    let report = stream.stop().unwrap();
    assert!(report.lost > 0 && report.longest_gap >= NEVER, "{report}");
}

#[test]
fn store_cut_leaves_hosts_connected() {
    let lab = plain_lab(2);
    let store = IpAddr::from(EtcdMember::new(1).unwrap().address());

    lab.cut_store("h1").unwrap();
    assert_eq!(row(&lab, "h1").cuts, ["store"]);
    assert!(traffic::ping("h1", store, NEVER).is_err());
    assert!(traffic::ping("h1", CONTROLLER_ADDRESS.into(), NEVER).is_err());
    traffic::ping("h1", underlay(2), SOON).unwrap();
    traffic::ping("h2", store, SOON).unwrap();
    lab.cut_store("h1").unwrap();
    lab.heal_store("h1").unwrap();

    traffic::ping("h1", store, SOON).unwrap();
}

#[test]
fn heal_undoes_a_store_cut_too() {
    let lab = plain_lab(1);

    lab.cut_store("h1").unwrap();
    lab.cut("h1").unwrap();
    assert_eq!(row(&lab, "h1").cuts, ["underlay", "store"]);
    lab.heal("h1").unwrap();

    assert_eq!(row(&lab, "h1").cuts, Vec::<String>::new());
}

#[test]
fn etcd_of_three_members_survives_the_loss_of_any_one() {
    let lab = Lab::up(LabOptions {
        etcd_members: EtcdMembers::Three,
        ..LabOptions::with_hosts(1).without_agents()
    })
    .unwrap();

    for member in ["etcd1", "etcd2", "etcd3"] {
        lab.kill(member).unwrap();
        assert_eq!(row(&lab, member).state, Some(ProcessState::Stopped));
        let key = format!("/weft/v1/test/{member}");
        eventually(SOON * 3, &format!("a write without {member}"), || {
            put(&lab, &key)
        });
        lab.start(member).unwrap();
        eventually(SOON * 3, &format!("health of {member}"), || {
            health(&lab, member)
        });
    }

    let keys = dump::store(&lab).unwrap().entries.len();
    assert_eq!(keys, 3);
}

#[test]
fn etcd_keeps_its_data_over_kill_and_start_of_all_members() {
    let lab = plain_lab(1);
    put(&lab, "/weft/v1/test/kept").unwrap();

    lab.kill("etcd").unwrap();
    assert!(put(&lab, "/weft/v1/test/lost").is_err());
    lab.start("etcd").unwrap();

    let store = eventually(SOON, "an answer of etcd", || {
        dump::store(&lab).map_err(|error| format!("{error:#}"))
    });
    let entry = store.entry("test/kept").unwrap();
    assert_eq!(entry.json().unwrap(), 1);
    assert!(store.entry("test/lost").is_none());
}

#[test]
fn daemons_can_be_paused_resumed_stopped_and_started() {
    let lab = plain_lab(1);
    let state = || row(&lab, "etcd1").state;

    lab.pause("etcd1").unwrap();
    assert_eq!(state(), Some(ProcessState::Paused));
    let error = lab.stop("etcd1").unwrap_err();
    assert!(error.to_string().contains("weft-lab resume"), "{error:#}");
    lab.resume("etcd1").unwrap();
    assert_eq!(state(), Some(ProcessState::Running));
    assert!(lab.start("etcd1").is_err());
    lab.stop("etcd1").unwrap();
    assert_eq!(state(), Some(ProcessState::Stopped));
    assert!(lab.kill("etcd1").is_err());
    lab.start("etcd1").unwrap();

    assert_eq!(state(), Some(ProcessState::Running));
}

#[test]
fn recycled_process_id_is_never_signalled() {
    let lab = plain_lab(1);
    lab.kill("etcd1").unwrap();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let path = "/run/weft-lab/state.json";
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    state["daemons"][0]["process"]["pid"] = bystander.id().into();
    fs::write(path, state.to_string()).unwrap();

    assert_eq!(row(&lab, "etcd1").state, Some(ProcessState::Stopped));
    assert!(lab.kill("etcd1").is_err());
    drop(lab);

    assert_eq!(bystander.try_wait().unwrap(), None, "it still runs");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn down_leaves_nothing() {
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
        let names = lab
            .in_netns("ct1", &["ip", "netns", "pids", "ct1"])
            .unwrap();
        if names.contains(&left_inside.id().to_string()) {
            Ok(())
        } else {
            Err(names)
        }
    });
    assert_ne!(Machine::observe(), before);

    drop(lab);

    assert!(!left_behind.wait().is_ok_and(|status| status.success()));
    assert!(!left_inside.wait().is_ok_and(|status| status.success()));
    eventually(SOON, "the machine as before", || {
        let after = Machine::observe();
        if after == before {
            Ok(())
        } else {
            Err(format!("{before:?}\nbecame {after:?}"))
        }
    });
}

#[test]
fn down_works_at_any_point_of_an_interrupted_up() {
    let before = Machine::observe();
    let lab = plain_lab(2);
    let path = "/run/weft-lab/state.json";
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    // As on record before anything is made: no process, no identity of any namespace.
    state["ready"] = false.into();
    state["daemons"][0]["process"] = serde_json::Value::Null;
    for namespace in state["namespaces"].as_array_mut().unwrap() {
        namespace["id"] = serde_json::Value::Null;
    }
    fs::write(path, state.to_string()).unwrap();
    lab.in_netns("h1", &["ip", "netns", "del", "h2"]).unwrap();

    assert!(Lab::down().unwrap());

    eventually(SOON, "the machine as before", || {
        let after = Machine::observe();
        if after == before {
            Ok(())
        } else {
            Err(format!("{after:?}"))
        }
    });
    assert!(!Lab::down().unwrap());
}

#[test]
fn up_refuses_a_second_lab_and_a_foreign_namespace() {
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
    let before = Machine::observe();

    let error = Lab::up(LabOptions {
        weft: Some("/bin/false".into()),
        ..LabOptions::with_hosts(1)
    })
    .unwrap_err();

    let text = format!("{error:#}");
    assert!(
        text.contains("bringing up h1") && text.contains("log"),
        "{text}"
    );
    eventually(SOON, "the machine as before", || {
        let after = Machine::observe();
        if after == before {
            Ok(())
        } else {
            Err(format!("{after:?}"))
        }
    });
}

#[test]
fn container_belongs_to_one_host_and_to_the_lab() {
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
    let lab = plain_lab(1);
    let spec = ContainerSpec {
        host: "h1".to_owned(),
        name: "ct1".to_owned(),
        networks: vec!["net1".to_owned()],
    };

    let error = lab.ensure_container(&spec).unwrap_err();

    assert!(error.to_string().contains("without agents"), "{error:#}");
    assert!(!fs::exists("/run/netns/ct1").unwrap());
}

#[test]
fn program_passes_on_the_status_of_its_command() {
    let lab = plain_lab(1);
    let code = |arguments: &[&str]| weft_lab(arguments).status.code();

    assert_eq!(code(&["exec", "h1", "--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["exec", "h1", "--", "no-such-program"]), Some(127));
    assert_eq!(code(&["exec", "h9", "--", "true"]), Some(125));
    assert_eq!(
        code(&["run", "h1", "ct1", "--", "sh", "-c", "exit 9"]),
        Some(9)
    );
    assert!(
        lab.remove_container("ct1").is_err(),
        "it went with its command"
    );
    assert_eq!(
        code(&["run", "h1", "ct2", "--", "sh", "-c", "kill -9 $$"]),
        Some(137)
    );
    assert_eq!(code(&["run", "h1", "ct3"]), Some(0));
    assert_eq!(code(&["rm", "ct3"]), Some(0));
    assert_eq!(code(&["rm", "ct3"]), Some(1));
    assert_eq!(code(&["frobnicate"]), Some(2));
    let output = weft_lab(&[
        "exec",
        "h1",
        "--",
        "sh",
        "-c",
        "echo $WEFT_SOCKET; ip -br link",
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();

    assert!(text.starts_with("/run/weft-lab/h1/weft.sock\n"), "{text}");
    assert!(text.contains("eth1"), "{text}");
}

#[test]
fn underlay_mtu_is_as_asked_for_and_changes_live() {
    let lab = Lab::up(LabOptions {
        underlay_mtu: 9000,
        ..LabOptions::with_hosts(2).without_agents()
    })
    .unwrap();
    let whole = |size: &str| {
        let ping = [
            "ping",
            "-c1",
            "-W1",
            "-M",
            "do",
            "-s",
            size,
            "192.168.56.12",
        ];
        lab.host(1).try_exec(&ping).unwrap().is_success()
    };
    assert!(whole("8972"));
    assert!(!whole("8973"));

    lab.set_underlay_mtu("h1", 1400).unwrap();

    assert!(whole("1372"));
    assert!(!whole("1373"));
}

#[test]
fn probes_tell_who_hears_a_broadcast_or_a_multicast() {
    let lab = plain_lab(3);
    let on = |host: &str| Interface::new(host, "eth1").unwrap();
    let others = [on("h2"), on("h3")];
    lab.cut("h3").unwrap();

    let broadcast = traffic::broadcast(&on("h1"), &others, NEVER).unwrap();
    let groups = ["239.1.2.3", "ff02::1234"].map(|group| group.parse::<IpAddr>().unwrap());

    let only_h2 = [("h2".to_owned(), 1)].into();
    assert_eq!(broadcast, only_h2);
    for group in groups {
        let heard = traffic::multicast(&on("h1"), &others, group, NEVER).unwrap();
        assert_eq!(heard, only_h2, "{group}");
    }
}

#[test]
fn forged_frame_arrives_as_it_was_sent() {
    let _lab = plain_lab(2);
    let sender = FramePort::open("h1", "eth1").unwrap();
    let receiver = FramePort::open("h2", "eth1").unwrap();
    let source = (Ipv4Addr::new(192, 168, 56, 11), 40000);
    let destination = (Ipv4Addr::new(192, 168, 56, 12), 4789);
    let inner = packet::ethernet(packet::BROADCAST, [2, 0, 0, 0, 0, 9], 0x88b5, b"inner");
    let content = packet::udp4(source, destination, &packet::vxlan(7, &inner));
    let frame = packet::ethernet(
        receiver.mac(),
        [2, 0, 0, 0, 0, 1],
        packet::ETHERTYPE_IPV4,
        &content,
    );

    sender.send(&frame).unwrap();
    let seen = receiver
        .watch(SOON, |seen| seen.bytes.ends_with(b"inner"))
        .unwrap();

    assert_eq!(seen.map(|seen| seen.bytes), Some(frame));
}

#[test]
fn icmp_stream_loses_nothing_on_a_sound_network() {
    let _lab = plain_lab(2);

    let stream = Stream::icmp("h1", underlay(2), 1000).unwrap();
    stream.wait_for(500, SOON).unwrap();
    let report = stream.stop().unwrap();

    assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
    assert!(report.sent >= 500, "{report}");
}

#[test]
fn everything_is_printed_for_a_failed_test() {
    let lab = plain_lab(2);

    let text = dump::everything(&lab);

    for expected in [
        "h2: bridge fdb show",
        "h1: nft list ruleset",
        "192.168.56.12/24",
        "etcd1: log",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
}

fn is_ipv4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&packet::ETHERTYPE_IPV4.to_be_bytes())
}

fn put(lab: &Lab, key: &str) -> Result<(), String> {
    etcdctl(
        lab,
        &lab.topology().unwrap().etcd_urls(),
        &["put", key, "1"],
    )
}

fn health(lab: &Lab, member: &str) -> Result<(), String> {
    let number = member.trim_start_matches("etcd").parse().unwrap();
    let url = EtcdMember::new(number).unwrap().client_url();
    etcdctl(lab, &url, &["endpoint", "health"])
}

fn etcdctl(lab: &Lab, endpoints: &str, words: &[&str]) -> Result<(), String> {
    let endpoints = format!("--endpoints={endpoints}");
    let program = ["etcdctl", "--command-timeout=3s", &endpoints];
    let output = lab.try_in_netns(CONTROL, &[&program, words].concat());
    output
        .and_then(weft_e2e::CommandOutput::success)
        .map(drop)
        .map_err(|error| format!("{error:#}"))
}

fn weft_lab(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_weft-lab"))
        .args(arguments)
        .output()
        .unwrap()
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip")
        .args(arguments)
        .status()
        .unwrap()
        .success()
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
            mounts: mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
                .collect(),
            rules: output("nft", &["list", "ruleset"]),
            files: [names("/run"), names("/etc/netns")]
                .into_iter()
                .flatten()
                .collect(),
        }
    }
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// Command lines of all processes; a thread of the kernel has none.
fn processes() -> BTreeSet<String> {
    names("/proc")
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
        .collect()
}
