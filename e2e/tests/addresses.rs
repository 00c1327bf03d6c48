//! Addresses: chosen by the cluster or by the user, never held twice, and what is said when none is left.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use weft_e2e::traffic::{self, Stream};
use weft_e2e::{
    Endpoint, Lab, LabOptions, Refusal, SharedLab,
    dump::{self, settles},
    eventually,
};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);
/// Longest that a refusal may take while the store is away.
const BOUNDED: Duration = Duration::from_secs(20);

fn shared() -> SharedLab {
    Lab::shared().unwrap()
}

/// The refusal of an attachment; whatever it is, nothing has changed.
#[track_caller]
fn refused(lab: &Lab, host: u8, name: &str, network: &str, options: &[&str]) -> Refusal {
    lab.run_container(host, name, &[]).unwrap();
    let endpoints = || lab.host(host).endpoints(&["--network", network]).unwrap();
    let before = endpoints();
    let refusal = lab.host(host).refusal(&[&["connect", network, name], options].concat()).unwrap();
    assert_eq!(endpoints(), before);
    let links = lab.in_netns(name, &["ip", "-o", "link"]).unwrap();
    assert_eq!(links.lines().count(), 1, "{links}");
    refusal
}

#[test]
fn free_address_asked_for_is_given_whoever_owns_its_block() {
    let lab = shared();
    lab.create_network("asked", &["--subnet", "10.90.0.0/20", "--subnet", "fd00:90::/64"]).unwrap();
    lab.attach(1, "asked1", "asked", &[]).unwrap();
    let options = ["--ip", "10.90.3.7", "--ip6", "fd00:90::abcd", "--mac", "02:00:5e:00:53:01"];
    let chosen = lab.attach(2, "asked2", "asked", &options).unwrap();

    assert_eq!(chosen.addresses().map(|address| address.to_string()), ["10.90.3.7", "fd00:90::abcd"]);
    assert_eq!(chosen.mac, "02:00:5e:00:53:01");
    for address in chosen.addresses() {
        traffic::ping("asked1", address, SOON).unwrap();
    }
    let known = lab.in_netns("asked1", &["ip", "neigh", "show", "10.90.3.7"]).unwrap();
    assert!(known.contains(&chosen.mac), "{known}");
    // An address beside one that h1 hands out itself.
    let blocks = lab.host(1).weft_json(&["network", "inspect", "asked"]).unwrap()["blocks"].clone();
    let own = blocks.as_array().unwrap().iter().find(|block| block["node"] == "h1").unwrap();
    let block: ipnetwork::IpNetwork = own["block"].as_str().unwrap().parse().unwrap();
    let (IpAddr::V4(first), IpAddr::V4(_)) = (block.network(), block.broadcast()) else { panic!("{block}") };
    let in_its_block = Ipv4Addr::from(u32::from(first) + 5).to_string();
    let endpoint = lab.attach(3, "asked3", "asked", &["--ip", &in_its_block]).unwrap();
    assert_eq!(endpoint.v4().to_string(), in_its_block);
    settles(&lab);
}

#[test]
fn taken_address_is_refused_naming_who_has_it() {
    let lab = shared();
    lab.create_network("taken", &[]).unwrap();
    let holder = lab.attach(1, "taken1", "taken", &[]).unwrap();

    for (host, name) in [(1, "taken1b"), (2, "taken2")] {
        for address in holder.addresses() {
            let option = if address.is_ipv4() { "--ip" } else { "--ip6" };
            let refusal = refused(&lab, host, name, "taken", &[option, &address.to_string()]);
            assert_eq!(refusal.class, "conflict", "{refusal:?}");
            assert!(refusal.says(&[&address.to_string(), "taken1", "h1"]), "{refusal:?}");
        }
    }
    settles(&lab);
}

