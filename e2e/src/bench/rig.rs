//! Two hosts as they are found in the field, with a network and a container on each; and two more without Weft.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::handmade::Handmade;
use super::plain::PlainHost;
use crate::lab::{Host, Lab, LabOptions};
use crate::netns::NetnsName;
use crate::traffic::addresses_of;

/// Longest wait for agents, also with a hundred thousand endpoints.
pub(super) const LONG: Duration = Duration::from_secs(180);
/// The network that is measured.
pub(super) const NETWORK: &str = "bench";
/// Its container on h1 and its container on h2.
pub(super) const CONTAINERS: [&str; 2] = ["bench1", "bench2"];
/// What a container's first interface is called.
pub(super) const INTERFACE: &str = "eth0";
/// Rules in the FORWARD chain of each host that have nothing to do with containers.
const UNRELATED_RULES: u16 = 500;

pub(super) struct Rig {
    pub(super) lab: Lab,
    pub(super) hosts: [Host; 2],
    pub(super) plain: [PlainHost; 2],
    /// The peer, on the hosts without Weft.
    pub(super) handmade: Handmade,
}

impl Rig {
    pub(super) fn up() -> Result<Self> {
        let lab = Lab::up(LabOptions::with_hosts(2).with_etcd())?;
        let hosts = [lab.host(1), lab.host(2)];
        let topology = lab.topology()?;
        let plain = PlainHost::make(topology.underlay_mtu)?;
        for netns in hosts.iter().map(Host::netns).chain(plain.iter().map(|host| host.netns.clone())) {
            burden(&netns).with_context(|| format!("loading rules in {netns}"))?;
        }
        hosts[0].weft(&["network", "create", NETWORK])?;
        for (number, container) in (1..).zip(CONTAINERS) {
            lab.run_container(number, container, &[NETWORK])?;
        }
        let network = hosts[0].weft_json(&["network", "inspect", NETWORK])?;
        let mtu = network["mtu"].as_u64().with_context(|| format!("reading the MTU from {network}"))?;
        let handmade = Handmade::make(&plain, topology.etcd_urls(), mtu)?;
        let rig = Self { lab, hosts, plain, handmade };
        rig.wait_converged()?;
        Ok(rig)
    }

    /// Waits until both agents have nothing to do.
    pub(super) fn wait_converged(&self) -> Result<()> {
        self.hosts.iter().try_for_each(|host| host.agent().wait_converged(0, LONG).map(drop))
    }

    /// Process id of a host's agent.
    pub(super) fn agent_pid(&self, host: &Host) -> Result<i32> {
        let rows = self.lab.status()?.rows;
        let pid = rows.into_iter().find(|row| row.name == host.name()).and_then(|row| row.pid);
        pid.with_context(|| format!("finding the agent of {}", host.name()))
    }

    /// The first address of a container.
    pub(super) fn address(container: &str) -> Result<std::net::IpAddr> {
        addresses_of(container, INTERFACE)?.first().copied().context("a container without address is refused above")
    }
}

fn burden(netns: &NetnsName) -> Result<()> {
    let mut rules = "*filter\n:FORWARD DROP [0:0]\n".to_owned();
    for number in 0..UNRELATED_RULES {
        let (high, low) = (number / 250, number % 250 + 1);
        writeln!(rules, "-A FORWARD -s 172.31.{high}.{low}/32 -p tcp --dport {} -j DROP", 1024 + number)?;
    }
    rules.push_str("COMMIT\n");
    netns.feed(&["iptables-restore", "--noflush"], &rules)?;
    let bridge_netfilter = "net/bridge/bridge-nf-call-iptables";
    if Path::new("/proc/sys").join(bridge_netfilter).exists() {
        netns.write_sysctl(bridge_netfilter, "1")?;
    }
    Ok(())
}
