//! The verbs that scenarios are written in.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::command::CommandOutput;
use crate::eventually::wait_until;

/// A cluster with what scenarios do on it.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a dyn Cluster,
    patience: Duration,
}

impl<'a> Stage<'a> {
    pub(super) fn new(cluster: &'a dyn Cluster) -> Self {
        Self { cluster, patience: cluster.patience() }
    }

    /// Runs a script on a node; its standard output.
    pub(super) fn on(&self, node: u8, script: &str) -> Result<String> {
        self.cluster.run(node, script)?.success().with_context(|| format!("on {}", self.cluster.name(node)))
    }

    /// The same stage for things that take so many times as long.
    pub(super) fn patient(&self, times: u32) -> Self {
        Self { patience: self.patience * times, ..*self }
    }

    /// Repeats a script on a node until what it prints, errors included, is as wanted.
    pub(super) fn wait(
        &self,
        node: u8,
        what: &str,
        script: &str,
        is_wanted: impl Fn(&CommandOutput) -> bool,
    ) -> Result<String> {
        let output = wait_until(self.patience, &format!("{what} on {}", self.cluster.name(node)), || {
            let output = self.cluster.run(node, script).map_err(|error| format!("{error:#}"))?;
            if is_wanted(&output) { Ok(output) } else { Err(format!("{}{}", output.stdout, output.stderr)) }
        })?;
        Ok(output.stdout)
    }

    /// Makes a network on node 1 and waits until every engine has it.
    pub(super) fn network(&self, name: &str, options: &str) -> Result<()> {
        self.on(1, &format!("docker network create -d weft {options} {name}"))?;
        for node in 1..=self.cluster.nodes() {
            let driver = format!("docker network inspect -f '{{{{.Driver}}}}' {name}");
            self.wait(node, &format!("network {name}"), &driver, |output| output.stdout.trim() == "weft")?;
        }
        Ok(())
    }

    /// Starts a container that sleeps.
    pub(super) fn container(&self, node: u8, name: &str, options: &str) -> Result<()> {
        let image = self.cluster.image();
        self.on(node, &format!("docker run -d --init --name {name} {options} {image} sleep 1000000"))?;
        Ok(())
    }

    /// Runs a shell command in a container.
    pub(super) fn inside(&self, node: u8, container: &str, script: &str) -> Result<String> {
        self.on(node, &format!("docker exec {container} sh -c '{script}'"))
    }

    /// The IPv4 address that a container's engine shows of it in a network.
    pub(super) fn address(&self, node: u8, container: &str, network: &str) -> Result<String> {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        let address = self.on(node, &format!("docker inspect -f '{format}' {container}"))?.trim().to_owned();
        if address.is_empty() {
            bail!("{container} has no address in {network}");
        }
        Ok(address)
    }

    /// Waits until a container gets an answer from a target, by name or address.
    pub(super) fn reaches(&self, node: u8, container: &str, target: &str) -> Result<()> {
        let ping = format!("docker exec {container} ping -c 1 -W 2 {target}");
        self.wait(node, &format!("answer of {target} to {container}"), &ping, CommandOutput::is_success)?;
        Ok(())
    }

    /// What `weft ... --output json` says on a node.
    pub(super) fn weft(&self, node: u8, arguments: &str) -> Result<Value> {
        let text = self.on(node, &format!("weft {arguments} --output json"))?;
        serde_json::from_str(&text).with_context(|| format!("decoding the answer of weft {arguments}"))
    }

    /// Removes containers, and networks everywhere.
    pub(super) fn tidy(&self, containers: &[(u8, &str)], networks: &[&str]) -> Result<()> {
        for (node, container) in containers {
            self.on(*node, &format!("docker rm -f {container}"))?;
        }
        for network in networks {
            // The legs of a network linger for some seconds after its last container.
            let remove = format!("docker network rm {network}");
            self.patient(4).wait(1, &format!("end of {network}"), &remove, |output| {
                output.is_success() || output.stderr.contains("No such network") || output.stderr.contains("not found")
            })?;
            for node in 1..=self.cluster.nodes() {
                let inspect = format!("docker network inspect {network}");
                self.patient(4).wait(node, &format!("end of {network}"), &inspect, |output| !output.is_success())?;
            }
        }
        Ok(())
    }

    /// Waits until no node has anything left to do.
    pub(super) fn settles(&self) -> Result<()> {
        wait_until(self.patience * 2, "nothing left to do on any node", || self.cluster.check_settled())?;
        Ok(())
    }

    /// Begins to ping a target five times a second from a container; [`Pings`] tells how that goes.
    pub(super) fn pings(&self, node: u8, container: &'a str, target: &str) -> Result<Pings<'_>> {
        let start = format!("docker exec -d {container} sh -c 'ping -i 0.2 {target} >/tmp/pings 2>&1'");
        self.on(node, &start)?;
        let pings = Pings { stage: self, node, container };
        pings.carry()?;
        Ok(pings)
    }
}

/// Pings that go on in a container.
pub(super) struct Pings<'a> {
    stage: &'a Stage<'a>,
    node: u8,
    container: &'a str,
}

impl Pings<'_> {
    /// Waits until ten more were answered.
    pub(super) fn carry(&self) -> Result<()> {
        let enough = self.answered()?.len() + 10;
        let count = format!("docker exec {} cat /tmp/pings", self.container);
        self.stage.wait(self.node, &format!("{enough} answered pings"), &count, |output| {
            sequence(&output.stdout).len() >= enough
        })?;
        Ok(())
    }

    /// Ends them; none may have been lost from the first answer to the last.
    pub(super) fn stop_without_loss(self) -> Result<()> {
        self.stage.on(self.node, &format!("docker exec {} killall -INT ping", self.container))?;
        let answered = self.answered()?;
        let lost = lost(&answered);
        if !lost.is_empty() {
            bail!("of the pings of {} were lost: {lost:?}, of {} in all", self.container, answered.len());
        }
        Ok(())
    }

    fn answered(&self) -> Result<Vec<u64>> {
        let text = self.stage.on(self.node, &format!("docker exec {} cat /tmp/pings", self.container))?;
        Ok(sequence(&text))
    }
}

/// The sequence numbers of the answers, as busybox prints them.
fn sequence(text: &str) -> Vec<u64> {
    let numbers = text.lines().filter_map(|line| line.split("seq=").nth(1)?.split(' ').next()?.parse().ok());
    numbers.collect()
}

/// The numbers that are missing between the first and the last.
fn lost(answered: &[u64]) -> Vec<u64> {
    let (Some(first), Some(last)) = (answered.iter().min(), answered.iter().max()) else { return Vec::new() };
    (*first..=*last).filter(|number| !answered.contains(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_pings_are_those_missing_in_between() {
        let text = "PING ct1 (10.0.0.1): 56 data bytes\n\
                    64 bytes from 10.0.0.1: seq=3 ttl=64 time=0.1 ms\n\
                    64 bytes from 10.0.0.1: seq=4 ttl=64 time=0.1 ms\n\
                    64 bytes from 10.0.0.1: seq=7 ttl=64 time=0.1 ms\n";

        assert_eq!(sequence(text), [3, 4, 7]);
        assert_eq!(lost(&sequence(text)), [5, 6]);
        assert_eq!(lost(&[]), Vec::<u64>::new());
    }
}