#[test]
fn address_outside_the_subnet_or_reserved_is_refused() {
    let lab = shared();
    let options = ["--subnet", "10.91.0.0/24", "--subnet", "fd00:91::/64", "--gateway", "10.91.0.254"];
    lab.create_network("bounds", &options).unwrap();

    for (option, address) in [
        ("--ip", "10.92.0.5"),
        ("--ip", "10.91.0.0"),
        ("--ip", "10.91.0.255"),
        ("--ip", "10.91.0.254"),
        ("--ip6", "fd00:92::5"),
        ("--ip6", "fd00:91::1"),
    ] {
        let refusal = refused(&lab, 1, "bounds1", "bounds", &[option, address]);
        assert_eq!(refusal.status, 1, "{address}: {refusal:?}");
        assert!(refusal.says(&[address]), "{refusal:?}");
    }
    settles(&lab);
}

#[test]
fn address_of_a_family_that_the_network_lacks_is_refused() {
    let lab = shared();
    lab.create_network("onlyv4", &["--subnet", "10.93.0.0/24"]).unwrap();

    let refusal = refused(&lab, 1, "onlyv4a", "onlyv4", &["--ip6", "fd00:93::5"]);

    assert!(refusal.says(&["onlyv4", "fd00:93::5"]), "{refusal:?}");
    let endpoint = lab.attach(1, "onlyv4a", "onlyv4", &[]).unwrap();
    assert_eq!(endpoint.ipv6, None);
    settles(&lab);
}

#[test]
fn full_network_says_who_holds_what_and_an_address_that_becomes_free_is_used_again() {
    let lab = shared();
    lab.create_network("tiny", &["--subnet", "10.94.0.0/29"]).unwrap();
    // Eight addresses, less network, broadcast, gateway and a leg on each of two nodes.
    let mut held: Vec<Endpoint> =
        (1..=2).map(|host| lab.attach(host, &format!("tiny{host}"), "tiny", &[]).unwrap()).collect();
    held.push(lab.attach(2, "tiny2b", "tiny", &[]).unwrap());

    for host in [1, 2] {
        let refusal = refused(&lab, host, &format!("tiny{host}x"), "tiny", &[]);
        assert_eq!(refusal.status, 1, "{refusal:?}");
        assert!(refusal.says(&["10.94.0.0/29", "h1: ", "h2: ", "held", "leg"]), "{refusal:?}");
    }
    // Nothing else is left, so cooling down gives way.
    lab.host(2).weft(&["disconnect", "tiny", "tiny2b"]).unwrap();
    let last = eventually(SOON, "the address that has become free", || {
        lab.attach(2, "tiny2x", "tiny", &[]).map_err(|error| format!("{error:#}"))
    });

    assert_eq!(last.ipv4, held[2].ipv4);
    settles(&lab);
}

#[test]
fn released_address_is_not_the_next_to_be_given() {
    let lab = shared();
    lab.create_network("cooling", &[]).unwrap();
    lab.attach(1, "cooling1", "cooling", &[]).unwrap();
    let mut seen = BTreeSet::new();

    for _ in 0..4 {
        let endpoint = lab.attach(1, "cooling2", "cooling", &[]).unwrap();
        assert!(seen.insert(endpoint.addresses()), "{endpoint:?} was given twice");
        lab.host(1).weft(&["disconnect", "cooling", "cooling2"]).unwrap();
    }
    settles(&lab);
}

