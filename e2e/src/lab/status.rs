//! What the lab consists of at this moment, for tables and programs.
//!
//! Reads only: processes from `/proc`, addresses and cuts from the kernel.

use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::Lab;
use super::cable::Cuts;
use super::state::LabState;
use crate::netns::NetnsName;
use crate::process::ProcessState;
use crate::topology::{CONTROL, CONTROLLER_PORT, FABRIC, HostId, OUTSIDE, fixed_name};

/// Everything that the lab has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabStatus {
    /// False while the lab is coming up, and after that was interrupted.
    pub ready: bool,
    /// One row per namespace.
    pub rows: Vec<StatusRow>,
}

/// One namespace and the daemon in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusRow {
    /// The name by which verbs know it, otherwise that of the namespace.
    pub name: String,
    /// host, data plane, NAT, container, etcd, controller, fabric or outside.
    pub kind: &'static str,
    /// Name of the namespace.
    pub netns: NetnsName,
    /// False when the namespace is missing.
    pub exists: bool,
    /// Process id of the daemon, also after its end.
    pub pid: Option<i32>,
    /// What the daemon is doing; nothing for namespaces without one.
    pub state: Option<ProcessState>,
    /// Addresses other than loopback and link-local, as `interface address/length`.
    pub addresses: Vec<String>,
    /// `underlay` when the cable is pulled, `store` when the way to etcd is cut.
    pub cuts: Vec<String>,
}

impl Lab {
    /// Observes the lab.
    ///
    /// # Errors
    /// When the lab is gone. What is missing from it shows in the rows.
    pub fn status(&self) -> Result<LabStatus> {
        let state = self.state()?;
        // Without the fabric there is no cable to be cut.
        let cuts = Cuts::observe().unwrap_or_default();
        let rows = entries(&state).into_iter().map(|entry| row(&state, &cuts, entry)).collect();
        Ok(LabStatus { ready: state.ready, rows })
    }
}

struct Entry {
    name: String,
    kind: &'static str,
    netns: NetnsName,
    port: Option<String>,
}

impl Entry {
    fn new(kind: &'static str, name: String, netns: NetnsName) -> Self {
        Self { name, kind, netns, port: None }
    }

    fn on_port(self, port: &str) -> Self {
        Self { port: Some(port.to_owned()), ..self }
    }
}

fn entries(state: &LabState) -> Vec<Entry> {
    let topology = state.topology();
    let hosts = topology.hosts.iter();
    let mut entries: Vec<_> = hosts
        .clone()
        .map(|host| Entry::new("host", host.to_string(), host.netns()).on_port(&host.to_string()))
        .collect();
    if state.options.docker {
        let engine = |host: &HostId| Entry::new("docker", super::docker::daemon_name(*host), host.netns());
        entries.extend(hosts.clone().map(engine));
    }
    entries.extend(state.containers.iter().map(|container| {
        let kind = "container";
        Entry::new(kind, container.name.to_string(), container.name.clone())
    }));
    entries.push(Entry::new("controller", "controller".to_owned(), fixed_name(CONTROL)).on_port(CONTROLLER_PORT));
    entries.extend(
        topology
            .members
            .iter()
            .map(|member| Entry::new("etcd", member.to_string(), member.netns()).on_port(&member.to_string())),
    );
    let unnamed = |kind, netns: NetnsName| Entry::new(kind, netns.to_string(), netns);
    if state.options.agents {
        entries.extend(hosts.clone().map(|host| unnamed("data plane", host.data_plane_netns())));
    }
    entries.extend(hosts.map(|host| unnamed("NAT", host.nat_netns())));
    entries.push(unnamed("fabric", fixed_name(FABRIC)));
    entries.push(unnamed("outside", fixed_name(OUTSIDE)));
    entries
}

fn row(state: &LabState, cuts: &Cuts, entry: Entry) -> StatusRow {
    let daemon = state.daemons.iter().find(|daemon| daemon.name == entry.name);
    let process = daemon.and_then(|daemon| daemon.process);
    StatusRow {
        exists: entry.netns.exists(),
        pid: process.map(|process| process.pid()),
        state: daemon.map(|_| process.map_or(ProcessState::Stopped, |p| p.observe_state())),
        addresses: observe_addresses(&entry.netns).unwrap_or_default(),
        cuts: entry.port.map(|port| cuts.of_port(&port)).unwrap_or_default(),
        name: entry.name,
        kind: entry.kind,
        netns: entry.netns,
    }
}

fn observe_addresses(netns: &NetnsName) -> Result<Vec<String>> {
    let mut command = Command::new("ip");
    command.args(["-json", "address", "show", "scope", "global"]);
    let text = netns.output(&mut command)?.success()?;
    let links: Value = serde_json::from_str(&text).context("decoding addresses")?;
    Ok(addresses(&links))
}

fn addresses(links: &Value) -> Vec<String> {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    items(links)
        .iter()
        .flat_map(|link| {
            let interface = link["ifname"].as_str().unwrap_or_default().to_owned();
            items(&link["addr_info"]).into_iter().filter_map(move |address| {
                let local = address["local"].as_str()?;
                Some(format!("{interface} {local}/{}", address["prefixlen"]))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_with_their_interface() {
        let links = serde_json::json!([
            {},
            {"ifname": "eth1", "addr_info": [{"local": "192.168.56.11", "prefixlen": 24}]},
        ]);

        assert_eq!(addresses(&links), ["eth1 192.168.56.11/24"]);
    }
}
