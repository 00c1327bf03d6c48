//! Connecting and disconnecting: several networks per container, while it runs, with and without traffic.

use weft_e2e::traffic::{self, Stream};
use weft_e2e::{dump, eventually};

use super::{NEVER, SOON, settles, shared};

#[test]
fn container_in_two_networks_reaches_both_over_an_interface_each() {
    let lab = shared();
    lab.create_network("left", &[]).unwrap();
    lab.create_network("right", &[]).unwrap();
    let in_left = lab.attach(1, "both", "left", &[]).unwrap();
    let in_right = lab.attach(1, "both", "right", &[]).unwrap();
    let left = lab.attach(2, "onlyleft", "left", &[]).unwrap();
    let right = lab.attach(3, "onlyright", "right", &[]).unwrap();

    assert_eq!((in_left.ifname.as_deref(), in_right.ifname.as_deref()), (Some("eth0"), Some("eth1")));
    for address in left.addresses().into_iter().chain(right.addresses()) {
        traffic::ping("both", address, SOON).unwrap();
    }
    let route = lab.in_netns("both", &["ip", "route", "show", "default"]).unwrap();
    assert!(route.lines().count() == 1 && route.contains("dev eth0"), "{route}");
    settles(&lab);
}

#[test]
fn traffic_in_one_network_runs_while_others_are_connected_and_disconnected() {
    let lab = shared();
    lab.create_network("steady", &[]).unwrap();
    lab.create_network("coming", &[]).unwrap();
    lab.attach(1, "steady1", "steady", &[]).unwrap();
    let target = lab.attach(2, "steady2", "steady", &[]).unwrap();
    settles(&lab);
    let streams = target.addresses().map(|address| Stream::icmp("steady1", address, 500).unwrap());
    for stream in &streams {
        stream.wait_for(50, SOON).unwrap();
    }

    for _ in 0..5 {
        let peer = lab.attach(2, "steady2", "coming", &[]).unwrap();
        lab.attach(1, "steady1", "coming", &[]).unwrap();
        traffic::ping("steady1", peer.v4(), SOON).unwrap();
        lab.host(1).weft(&["disconnect", "coming", "steady1"]).unwrap();
        lab.host(2).weft(&["disconnect", "coming", "steady2"]).unwrap();
    }

    for stream in streams {
        let report = stream.stop().unwrap();
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
    }
    settles(&lab);
}

#[test]
fn disconnected_container_is_gone_everywhere_and_has_no_interface_left() {
    let lab = shared();
    lab.create_network("leaving", &[]).unwrap();
    lab.attach(1, "stays", "leaving", &[]).unwrap();
    let leaving = lab.attach(2, "leaves", "leaving", &[]).unwrap();
    traffic::ping("stays", leaving.v4(), SOON).unwrap();

    lab.host(2).weft(&["disconnect", "leaving", "leaves"]).unwrap();

    assert!(traffic::ping("stays", leaving.v4(), NEVER).is_err());
    let store = dump::store(&lab).unwrap();
    assert!(!store.entries.iter().any(|entry| String::from_utf8_lossy(&entry.value).contains(&leaving.id)));
    // Deletion is late on purpose: the answer does not wait for it.
    eventually(SOON, "the container without its interface", || {
        let links = lab.in_netns("leaves", &["ip", "-o", "link"]).unwrap();
        if links.lines().count() == 1 { Ok(()) } else { Err(links) }
    });
    settles(&lab);
}

#[test]
fn last_container_takes_the_networks_devices_with_it() {
    let lab = shared();
    let network = lab.create_network("brief", &[]).unwrap();
    lab.attach(3, "brief3", "brief", &[]).unwrap();
    let devices = lab.host(3).devices("brief").unwrap();
    assert!(dump::kernel(&lab.host(3)).unwrap().vxlan(network.vni).is_some());

    lab.host(3).weft(&["disconnect", "brief", "brief3"]).unwrap();

    eventually(SOON, "no device of the network", || {
        let kernel = dump::kernel(&lab.host(3)).map_err(|error| format!("{error:#}"))?;
        let left = [&devices.bridge, &devices.vxlan].into_iter().find(|name| kernel.link(name).is_some());
        let host_links = lab.host(3).exec(&["ip", "-o", "link"]).map_err(|error| format!("{error:#}"))?;
        match left {
            Some(name) => Err(format!("{name} is there")),
            None if host_links.contains(&devices.leg) => Err(host_links),
            None => Ok(()),
        }
    });
    settles(&lab);
}

#[test]
fn second_attachment_to_the_same_network_is_refused() {
    let lab = shared();
    lab.create_network("once", &[]).unwrap();
    lab.attach(1, "once1", "once", &[]).unwrap();
    settles(&lab);
    // Not the state of a device, which the kernel notes a moment after its carrier.
    let interfaces = || -> Vec<(String, String)> {
        let text = lab.in_netns("once1", &["ip", "-json", "link"]).unwrap();
        let links: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        links.iter().map(|link| (link["ifname"].to_string(), link["address"].to_string())).collect()
    };
    let before = interfaces();

    let refusal = lab.host(1).refusal(&["connect", "once", "once1", "--ifname", "eth7", "--name", "other"]).unwrap();

    assert_eq!((refusal.status, refusal.class.as_str()), (1, "conflict"), "{refusal:?}");
    assert!(refusal.says(&["once1", "once"]), "{refusal:?}");
    assert_eq!(interfaces(), before);
    settles(&lab);
}

#[test]
fn processes_namespace_is_as_good_a_container_as_a_named_one() {
    let lab = shared();
    lab.create_network("bypid", &[]).unwrap();
    let target = lab.attach(2, "bypid2", "bypid", &[]).unwrap();
    lab.run_container(1, "bypid1", &[]).unwrap();
    let sleeper = ["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"];
    let pid = lab.in_netns("bypid1", &sleeper).unwrap().trim().to_owned();

    let container = format!("pid:{pid}");
    let endpoint = lab.host(1).weft_json(&["connect", "bypid", &container, "--name", "sleeper"]).unwrap();

    assert_eq!(endpoint["name"], "sleeper");
    traffic::ping("bypid1", target.v4(), SOON).unwrap();
    lab.host(1).weft(&["disconnect", "bypid", &container]).unwrap();
    lab.remove_container("bypid1").unwrap();
    settles(&lab);
}
