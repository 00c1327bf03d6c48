//! Virtual machines with a stock kernel, provisioned as Vagrant's are: a real cluster on one machine.
//!
//! Each has two interfaces, as under VirtualBox: one behind a NAT that gives every machine the same
//! address, through which it is controlled, and one on the network between the machines. They live in
//! the network namespace of the caller, which must be one of its own; nothing of them leaves it.
//! Processors are emulated unless [`ACCELERATOR_VARIABLE`] says otherwise, so everything takes several
//! times as long as on a real machine, and nothing is measured here.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::{Cluster, Impairment, wait_ready};
use crate::command::CommandOutput;
use machine::{Machine, Place};

mod machine;

/// The environment variable with what QEMU runs guests by: `tcg` (the default) or `kvm`.
pub const ACCELERATOR_VARIABLE: &str = "VM_ACCEL";

/// The bridge between the machines.
const LAN: &str = "lan";
/// The first three bytes of the machines' private network.
const NETWORK: &str = "192.168.56";
/// The image that provisioning gives every engine.
const IMAGE: &str = "busybox:lab";
/// Ten times what namespaces get: an emulated processor takes seconds to start a container.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bringing a machine up to where its agent and engine answer takes up to a minute when three do so at once.
const READY_DEADLINE: Duration = Duration::from_secs(300);

/// What machines are made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The folder that `e2e/vm/image.sh` printed.
    pub image: PathBuf,
    /// The folder that `make vagrant-dist` fills.
    pub dist: PathBuf,
    /// The script that makes a machine a node.
    pub provision: PathBuf,
    /// Where disks, consoles and sockets go.
    pub run: PathBuf,
}

/// Running machines; they end with this value.
#[derive(Debug)]
pub struct Machines {
    parts: Parts,
    machines: Vec<Machine>,
}

