//! The lab of network namespaces as a cluster.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Cluster, Impairment, wait_ready};
use crate::command::CommandOutput;
use crate::lab::{DOCKER_IMAGE, Lab, LabOptions};
use crate::{Host, dump};

/// Longest wait for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// An engine takes seconds to start its containers again, on a busy machine a minute.
const READY_DEADLINE: Duration = Duration::from_secs(90);
/// A script starts a container at most.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(120);
/// Where the agents' program is, so that it can be replaced.
const PROGRAM: &str = "/run/weft-scenario/weft";

/// Hosts with a Docker engine each, as network namespaces on this machine.
#[derive(Debug)]
pub struct LabCluster {
    lab: Lab,
    hosts: Vec<Host>,
}

impl LabCluster {
    /// Brings a lab of `nodes` hosts up; it goes with this value.
    ///
    /// # Errors
    /// As [`Lab::fresh`], or when the program under test, `WEFT_BIN`, cannot be copied.
    pub fn up(nodes: u8) -> Result<Self> {
        install()?;
        let options = LabOptions { weft: Some(PathBuf::from(PROGRAM)), ..LabOptions::with_hosts(nodes).with_docker() };
        let lab = Lab::fresh(options)?;
        let hosts = lab.hosts()?;
        Ok(Self { lab, hosts })
    }

    fn host(&self, node: u8) -> &Host {
        &self.hosts[usize::from(node) - 1]
    }
}

impl Cluster for LabCluster {
    fn nodes(&self) -> u8 {
        u8::try_from(self.hosts.len()).unwrap_or(u8::MAX)
    }

    fn name(&self, node: u8) -> String {
        self.host(node).name()
    }

    fn vtep(&self, node: u8) -> Ipv4Addr {
        self.host(node).id().underlay_address()
    }

    fn image(&self) -> &'static str {
        DOCKER_IMAGE
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn run(&self, node: u8, script: &str) -> Result<CommandOutput> {
        let host = self.host(node);
        let mut command = host.command(&["sh", "-c", script])?;
        host.netns().enter(|| CommandOutput::within(&mut command, SCRIPT_DEADLINE))?
    }

    fn power_cycle(&self, node: u8) -> Result<()> {
        self.lab.power_cycle(&self.name(node))?;
        wait_ready(self, node, READY_DEADLINE)
    }

    fn cut(&self, node: u8) -> Result<()> {
        self.lab.cut(&self.name(node))
    }

    fn heal(&self, node: u8) -> Result<()> {
        self.lab.heal(&self.name(node))
    }

    /// Without netem in this kernel there is no delay, only loss.
    fn impair(&self, node: u8, impairment: Impairment) -> Result<Impairment> {
        self.lab.set_loss(&self.name(node), impairment.loss_percent)?;
        Ok(Impairment { delay_ms: 0, ..impairment })
    }

    fn set_underlay_mtu(&self, node: u8, mtu: u32) -> Result<()> {
        self.lab.set_underlay_mtu(&self.name(node), mtu)
    }

    fn restart_engine(&self, node: u8) -> Result<()> {
        let engine = self.host(node).docker_daemon();
        self.lab.stop(&engine)?;
        self.lab.start(&engine)?;
        wait_ready(self, node, READY_DEADLINE)
    }

    fn upgrade_agent(&self, node: u8) -> Result<()> {
        install()?;
        self.lab.stop(&self.name(node))?;
        self.lab.start(&self.name(node))?;
        wait_ready(self, node, READY_DEADLINE)
    }

    fn check_settled(&self) -> Result<(), String> {
        dump::check_settled(&self.lab)
    }

    fn describe(&self) -> String {
        dump::everything(&self.lab)
    }
}

/// Puts the program under test where the agents are started from; one that runs keeps its old file.
fn install() -> Result<()> {
    let source = env::var_os("WEFT_BIN").context("WEFT_BIN must name the program under test")?;
    let target = Path::new(PROGRAM);
    let draft = target.with_extension("new");
    fs::create_dir_all(target.parent().context("making the program's folder")?)
        .context("making the program's folder")?;
    fs::copy(&source, &draft).with_context(|| format!("copying {}", Path::new(&source).display()))?;
    fs::rename(&draft, target).with_context(|| format!("replacing {PROGRAM}"))
}
