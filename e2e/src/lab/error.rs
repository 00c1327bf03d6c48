//! Refusals of the lab, and what a program's exit status makes of them.

use std::path::PathBuf;

use crate::netns::NetnsName;
use crate::topology::{HostId, MOST_HOSTS};

/// Why the lab refuses to act. Other failures travel as plain [`anyhow::Error`]s.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces and bridges need root.
    #[error("making network namespaces needs root; run weft-lab with sudo")]
    NotRoot,
    /// A program that the lab runs is not installed.
    #[error("`{program}` is not in PATH; install the package {package}")]
    MissingProgram {
        /// Name of the program.
        program: &'static str,
        /// Debian package that has it.
        package: &'static str,
    },
    /// There is no `weft` to run.
    #[error(
        "no `weft` binary: {} does not exist; build it with `cargo build`, or set WEFT_BIN", tried.display()
    )]
    NoWeftAt {
        /// The file that was asked for.
        tried: PathBuf,
    },
    /// There is no `weft` to run, neither beside this program nor in the search path.
    #[error("no `weft` binary beside this program or in PATH; build it with `cargo build`, or set WEFT_BIN")]
    NoWeft,
    /// State of a lab exists.
    #[error("a lab is already up, or was left by an interrupted `weft-lab up`; take it down with `weft-lab down`")]
    AlreadyUp,
    /// No state of a lab exists.
    #[error("no lab is up; start one with `weft-lab up`")]
    NotUp,
    /// A namespace is in the way.
    #[error("network namespace {netns} exists and is not this lab's; remove it with `ip netns del {netns}`")]
    NamespaceInTheWay {
        /// The namespace.
        netns: NetnsName,
    },
    /// The test would act on the machine's own namespaces.
    #[error(
        "a test's lab must not touch the machine it runs on; run the tests through e2e/run-isolated.sh, for example with CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
    )]
    NotIsolated,
    /// A number of hosts that addresses cannot be made for.
    #[error("{hosts} hosts asked for; a lab has 1 to {MOST_HOSTS}")]
    HostCount {
        /// The number asked for.
        hosts: u8,
    },
    /// An MTU that Ethernet or IPv6 rules out.
    #[error("underlay MTU {mtu} asked for; it must be 1280 (least for IPv6) to 65535")]
    UnderlayMtu {
        /// The MTU asked for, in bytes.
        mtu: u32,
    },
    /// The host is not part of this lab.
    #[error("this lab has no host {host}; its hosts are h1 to h{hosts}")]
    UnknownHost {
        /// The host asked for.
        host: HostId,
        /// How many there are.
        hosts: u8,
    },
    /// The word names nothing that can be stopped or cut.
    #[error("this lab has no `{word}`; it has {known}")]
    UnknownTarget {
        /// The word given.
        word: String,
        /// What would have been accepted.
        known: String,
    },
    /// The daemon runs.
    #[error("{name} is already running (process {pid}); stop it with `weft-lab stop {name}`")]
    AlreadyRunning {
        /// Name of the daemon.
        name: String,
        /// Its process id.
        pid: i32,
    },
    /// The daemon does not run.
    #[error("{name} is not running; start it with `weft-lab start {name}`")]
    NotRunning {
        /// Name of the daemon.
        name: String,
    },
    /// SIGTERM would stay pending.
    #[error("{name} is paused and cannot react; resume it with `weft-lab resume {name}`, or use kill")]
    Paused {
        /// Name of the daemon.
        name: String,
    },
    /// The name is that of a container elsewhere.
    #[error("container {name} is on {host} already; choose another name, or remove it with `weft-lab rm {name}`")]
    ContainerElsewhere {
        /// Name of the container.
        name: NetnsName,
        /// The host that has it.
        host: HostId,
    },
    /// The name belongs to a namespace of the lab itself.
    #[error("{name} is a machine of the lab; choose another name for the container")]
    ContainerIsMachine {
        /// The name given.
        name: NetnsName,
    },
    /// No container of that name was made by the lab.
    #[error("the lab has made no container {name}; `weft-lab status` lists them")]
    UnknownContainer {
        /// The name given.
        name: NetnsName,
    },
    /// The lab runs neither controller nor agents.
    #[error("this lab was brought up without agents, so `weft` cannot be asked")]
    NoAgents,
}

impl LabError {
    /// Exit status of a program that ends for this reason: 69 when something that must be
    /// installed is missing, 77 without privilege, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::MissingProgram { .. } | Self::NoWeft | Self::NoWeftAt { .. } => 69,
            Self::NotRoot => 77,
            _ => 1,
        }
    }
}
