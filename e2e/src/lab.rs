//! The lab: bringing it up, acting on it, taking it down.
//!
//! What the lab owns is written to `/run/weft-lab/state.json` before it is made, so that any
//! later process can act on it and `down` works after a crash at any point. [`Lab`] itself keeps
//! no copy: every call reads the file, under a lock when it also writes.

mod bring_up;
mod cable;
mod container;
mod docker;
mod error;
mod fault;
mod host;
mod network;
mod options;
mod power;
mod preflight;
mod shared;
mod state;
mod status;
mod take_down;
mod turn;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

pub use container::{Container, ContainerSpec};
pub use docker::DOCKER_IMAGE;
pub use error::LabError;
pub use host::Host;
pub use network::{Devices, Endpoint, Network, Refusal};
pub use options::{ETCD_MEMBERS_VARIABLE, EtcdMembers, LabOptions};
pub use shared::SharedLab;
pub use status::{LabStatus, StatusRow};

use crate::command::CommandOutput;
use crate::netns::NetnsName;
use crate::topology::{HostId, Topology};
use state::{LabState, RUN_DIRECTORY, StateFile};
use turn::Turn;

/// How long anything that the lab waits for may take.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A running lab. One made by [`Lab::up`] is taken down when dropped, and prints everything that
/// is known about it first when the thread is panicking.
#[derive(Debug)]
pub struct Lab {
    /// Held by the lab that this process made; labs of one process take turns.
    turn: Option<Turn>,
}

impl Lab {
    /// Brings a lab up and waits until etcd is healthy, the controller runs and every agent has
    /// converged. Labs of one process wait for one another, so tests need not be serialised; a
    /// thread that has one must drop it before it makes another.
    ///
    /// # Errors
    /// [`LabError`] when something needed is missing or in the way; otherwise what did not come
    /// up, its last status and the end of its log. Whatever was made is taken down again.
    pub fn up(options: LabOptions) -> Result<Self> {
        let turn = Turn::wait();
        bring_up::bring_up(options)?;
        Ok(Self { turn: Some(turn) })
    }

    /// The lab that is up, made by whomever; dropping this leaves it up.
    ///
    /// # Errors
    /// [`LabError::NotUp`].
    pub fn open() -> Result<Self> {
        let lab = Self { turn: None };
        lab.state()?;
        Ok(lab)
    }

    /// Leaves the lab running when this value goes.
    pub fn keep(mut self) {
        self.turn = None;
    }

    /// Takes down whatever lab exists, complete or not; false when there was none.
    ///
    /// # Errors
    /// What could not be removed. It may be called again.
    pub fn down() -> Result<bool> {
        take_down::take_down()
    }

    /// The hosts, in order.
    ///
    /// # Errors
    /// When the lab is gone.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let state = self.state()?;
        let ids = state.topology().hosts;
        Ok(ids.into_iter().map(|id| Host::new(id, &state)).collect())
    }

    /// Host `number`, counted from 1.
    ///
    /// # Panics
    /// When the lab has no such host: a mistake of the test.
    #[must_use]
    #[track_caller]
    pub fn host(&self, number: u8) -> Host {
        self.find_host(&format!("h{number}")).expect("the test asks for a host that its lab has")
    }

    /// The host called `name`.
    ///
    /// # Errors
    /// When the lab has no such host; the message lists those it has.
    pub fn find_host(&self, name: &str) -> Result<Host> {
        let state = self.state()?;
        let id: HostId = name.parse()?;
        if !state.topology().hosts.contains(&id) {
            return Err(LabError::UnknownHost { host: id, hosts: state.options.hosts }.into());
        }
        Ok(Host::new(id, &state))
    }

    /// Machines and addresses of this lab.
    ///
    /// # Errors
    /// When the lab is gone.
    pub fn topology(&self) -> Result<Topology> {
        Ok(self.state()?.topology())
    }

    /// Runs a program in a named namespace as `ip netns exec` does, with the namespace's own
    /// resolver; its standard output.
    ///
    /// # Errors
    /// When the program cannot be run or fails.
    pub fn in_netns(&self, netns: &str, words: &[&str]) -> Result<String> {
        self.try_in_netns(netns, words)?.success()
    }

    /// Like [`Self::in_netns`], with the program's failure as a value.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn try_in_netns(&self, netns: &str, words: &[&str]) -> Result<CommandOutput> {
        let netns: NetnsName = netns.parse()?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns.as_str()]).args(words);
        CommandOutput::of(&mut command)
    }

    fn state(&self) -> Result<LabState> {
        Ok(StateFile::observe()?.ok_or(LabError::NotUp)?)
    }

    /// Runs `action` on the state under the lock and saves what it made of it.
    fn change<T>(&self, action: impl FnOnce(&mut LabState, &StateFile) -> Result<T>) -> Result<T> {
        let file = StateFile::lock()?.ok_or(LabError::NotUp)?;
        let mut state = file.load()?.ok_or(LabError::NotUp)?;
        let result = action(&mut state, &file);
        let saved = file.save(&state).context("recording the change");
        result.and_then(|value| saved.map(|()| value))
    }
}

/// Where a daemon of the lab logs.
pub(crate) fn log_path(daemon: &str) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(format!("log/{daemon}.log"))
}

impl Drop for Lab {
    #[expect(clippy::print_stderr, reason = "what a failed test leaves to its reader")]
    fn drop(&mut self) {
        if self.turn.is_none() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", crate::dump::everything(self));
        }
        if let Err(error) = take_down::take_down() {
            eprintln!("weft-lab: taking the lab down: {error:#}");
        }
    }
}