#[test]
fn hosts_that_attach_at_once_never_give_one_address_twice() {
    const EACH: usize = 18;
    let lab = shared();
    let network = lab.create_network("rush", &["--subnet", "10.95.0.0/26", "--subnet", "fd00:95::/64"]).unwrap();
    for (host, number) in (1..=3).flat_map(|host| (0..EACH).map(move |number| (host, number))) {
        lab.run_container(host, &format!("rush{host}x{number}"), &[]).unwrap();
    }

    let endpoints: Vec<Endpoint> = thread::scope(|scope| {
        let lab: &Lab = &lab;
        let threads: Vec<_> = (1..=3)
            .map(|host| {
                let attach = move |number| lab.attach(host, &format!("rush{host}x{number}"), "rush", &[]).unwrap();
                scope.spawn(move || (0..EACH).map(attach).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });

    let legs = [1, 2, 3].map(|host| lab.host(host).leg("rush").unwrap());
    let all: Vec<_> = endpoints.iter().chain(&legs).collect();
    let count = all.len();
    let distinct =
        |key: fn(&Endpoint) -> String| all.iter().map(|endpoint| key(endpoint)).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(|e| e.v4().to_string()), count);
    assert_eq!(distinct(|e| e.v6().to_string()), count);
    assert_eq!(distinct(|e| e.mac.clone()), count);
    let gateways: BTreeSet<_> = network.gateways.iter().copied().collect();
    assert!(all.iter().flat_map(|endpoint| endpoint.addresses()).all(|address| !gateways.contains(&address)));
    settles(&lab);
    for (from, to) in [(0, EACH), (EACH, 2 * EACH), (2 * EACH, 0)] {
        traffic::ping(&endpoints[from].name, endpoints[to].v4(), SOON).unwrap();
    }
    for endpoint in &endpoints {
        lab.remove_container(&endpoint.name).unwrap();
    }
    settles(&lab);
}

#[test]
fn address_asked_for_by_everybody_goes_to_exactly_one() {
    let lab = shared();
    lab.create_network("race", &["--subnet", "10.96.0.0/24"]).unwrap();
    let names = [1, 2, 3].map(|host| (host, format!("race{host}")));
    for (host, name) in &names {
        lab.run_container(*host, name, &[]).unwrap();
    }

    let won: Vec<_> = thread::scope(|scope| {
        let lab: &Lab = &lab;
        let threads = names.each_ref().map(|(host, name)| {
            scope.spawn(move || lab.host(*host).try_weft(&["connect", "race", name, "--ip", "10.96.0.99"]).unwrap())
        });
        threads.map(|thread| thread.join().unwrap()).to_vec()
    });

    assert_eq!(won.iter().filter(|output| output.is_success()).count(), 1, "{won:?}");
    settles(&lab);
}

#[test]
fn without_the_store_an_attachment_fails_clearly_and_existing_traffic_flows() {
    let lab = Lab::fresh(LabOptions::with_hosts(2)).unwrap();
    lab.create_network("alone", &[]).unwrap();
    lab.attach(1, "alone1", "alone", &[]).unwrap();
    let far = lab.attach(2, "alone2", "alone", &[]).unwrap();
    settles(&lab);
    let streams = far.addresses().map(|address| Stream::icmp("alone1", address, 200).unwrap());
    for stream in &streams {
        stream.wait_for(20, SOON).unwrap();
    }
    lab.run_container(1, "alone3", &[]).unwrap();
    let kernel = || dump::kernel(&lab.host(1)).unwrap();
    let before = kernel();

    lab.stop("etcd").unwrap();
    let began = Instant::now();
    let refusal = lab.host(1).refusal(&["connect", "alone", "alone3"]).unwrap();

    assert!(began.elapsed() < BOUNDED, "{:?}", began.elapsed());
    assert_eq!((refusal.status, refusal.class.as_str()), (69, "unavailable"), "{refusal:?}");
    assert!(refusal.says(&["store"]), "{refusal:?}");
    // What had been made is put out of use before the answer and removed soon after it.
    eventually(SOON, "everything as before", || {
        let links = lab.in_netns("alone3", &["ip", "-o", "link"]).map_err(|error| format!("{error:#}"))?;
        let now = kernel();
        let is_as_before = links.lines().count() == 1 && (&now.links, &now.fdb) == (&before.links, &before.fdb);
        if is_as_before { Ok(()) } else { Err(format!("{links}{now:?}")) }
    });
    eventually(BOUNDED, "the outage in weft status", || {
        let status = lab.host(1).weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        if status["store"]["reachable"] == false { Ok(()) } else { Err(status["store"].to_string()) }
    });
    lab.in_netns("alone1", &["ping", "-c1", "-W5", "alone2"]).unwrap();
    for stream in streams {
        let report = stream.stop().unwrap();
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
    }
    lab.start("etcd").unwrap();

    eventually(SOON * 3, "an attachment again", || {
        lab.attach(1, "alone3", "alone", &[]).map_err(|error| format!("{error:#}"))
    });
    eventually(SOON * 3, "nothing to do on any host", || dump::check_settled(&lab));
}
