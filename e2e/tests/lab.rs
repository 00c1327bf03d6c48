//! The lab itself, without Weft: its network is what it claims to be and faults do what they say.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use weft_e2e::process::ProcessState;
use weft_e2e::topology::{
    CONTROL, CONTROLLER_ADDRESS, EtcdMember, HostId, NAT_ADDRESS, OUTSIDE, OUTSIDE_SERVER, OUTSIDE_SERVER_V6,
};
use weft_e2e::traffic::{self, FramePort, Interface, Stream, packet};
use weft_e2e::{EtcdMembers, Lab, LabOptions, StatusRow, dump, eventually};

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
        assert!(addresses.contains(&format!("eth0 {NAT_ADDRESS}/24")), "{addresses:?}");
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
    let names: BTreeSet<_> = links.iter().filter_map(|link| link["ifname"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["lo", "wan", "h1", "h2"]));
}

#[test]
fn nat_drops_every_source_but_its_own() {
    let lab = plain_lab(1);
    let foreign = "10.32.0.5/32";
    lab.host(1).exec(&["ip", "address", "add", foreign, "dev", "lo"]).unwrap();
    let wire = FramePort::open(OUTSIDE, "wan").unwrap();

    let output = lab.host(1).try_exec(&["ping", "-c1", "-W1", "-I", "10.32.0.5", &OUTSIDE_SERVER.to_string()]).unwrap();
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
    // The kernel notes the loss of a carrier in a work item of its own.
    eventually(SOON, "no carrier", || {
        let carrier = lab.host(2).exec(&["ip", "link", "show", "dev", "eth1"]).map_err(|error| format!("{error:#}"))?;
        if carrier.contains("NO-CARRIER") { Ok(()) } else { Err(carrier) }
    });
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
    let lab =
        Lab::up(LabOptions { etcd_members: EtcdMembers::Three, ..LabOptions::with_hosts(1).without_agents() }).unwrap();

    for member in lab.topology().unwrap().members {
        let name = member.to_string();
        lab.kill(&name).unwrap();
        assert_eq!(row(&lab, &name).state, Some(ProcessState::Stopped));
        let key = format!("/weft/v1/test/{member}");
        eventually(SOON * 3, &format!("a write without {member}"), || put(&lab, &key));
        lab.start(&name).unwrap();
        eventually(SOON * 3, &format!("health of {member}"), || health(&lab, member));
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

    let store = eventually(SOON, "an answer of etcd", || dump::store(&lab).map_err(|error| format!("{error:#}")));
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
fn underlay_mtu_is_as_asked_for_and_changes_live() {
    let lab = Lab::up(LabOptions { underlay_mtu: 9000, ..LabOptions::with_hosts(2).without_agents() }).unwrap();
    let whole = |size: &str| {
        let ping = ["ping", "-c1", "-W1", "-M", "do", "-s", size, "192.168.56.12"];
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
    let frame = packet::ethernet(receiver.mac(), [2, 0, 0, 0, 0, 1], packet::ETHERTYPE_IPV4, &content);

    sender.send(&frame).unwrap();
    let seen = receiver.watch(SOON, |seen| seen.bytes.ends_with(b"inner")).unwrap();

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

    for expected in ["h2: bridge fdb show", "h1: nft list ruleset", "192.168.56.12/24", "etcd1: log"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
}

fn is_ipv4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&packet::ETHERTYPE_IPV4.to_be_bytes())
}

fn put(lab: &Lab, key: &str) -> Result<(), String> {
    let topology = lab.topology().map_err(|error| error.to_string())?;
    etcdctl(lab, &topology.etcd_urls(), &["put", key, "1"])
}

fn health(lab: &Lab, member: EtcdMember) -> Result<(), String> {
    etcdctl(lab, &member.client_url(), &["endpoint", "health"])
}

fn etcdctl(lab: &Lab, endpoints: &str, words: &[&str]) -> Result<(), String> {
    let endpoints = format!("--endpoints={endpoints}");
    let program = ["etcdctl", "--command-timeout=1s", &endpoints];
    let output = lab.try_in_netns(CONTROL, &[&program, words].concat());
    output.and_then(weft_e2e::CommandOutput::success).map(drop).map_err(|error| format!("{error:#}"))
}
