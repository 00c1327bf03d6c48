//! One host of the lab: running programs on it, asking its agent.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::LabError;
use super::state::{LabState, RUN_DIRECTORY};
use crate::agent_socket::AgentSocket;
use crate::command::CommandOutput;
use crate::netns::NetnsName;
use crate::topology::HostId;

/// How long a `weft` command may take: it gives up by itself after 60 s, and says so.
const COMMAND_DEADLINE: Duration = Duration::from_secs(90);

/// A host. It stays usable for looking around while its agent is down.
#[derive(Debug, Clone)]
pub struct Host {
    id: HostId,
    weft: Option<PathBuf>,
    docker: bool,
}

impl Host {
    pub(super) fn new(id: HostId, state: &LabState) -> Self {
        Self { id, weft: state.weft.clone(), docker: state.options.docker }
    }

    /// Which host this is: number, addresses, namespaces.
    #[must_use]
    pub fn id(&self) -> HostId {
        self.id
    }

    /// `h1` to `hN`.
    #[must_use]
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// The host's own namespace.
    #[must_use]
    pub fn netns(&self) -> NetnsName {
        self.id.netns()
    }

    /// The namespace of its data plane; the agent makes it.
    #[must_use]
    pub fn data_plane_netns(&self) -> NetnsName {
        self.id.data_plane_netns()
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        directory(self.id).join("weft.sock")
    }

    /// The agent, for programs; [`Self::weft`] is for what a user would type.
    #[must_use]
    pub fn agent(&self) -> AgentSocket {
        AgentSocket::new(self.socket())
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        directory(self.id).join("state")
    }

    /// What the agent has logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        super::log_path(&self.name())
    }

    /// Runs a program on the host; its standard output.
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
        self.netns().output(&mut self.command(words)?)
    }

    /// Runs `weft` against this host's agent; its standard output.
    ///
    /// # Errors
    /// When it fails, or when the lab has no `weft`.
    pub fn weft(&self, arguments: &[&str]) -> Result<String> {
        self.try_weft(arguments)?.success()
    }

    /// Like [`Self::weft`], with the failure as a value, for tests of refusals.
    ///
    /// # Errors
    /// When the lab has no `weft`, or it has not ended after 90 s.
    pub fn try_weft(&self, arguments: &[&str]) -> Result<CommandOutput> {
        self.weft_within(COMMAND_DEADLINE, arguments)
    }

    /// Like [`Self::try_weft`] with another deadline; an agent that is paused does not answer.
    ///
    /// # Errors
    /// When the lab has no `weft`, or it has not ended after `deadline`.
    pub fn weft_within(&self, deadline: Duration, arguments: &[&str]) -> Result<CommandOutput> {
        let weft = self.weft.as_deref().ok_or(LabError::NoAgents)?;
        let mut command = Command::new(weft);
        command.args(arguments);
        self.set_environment(&mut command);
        self.netns().enter(|| CommandOutput::within(&mut command, deadline))?
    }

    /// Runs `weft ... --output json` and decodes what it prints.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn weft_json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--output", "json"]].concat();
        let text = self.weft(&arguments)?;
        serde_json::from_str(&text).with_context(|| format!("decoding the answer of weft {}", arguments.join(" ")))
    }

    /// A command as it would be typed on this host: `WEFT_SOCKET` set, the folder of the `weft`
    /// binary first in `PATH`. It still has to be started in [`Self::netns`].
    ///
    /// # Errors
    /// When `words` is empty.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let (program, arguments) = words.split_first().context("running an empty command")?;
        let mut command = Command::new(program);
        command.args(arguments);
        self.set_environment(&mut command);
        Ok(command)
    }

    fn set_environment(&self, command: &mut Command) {
        command.env("WEFT_SOCKET", self.socket());
        if self.docker {
            command.env("DOCKER_HOST", format!("unix://{}", super::docker::socket(self.id).display()));
        }
        if let Some(folder) = self.weft.as_deref().and_then(Path::parent) {
            command.env("PATH", search_path(folder));
        }
    }
}

/// Where a host's files are.
pub(super) fn directory(host: HostId) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(host.to_string())
}

fn search_path(first: &Path) -> OsString {
    let mut path = first.as_os_str().to_owned();
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}
