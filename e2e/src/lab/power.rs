//! A host without power: everything that a host's kernel and `/run` hold is gone, what is on its disk stays.
//!
//! The machine goes on, so its boot id stays too; virtual machines show what that changes.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Lab, LabError, docker};
use crate::netns::NetnsName;

/// The interfaces that are wired to a host and not made on it.
const CABLES: [&str; 3] = ["lo", "eth0", "eth1"];

impl Lab {
    /// Ends a host's agent, engine and containers with SIGKILL, takes away what they made in the kernel, and starts the
    /// agent and then the engine anew. Does not wait until they are ready.
    ///
    /// # Errors
    /// When the host is unknown, or something of it cannot be removed.
    pub fn power_cycle(&self, host: &str) -> Result<()> {
        let host = self.find_host(host)?;
        let has_engine = self.state()?.options.docker;
        let daemons: Vec<String> = has_engine.then(|| host.docker_daemon()).into_iter().chain([host.name()]).collect();
        for daemon in &daemons {
            match self.kill(daemon) {
                Err(error) if !is_not_running(&error) => return Err(error),
                _ => {}
            }
        }
        if has_engine {
            docker::lose_power(host.id())?;
        }
        host.data_plane_netns().ensure_removed()?;
        forget_kernel_state(&host.netns())?;
        daemons.iter().rev().try_for_each(|daemon| self.start(daemon))
    }
}

fn is_not_running(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<LabError>(), Some(LabError::NotRunning { .. }))
}

/// Devices but for the cables, rules of the firewall, and the routes and rules that are not the kernel's own.
fn forget_kernel_state(netns: &NetnsName) -> Result<()> {
    let listed = netns.output(Command::new("ip").args(["-json", "link", "show"]))?.success()?;
    let links: Value = serde_json::from_str(&listed).context("decoding the list of links")?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    for name in names.filter(|name| !CABLES.contains(name)) {
        // The other end of a pair goes with the first.
        netns.output(Command::new("ip").args(["link", "del", name]))?;
    }
    netns.feed(&["nft", "-f", "-"], "flush ruleset\n")?;
    for family in ["-4", "-6"] {
        for protocol in ["87", "88"] {
            netns.output(Command::new("ip").args([family, "route", "flush", "table", "all", "proto", protocol]))?;
        }
        while netns.output(Command::new("ip").args([family, "rule", "del", "pref", "87"]))?.is_success() {}
    }
    Ok(())
}
