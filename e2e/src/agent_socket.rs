//! Asking an agent over its socket as a program would, without starting `weft`.
//!
//! For what is timed in milliseconds, and for asking often. Everything else is better typed as a user would type it,
//! with [`Host::weft`](crate::Host::weft).

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::eventually::wait_until;
use crate::http;

/// An agent ends a request by itself after 45 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two questions of [`AgentSocket::wait_converged`]: the agent that is waited for has better to do than to answer.
const STATUS_INTERVAL: Duration = Duration::from_millis(20);

/// An agent's socket.
#[derive(Debug, Clone)]
pub struct AgentSocket {
    path: PathBuf,
}

impl AgentSocket {
    /// The socket at `path`; it need not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Connects a named namespace to a network; the endpoint, as `weft connect --output json` prints it.
    ///
    /// # Errors
    /// When the agent does not answer or refuses.
    pub fn connect(&self, network: &str, container: &str) -> Result<Value> {
        let wish = json!({ "network": network, "container": container });
        self.ask("POST", "/v1/connect", &wish).with_context(|| format!("connecting {container} to {network}"))
    }

    /// Disconnects a named namespace from a network.
    ///
    /// # Errors
    /// When the agent does not answer or refuses.
    pub fn disconnect(&self, network: &str, container: &str) -> Result<Value> {
        let wish = json!({ "network": network, "container": container });
        self.ask("POST", "/v1/disconnect", &wish).with_context(|| format!("disconnecting {container} from {network}"))
    }

    /// What `weft status --output json` prints.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        self.ask("GET", "/v1/status", &Value::Null)
    }

    /// Waits until the agent answers, has applied the store's `revision` and has nothing left to do; its status then.
    ///
    /// # Errors
    /// When it has not after `deadline`; the message holds its last status.
    pub fn wait_converged(&self, revision: i64, deadline: Duration) -> Result<Value> {
        let what = format!("convergence at revision {revision} of the agent at {}", self.path.display());
        let status = wait_until(deadline, &what, || {
            let status = self.status().map_err(|error| format!("{error:#}"))?;
            let is_there = status["revision"].as_i64().is_some_and(|applied| applied >= revision);
            if is_there && status["converged"] == true {
                return Ok(status);
            }
            thread::sleep(STATUS_INTERVAL);
            Err(status.to_string())
        })?;
        Ok(status)
    }

    fn ask(&self, method: &str, path: &str, wish: &Value) -> Result<Value> {
        let socket = self.path.display();
        let stream = UnixStream::connect(&self.path).with_context(|| format!("connecting to the agent at {socket}"))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context("setting a timeout")?;
        let body = if wish.is_null() { Vec::new() } else { wish.to_string().into_bytes() };
        let answer = http::ask(stream, method, path, &body).with_context(|| format!("asking the agent at {socket}"))?;
        if answer.status != 200 {
            bail!("the agent refused with {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        serde_json::from_slice(&answer.body).context("decoding the agent's answer")
    }
}
