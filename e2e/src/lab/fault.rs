//! Faults of daemons: ending, freezing and restarting them; and the words that name them.
//!
//! Only recorded processes are signalled. Faults of the network are [`super::cable`]'s.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::state::{DaemonRecord, LabState};
use super::{Lab, LabError};
use crate::process::ProcessState;
use crate::topology::{CONTROLLER_PORT, HostId};

/// How long a daemon may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// SIGKILL and SIGSTOP take effect as soon as the process is next scheduled.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(5);

/// What a fault is done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A host: its agent, its cable.
    Host(HostId),
    /// The Docker engine of a host.
    Docker(HostId),
    /// The controller.
    Controller,
    /// Members of etcd, by name.
    Etcd(Vec<String>),
}

impl Target {
    pub(super) fn parse(word: &str, state: &LabState) -> Result<Self, LabError> {
        let topology = state.topology();
        let members: Vec<_> = topology.members.iter().map(ToString::to_string).collect();
        match word {
            "controller" => return Ok(Self::Controller),
            // The controller is the store.
            "etcd" if members.is_empty() => return Ok(Self::Controller),
            "etcd" => return Ok(Self::Etcd(members)),
            _ if members.iter().any(|member| member == word) => {
                return Ok(Self::Etcd(vec![word.to_owned()]));
            }
            _ => {}
        }
        if let Some(host) = word.strip_prefix("docker-").and_then(|host| host.parse().ok())
            && state.options.docker
            && topology.hosts.contains(&host)
        {
            return Ok(Self::Docker(host));
        }
        match word.parse() {
            Ok(host) if topology.hosts.contains(&host) => Ok(Self::Host(host)),
            _ => Err(LabError::UnknownTarget {
                word: word.to_owned(),
                known: [vec![format!("h1 to h{}, controller, etcd", state.options.hosts)], members].concat().join(", "),
            }),
        }
    }

    fn daemons(&self) -> Vec<String> {
        match self {
            Self::Host(host) => vec![host.to_string()],
            Self::Docker(host) => vec![super::docker::daemon_name(*host)],
            Self::Controller => vec!["controller".to_owned()],
            Self::Etcd(members) => members.clone(),
        }
    }

    pub(super) fn ports(&self) -> Vec<String> {
        match self {
            Self::Controller => vec![CONTROLLER_PORT.to_owned()],
            Self::Docker(host) => vec![host.to_string()],
            Self::Host(_) | Self::Etcd(_) => self.daemons(),
        }
    }
}

/// Targets are words as on the command line: `h1`, `controller`, `etcd` (all members), `etcd2`.
impl Lab {
    /// Ends the target's daemons with SIGKILL and waits until they are gone.
    ///
    /// # Errors
    /// [`LabError::NotRunning`], or an unknown target.
    pub fn kill(&self, target: &str) -> Result<()> {
        self.for_daemons(target, |daemon| {
            let process = running(daemon)?;
            process.signal(Signal::SIGKILL)?;
            process.wait_stopped(SIGNAL_DEADLINE)
        })
    }

    /// Asks the target's daemons to end with SIGTERM and waits until they have.
    ///
    /// # Errors
    /// When one does not run, is paused, or has not ended after 10 s.
    pub fn stop(&self, target: &str) -> Result<()> {
        self.for_daemons(target, |daemon| {
            let process = running(daemon)?;
            if process.observe_state() == ProcessState::Paused {
                let name = daemon.name.clone();
                return Err(LabError::Paused { name }.into());
            }
            process.signal(Signal::SIGTERM)?;
            process.wait_stopped(STOP_DEADLINE).with_context(|| format!("stopping {}", daemon.name))
        })
    }

    /// Starts the target's daemons with the arguments they had; does not wait for readiness.
    ///
    /// # Errors
    /// [`LabError::AlreadyRunning`], or when no process can be made.
    pub fn start(&self, target: &str) -> Result<()> {
        self.for_daemons(target, |daemon| {
            if let Ok(process) = running(daemon) {
                let (name, pid) = (daemon.name.clone(), process.pid());
                return Err(LabError::AlreadyRunning { name, pid }.into());
            }
            daemon.process = Some(daemon.spec.start()?);
            Ok(())
        })
    }

    /// Freezes the target's daemons with SIGSTOP.
    ///
    /// # Errors
    /// When one does not run.
    pub fn pause(&self, target: &str) -> Result<()> {
        self.for_daemons(target, |daemon| signal_and_see(daemon, Signal::SIGSTOP, ProcessState::Paused))
    }

    /// Lets the target's daemons go on with SIGCONT.
    ///
    /// # Errors
    /// When one does not run.
    pub fn resume(&self, target: &str) -> Result<()> {
        self.for_daemons(target, |daemon| signal_and_see(daemon, Signal::SIGCONT, ProcessState::Running))
    }

    fn for_daemons(&self, target: &str, mut action: impl FnMut(&mut DaemonRecord) -> Result<()>) -> Result<()> {
        self.change(|state, _| {
            let names = Target::parse(target, state)?.daemons();
            for name in names {
                action(state.daemon(&name).ok_or(LabError::NoAgents)?)?;
            }
            Ok(())
        })
    }
}

fn running(daemon: &DaemonRecord) -> Result<crate::process::ProcessId, LabError> {
    daemon
        .process
        .filter(|process| process.observe_state() != ProcessState::Stopped)
        .ok_or_else(|| LabError::NotRunning { name: daemon.name.clone() })
}

fn signal_and_see(daemon: &DaemonRecord, signal: Signal, wanted: ProcessState) -> Result<()> {
    let process = running(daemon)?;
    process.signal(signal)?;
    let what = format!("{} {}", daemon.name, wanted.as_str());
    crate::eventually::wait_until(SIGNAL_DEADLINE, &what, || match process.observe_state() {
        state if state == wanted => Ok(()),
        state => Err(state.as_str().to_owned()),
    })?;
    Ok(())
}
