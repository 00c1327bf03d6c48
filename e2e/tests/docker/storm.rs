//! Many operations at random with a fixed seed, kills of agents and engines among them, and then an audit: containers,
//! endpoints, addresses, devices and names agree.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// As many as take some two minutes.
const OPERATIONS: u32 = 200;
const SEED: u64 = 0x5eed_2026;
const NETWORKS: [&str; 3] = ["storm0", "storm1", "storm2"];
const CONTAINERS: u32 = 6;
/// After the last operation, endpoints that the engine forgot without a word are given some time.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// Numbers that are the same in every run: a multiplicative generator with a final mix (SplitMix64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(sides)).unwrap()
    }
}

#[test]
fn after_two_hundred_operations_everything_agrees() {
    let lab = fresh();
    for network in NETWORKS {
        create_network(&lab, network, &[]);
    }
    let mut dice = Dice(SEED);
    let mut log = Vec::new();

    for number in 0..OPERATIONS {
        log.push(format!("{number}: {}", operate(&lab, &mut dice)));
    }
    for host in lab.hosts().unwrap() {
        revive(&lab, &host);
    }

    let history = || log[log.len() - 40..].join("\n");
    eventually(SETTLED_WITHIN, "everything agrees after the storm", || {
        audit(&lab).map_err(|difference| format!("{difference}\nthe last operations were\n{}", history()))
    });
    for host in lab.hosts().unwrap() {
        for container in containers_of(&host).keys() {
            host.docker(&["rm", "-f", container]).unwrap();
        }
    }
    eventually(SETTLED_WITHIN, "nothing is left after the containers", || audit(&lab));
}

/// One operation; whether it succeeds is up to what went before.
fn operate(lab: &Lab, dice: &mut Dice) -> String {
    let host = lab.host(1 + u8::try_from(dice.throw(2)).unwrap());
    let container = format!("c{}-{}", host.name(), dice.throw(CONTAINERS));
    let network = NETWORKS[usize::try_from(dice.throw(3)).unwrap()];
    let docker = |words: &[&str]| {
        let output = host.try_docker(words).unwrap();
        let outcome = if output.is_success() { "done".to_owned() } else { output.stderr.trim().to_owned() };
        format!("{} docker {}: {outcome}", host.name(), words.join(" "))
    };
    match dice.throw(100) {
        0..=29 => {
            docker(&["run", "-d", "--init", "--name", &container, "--net", network, "lab:net", "sleep", "100000"])
        }
        30..=47 => docker(&["rm", "-f", &container]),
        48..=55 => docker(&["kill", &container]),
        56..=65 => docker(&["restart", "-t", "0", &container]),
        66..=77 => docker(&["network", "connect", network, &container]),
        78..=87 => docker(&["network", "disconnect", "-f", network, &container]),
        88..=90 => docker(&["network", "create", "-d", "weft", network]),
        91..=93 => docker(&["network", "rm", network]),
        94..=97 => {
            lab.kill(&host.name()).unwrap();
            lab.start(&host.name()).unwrap();
            format!("{} kill -9 of the agent", host.name())
        }
        _ => {
            lab.kill(&host.docker_daemon()).unwrap();
            revive(lab, &host);
            format!("{} kill -9 of the engine", host.name())
        }
    }
}

/// Waits until a host's engine answers, starting it where it does not run.
#[track_caller]
fn revive(lab: &Lab, host: &Host) {
    // It runs already, unless it was killed.
    lab.start(&host.docker_daemon()).ok();
    eventually(Duration::from_secs(90), &format!("the engine of {}", host.name()), || {
        let output = host.try_docker(&["ps"]).unwrap();
        if output.is_success() { Ok(()) } else { Err(output.stderr) }
    });
}

/// The containers of a host, and per network the addresses of those that run.
fn containers_of(host: &Host) -> BTreeMap<String, BTreeMap<String, String>> {
    let names = host.docker(&["ps", "-a", "--format", "{{.Names}}"]).unwrap();
    let mut found = BTreeMap::new();
    for name in names.lines() {
        let shown = inspect(host, "container", name);
        if shown["State"]["Running"] != true {
            // What it shows of addresses is of the past.
            found.insert(name.to_owned(), BTreeMap::new());
            continue;
        }
        let networks = shown["NetworkSettings"]["Networks"].as_object().cloned().unwrap_or_default();
        let addresses = networks.iter().filter_map(|(network, part)| {
            let address = part["IPAddress"].as_str().filter(|address| !address.is_empty())?;
            Some((network.clone(), address.to_owned()))
        });
        found.insert(name.to_owned(), addresses.collect());
    }
    found
}

/// What differs between engines, store, kernel and names.
fn audit(lab: &Lab) -> Result<(), String> {
    let mut wanted = BTreeSet::new();
    let mut counts = BTreeMap::new();
    for host in lab.hosts().unwrap() {
        let containers = containers_of(&host);
        counts.insert(host.name(), containers.values().map(BTreeMap::len).sum::<usize>());
        for (container, addresses) in containers {
            wanted.extend(addresses.into_iter().map(|(network, ip)| (network, container.clone(), ip, host.name())));
        }
    }
    let endpoints = lab.host(1).endpoints(&[]).map_err(|error| format!("{error:#}"))?;
    let found: BTreeSet<_> = endpoints
        .iter()
        .map(|e| {
            (e.network.clone(), e.name.clone(), e.ipv4.map(|ip| ip.to_string()).unwrap_or_default(), e.node.clone())
        })
        .collect();
    if wanted != found {
        let (surplus, missing): (Vec<_>, Vec<_>) =
            (found.difference(&wanted).collect(), wanted.difference(&found).collect());
        return Err(format!("endpoints without a container: {surplus:?}; without an endpoint: {missing:?}"));
    }
    for host in lab.hosts().unwrap() {
        check_devices(lab, &host, counts[&host.name()])?;
    }
    check_names(lab, &wanted)?;
    weft_e2e::dump::check_settled(lab)
}

/// As many veths of ours as endpoints, and none that waits in the host's namespace.
fn check_devices(lab: &Lab, host: &Host, endpoints: usize) -> Result<(), String> {
    let links = |netns: &str| lab.in_netns(netns, &["ip", "-o", "link"]).unwrap();
    let ports = links(host.data_plane_netns().as_str()).lines().filter(|line| line.contains(": wp-")).count();
    let waiting: Vec<String> =
        links(host.netns().as_str()).lines().filter(|line| line.contains(": wc-")).map(str::to_owned).collect();
    if ports != endpoints || !waiting.is_empty() {
        return Err(format!("{}: {ports} ports for {endpoints} endpoints, waiting: {waiting:?}", host.name()));
    }
    Ok(())
}

/// Every container finds every other of its networks, wherever that is.
fn check_names(lab: &Lab, endpoints: &BTreeSet<(String, String, String, String)>) -> Result<(), String> {
    for (network, container, _, node) in endpoints {
        let host = lab.find_host(node).unwrap();
        let Some((_, other, ip, _)) = endpoints.iter().rfind(|(of, name, ..)| of == network && name != container)
        else {
            continue;
        };
        let answer = lookup(&host, container, &format!("{other}.{network}"));
        if !answer.contains(&format!("Address: {ip}")) {
            return Err(format!("{container} on {node} asks for {other}.{network} ({ip}): {answer}"));
        }
    }
    Ok(())
}
