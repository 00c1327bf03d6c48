//! What users do with a cluster and what befalls it, as scripts that hold for every kind of cluster.
//!
//! A scenario makes what it needs, asserts what a user would see, and removes what it made. It is run
//! on network namespaces by `make e2e` and on virtual machines by `make vm-test`.

use anyhow::{Result, bail};

use crate::cluster::Cluster;

mod faults;
mod seed;
mod stage;
mod underlay;

use stage::Stage;

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What holds, as a sentence with underscores.
    pub name: &'static str,
    /// How many nodes it needs.
    pub nodes: u8,
    act: fn(&Stage<'_>) -> Result<()>,
}

/// All there are, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario { name: "containers_on_two_hosts_ping_by_name", nodes: 2, act: seed::containers_ping_by_name },
    Scenario { name: "second_network_comes_and_goes_live", nodes: 2, act: seed::second_network_comes_and_goes },
    Scenario { name: "published_port_is_reached_from_the_other_host", nodes: 2, act: seed::published_port },
    Scenario { name: "agent_upgraded_under_traffic_loses_nothing", nodes: 2, act: faults::agent_upgraded },
    Scenario { name: "delay_and_loss_are_survived", nodes: 2, act: underlay::delay_and_loss },
    Scenario { name: "small_mtu_with_icmp_filtered_is_no_black_hole", nodes: 2, act: underlay::small_mtu },
    Scenario { name: "reloads_of_firewall_and_engine_are_repaired", nodes: 2, act: faults::reloads },
    Scenario { name: "node_without_power_brings_its_containers_back", nodes: 2, act: faults::power_lost },
    Scenario { name: "third_node_is_one_of_the_network", nodes: 3, act: seed::third_node },
    Scenario { name: "cut_network_heals", nodes: 3, act: underlay::cut_and_healed },
];

impl Scenario {
    /// Acts it out, and sees to it that every node has nothing to do afterwards.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn run(&self, cluster: &dyn Cluster) -> Result<()> {
        if cluster.nodes() < self.nodes {
            bail!("{} needs {} nodes and there are {}", self.name, self.nodes, cluster.nodes());
        }
        let stage = Stage::new(cluster);
        (self.act)(&stage)?;
        stage.settles()
    }

    /// The one of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|scenario| scenario.name == name)
    }
}
