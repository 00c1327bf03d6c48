//! A cluster whose nodes run Docker and an agent each: what scenarios are written against.
//!
//! There are two kinds, network namespaces with engines ([`LabCluster`]) and virtual machines
//! ([`Machines`](crate::vm::Machines)); a scenario knows neither. Nodes are numbered from 1, and
//! whatever is done to one is typed on it as its user would.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use crate::command::CommandOutput;
use crate::eventually::wait_until;

mod lab;

pub use lab::LabCluster;

/// What a link does to packets that a node sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impairment {
    /// How much later each packet leaves, in milliseconds.
    pub delay_ms: u32,
    /// How many packets of a hundred are lost, 0 to 100.
    pub loss_percent: u8,
}

impl Impairment {
    /// A link as it should be.
    pub const NONE: Self = Self { delay_ms: 0, loss_percent: 0 };
}

/// A running cluster.
pub trait Cluster {
    /// How many nodes there are.
    fn nodes(&self) -> u8;

    /// What a node is called, in Weft too.
    fn name(&self, node: u8) -> String;

    /// A node's address on the underlay, which is its VTEP.
    fn vtep(&self, node: u8) -> Ipv4Addr;

    /// The image of busybox that every engine has.
    fn image(&self) -> &'static str;

    /// The longest wait for something that takes a second on an idle machine of today.
    fn patience(&self) -> Duration;

    /// Runs a shell script on a node as root; `docker` and `weft` there are the node's.
    ///
    /// # Errors
    /// When it cannot be run or has not ended in time; its own failure is in the result.
    fn run(&self, node: u8, script: &str) -> Result<CommandOutput>;

    /// Takes a node's power away and gives it back, and waits until agent and engine answer again.
    ///
    /// # Errors
    /// When they do not.
    fn power_cycle(&self, node: u8) -> Result<()>;

    /// Lets nothing pass between a node and the underlay.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn cut(&self, node: u8) -> Result<()>;

    /// Undoes [`Self::cut`].
    ///
    /// # Errors
    /// When the kernel refuses.
    fn heal(&self, node: u8) -> Result<()>;

    /// Makes a node's link to the underlay as bad as said; what this kind of cluster can do of it.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn impair(&self, node: u8, impairment: Impairment) -> Result<Impairment>;

    /// Gives a node's link another MTU, in bytes; larger packets vanish on it without a word.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_underlay_mtu(&self, node: u8, mtu: u32) -> Result<()>;

    /// Restarts a node's Docker engine in order, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    fn restart_engine(&self, node: u8) -> Result<()>;

    /// Replaces the program on a node and restarts its agent, and waits until that answers.
    ///
    /// # Errors
    /// When it does not.
    fn upgrade_agent(&self, node: u8) -> Result<()>;

    /// What differs between what the store asks for and what the kernels hold, if anything.
    ///
    /// # Errors
    /// The difference.
    fn check_settled(&self) -> Result<(), String>;

    /// All that helps to find out why a scenario failed.
    fn describe(&self) -> String;
}

/// Waits until a node's agent has converged and its engine answers.
pub(crate) fn wait_ready(cluster: &dyn Cluster, node: u8, deadline: Duration) -> Result<()> {
    let script = "docker version >/dev/null && weft status --output json";
    wait_until(deadline, &format!("agent and engine of {}", cluster.name(node)), || {
        let output = cluster.run(node, script).map_err(|error| format!("{error:#}"))?;
        if output.is_success() && output.stdout.contains("\"converged\": true") {
            Ok(())
        } else {
            Err(format!("{}{}", output.stderr, output.stdout))
        }
    })?;
    Ok(())
}