impl Machines {
    /// Makes the network for machines that are to come.
    ///
    /// # Errors
    /// When this is not a namespace made for it, or something is missing.
    pub fn prepare(parts: Parts) -> Result<Self> {
        if std::env::var_os("WEFT_LAB_ISOLATED").is_none() {
            bail!("machines are made in namespaces of their own: run this through e2e/run-isolated.sh");
        }
        for file in [parts.image.join("base.img"), parts.dist.join("weft"), parts.provision.clone()] {
            if !file.exists() {
                bail!("{} is missing; `make vm-test` makes it", file.display());
            }
        }
        fs::create_dir_all(&parts.run).with_context(|| format!("making {}", parts.run.display()))?;
        ip(&["link", "add", LAN, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"])?;
        ip(&["link", "set", LAN, "up"])?;
        Ok(Self { parts, machines: Vec::new() })
    }

    /// Starts so many machines that there are `nodes`, side by side, and provisions the new ones.
    ///
    /// # Errors
    /// What did not come up, with the end of its console.
    pub fn grow(&mut self, nodes: u8) -> Result<()> {
        let first = self.nodes() + 1;
        for number in first..=nodes {
            let tap = tap(number);
            ip(&["tuntap", "add", &tap, "mode", "tap"])?;
            ip(&["link", "set", &tap, "master", LAN, "up"])?;
            let place = Place { number, address: address(number), tap };
            self.machines.push(Machine::make(&self.parts, place)?);
        }
        for number in first..=nodes {
            self.machine(number).wait_booted(READY_DEADLINE)?;
        }
        for number in first..=nodes {
            self.provision(number, nodes).with_context(|| self.describe())?;
        }
        Ok(())
    }

    /// Puts on a machine what provisioning installs, and runs the very script that Vagrant runs.
    fn provision(&self, number: u8, nodes: u8) -> Result<()> {
        let machine = self.machine(number);
        machine.copy_folder(&self.parts.dist, "/opt/weft")?;
        let arguments = format!("{number} {nodes} {NETWORK}");
        let output = machine.run_file(&self.parts.provision, &arguments, READY_DEADLINE)?;
        output.success().with_context(|| format!("provisioning {}", self.name(number)))?;
        Ok(())
    }

    fn machine(&self, node: u8) -> &Machine {
        &self.machines[usize::from(node) - 1]
    }

    fn succeeds(&self, node: u8, script: &str) -> Result<()> {
        self.run(node, script)?.success().map(drop)
    }
}

impl Cluster for Machines {
    fn nodes(&self) -> u8 {
        u8::try_from(self.machines.len()).unwrap_or(u8::MAX)
    }

    fn name(&self, node: u8) -> String {
        format!("node{node}")
    }

    fn vtep(&self, node: u8) -> Ipv4Addr {
        address(node)
    }

    fn image(&self) -> &'static str {
        IMAGE
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn run(&self, node: u8, script: &str) -> Result<CommandOutput> {
        self.machine(node).run(script, READY_DEADLINE)
    }

    fn power_cycle(&self, node: u8) -> Result<()> {
        self.machine(node).power_cycle()?;
        self.machine(node).wait_booted(READY_DEADLINE)?;
        wait_ready(self, node, READY_DEADLINE)
    }

    fn cut(&self, node: u8) -> Result<()> {
        ip(&["link", "set", &tap(node), "nomaster"])
    }

    fn heal(&self, node: u8) -> Result<()> {
        ip(&["link", "set", &tap(node), "master", LAN])
    }

    fn impair(&self, node: u8, impairment: Impairment) -> Result<Impairment> {
        let Impairment { delay_ms, loss_percent } = impairment;
        let script = if impairment == Impairment::NONE {
            "tc qdisc del dev eth1 root".to_owned()
        } else {
            format!("tc qdisc replace dev eth1 root netem limit 10000 delay {delay_ms}ms loss {loss_percent}%")
        };
        self.succeeds(node, &script)?;
        Ok(impairment)
    }

    fn set_underlay_mtu(&self, node: u8, mtu: u32) -> Result<()> {
        ip(&["link", "set", &tap(node), "mtu", &mtu.to_string()])?;
        self.succeeds(node, &format!("ip link set eth1 mtu {mtu}"))
    }

    fn restart_engine(&self, node: u8) -> Result<()> {
        self.succeeds(node, "systemctl restart docker")?;
        wait_ready(self, node, READY_DEADLINE)
    }

    fn upgrade_agent(&self, node: u8) -> Result<()> {
        let replace =
            "cp /usr/local/bin/weft /usr/local/bin/weft.new && mv /usr/local/bin/weft.new /usr/local/bin/weft";
        self.succeeds(node, &format!("{replace} && systemctl restart weft"))?;
        wait_ready(self, node, READY_DEADLINE)
    }

    fn check_settled(&self) -> Result<(), String> {
        for node in 1..=self.nodes() {
            let output = self.run(node, "weft plan").map_err(|error| format!("{error:#}"))?;
            if !output.is_success() || !output.stdout.contains("nothing to do") {
                return Err(format!("{}: {}{}", self.name(node), output.stdout, output.stderr));
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        const LOOKS: [&str; 5] = [
            "weft status",
            "docker ps -a",
            "ip -br address",
            "journalctl --no-pager -q -n 40 -u weft -u weft-controller",
            "journalctl --no-pager -q -n 20 -u docker",
        ];
        let mut text = String::new();
        for machine in &self.machines {
            text.push_str(&format!("\n== {}: end of its console\n{}\n", machine.name(), machine.console_tail()));
            for look in LOOKS {
                let said = machine.run(look, Duration::from_secs(30));
                let said = said.map_or_else(|error| format!("{error:#}"), |output| output.stdout + &output.stderr);
                text.push_str(&format!("-- {}$ {look}\n{said}\n", machine.name()));
            }
        }
        text
    }
}

/// A machine's address on the private network, as the Vagrantfile has it.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 56, 10 + number)
}

fn tap(number: u8) -> String {
    format!("lan{number}")
}

fn ip(words: &[&str]) -> Result<()> {
    CommandOutput::of(Command::new("ip").args(words))?.success().map(drop)
}

/// The ssh command line of machine `number` of the machines in `run`, for people and scripts.
#[must_use]
pub fn ssh(run: &Path, image: &Path, number: u8) -> Command {
    machine::ssh(run, image, number)
}
