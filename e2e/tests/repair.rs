//! Repair: whatever somebody does to the devices, rows, rules and settings of a node comes back by itself, and what is
//! not Weft's stays as it is.
//!
//! Each fault is done to h1 while containers on h1 and h2 ping one another. A repair counts when a reading of the kernel
//! shows the object again and the agent's own reading finds nothing left to do.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use weft_e2e::traffic::{self, Stream};
use weft_e2e::{Devices, Endpoint, Host, Lab, Network, SharedLab, dump, eventually};

#[path = "repair/devices.rs"]
mod devices;
#[path = "repair/foreign.rs"]
mod foreign;
#[path = "repair/host.rs"]
mod host;
#[path = "repair/rows.rs"]
mod rows;

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);
/// How long a repair may take where the kernel tells of the change.
const REPAIRED: Duration = Duration::from_secs(1);
/// How long where it does not, and the agent has to look.
const REPAIRED_BY_POLLING: Duration = Duration::from_secs(3);
/// Data plane of the host that faults are done to.
const DATA_PLANE: &str = "weft-h1";

/// A network with containers on h1 and h2 that ping one another.
struct Scene {
    lab: SharedLab,
    network: Network,
    devices: Devices,
    near: Endpoint,
    far: Endpoint,
    stream: Stream,
}

impl Scene {
    fn new(name: &str) -> Self {
        let lab = Lab::shared().unwrap();
        let network = lab.create_network(name, &[]).unwrap();
        let near = lab.attach(1, &format!("{name}1"), name, &[]).unwrap();
        let far = lab.attach(2, &format!("{name}2"), name, &[]).unwrap();
        let devices = lab.host(1).devices(name).unwrap();
        let stream = Stream::icmp(&near.name, far.v4(), 100).unwrap();
        stream.wait_for(10, SOON).unwrap();
        dump::settles(&lab);
        Self { lab, network, devices, near, far, stream }
    }

    fn host(&self) -> Host {
        self.lab.host(1)
    }

    /// The bridge end of the near container's veth.
    fn port(&self) -> String {
        let kernel = dump::kernel(&self.host()).unwrap();
        let row = kernel.fdb.iter().find(|row| row.mac == self.near.mac && row.master.is_some());
        row.map(|row| row.device.clone()).expect("the bridge knows its own container")
    }

    /// Does something in the data plane of h1.
    fn break_data_plane(&self, words: &[&str]) {
        self.lab.in_netns(DATA_PLANE, words).unwrap();
    }

    /// Waits until `is_back` and the agent has nothing to do.
    #[track_caller]
    fn repaired_within(&self, deadline: Duration, what: &str, mut is_back: impl FnMut() -> Result<(), String>) {
        let host = self.host();
        eventually(deadline, what, || {
            is_back()?;
            let plan = host.plan().map_err(|error| format!("{error:#}"))?;
            if plan.is_empty() { Ok(()) } else { Err(plan.join("; ")) }
        });
    }

    #[track_caller]
    fn repaired(&self, what: &str, is_back: impl FnMut() -> Result<(), String>) {
        self.repaired_within(REPAIRED, what, is_back);
    }

    /// Traffic flows, and every kernel holds what the store asks for.
    #[track_caller]
    fn ends_well(self) {
        self.stream.wait_for(20, SOON).unwrap();
        for address in self.far.addresses().into_iter().chain(self.network.gateways.iter().copied()) {
            traffic::ping(&self.near.name, address, SOON).unwrap();
        }
        for address in self.near.addresses() {
            traffic::ping(&self.far.name, address, SOON).unwrap();
            traffic::ping("h1", address, SOON).unwrap();
        }
        dump::settles(&self.lab);
        for name in [&self.near.name, &self.far.name] {
            self.lab.remove_container(name).unwrap();
        }
        self.host().weft(&["network", "rm", &self.network.name]).unwrap();
    }
}

/// One device as iproute2 reports it, or why it cannot.
fn link(lab: &Lab, netns: &str, name: &str) -> Result<Value, String> {
    let output = lab.try_in_netns(netns, &["ip", "-json", "-details", "link", "show", name]);
    let text = output.and_then(weft_e2e::CommandOutput::success).map_err(|error| format!("{error:#}"))?;
    let mut links: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(links[0].take())
}

/// `Ok` when `text` has `wanted` in it.
fn has(text: &str, wanted: &str) -> Result<(), String> {
    if text.contains(wanted) { Ok(()) } else { Err(format!("{wanted} is not in: {text}")) }
}

fn shown(lab: &Lab, netns: &str, words: &[&str]) -> Result<String, String> {
    let output = lab.try_in_netns(netns, words).and_then(weft_e2e::CommandOutput::success);
    output.map_err(|error| format!("{error:#}"))
}

fn address_family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "-4" } else { "-6" }
}
