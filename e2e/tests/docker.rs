//! Docker engines on two hosts: `docker network create -d weft`, and what their users do next.
//!
//! Real engines, real containers, nothing configured in either. Tests share one lab where they need no fault, with
//! networks and containers of their own names, and remove what they made.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a failed step ends the test, in helpers of tests too"
)]

use std::time::Duration;

use serde_json::Value;
use weft_e2e::{Host, Lab, LabOptions, SharedLab, eventually};

#[path = "docker/containers.rs"]
mod containers;
#[path = "docker/faults.rs"]
mod faults;
#[path = "docker/naming.rs"]
mod naming;
#[path = "docker/networks.rs"]
mod networks;
#[path = "docker/ports.rs"]
mod ports;
#[path = "docker/storm.rs"]
mod storm;

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(15);
/// Removing a network waits for the gateway legs, which linger, and for the controller.
const REMOVED_WITHIN: Duration = Duration::from_secs(60);

fn shared() -> SharedLab {
    Lab::shared_docker().unwrap()
}

fn fresh() -> Lab {
    Lab::fresh(LabOptions::with_hosts(2).with_docker()).unwrap()
}

/// A network of driver weft in both engines.
#[track_caller]
fn create_network(lab: &Lab, name: &str, options: &[&str]) {
    lab.host(1).docker(&[&["network", "create", "-d", "weft"], options, &[name]].concat()).unwrap();
    for host in lab.hosts().unwrap() {
        eventually(SOON, &format!("{name} in the engine of {}", host.name()), || driver_of(&host, name, "weft"));
    }
}

fn driver_of(host: &Host, network: &str, driver: &str) -> Result<(), String> {
    let output = host.try_docker(&["network", "inspect", "-f", "{{.Driver}}", network]).unwrap();
    if output.stdout.trim() == driver { Ok(()) } else { Err(format!("{output:?}")) }
}

#[track_caller]
fn inspect(host: &Host, kind: &str, name: &str) -> Value {
    let text = host.docker(&[kind, "inspect", name]).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// A container's part in a network, as its engine shows it.
#[track_caller]
fn attachment(host: &Host, container: &str, network: &str) -> Value {
    inspect(host, "container", container)["NetworkSettings"]["Networks"][network].clone()
}

#[track_caller]
fn address(host: &Host, container: &str, network: &str) -> String {
    attachment(host, container, network)["IPAddress"].as_str().unwrap().to_owned()
}

/// Waits until one container gets an answer from another by name.
#[track_caller]
fn reaches(host: &Host, container: &str, target: &str) {
    eventually(SOON, &format!("{target} answers {container}"), || {
        let ping = host.try_docker(&["exec", container, "ping", "-c1", "-w2", target]).unwrap();
        if ping.is_success() { Ok(()) } else { Err(format!("{}{}", ping.stdout, ping.stderr)) }
    });
}

/// What a container's resolver answers to a question about addresses.
fn lookup(host: &Host, container: &str, name: &str) -> String {
    let output = host.try_docker(&["exec", container, "nslookup", name]).unwrap();
    output.stdout + &output.stderr
}

/// Waits until a container's resolver tells this address for a name.
#[track_caller]
fn resolves(host: &Host, container: &str, name: &str, address: &str) {
    eventually(SOON, &format!("{name} asked by {container}"), || {
        let answer = lookup(host, container, name);
        if answer.lines().any(|line| line.trim() == format!("Address: {address}")) { Ok(()) } else { Err(answer) }
    });
}

/// Waits until a container's resolver knows no such name.
#[track_caller]
fn is_unknown(host: &Host, container: &str, name: &str) {
    eventually(SOON, &format!("{name} is not known to {container}"), || {
        let answer = lookup(host, container, name);
        if answer.contains("Name:") { Err(answer) } else { Ok(()) }
    });
}

/// Waits until the cluster has exactly these endpoints in a network.
#[track_caller]
fn has_endpoints(lab: &Lab, network: &str, names: &[&str]) {
    let mut wanted: Vec<&str> = names.to_vec();
    wanted.sort_unstable();
    eventually(Duration::from_secs(40), &format!("endpoints of {network}"), || {
        let listed = lab.host(1).weft_json(&["endpoint", "ls", "--network", network]).unwrap();
        let mut found: Vec<&str> = listed.as_array().unwrap().iter().filter_map(|e| e["name"].as_str()).collect();
        found.sort_unstable();
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Removes containers and networks of a test, and waits until nothing is left of the networks in either engine.
#[track_caller]
fn tidy(lab: &Lab, containers: &[(u8, &str)], networks: &[&str]) {
    for (host, container) in containers {
        lab.host(*host).docker(&["rm", "-f", container]).unwrap();
    }
    for network in networks {
        lab.host(1).try_docker(&["network", "rm", network]).unwrap();
    }
    for network in networks {
        for host in lab.hosts().unwrap() {
            eventually(REMOVED_WITHIN, &format!("end of {network} on {}", host.name()), || {
                let output = host.try_docker(&["network", "inspect", network]).unwrap();
                if output.is_success() { Err(output.stdout) } else { Ok(()) }
            });
        }
    }
}
