//! Reading everything back: the kernel, the store, and what the agents say about both.
//!
//! The kernel and etcd are read with their own tools (`ip`, `bridge`, `nft`, `etcdctl`), so that a
//! mistake in Weft's own reading cannot hide itself. [`check_forwarding`] is the one assertion
//! that follows every fault: what the kernel holds is what the store asks for.

mod forwarding;
mod kernel;
mod store;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

pub use forwarding::{BridgePort, BridgeRow, FloodRow, Forwarding, NeighbourEntry, RemoteRow};
pub use kernel::{FdbRow, KernelDump, Link, NeighbourRow};
pub use store::{StoreDump, StoreEntry};

use crate::command::CommandOutput;
use crate::eventually::eventually;
use crate::lab::{Host, Lab};
use crate::netns::NetnsName;

/// Lines of each log in [`everything`].
const LOG_LINES: usize = 60;

/// How long an agent may take to explain itself in [`everything`]; a paused one never does.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// What the agent wants, has read, and was told: `weft dump`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeftDump {
    /// What the kernel should hold.
    pub desired: Value,
    /// What the kernel was last read to hold.
    pub observed: Value,
    /// The agent's view of the store.
    pub store: Value,
}

/// Asks a host's agent for its dump.
///
/// # Errors
/// When the agent does not answer.
pub fn weft(host: &Host) -> Result<WeftDump> {
    let mut answer = host.weft_json(&["dump"])?;
    Ok(WeftDump {
        desired: answer["desired"].take(),
        observed: answer["observed"].take(),
        store: answer["store"].take(),
    })
}

/// What a host's agent wants the kernel to hold.
///
/// # Errors
/// When the agent does not answer.
pub fn desired(host: &Host) -> Result<Value> {
    Ok(weft(host)?.desired)
}

/// Reads the data plane of a host from the kernel, without asking the agent.
///
/// # Errors
/// When the data plane's namespace is missing or one of its parts cannot be read.
pub fn kernel(host: &Host) -> Result<KernelDump> {
    KernelDump::observe(&host.data_plane_netns())
}

/// Reads everything below `/weft/v1/` from etcd.
///
/// # Errors
/// When etcd does not answer.
pub fn store(lab: &Lab) -> Result<StoreDump> {
    StoreDump::observe(&lab.topology()?)
}

/// Compares every host's kernel with what the store asks of it; for [`eventually`](crate::eventually()).
///
/// # Errors
/// The differences, per host.
pub fn check_forwarding(lab: &Lab) -> Result<(), String> {
    let differences = forwarding_differences(lab).map_err(|error| format!("{error:#}"))?;
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// Asks every agent whether it is registered and has converged and for its plan, which must be empty, and compares every
/// kernel with the store; for [`eventually`](crate::eventually()).
///
/// # Errors
/// What is still to be done, or the differences, per host.
pub fn check_settled(lab: &Lab) -> Result<(), String> {
    for host in lab.hosts().map_err(|error| format!("{error:#}"))? {
        // Of an agent that has just started the plan is empty too: it does not know yet what there should be.
        let status = host.agent().status().map_err(|error| format!("{}: {error:#}", host.name()))?;
        if status["converged"] != true {
            return Err(format!("{} has not converged: {status}", host.name()));
        }
        let plan = host.plan().map_err(|error| format!("{}: {error:#}", host.name()))?;
        if !plan.is_empty() {
            return Err(format!("{} would change: {}", host.name(), plan.join("; ")));
        }
    }
    check_forwarding(lab)
}

/// Waits until [`check_settled`] finds nothing, for tests.
///
/// # Panics
/// When that takes longer than 10 s, which is milliseconds on an idle machine; the message carries what was last seen.
#[track_caller]
pub fn settles(lab: &Lab) {
    eventually(Duration::from_secs(10), "nothing to do on any host", || check_settled(lab));
}

fn forwarding_differences(lab: &Lab) -> Result<String> {
    let store = store(lab)?;
    let mut text = String::new();
    for host in lab.hosts()? {
        let wanted = Forwarding::of_store(&store, host.id().underlay_address().into())?;
        let present = if host.data_plane_netns().exists() {
            Forwarding::of_kernel(&kernel(&host)?)
        } else {
            Forwarding::default()
        };
        for line in present.differences(&wanted) {
            text.push_str(&format!("{}: {line}\n", host.name()));
        }
    }
    Ok(text)
}

/// All that may explain a failure, as text: the lab's status and for each host its agent's status
/// and plan, the end of its log, and both its namespaces. What cannot be read says why.
#[must_use]
pub fn everything(lab: &Lab) -> String {
    let mut text = String::from("state of the lab at the failure\n");
    section(&mut text, "weft-lab status", status(lab));
    for host in lab.hosts().unwrap_or_default() {
        let name = host.name();
        for command in ["status", "plan"] {
            let title = format!("{name}: weft {command}");
            let answer = host.weft_within(ANSWER_DEADLINE, &[command]);
            section(&mut text, &title, answer.and_then(CommandOutput::success));
        }
        section(&mut text, &format!("{name}: log"), Ok(tail(&host.log(), LOG_LINES)));
        describe_namespace(&mut text, &host.netns());
        describe_namespace(&mut text, &host.data_plane_netns());
    }
    for daemon in ["controller", "etcd1", "etcd2", "etcd3"] {
        let log = crate::lab::log_path(daemon);
        if log.exists() {
            section(&mut text, &format!("{daemon}: log"), Ok(tail(&log, LOG_LINES)));
        }
    }
    text
}

/// The last `lines` lines of a file, or why it cannot be read.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content);
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("{}: {error}", path.display()),
    }
}

fn status(lab: &Lab) -> Result<String> {
    Ok(serde_json::to_string_pretty(&lab.status()?)?)
}

fn describe_namespace(text: &mut String, netns: &NetnsName) {
    if !netns.exists() {
        section(text, &format!("{netns}: no such network namespace"), Ok(String::new()));
        return;
    }
    let commands: [&[&str]; 5] = [
        &["ip", "-details", "link"],
        &["ip", "route", "show", "table", "all"],
        &["bridge", "fdb", "show"],
        &["ip", "neigh", "show", "nud", "all"],
        &["nft", "list", "ruleset"],
    ];
    for words in commands {
        let mut command = std::process::Command::new(words[0]);
        let output = netns.output(command.args(&words[1..]));
        let title = format!("{netns}: {}", words.join(" "));
        section(text, &title, output.and_then(CommandOutput::success));
    }
}

fn section(text: &mut String, title: &str, content: Result<String>) {
    let content = content.unwrap_or_else(|error| format!("{error:#}"));
    writeln!(text, "\n{title}\n{}", content.trim_end()).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_of_a_short_file_is_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();

        assert_eq!(tail(&path, 2), "two\nthree");
        assert_eq!(tail(&path, 9), "one\ntwo\nthree");
        assert!(tail(&folder.path().join("absent"), 9).contains("absent"));
    }
}
