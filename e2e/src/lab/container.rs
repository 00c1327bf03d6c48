//! Containers of the lab: named namespaces that are connected to networks on one host.
//!
//! Which networks a container is in is asked from the host's agent, never remembered.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::state::{ContainerRecord, LabState, StateFile};
use super::{Host, Lab, LabError, take_down};
use crate::command::CommandOutput;
use crate::netns::{self, NetnsName};

/// A container to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The host it runs on.
    pub host: String,
    /// Name of its namespace, and thereby of its endpoints.
    pub name: String,
    /// Networks to connect it to, in this order.
    pub networks: Vec<String>,
}

/// A container namespace on a host.
#[derive(Debug, Clone)]
pub struct Container {
    name: NetnsName,
    host: Host,
    is_new: bool,
}

impl Container {
    /// The name of its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetnsName {
        &self.name
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// True when the call that returned this value made the namespace.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// A command to run in the container, with the container's own resolver.
    #[must_use]
    pub fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name()]).args(words);
        command
    }

    /// Runs a program in the container; its standard output.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        self.try_exec(words)?.success()
    }

    /// Like [`Self::exec`], with the program's failure as a value.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn try_exec(&self, words: &[&str]) -> Result<CommandOutput> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        CommandOutput::of(&mut self.command(&words))
    }
}

impl Lab {
    /// A container on host `host`, counted from 1; see [`Self::ensure_container`].
    ///
    /// # Errors
    /// See [`Self::ensure_container`].
    pub fn run_container(&self, host: u8, name: &str, networks: &[&str]) -> Result<Container> {
        self.ensure_container(&ContainerSpec {
            host: format!("h{host}"),
            name: name.to_owned(),
            networks: networks.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    /// Makes the container's namespace unless the lab has made it before, and connects it to
    /// those of the networks that it is not connected to yet.
    ///
    /// A namespace that this call made is removed again when a network cannot be connected.
    ///
    /// # Errors
    /// When the name is in use on another host or by something that is not the lab's, or when
    /// `weft connect` refuses.
    pub fn ensure_container(&self, spec: &ContainerSpec) -> Result<Container> {
        let host = self.find_host(&spec.host)?;
        let name: NetnsName = spec.name.parse()?;
        let is_new = self.change(|state, file| ensure_namespace(state, file, &name, &host))?;
        let container = Container { name, host, is_new };
        if let Err(failure) = connect_missing(&container, &spec.networks) {
            if is_new {
                self.remove_container(&spec.name).with_context(|| format!("removing it again after: {failure:#}"))?;
            }
            return Err(failure);
        }
        Ok(container)
    }

    /// Disconnects a container, ends what runs in it and removes its namespace.
    ///
    /// # Errors
    /// When the lab has not made it, or a network could not be disconnected; the namespace is
    /// gone also in the latter case.
    pub fn remove_container(&self, name: &str) -> Result<()> {
        let name: NetnsName = name.parse()?;
        let record = self.state()?.container(&name).cloned();
        let record = record.ok_or_else(|| LabError::UnknownContainer { name: name.clone() })?;
        let host = self.find_host(&record.host.to_string())?;
        let disconnected = disconnect_all(&host, &name);
        self.change(|state, _| {
            take_down::remove_container(&record)?;
            state.containers.retain(|container| container.name != name);
            Ok(())
        })?;
        disconnected
    }
}

/// True when the namespace had to be made.
fn ensure_namespace(state: &mut LabState, file: &StateFile, name: &NetnsName, host: &Host) -> Result<bool> {
    if state.owns_namespace(name) {
        return Err(LabError::ContainerIsMachine { name: name.clone() }.into());
    }
    if let Some(present) = state.container(name) {
        if present.host != host.id() {
            let (name, host) = (name.clone(), present.host);
            return Err(LabError::ContainerElsewhere { name, host }.into());
        }
        if name.exists() && name.observe_id() == present.id {
            return Ok(false);
        }
        state.containers.retain(|container| container.name != *name);
    }
    if name.exists() {
        let netns = name.clone();
        return Err(LabError::NamespaceInTheWay { netns }.into());
    }
    state.containers.push(ContainerRecord { name: name.clone(), host: host.id(), id: None });
    file.save(state)?;
    if let Err(failure) = netns::create(&[name]) {
        state.containers.pop();
        return Err(failure);
    }
    name.feed(&["ip", "-batch", "-"], "link set lo up\n")?;
    if let Some(record) = state.containers.last_mut() {
        record.id = name.observe_id();
    }
    Ok(true)
}

fn connect_missing(container: &Container, networks: &[String]) -> Result<()> {
    if networks.is_empty() {
        return Ok(());
    }
    let connected = observe_networks(container.host(), container.netns())?;
    networks.iter().filter(|network| !connected.contains(network)).try_for_each(|network| {
        let connect = ["connect", network, container.name()];
        container.host().weft(&connect).map(drop)
    })
}

fn disconnect_all(host: &Host, name: &NetnsName) -> Result<()> {
    let networks = match observe_networks(host, name) {
        Err(error) if is_without_agents(&error) => Vec::new(),
        networks => networks.with_context(|| format!("finding the networks of {name}"))?,
    };
    let mut failures = networks.iter().filter_map(|network| host.weft(&["disconnect", network, name.as_str()]).err());
    // Every network is tried before the first failure is reported.
    let first = failures.next();
    failures.for_each(drop);
    first.map_or(Ok(()), Err)
}

fn is_without_agents(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<LabError>(), Some(LabError::NoAgents))
}

fn observe_networks(host: &Host, name: &NetnsName) -> Result<Vec<String>> {
    let endpoints = host.weft_json(&["endpoint", "ls"])?;
    Ok(networks_of(&endpoints, &host.name(), name.as_str()))
}

fn networks_of(endpoints: &Value, host: &str, name: &str) -> Vec<String> {
    endpoints
        .as_array()
        .into_iter()
        .flatten()
        .filter(|endpoint| endpoint["node"] == host)
        .filter(|endpoint| match &endpoint["container"] {
            Value::String(container) => container == name,
            _ => endpoint["name"] == name,
        })
        .filter_map(|endpoint| endpoint["network"].as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endpoints_of_this_container_on_this_host_count_as_connected() {
        let endpoints = serde_json::json!([
            {"name": "ct1", "node": "h1", "network": "blue"},
            {"name": "ct1", "node": "h2", "network": "red"},
            {"name": "ct2", "node": "h1", "network": "green"},
            {"name": "db", "container": "ct1", "node": "h1", "network": "grey"},
            {"name": "ct1", "container": "ct9", "node": "h1", "network": "pink"},
        ]);

        assert_eq!(networks_of(&endpoints, "h1", "ct1"), ["blue", "grey"]);
    }
}
