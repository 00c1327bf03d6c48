//! Hosts with a firewall of their own: br_netfilter on, five hundred rules, everything else dropped.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use weft_e2e::topology::{CONTROL, OUTSIDE, OUTSIDE_SERVER, OUTSIDE_SERVER_V6};
use weft_e2e::traffic::{self, Stream, TcpServer, ask_tcp};
use weft_e2e::{Host, Lab, LabOptions, eventually};

use super::{SOON, any, settles, underlay};

const RULES: usize = 500;

/// As a host looks on which Docker and an administrator have been: what is not asked for is dropped, in both families.
fn restore_script(icmp: &str) -> String {
    let mut text = String::from("*filter\n:INPUT DROP\n:FORWARD DROP\n:OUTPUT ACCEPT\n:SERVICES - [0:0]\n");
    text.push_str("-A INPUT -i lo -j ACCEPT\n-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT\n");
    writeln!(text, "-A INPUT -p {icmp} -j ACCEPT\n-A FORWARD -j SERVICES").unwrap();
    for number in 0..RULES {
        writeln!(text, "-A SERVICES -p tcp --dport {} -m mark --mark 0x77 -j DROP", 10_000 + number).unwrap();
    }
    text.push_str("COMMIT\n");
    text
}

fn make_hostile(host: &Host) {
    assert!(
        Path::new("/proc/sys/net/bridge").exists(),
        "this test needs the module br_netfilter: modprobe br_netfilter"
    );
    for call in ["iptables", "ip6tables"] {
        host.netns().write_sysctl(&format!("net/bridge/bridge-nf-call-{call}"), "1").unwrap();
    }
    host.netns().feed(&["iptables-restore"], &restore_script("icmp")).unwrap();
    host.netns().feed(&["ip6tables-restore"], &restore_script("icmpv6")).unwrap();
}

#[test]
fn traffic_passes_hosts_that_drop_everything_else() {
    let lab = Lab::fresh(LabOptions::default()).unwrap();
    lab.create_network("walled", &[]).unwrap();
    lab.attach(1, "walled1", "walled", &["--publish", "18090:80"]).unwrap();
    let far = lab.attach(2, "walled2", "walled", &[]).unwrap();
    let stream = Stream::icmp("walled1", far.v4(), 200).unwrap();
    stream.wait_for(20, SOON).unwrap();

    lab.hosts().unwrap().iter().for_each(make_hostile);

    // East and west, with hosts that were there before and one that comes later.
    let late = lab.attach(3, "walled3", "walled", &[]).unwrap();
    for address in far.addresses().into_iter().chain(late.addresses()) {
        traffic::ping("walled1", address, SOON).unwrap();
        traffic::tcp_transfer(
            "walled1",
            if far.addresses().contains(&address) { "walled2" } else { "walled3" },
            address,
            1 << 20,
        )
        .unwrap();
    }
    north_and_south(&lab);
    let report = stream.stop().unwrap();
    assert!(report.longest_gap < SOON / 5, "{report}");

    // What a reload of somebody's firewall does to rules that are not its own.
    for program in ["iptables", "ip6tables"] {
        for chain in ["FORWARD", "INPUT"] {
            lab.host(1).exec(&[program, "-F", chain]).unwrap();
        }
    }
    lab.host(1).netns().feed(&["iptables-restore"], &restore_script("icmp")).unwrap();
    lab.host(1).netns().feed(&["ip6tables-restore"], &restore_script("icmpv6")).unwrap();
    for address in far.addresses() {
        traffic::ping("walled1", address, SOON).unwrap();
    }
    north_and_south(&lab);
    settles(&lab);
}

fn north_and_south(lab: &Lab) {
    let outside = [OUTSIDE_SERVER.into(), OUTSIDE_SERVER_V6.into()];
    let servers = outside.map(|address| TcpServer::start(OUTSIDE, SocketAddr::new(address, 0)).unwrap());
    let reached = |what: &str, from: &str, target: SocketAddr| {
        eventually(SOON, what, || ask_tcp(from, target, SOON / 10).map(drop).map_err(|error| format!("{error:#}")));
    };
    for server in &servers {
        for container in ["walled1", "walled2", "walled3"] {
            reached("the outside", container, server.address());
        }
    }
    let inside = TcpServer::start("walled1", any(80)).unwrap();
    reached("a published port", CONTROL, SocketAddr::new(underlay(&lab.host(1)), 18090));
    reached("a published port of another node", "walled3", SocketAddr::new(underlay(&lab.host(1)), 18090));
    let container =
        lab.host(1).endpoints(&[]).unwrap().into_iter().find(|endpoint| endpoint.name == "walled1").unwrap();
    for address in container.addresses() {
        reached("a container of its host", "h1", SocketAddr::new(address, inside.address().port()));
        reached("a container of another host", "h2", SocketAddr::new(address, inside.address().port()));
    }
    lab.in_netns("walled2", &["ping", "-c1", "-W5", "walled3"]).unwrap();
}

#[test]
fn accepts_go_where_docker_looks_for_them_and_leave_its_rules_alone() {
    let lab = Lab::fresh(LabOptions::with_hosts(2)).unwrap();
    let docker = "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n:DOCKER-USER - [0:0]\n\
                  -A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n";
    lab.host(1).netns().feed(&["iptables-restore"], docker).unwrap();
    lab.create_network("docked", &[]).unwrap();
    lab.attach(1, "docked1", "docked", &[]).unwrap();
    settles(&lab);
    let server = TcpServer::start(OUTSIDE, SocketAddr::new(OUTSIDE_SERVER.into(), 0)).unwrap();

    ask_tcp("docked1", server.address(), SOON).unwrap();

    let rules = lab.host(1).exec(&["iptables", "-S"]).unwrap();
    let foreign: Vec<_> = rules.lines().filter(|line| !line.to_lowercase().contains("weft")).collect();
    let theirs =
        ["-P INPUT ACCEPT", "-P FORWARD DROP", "-P OUTPUT ACCEPT", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER"];
    assert!(theirs.iter().all(|line| foreign.contains(line)), "{rules}");
    assert_eq!(foreign.len(), theirs.len() + 1, "{rules}");
}
