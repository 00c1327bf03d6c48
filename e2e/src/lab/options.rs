//! What a lab is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::LabError;
use crate::topology::{MOST_HOSTS, Topology};

/// What [`Lab::up`](crate::Lab::up) makes. The default is for tests: three hosts, agents, a controller that serves the
/// store unless [`ETCD_MEMBERS_VARIABLE`] says otherwise, and a refusal to run outside `e2e/run-isolated.sh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    /// Number of hosts, 1 to 240.
    pub hosts: u8,
    /// MTU of every underlay interface in bytes, 1280 to 65535.
    pub underlay_mtu: u32,
    /// Members of etcd.
    pub etcd_members: EtcdMembers,
    /// Whether to start the controller and an agent on every host; without, no `weft` is needed.
    pub agents: bool,
    /// Where the store keeps its data instead of `/run/weft-lab`; only what is made there is removed.
    pub data_directory: Option<PathBuf>,
    /// The `weft` binary; else `$WEFT_BIN`, else the one beside the running program, else `PATH`.
    pub weft: Option<PathBuf>,
    /// Appended to the command line of every agent.
    pub agent_arguments: Vec<String>,
    /// Appended to the command line of the controller.
    pub controller_arguments: Vec<String>,
    /// Whether to start a Docker engine on every host.
    #[serde(default)]
    pub docker: bool,
    /// Appended to the command line of every Docker engine.
    #[serde(default)]
    pub docker_arguments: Vec<String>,
    /// Environment of agents and controller on top of the caller's.
    pub environment: BTreeMap<String, String>,
    /// Refuse to make namespaces on the machine itself.
    pub require_isolation: bool,
}

/// The environment variable with the number of etcd's members in labs that do not say: 0, 1 or 3.
pub const ETCD_MEMBERS_VARIABLE: &str = "WEFT_LAB_ETCD_MEMBERS";

/// Number of etcd's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtcdMembers {
    /// None: the controller serves the store itself.
    None,
    /// A single one, without redundancy.
    One,
    /// Three, of which one may be lost.
    Three,
}

impl EtcdMembers {
    /// The number.
    #[must_use]
    pub fn count(self) -> u8 {
        match self {
            Self::None => 0,
            Self::One => 1,
            Self::Three => 3,
        }
    }

    /// The number as on the command line; `None` unless there can be so many.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::None, Self::One, Self::Three].into_iter().find(|members| members.count().to_string() == word)
    }

    /// What [`ETCD_MEMBERS_VARIABLE`] says, or none.
    fn from_environment() -> Self {
        let word = std::env::var(ETCD_MEMBERS_VARIABLE).unwrap_or_default();
        Self::parse(&word).unwrap_or(Self::None)
    }
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            hosts: 3,
            underlay_mtu: 1500,
            etcd_members: EtcdMembers::from_environment(),
            agents: true,
            data_directory: None,
            weft: None,
            agent_arguments: Vec::new(),
            controller_arguments: Vec::new(),
            docker: false,
            docker_arguments: Vec::new(),
            environment: BTreeMap::new(),
            require_isolation: true,
        }
    }
}

impl LabOptions {
    /// A lab of `hosts` hosts, otherwise the default.
    #[must_use]
    pub fn with_hosts(hosts: u8) -> Self {
        Self { hosts, ..Self::default() }
    }

    /// With a Docker engine on every host.
    #[must_use]
    pub fn with_docker(self) -> Self {
        Self { docker: true, ..self }
    }

    /// Network and etcd only: without `weft` there is nobody else to serve a store.
    #[must_use]
    pub fn without_agents(self) -> Self {
        let members = if self.etcd_members == EtcdMembers::None { EtcdMembers::One } else { self.etcd_members };
        Self { agents: false, etcd_members: members, ..self }
    }

    /// With a single etcd, for what an etcd alone can do.
    #[must_use]
    pub fn with_etcd(self) -> Self {
        Self { etcd_members: EtcdMembers::One, ..self }
    }

    pub(super) fn check(&self) -> Result<(), LabError> {
        if !(1..=MOST_HOSTS).contains(&self.hosts) {
            return Err(LabError::HostCount { hosts: self.hosts });
        }
        if !(1280..=65535).contains(&self.underlay_mtu) {
            return Err(LabError::UnderlayMtu { mtu: self.underlay_mtu });
        }
        Ok(())
    }

    pub(super) fn topology(&self) -> Topology {
        Topology::new(self.hosts, self.etcd_members.count(), self.underlay_mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_numbers_that_no_lab_can_have() {
        let with_mtu = |underlay_mtu| LabOptions { underlay_mtu, ..LabOptions::default() };

        for options in [LabOptions::with_hosts(0), LabOptions::with_hosts(241), with_mtu(1279), with_mtu(65536)] {
            assert!(options.check().is_err(), "{options:?}");
        }
        assert!(LabOptions::with_hosts(240).check().is_ok());
        assert!(with_mtu(1280).check().is_ok());
    }
}
