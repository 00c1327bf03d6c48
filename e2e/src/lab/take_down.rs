//! Taking a lab down: every process, namespace, mount and file that it made.
//!
//! Goes by the record alone, so it works after a crash at any point of bringing up. It carries
//! on after a failure, reports all of them, and may be repeated.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::docker;
use super::state::{ContainerRecord, LabState, NetnsDirectory, RUN_DIRECTORY, StateFile};
use crate::netns::{self, NETNS_DIRECTORY, NetnsId, NetnsName};
use crate::process::{self, ProcessId};

/// SIGKILL takes effect at once, except for a process in an uninterruptible system call.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Where iproute2 looks for files of a namespace; see ip-netns(8).
const NETNS_CONFIGURATION: &str = "/etc/netns";

pub(super) fn take_down() -> Result<bool> {
    match StateFile::lock()? {
        Some(file) => take_down_locked(&file),
        None => Ok(false),
    }
}

/// The caller's lock ends with the directory that holds it.
pub(super) fn take_down_locked(file: &StateFile) -> Result<bool> {
    let state = file.load()?;
    if let Some(state) = &state {
        remove_everything(state)?;
    }
    remove_run_directory()?;
    Ok(state.is_some())
}

pub(super) fn remove_run_directory() -> Result<()> {
    ensure_directory_removed(Path::new(RUN_DIRECTORY))
}

/// Ends the processes in a container, then removes it and the resolver that the agent gave it.
pub(super) fn remove_container(container: &ContainerRecord) -> Result<()> {
    let inside = present(&container.name, container.id).into_iter().collect();
    end_all(&process::observe_inside(&inside))?;
    remove_namespace(&container.name, container.id)?;
    remove_resolver(&container.name)
}

fn remove_everything(state: &LabState) -> Result<()> {
    let mut failures = Vec::new();
    let mut attempt = |result: Result<()>| {
        if let Err(failure) = result {
            failures.push(format!("{failure:#}"));
        }
    };
    attempt(docker::take_down(state, &state.topology()));
    let daemons: Vec<_> = state.daemons.iter().filter_map(|d| d.process).collect();
    attempt(end_all(&daemons));
    attempt(end_all(&process::observe_inside(&namespace_ids(state))));
    for container in &state.containers {
        attempt(remove_container(container));
    }
    for namespace in &state.namespaces {
        attempt(remove_namespace(&namespace.name, namespace.id));
    }
    if let Some(directory) = &state.data_directory {
        attempt(ensure_directory_removed(directory));
    }
    attempt(restore_netns_directory(state.netns_directory));
    if failures.is_empty() { Ok(()) } else { bail!("not everything could be removed:\n{}", failures.join("\n")) }
}

/// Every namespace of the lab, among them those that agents made.
///
/// A user's shell in one of them would keep it and its devices alive, so it ends with the lab.
fn namespace_ids(state: &LabState) -> BTreeSet<NetnsId> {
    let machines = state.namespaces.iter().map(|record| (&record.name, record.id));
    let containers = state.containers.iter().map(|record| (&record.name, record.id));
    machines
        .chain(containers)
        .filter_map(|(name, recorded)| present(name, recorded))
        .filter(|id| NetnsId::of_this_thread() != Some(*id))
        .collect()
}

/// The namespace of this name, unless it is known to be another than ours.
///
/// The kernel gives the number of a deleted namespace to a new one, so the number alone would not
/// prove that it is ours.
fn present(name: &NetnsName, recorded: Option<NetnsId>) -> Option<NetnsId> {
    let now = name.observe_id()?;
    recorded.is_none_or(|id| id == now).then_some(now)
}

fn end_all(processes: &[ProcessId]) -> Result<()> {
    for process in processes {
        process.signal(Signal::SIGKILL)?;
    }
    processes.iter().try_for_each(|process| process.wait_stopped(KILL_DEADLINE))
}

/// Leaves a namespace alone that got the name after ours was deleted by somebody else.
fn remove_namespace(name: &NetnsName, recorded: Option<NetnsId>) -> Result<()> {
    let is_namespace = netns::is_namespace(&name.path());
    if is_namespace && recorded.is_some() && name.observe_id() != recorded {
        return Ok(());
    }
    name.ensure_removed()
}

/// The agent's resolver file says so in its first line; any other is not ours.
fn remove_resolver(name: &NetnsName) -> Result<()> {
    let directory = Path::new(NETNS_CONFIGURATION).join(name.as_str());
    let file = directory.join("resolv.conf");
    let Ok(text) = fs::read_to_string(&file) else {
        return Ok(());
    };
    if text.lines().next().is_some_and(|first| first.contains("weft")) {
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => {
                return Err(error).with_context(|| format!("removing {}", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn restore_netns_directory(before: NetnsDirectory) -> Result<()> {
    let is_in_use = fs::read_dir(NETNS_DIRECTORY).is_ok_and(|mut names| names.next().is_some());
    if before == NetnsDirectory::MountPoint || is_in_use {
        return Ok(());
    }
    if NetnsDirectory::observe()? == NetnsDirectory::MountPoint {
        umount2(NETNS_DIRECTORY, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {NETNS_DIRECTORY}"))?;
    }
    if before == NetnsDirectory::Absent {
        match fs::remove_dir(NETNS_DIRECTORY) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {NETNS_DIRECTORY}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn ensure_directory_removed(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
